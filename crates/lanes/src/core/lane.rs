//! A lane: one group's way through the log at its own pace (docs/delivery.md, Lanes). Records and outcomes in, messages ready to be sent out.
//!
//! A lane is a few numbers and its outstanding messages. Everything that isn't active can be evicted, and is rebuilt from the log.
//!
//! | part | file |
//! |---|---|
//! | what becomes of its next record | `intake.rs` |
//! | how far it has read | `reading.rs` |
//! | its open window and open message | `filling.rs` |
//! | its outstanding messages | `outstanding.rs` |

mod filling;
mod intake;
mod outstanding;
mod reading;

use std::collections::VecDeque;

use pushline_batch::{Cutter, Window};
use pushline_model::{GroupId, Offset};

use self::reading::Reading;
pub(super) use self::{
    filling::{Offer, Offered, Scratch},
    intake::{Intake, LastRules},
};
use super::message::{Message, State};
use crate::{
    checkpoint::{LaneCheckpoint, OpenWindow},
    memory_budget::Lease,
};

/// One group that has something unfinished in the partition. None exists for an idle group.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(super) group: GroupId,
    pub(super) intake: Intake,
    pub(super) reading: Reading,
    pub(super) cutter: Cutter,
    /// What the open message holds.
    lease: Option<Lease>,
    /// In offset order.
    pub(super) messages: VecDeque<Message>,
    /// The last expiry check that found no expired record here.
    pub(super) fresh_at: u64,
    /// Packets that live reading has passed and that haven't settled.
    pub(super) unsettled: u64,
    /// Messages cut below this offset may have been sent by the process before under other cut rules.
    pub(super) excused_below: Offset,
    /// How many messages wait for an attempt.
    waiting: u32,
    /// Whether it stands in its webhook's line for the next permit.
    pub(super) in_line: bool,
    /// It is behind, at a record that becomes a dead letter or may become one, while no more of them could be made.
    pub(super) waits_to_dead_letter: bool,
}

impl Lane {
    /// A lane that is born live, by its first record.
    pub(super) fn new(group: GroupId, intake: Intake) -> Self {
        Self {
            group,
            intake,
            reading: Reading::Live,
            cutter: Cutter::default(),
            lease: None,
            messages: VecDeque::new(),
            fresh_at: 0,
            unsettled: 0,
            excused_below: 0,
            waiting: 0,
            in_line: false,
            waits_to_dead_letter: false,
        }
    }

    /// A lane as a checkpoint has it: with everything evicted.
    pub(super) fn resume(group: GroupId, intake: Intake, saved: LaneCheckpoint, live_offset: Offset) -> Self {
        let window = saved.window.map(|open| Window { opened: open.opened, cut_from: open.cut_from, dead_lettered: open.dead_lettered });
        let read_until = saved.messages.first().map_or(saved.batched_until, |first| first.first.min(saved.batched_until));
        let mut lane = Self::new(group, intake);
        lane.cutter = Cutter::resume(window);
        lane.messages = saved.messages.into_iter().map(|span| Message::new(span, State::Evicted)).collect();
        lane.unsettled = saved.unsettled;
        lane.fall_behind(read_until, saved.batched_until, live_offset);
        lane
    }

    /// Whether nothing of it is left. An open window keeps it until it closes.
    pub(super) fn is_clean(&self) -> bool {
        self.is_live() && self.messages.is_empty() && self.cutter.window().is_none()
    }

    /// Each lease of its bodies, and what the body holds.
    #[cfg(test)]
    pub(super) fn leases(&self) -> impl Iterator<Item = (&Lease, usize)> {
        let open = self.lease.as_ref().map(|lease| (lease, self.cutter.held()));
        open.into_iter().chain(self.messages.iter().filter_map(Message::leased))
    }

    /// What a restart needs of it.
    pub(super) fn checkpoint(&self, live_offset: Offset) -> LaneCheckpoint {
        let window = if let Reading::DeadLettering(letters) = &self.reading { letters.window } else { self.cutter.window() };
        let last = self.intake.last_rules();
        LaneCheckpoint {
            group: self.group.key().to_owned(),
            batched_until: self.batched_until(live_offset),
            unsettled: self.unsettled,
            window: window.map(|window| OpenWindow {
                opened: window.opened,
                cut_from: window.cut_from,
                dead_lettered: window.dead_lettered,
            }),
            messages: self.messages.iter().map(|message| message.span).collect(),
            rules_hash: last.hash,
            window_length: last.window,
            extensions: Vec::new(),
        }
    }
}
