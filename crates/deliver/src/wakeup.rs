//! Waking partition tasks when a budget that they share has more to give.
//!
//! A budget wakes no task. It notes in [`Owed`] that a wake-up is due when a lease, a permit or a pause is dropped. The next event of any task takes the note
//! and wakes the others by an effect; the taker looks after itself. So no wake-up is lost, as long as an event follows each drop.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Wake-ups that are due in this process. At most one of each kind: a woken task asks for everything that it needs.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    permit: AtomicBool,
    catch_up: AtomicBool,
}

/// Why a task is woken: a permit may be free, or also a lane may begin a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wake {
    /// A catch-up read may have something to do. A free permit alone gives it nothing, and is frequent.
    pub(crate) for_catch_up: bool,
}

/// The tasks of the process.
#[derive(Debug, Default)]
pub(crate) struct Wakeups(Mutex<Vec<Arc<Wakeup>>>);

/// What one task waits on.
#[derive(Debug, Default)]
pub(crate) struct Wakeup {
    woken: Notify,
    for_catch_up: AtomicBool,
}

// === impl Owed ===

impl Owed {
    pub(crate) fn owe_permit(&self) {
        self.permit.store(true, Ordering::Release);
    }

    pub(crate) fn owe_catch_up(&self) {
        self.catch_up.store(true, Ordering::Release);
    }

    /// Takes what is due, for the one that wakes the others.
    pub(crate) fn take(&self) -> Option<Wake> {
        // The plain loads come first: mostly nothing is due, and this is asked after each event.
        let take = |flag: &AtomicBool| flag.load(Ordering::Acquire) && flag.swap(false, Ordering::AcqRel);
        let (permit, for_catch_up) = (take(&self.permit), take(&self.catch_up));
        (permit || for_catch_up).then_some(Wake { for_catch_up })
    }
}

// === impl Wakeups ===

impl Wakeups {
    /// A new task's, until the task drops it.
    pub(crate) fn join(&self) -> Arc<Wakeup> {
        let task = Arc::<Wakeup>::default();
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A task that has ended has dropped its own.
        tasks.retain(|other| Arc::strong_count(other) > 1);
        tasks.push(Arc::clone(&task));
        task
    }

    /// Wakes all tasks but one.
    pub(crate) fn wake_others(&self, but: &Arc<Wakeup>, wake: Wake) {
        let tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().filter(|task| !Arc::ptr_eq(task, but)).for_each(|task| task.wake(wake));
    }
}

// === impl Wakeup ===

impl Wakeup {
    /// Waits until another task wakes this one.
    pub(crate) async fn woken(&self) -> Wake {
        self.woken.notified().await;
        Wake { for_catch_up: self.for_catch_up.swap(false, Ordering::AcqRel) }
    }

    fn wake(&self, wake: Wake) {
        self.for_catch_up.fetch_or(wake.for_catch_up, Ordering::AcqRel);
        self.woken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn others_are_woken_and_the_waker_is_not() {
        let wakeups = Wakeups::default();
        let (one, other) = (wakeups.join(), wakeups.join());
        wakeups.wake_others(&one, Wake { for_catch_up: false });
        wakeups.wake_others(&one, Wake { for_catch_up: true });
        wakeups.wake_others(&one, Wake { for_catch_up: false });
        assert_eq!(other.woken().now_or_never(), Some(Wake { for_catch_up: true }), "a later wake-up takes nothing back");
        assert_eq!((one.woken().now_or_never(), other.woken().now_or_never()), (None, None));
    }
}
