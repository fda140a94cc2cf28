//! Suspension (docs/delivery.md, Suspension): a webhook whose server asked by `Retry-After` to be left alone. Until then nothing of it starts, begins or is
//! held, in any partition of the process.
//!
//! Time ends it, and any task of the process may notice that: the task that began it may have left its partition.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::wakeup::Owed;

/// The suspensions of the process.
#[derive(Debug, Default)]
pub(crate) struct Suspensions {
    owed: Arc<Owed>,
    /// How many began. A task that sees the count rise evicts what it holds of the webhooks concerned.
    begun: AtomicU64,
    /// Whether any runs: read without the lock after each event.
    any: AtomicBool,
    /// Those that run, each once, by when they were to end when that was looked at last, and their number.
    running: Mutex<BTreeMap<(Instant, u64), Arc<Suspension>>>,
}

/// What becomes of a suspension whose time was looked at.
enum End {
    /// It ends now.
    Now,
    /// It ended before, and may have begun anew.
    Before,
    /// It goes on until then.
    Later(Instant),
}

/// One webhook's suspension.
#[derive(Debug)]
pub(crate) struct Suspension {
    all: Arc<Suspensions>,
    /// Read without the lock where a message begins or starts.
    is_on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    until: Option<Instant>,
    /// The number of its last beginning; 0: there was none.
    begun: u64,
}

// === impl Suspensions ===

impl Suspensions {
    pub(crate) fn new(owed: &Arc<Owed>) -> Arc<Self> {
        Arc::new(Self { owed: Arc::clone(owed), ..Self::default() })
    }

    /// How many began since the process did.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// When the next one may end.
    pub(crate) fn due(&self) -> Option<Instant> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.running().keys().next().map(|(at, _)| *at)
    }

    /// Ends those whose time is over, and returns them: all tasks are owed a wake-up, since their lanes may begin again.
    pub(crate) fn end_due(&self, now: Instant) -> Vec<Arc<Suspension>> {
        let mut ended = Vec::new();
        if !self.any.load(Ordering::Acquire) {
            return ended;
        }
        let mut running = self.running();
        while let Some(first) = running.first_entry().filter(|first| first.key().0 <= now) {
            let ((_, number), suspension) = first.remove_entry();
            match suspension.end(number, now) {
                End::Later(later) => _ = running.insert((later, number), suspension),
                End::Now => {
                    self.owed.owe_catch_up();
                    ended.push(suspension);
                }
                End::Before => {}
            }
        }
        self.any.store(!running.is_empty(), Ordering::Release);
        ended
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), Arc<Suspension>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Suspension ===

impl Suspension {
    pub(crate) fn new(all: &Arc<Suspensions>) -> Arc<Self> {
        Arc::new(Self { all: Arc::clone(all), is_on: AtomicBool::new(false), state: Mutex::default() })
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Begins, or goes on for longer; a shorter time changes nothing. Returns the number of the beginning.
    pub(crate) fn extend(self: &Arc<Self>, until: Instant) -> Option<u64> {
        // The list's lock comes first, as where it ends.
        let mut running = self.all.running();
        let mut state = self.state();
        let was_on = state.until.is_some();
        state.until = state.until.max(Some(until));
        if was_on {
            return None;
        }
        self.is_on.store(true, Ordering::Release);
        state.begun = self.all.begun.fetch_add(1, Ordering::AcqRel) + 1;
        self.all.any.store(true, Ordering::Release);
        running.insert((until, state.begun), Arc::clone(self));
        // Other tasks evict what they hold of it, and learn when it ends.
        self.all.owed.owe_catch_up();
        Some(state.begun)
    }

    /// Its server is another one now. Tasks learn of it by the reload that follows. Returns whether it was on.
    pub(crate) fn end_now(&self) -> bool {
        self.state().until = None;
        self.is_on.swap(false, Ordering::AcqRel)
    }

    /// Whether it began after that many beginnings of the process.
    pub(crate) fn began_after(&self, begun: u64) -> bool {
        self.state().begun > begun
    }

    /// Ends if it is over and hasn't begun anew since `number`.
    fn end(&self, number: u64, now: Instant) -> End {
        let mut state = self.state();
        match state.until.filter(|_| state.begun == number) {
            None => End::Before,
            Some(until) if until > now => End::Later(until),
            Some(_) => {
                state.until = None;
                self.is_on.store(false, Ordering::Release);
                End::Now
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_suspension_ends_at_the_latest_time_that_was_asked_for_and_wakes_all_tasks_twice() {
        let owed = Arc::<Owed>::default();
        let all = Suspensions::new(&owed);
        let (one, other) = (Suspension::new(&all), Suspension::new(&all));
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!((all.due(), one.extend(at(3)), all.due()), (None, Some(1), Some(at(3))));
        assert!(owed.take().is_some_and(|wake| wake.for_catch_up), "other tasks evict what they hold of it");
        assert_eq!((one.extend(at(9)), one.extend(at(5)), other.extend(at(2))), (None, None, Some(2)));
        assert!(one.began_after(0) && !one.began_after(1));
        owed.take();
        all.end_due(at(2));
        assert!(one.is_on() && !other.is_on() && owed.take().is_some_and(|wake| wake.for_catch_up));
        all.end_due(at(3));
        assert_eq!((one.is_on(), owed.take(), all.due()), (true, None, Some(at(9))), "it goes on for longer");
        all.end_due(at(9));
        assert_eq!((one.is_on(), owed.take().is_some(), all.due()), (false, true, None));
        assert_eq!(one.extend(at(12)), Some(3));
        one.end_now();
        assert_eq!((one.is_on(), one.extend(at(20)), one.is_on()), (false, Some(4), true));
        assert!(all.end_due(at(12)).is_empty() && one.is_on(), "what was to end then has ended before");
        assert!(all.end_due(at(20)).iter().any(|ended| Arc::ptr_eq(ended, &one)));
        assert!(!one.is_on() && all.due().is_none());
    }
}
