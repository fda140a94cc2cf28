//! The concurrency limit (docs/delivery.md, Concurrency limit): how many messages of one webhook are in flight, over all partitions of the process.
//!
//! A [`Permit`] travels with its attempt and ends exactly once: when it is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::wakeup::Owed;

/// The messages of one webhook that are in flight.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    owed: Arc<Owed>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: usize,
    /// A message found no permit, and asks again when its task is woken.
    told_no: bool,
}

/// One message in flight. Ends when it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<ConcurrencyLimit>);

impl ConcurrencyLimit {
    pub(crate) fn new(owed: &Arc<Owed>) -> Arc<Self> {
        Arc::new(Self { owed: Arc::clone(owed), state: Mutex::default() })
    }

    /// A permit, while fewer than `at_most` are out.
    pub(crate) fn acquire(self: &Arc<Self>, at_most: usize) -> Option<Permit> {
        let mut state = self.lock();
        if state.in_flight < at_most {
            state.in_flight += 1;
            Some(Permit(Arc::clone(self)))
        } else {
            state.told_no = true;
            None
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.in_flight -= 1;
        if std::mem::take(&mut state.told_no) {
            self.0.owed.owe_permit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_found_no_permit_is_owed_a_wake_up_when_the_next_ends_and_no_catch_up_read_is() {
        let owed = Arc::<Owed>::default();
        let limit = ConcurrencyLimit::new(&owed);
        let permit = limit.acquire(1).unwrap();
        assert!(limit.acquire(1).is_none() && owed.take().is_none());
        drop(permit);
        assert!(owed.take().is_some_and(|wake| !wake.for_catch_up));
        drop(limit.acquire(1).unwrap());
        assert!(owed.take().is_none(), "no lane asked meanwhile");
    }
}
