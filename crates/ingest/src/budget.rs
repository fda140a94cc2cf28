//! The byte budget for packets that are read and not yet durable. All connections of a listener share one; each commit holds a lease on it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Connections read their sockets while the budget has capacity. One read may take it beyond its maximum; then no connection reads on.
#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    held: AtomicUsize,
    freed: Notify,
}

/// Bytes of the budget, held until the lease is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: AtomicUsize::new(0), freed: Notify::new() })
    }

    pub(crate) fn has_capacity(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.max
    }

    /// Waits until the budget has capacity.
    pub(crate) async fn capacity(&self) {
        loop {
            let notified = self.freed.notified();
            if self.has_capacity() {
                return;
            }
            notified.await;
        }
    }

    pub(crate) fn lease(self: &Arc<Self>, bytes: usize) -> Lease {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Lease { budget: Arc::clone(self), bytes }
    }
}

impl Lease {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let before = self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        if before >= self.budget.max && before - self.bytes < self.budget.max {
            self.budget.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_budget_has_capacity_again_when_a_lease_ends() {
        let budget = Budget::new(10);
        let small = budget.lease(9);
        assert!(budget.has_capacity());
        let large = budget.lease(100);
        let mut waiting = Box::pin(budget.capacity());
        assert_eq!((&mut waiting).now_or_never(), None);
        drop(small);
        assert_eq!((&mut waiting).now_or_never(), None);
        drop(large);
        assert_eq!(waiting.now_or_never(), Some(()));
    }
}
