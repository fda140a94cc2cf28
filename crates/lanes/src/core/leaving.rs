//! Leaving a partition, at shutdown or when another process takes it over (docs/delivery.md, Draining, Hand-over).
//!
//! No new attempt starts. Attempts in flight may end, but not for ever; then the last checkpoint is saved. What didn't settle in time is sent again by the
//! next owner, and its outcome here doesn't count any more.

use std::time::{Duration, Instant};

use super::{
    Core, Effects, Leave, Notice, Now,
    lane::Lane,
    message::{Message, State},
};

/// How far leaving has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// Attempts in flight and dead letters on their way are waited for.
    Settling(Leave),
    /// Attempts in flight are being aborted.
    Aborting {
        until: Instant,
    },
    /// A save that was being made is waited for.
    SaveBefore {
        until: Instant,
    },
    /// The last save is waited for.
    LastSave {
        until: Instant,
    },
    Left,
}

/// How long the last save may take where no other process waits for the partition.
const LAST_SAVE: Duration = Duration::from_secs(10);

impl Leave {
    /// Attempts in flight may end within the grace; the last save has a time of its own.
    #[must_use]
    pub fn at_shutdown(now: Instant, grace: Duration) -> Self {
        Self { attempts_until: now + grace, until: now + grace + LAST_SAVE }
    }

    /// Another process waits: the last quarter is for saving.
    #[must_use]
    pub fn revoked(now: Instant, deadline: Duration) -> Self {
        Self { attempts_until: now + deadline * 3 / 4, until: now + deadline }
    }
}

impl Core {
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No
    }

    pub(super) fn leave(&mut self, leave: Leave) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Settling(leave);
        }
    }

    /// When leaving goes on by itself.
    pub(super) fn leaving_due(&self) -> Option<Instant> {
        match self.leaving {
            Leaving::No | Leaving::Left => None,
            Leaving::Settling(leave) => Some(leave.attempts_until),
            Leaving::Aborting { until } | Leaving::SaveBefore { until } | Leaving::LastSave { until } => Some(until),
        }
    }

    pub(super) fn attempts_aborted(&mut self) {
        if let Leaving::Aborting { until } = self.leaving {
            self.leaving = Leaving::SaveBefore { until };
        }
    }

    /// Goes as far as it can now.
    pub(super) fn go_on_leaving(&mut self, now: Now, effects: &mut Effects) {
        if let Leaving::Settling(leave) = self.leaving {
            let is_settled = self.awaited() == 0;
            if !is_settled && now.monotonic < leave.attempts_until {
                return;
            }
            if !is_settled {
                effects.notices.push(Notice::AttemptsCutOff);
            }
            effects.abort_attempts = true;
            self.leaving = Leaving::Aborting { until: leave.until };
        }
        match self.leaving {
            Leaving::Aborting { until } | Leaving::SaveBefore { until } | Leaving::LastSave { until } if until <= now.monotonic => {
                effects.notices.push(Notice::LastSaveCutOff);
                self.left(effects);
            }
            Leaving::SaveBefore { until } if !self.saving.is_saving() => {
                self.save(effects);
                if effects.save.is_some() {
                    self.leaving = Leaving::LastSave { until };
                } else {
                    self.left(effects);
                }
            }
            Leaving::LastSave { .. } if !self.saving.is_saving() => self.left(effects),
            _ => {}
        }
    }

    /// All that it holds is given back.
    fn left(&mut self, effects: &mut Effects) {
        self.leaving = Leaving::Left;
        self.lanes.clear();
        self.by_group.clear();
        self.behind.clear();
        self.lines.clear();
        effects.left = true;
    }

    /// What leaving waits for: messages in flight, unless their webhook is unresponsive, and dead letters, where any are written.
    fn awaited(&self) -> usize {
        let is_owner = self.dead_letters.is_owner;
        let is_awaited = |lane: &Lane, message: &Message| match message.state {
            State::InFlight { .. } => !lane.is_unresponsive(),
            State::DeadLettering(_) => is_owner,
            _ => false,
        };
        let its = |lane: &Lane| {
            let messages = lane.messages.iter().filter(|message| is_awaited(lane, message)).count();
            messages + usize::from(is_owner && lane.is_dead_lettering())
        };
        self.lanes.iter().map(|(_, lane)| its(lane)).sum()
    }
}
