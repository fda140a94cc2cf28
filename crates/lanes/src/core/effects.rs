//! What the core wants done. The driver executes all of it after each event, in any order, and reuses the value; bodies move.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use pushline_model::{DeadLetter, MessageId, Offset, Timestamp};

use super::{DeadLetterKey, MessageKey};
use crate::{concurrency_limit::Permit, wakeup::Wake, webhooks::WebhookHandle};

/// What is to be done after an event. Nothing in it is a request that was made before and is still being executed.
#[derive(Debug, Default)]
pub struct Effects {
    /// Attempts to start.
    pub attempts: Vec<StartAttempt>,
    /// Dead letters to write, each batch by itself, once it is known that this process still owns the partition.
    pub dead_letters: Vec<DeadLetterBatch>,
    /// A catch-up block to read. The answer is [`super::Event::CatchUpBlock`]; no second is asked for before it.
    pub read: Option<ReadBlock>,
    /// A checkpoint to save. The answer is [`super::Event::SaveEnded`]; no second is asked for before it.
    pub save: Option<Save>,
    /// A tick is to be appended. The answer is [`super::Event::TickEnded`]; no second is asked for before it.
    pub append_tick: bool,
    /// The first record at or above this offset is to be read, ticks aside. The answer is [`super::Event::OldestRead`].
    pub look_at: Option<Offset>,
    /// Other tasks of the process are to be woken.
    pub wake_others: Option<Wake>,
    /// When [`super::Event::TimePassed`] is due, unless something happens before. Replaces what was asked for after the event before.
    pub wake_at: Option<Instant>,
    /// Attempts in flight are to be aborted. The answer is [`super::Event::AttemptsAborted`].
    pub abort_attempts: bool,
    /// The task has left the partition and ends.
    pub left: bool,
    /// Packets of messages that were accepted.
    pub delivered: u64,
    /// What of the records that lay unread in the log at the start weren't one packet each: a replay may hold several, a tick holds none.
    pub more_at_start: i64,
    /// The gauges are due.
    pub report: bool,
    /// Log lines and counts.
    pub notices: Vec<Notice>,
}

/// An attempt to make.
#[derive(Debug)]
pub struct StartAttempt {
    /// The message.
    pub key: MessageKey,
    /// Ends with the attempt, whatever becomes of its message meanwhile.
    pub permit: Permit,
    /// The definition under which the attempt begins and ends.
    pub handle: Arc<WebhookHandle>,
    /// Its `webhook-id`.
    pub id: MessageId,
    /// The JSON that is sent.
    pub body: Bytes,
    /// How many packets it holds.
    pub packets: usize,
    /// Whether this process makes no earlier attempt of the message.
    pub is_first: bool,
}

/// Dead letters to write. What they stand for settles when all of them are durable.
#[derive(Debug)]
pub struct DeadLetterBatch {
    /// What [`super::Event::DeadLettersDurable`] names.
    pub key: DeadLetterKey,
    /// In the order of their packets.
    pub letters: Vec<DeadLetter>,
}

/// Frames to read for lanes that are behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBlock {
    /// The first frame holds this offset, or the first record above it.
    pub from: Offset,
    /// The block ends with the frame that reaches this many bytes, or this offset: above it lies what live reading reads.
    pub bytes: usize,
    /// See `bytes`.
    pub until: Offset,
}

/// A checkpoint and the watermark that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Save {
    /// Encoded.
    pub checkpoint: Bytes,
    /// Everything below it is settled.
    pub watermark: Offset,
}

/// What an operator reads or a counter counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Packets begin to expire.
    Expiring {
        /// Since `queue.max_bytes` is reached.
        overflow: bool,
    },
    /// No packets expire any more.
    NoneExpires,
    /// A save can't be made for now, after others succeeded.
    SavesPostponed {
        /// The queue's error.
        why: String,
    },
    /// Saves succeed again.
    SavesResumed,
    /// Ticks are refused: windows of quiet groups stay open. Repeated while the reason changes.
    TicksRefused {
        /// The queue's error.
        why: String,
    },
    /// Ticks are appended again.
    TicksResumed,
    /// Messages that may have been sent before under another id: their cut isn't the same one, for a reason that is no fault of this process.
    Excused {
        /// Why.
        reason: Excuse,
        /// How many.
        messages: u64,
    },
    /// The webhook's server asked to be left alone until then.
    Suspended {
        /// Its name.
        webhook: String,
        /// The wall clock's time at which the suspension ends.
        until: Timestamp,
    },
    /// That time is over.
    SuspensionOver {
        /// The webhook's name.
        webhook: String,
    },
    /// The time for attempts in flight is over: they are sent again after the start.
    AttemptsCutOff,
    /// The last save couldn't be made in time.
    LastSaveCutOff,
}

/// Why a second id for a record is allowed (docs/delivery.md, Excuses).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Excuse {
    /// The checkpoint is missing, unreadable, or not the one that the commit names.
    Checkpoint,
    /// The log isn't the one that the checkpoint speaks of.
    AnotherLog,
    /// The cut rules of a group changed around a crash.
    CutRules,
}

impl Effects {
    /// Forgets everything and keeps the allocations.
    pub(super) fn clear(&mut self) {
        let Self { attempts, dead_letters, notices, .. } = std::mem::take(self);
        *self = Self { attempts: emptied(attempts), dead_letters: emptied(dead_letters), notices: emptied(notices), ..Self::default() };
    }
}

impl Excuse {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Checkpoint, Self::AnotherLog, Self::CutRules];

    /// As the metric names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::AnotherLog => "another_log",
            Self::CutRules => "cut_rules",
        }
    }
}

fn emptied<T>(mut vec: Vec<T>) -> Vec<T> {
    vec.clear();
    vec
}
