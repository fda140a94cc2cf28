//! The memory budget (docs/delivery.md, Memory budget): bytes that message bodies may hold, for the whole process and for each webhook.
//!
//! A webhook asks where a message *begins*, and nowhere else. What has begun is finished, so the bodies being filled may pass the budget, never more.
//! A [`Lease`] counts real sizes, grows with its body, and ends exactly once: when it is dropped.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicI64, Ordering},
};

use crate::wakeup::Owed;

/// A webhook may begin a message while it holds less than this part of what is free.
const PART: i64 = 8;

/// The bytes of the process.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    /// Below zero when the bodies being filled have passed the budget.
    free: AtomicI64,
}

/// What one webhook holds of the budget.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    budget: Arc<MemoryBudget>,
    owed: Arc<Owed>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: i64,
    /// The webhook refused a record: it begins no message until it has given back enough.
    refused: bool,
    /// A lane was told no, and asks again when it is woken.
    told_no: bool,
}

/// Bytes that one body holds. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    share: Arc<MemoryShare>,
    bytes: usize,
}

// === impl MemoryBudget ===

impl MemoryBudget {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicI64::new(signed(bytes)) })
    }

    /// Bytes that no body holds.
    pub(crate) fn free(&self) -> i64 {
        self.free.load(Ordering::Relaxed)
    }
}

// === impl MemoryShare ===

impl MemoryShare {
    /// A webhook that holds nothing.
    pub(crate) fn new(budget: &Arc<MemoryBudget>, owed: &Arc<Owed>) -> Arc<Self> {
        Arc::new(Self { budget: Arc::clone(budget), owed: Arc::clone(owed), state: Mutex::default() })
    }

    /// Whether the webhook may begin a message: while it holds nothing, or, if it has refused none and isn't unresponsive, less than an eighth of what
    /// is free. A lane that is told no is owed a wake-up.
    pub(crate) fn may_begin(&self, is_unresponsive: bool) -> bool {
        let mut state = self.lock();
        let may = state.held <= 0 || !is_unresponsive && !state.refused && state.held * PART < self.budget.free();
        state.told_no |= !may;
        may
    }

    /// The webhook refused a record: it begins no message, live or behind, until it is woken. A webhook that has come to hold nothing meanwhile is woken
    /// at once.
    pub(crate) fn refused(&self) {
        let mut state = self.lock();
        state.refused = state.held > 0;
        if !state.refused {
            self.owed.owe_catch_up();
        }
    }

    /// The webhook answered after it had been unresponsive: what it refused before counts no more.
    pub(crate) fn forget_refusals(&self) {
        let mut state = self.lock();
        (state.refused, state.told_no) = (false, false);
    }

    /// A lease of nothing yet.
    pub(crate) fn lease(self: &Arc<Self>) -> Lease {
        Lease { share: Arc::clone(self), bytes: 0 }
    }

    /// Bytes held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> i64 {
        self.lock().held
    }

    /// A webhook is woken when it holds nothing, or less than half of what it may.
    fn give_back(&self, bytes: i64) {
        let free = self.budget.free.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut state = self.lock();
        state.held -= bytes;
        if (state.refused || state.told_no) && (state.held <= 0 || state.held * PART * 2 < free) {
            (state.refused, state.told_no) = (false, false);
            self.owed.owe_catch_up();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves counters that are whole: each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lease ===

impl Lease {
    /// Counts what the body holds now.
    pub(crate) fn resize(&mut self, bytes: usize) {
        let by = signed(bytes) - signed(self.bytes);
        self.bytes = bytes;
        if by > 0 {
            self.share.lock().held += by;
            self.share.budget.free.fetch_sub(by, Ordering::Relaxed);
        } else if by < 0 {
            self.share.give_back(-by);
        }
    }
}

#[cfg(test)]
impl Lease {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_of(&self, share: &Arc<MemoryShare>) -> bool {
        Arc::ptr_eq(&self.share, share)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.share.give_back(signed(self.bytes));
        }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).expect("no allocation is larger than isize::MAX bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(budget: &Arc<MemoryBudget>) -> Arc<MemoryShare> {
        MemoryShare::new(budget, &Arc::default())
    }

    fn held(share: &Arc<MemoryShare>, bytes: usize) -> Lease {
        let mut lease = share.lease();
        lease.resize(bytes);
        lease
    }

    #[test]
    fn a_webhook_that_holds_nothing_may_always_begin() {
        let budget = MemoryBudget::new(0);
        let (one, other) = (share(&budget), share(&budget));
        let _lease = held(&one, 100);
        assert!(budget.free() < 0 && other.may_begin(true) && !one.may_begin(false));
    }

    #[test]
    fn a_webhook_may_hold_an_eighth_of_what_is_free() {
        let budget = MemoryBudget::new(900);
        let share = share(&budget);
        let mut lease = held(&share, 99);
        assert!(share.may_begin(false));
        assert!(!share.may_begin(true), "an unresponsive webhook begins a message only while it holds nothing");
        lease.resize(100);
        assert!(!share.may_begin(false));
    }

    #[test]
    fn a_webhook_that_refused_is_woken_at_half_of_what_it_may_hold() {
        let (budget, owed) = (MemoryBudget::new(1700), Arc::<Owed>::default());
        let share = MemoryShare::new(&budget, &owed);
        let mut lease = held(&share, 300);
        share.refused();
        lease.resize(101);
        assert!(!share.may_begin(false) && owed.take().is_none(), "101 * 16 >= 1599");
        lease.resize(99);
        assert!(share.may_begin(false) && owed.take().is_some_and(|wake| wake.for_catch_up));
        share.refused();
        assert!(!share.may_begin(false));
        drop(lease);
        assert!(share.may_begin(false) && owed.take().is_some());
        assert_eq!((budget.free(), share.held()), (1700, 0));
    }

    #[test]
    fn a_lane_that_was_told_no_is_owed_a_wake_up_though_no_record_was_refused() {
        let (budget, owed) = (MemoryBudget::new(1 << 20), Arc::<Owed>::default());
        let share = MemoryShare::new(&budget, &owed);
        let lease = held(&share, 10);
        assert!(!share.may_begin(true));
        drop(lease);
        assert!(owed.take().is_some_and(|wake| wake.for_catch_up) && share.may_begin(true));
    }
}
