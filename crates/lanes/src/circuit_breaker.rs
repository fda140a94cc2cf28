//! The circuit breaker (docs/delivery.md, Circuit breaker): a webhook whose server gives no response is *unresponsive*, and its breaker is half-open. One
//! message at a time probes it, over all its groups and partitions, until the server answers anything.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::wakeup::Owed;

/// How often any breaker of the process left the closed state. A task that sees the count rise evicts what it holds of the webhooks concerned.
#[derive(Debug, Default)]
pub(crate) struct Openings(AtomicU64);

/// One webhook's breaker.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    owed: Arc<Owed>,
    openings: Arc<Openings>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_half_open: bool,
    /// The number of its last opening; 0: it never left the closed state.
    opening: u64,
    /// Messages between two attempts.
    pausing: usize,
    /// A first attempt was held back by a pausing probe, and asks again when its task is woken.
    told_no: bool,
}

/// A message between two attempts. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Pause(Arc<CircuitBreaker>);

impl Openings {
    /// How many there were since the process began.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

// === impl CircuitBreaker ===

impl CircuitBreaker {
    pub(crate) fn new(openings: &Arc<Openings>, owed: &Arc<Owed>) -> Arc<Self> {
        Arc::new(Self { owed: Arc::clone(owed), openings: Arc::clone(openings), state: Mutex::default() })
    }

    pub(crate) fn is_unresponsive(&self) -> bool {
        self.lock().is_half_open
    }

    /// How many messages may be in flight when a first attempt starts: `concurrency`; of an unresponsive webhook one, and none beside a probe that
    /// waits for its next attempt.
    pub(crate) fn limit_first(&self, concurrency: usize) -> usize {
        let mut state = self.lock();
        match (state.is_half_open, state.pausing) {
            (false, _) => concurrency,
            (true, 0) => 1,
            (true, _) => {
                state.told_no = true;
                0
            }
        }
    }

    /// The same for a further attempt.
    pub(crate) fn limit_again(&self, concurrency: usize) -> usize {
        if self.lock().is_half_open { 1 } else { concurrency }
    }

    /// A message begins to wait for its next attempt.
    pub(crate) fn pause(self: &Arc<Self>) -> Pause {
        self.lock().pausing += 1;
        Pause(Arc::clone(self))
    }

    /// Whether any message of the webhook waits for its next attempt.
    pub(crate) fn is_pausing(&self) -> bool {
        self.lock().pausing > 0
    }

    /// An attempt ended without response. Returns the number of the opening if the breaker was closed.
    pub(crate) fn open(&self) -> Option<u64> {
        let mut state = self.lock();
        if std::mem::replace(&mut state.is_half_open, true) {
            return None;
        }
        state.opening = self.openings.0.fetch_add(1, Ordering::AcqRel) + 1;
        self.owed.owe_catch_up();
        Some(state.opening)
    }

    /// The server answered something. Returns whether the breaker was half-open.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.lock();
        let was_half_open = std::mem::take(&mut state.is_half_open);
        if was_half_open {
            state.told_no = false;
            self.owed.owe_catch_up();
        }
        was_half_open
    }

    /// Whether it opened after that many openings of the process.
    pub(crate) fn opened_after(&self, openings: u64) -> bool {
        self.lock().opening > openings
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.pausing -= 1;
        if std::mem::take(&mut state.told_no) {
            self.0.owed.owe_permit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::concurrency_limit::ConcurrencyLimit;

    #[test]
    fn an_unresponsive_webhook_has_one_message_in_flight_or_between_two_attempts() {
        let owed = Arc::<Owed>::default();
        let (breaker, limit) = (CircuitBreaker::new(&Arc::default(), &owed), ConcurrencyLimit::new(&owed));
        let first = || limit.acquire(breaker.limit_first(16));
        let (one, other) = (first().unwrap(), first().unwrap());
        assert_eq!((breaker.open(), breaker.open()), (Some(1), None));
        assert!(owed.take().is_some_and(|wake| wake.for_catch_up), "other tasks evict what they hold of it");
        drop(one);
        assert!(first().is_none(), "another is still in flight");
        drop(other);
        let pause = breaker.pause();
        owed.take();
        assert!(first().is_none(), "one waits for its next attempt");
        let again = limit.acquire(breaker.limit_again(16)).unwrap();
        drop(pause);
        assert!(owed.take().is_some(), "the first attempt that was held back asks again");
        assert!(limit.acquire(breaker.limit_again(16)).is_none());
        drop(again);
        assert!(breaker.close() && !breaker.close() && !breaker.is_unresponsive());
        assert!(owed.take().is_some_and(|wake| wake.for_catch_up), "refused lanes may begin again");
        assert!(first().is_some() && breaker.opened_after(0) && !breaker.opened_after(1));
    }
}
