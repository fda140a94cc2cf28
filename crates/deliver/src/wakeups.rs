//! The partition tasks of the process, and what wakes them: another task's core asks for it by an effect.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use pushline_lanes::Wake;
use tokio::sync::Notify;

/// The tasks of the process.
#[derive(Debug, Default)]
pub(crate) struct Wakeups(Mutex<Vec<Arc<Wakeup>>>);

/// What one task waits on.
#[derive(Debug, Default)]
pub(crate) struct Wakeup {
    woken: Notify,
    for_catch_up: AtomicBool,
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
