//! Log time (docs/delivery.md, Log time): the time of a log. It never decreases, not over a restart either. While the process runs, it follows the
//! monotonic clock, so that no step of the wall clock changes it.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use pushline_model::{LONGEST_WINDOW, Timestamp};

/// The clocks of the machine. Tests have their own.
pub(super) trait Clock: Debug + Send + Sync {
    fn wall(&self) -> Timestamp;

    /// Since any moment that stays the same.
    fn monotonic(&self) -> Duration;
}

/// The clocks of the operating system.
#[derive(Debug)]
pub(super) struct SystemClock(Instant);

/// The time of one log.
#[derive(Debug)]
pub(super) struct LogClock {
    clock: Arc<dyn Clock>,
    /// The log's time when the monotonic clock stood at `since`.
    began: Timestamp,
    since: Duration,
}

impl SystemClock {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        Timestamp::of(SystemTime::now())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

impl LogClock {
    /// For packets. It begins so far above the log time of the last record that every window of the process before has ended.
    pub(super) fn for_windows(clock: &Arc<dyn Clock>, last: Timestamp) -> Self {
        Self::new(clock, clock.wall().max(last.plus(LONGEST_WINDOW)))
    }

    /// For records that are kept for a time: it counts the time in which a process had the log, and goes on where it was last known to be. No wall
    /// clock makes a record older.
    pub(super) fn for_retention(clock: &Arc<dyn Clock>, last: Timestamp) -> Self {
        Self::new(clock, last)
    }

    fn new(clock: &Arc<dyn Clock>, began: Timestamp) -> Self {
        Self { clock: Arc::clone(clock), began, since: clock.monotonic() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.began.plus(self.clock.monotonic().saturating_sub(self.since))
    }
}
