//! The byte budget for what is read and not yet durable: one for the listener, held as leases.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Sockets are read while it has room. What one read took may pass it; nothing more is read then.
#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    held: AtomicUsize,
    room: Notify,
}

/// Bytes that were read and aren't durable. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: AtomicUsize::new(0), room: Notify::new() })
    }

    pub(crate) fn has_room(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.max
    }

    /// Waits until it has room.
    pub(crate) async fn room(&self) {
        loop {
            let notified = self.room.notified();
            if self.has_room() {
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

impl Drop for Lease {
    fn drop(&mut self) {
        let before = self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        if before >= self.budget.max && before - self.bytes < self.budget.max {
            self.budget.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn there_is_room_again_when_a_lease_ends() {
        let budget = Budget::new(10);
        let small = budget.lease(9);
        assert!(budget.has_room());
        let large = budget.lease(100);
        let mut waiting = Box::pin(budget.room());
        assert_eq!((&mut waiting).now_or_never(), None);
        drop(small);
        assert_eq!((&mut waiting).now_or_never(), None);
        drop(large);
        assert_eq!(waiting.now_or_never(), Some(()));
    }
}
