//! The delivery core of one partition (docs/delivery.md): events in, effects out. Pure: no clock, no I/O.
//!
//! [`Core::on`] is the only entry. The core alone decides when a catch-up read is needed, how long it may be, when a checkpoint is saved, a tick is
//! appended or the oldest record is read, and when it wants to be woken. The driver ([`crate::partition`]) executes the effects and decides nothing.
#![expect(dead_code, unused_imports, reason = "the driver doesn't run it yet")]

mod effects;
mod event;

use std::{sync::Arc, time::Duration};

use pushline_model::Offset;
use crate::checkpoint::Restart;

pub(crate) use self::{
    effects::{DeadLetterBatch, Effects, Excuse, Notice, ReadBlock, Save, StartAttempt},
    event::{AttemptEnded, Event, Horizon, Leave, LogState, Now, OldestRead, SaveEnded, TickRefused},
};
use crate::{budgets::Budgets, webhooks::Webhooks};

/// A partition's lanes and everything that is decided about them.
#[derive(Debug)]
pub(crate) struct Core {
    partition: u32,
    tuning: Tuning,
    webhooks: Arc<Webhooks>,
    live_offset: Offset,
}

/// A lane's place in the slab. A lane with an outstanding message keeps it.
pub(crate) type LaneKey = usize;

/// Names an outstanding message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MessageKey {
    pub(crate) lane: LaneKey,
    /// The offset of its first record.
    pub(crate) first: Offset,
}

/// Names what dead letters were written for. `bytes`: what the letters hold in memory, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum DeadLetterKey {
    /// A message whose last attempt decided.
    Message(MessageKey),
    /// A message that isn't sent (any more).
    Unsent { message: MessageKey, bytes: usize },
    /// Records of a lane that are in no message, below an offset.
    Records { lane: LaneKey, until: Offset, packets: u64, bytes: usize },
}

/// Sizes and times that decide nothing about what is sent, only when. A test makes them small.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// A lane at most this many offsets behind live reading is near.
    pub(crate) near: Offset,
    /// Bytes of the first block of a slice; each further block has twice as many.
    pub(crate) first_block: usize,
    /// Bytes of a slice, at most.
    pub(crate) slice: usize,
    /// Catch-up reads find no more dead letters while this many bytes of them aren't durable.
    pub(crate) dead_letter_bytes: usize,
    /// How long lanes of unresponsive webhooks wait for each other before a slice.
    pub(crate) gather: Duration,
    /// How long a group may have no webhook before its packets become dead letters.
    pub(crate) unknown_for: Duration,
    /// How much later than a window is over a tick is appended.
    pub(crate) tick_grace: Duration,
    /// How long packets may wait: `backlog.max_age`.
    pub(crate) max_age: Duration,
    /// How often a changed checkpoint is saved and the gauges are set.
    pub(crate) save_every: Duration,
}

impl Tuning {
    pub(crate) fn new(max_age: Duration) -> Self {
        Self {
            near: 200_000,
            first_block: 256 << 10,
            slice: 8 << 20,
            dead_letter_bytes: 1 << 20,
            gather: Duration::from_millis(100),
            unknown_for: Duration::from_mins(5),
            tick_grace: Duration::from_millis(10),
            max_age,
            save_every: Duration::from_secs(1),
        }
    }
}

impl Core {
    /// Starts where a partition's checkpoint says.
    pub(crate) fn new(partition: u32, webhooks: Arc<Webhooks>, restart: &Restart, tuning: Tuning, _now: Now, _budgets: &Budgets) -> Self {
        Self { partition, tuning, webhooks, live_offset: restart.head }
    }

    /// Something happened. `effects` is emptied first; then it holds what is to be done. The first event is [`Event::TimePassed`], right after the start.
    pub(crate) fn on(&mut self, event: Event<'_>, now: Now, budgets: &Budgets, effects: &mut Effects) {
        effects.clear();
        match event {
            Event::LiveFrame { frame, .. } => self.live_offset = frame.end(),
            _ => {}
        }
        let (_, wake) = (now, budgets.take_owed());
        effects.wake_others = wake;
    }

    /// The next offset of live reading.
    pub(crate) fn live_offset(&self) -> Offset {
        self.live_offset
    }

    /// Whether live reading goes on: not while the task leaves.
    pub(crate) fn reads_live(&self) -> bool {
        true
    }
}
