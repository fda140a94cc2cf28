//! Saving (docs/delivery.md, Checkpoints): once a second when something changed, right after a reload, and last before the task leaves.
//!
//! One save is made at a time. Where it can't be made for now, what has settled meanwhile may be sent again after a crash.

use std::time::{Duration, Instant};

use super::{Core, Effects, Notice, Now, Save, event::SaveEnded};
use crate::checkpoint::Checkpoint;

/// How far saving has come.
#[derive(Debug)]
pub(super) struct Saving {
    /// Something happened since the last save was asked for.
    pub(super) changed: bool,
    /// The next save doesn't wait for its second.
    pub(super) is_urgent: bool,
    is_saving: bool,
    saved_at: Instant,
    /// The last save couldn't be made.
    is_postponed: bool,
}

impl Saving {
    pub(super) fn new(now: Instant) -> Self {
        // The process before may have died between its checkpoint and its watermark.
        Self { changed: true, is_urgent: false, is_saving: false, saved_at: now, is_postponed: false }
    }

    pub(super) fn is_saving(&self) -> bool {
        self.is_saving
    }

    /// For how long changes haven't been saved.
    pub(super) fn age(&self, now: Instant) -> Duration {
        if self.changed { now.saturating_duration_since(self.saved_at) } else { Duration::ZERO }
    }
}

impl Core {
    /// Saves what has changed, unless a save is being made.
    pub(super) fn save_changes(&mut self, effects: &mut Effects) {
        if self.saving.changed && !self.saving.is_saving {
            self.save(effects);
        }
    }

    /// Asks for a save of what is. Nothing is saved before the first record was passed.
    pub(super) fn save(&mut self, effects: &mut Effects) {
        self.saving.changed = false;
        self.saving.is_urgent = false;
        if let Some(checkpoint) = self.checkpoint() {
            self.saving.is_saving = true;
            effects.save = Some(Save { checkpoint: checkpoint.encode(), watermark: self.watermark() });
        }
    }

    pub(super) fn save_ended(&mut self, ended: SaveEnded, now: Now, effects: &mut Effects) {
        self.saving.is_saving = false;
        let was_postponed = std::mem::replace(&mut self.saving.is_postponed, ended != SaveEnded::Durable);
        match ended {
            SaveEnded::Durable => {
                self.saving.saved_at = now.monotonic;
                if was_postponed {
                    effects.notices.push(Notice::SavesResumed);
                }
            }
            SaveEnded::Postponed { why } => {
                self.saving.changed = true;
                if !was_postponed {
                    effects.notices.push(Notice::SavesPostponed { why });
                }
            }
        }
    }

    /// What a restart needs; `None` before the first record was passed.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        let last = self.last?;
        let lanes = self.lanes.iter().map(|(_, lane)| lane.checkpoint(self.live_offset)).collect();
        Some(Checkpoint { live_offset: self.live_offset, last: Some(last), lanes, extensions: Vec::new() })
    }
}
