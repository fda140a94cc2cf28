//! What happens to a partition's core: one event for each frame, block or thing that ended, never one for each record.

use std::{sync::Arc, time::Instant};

use pushline_model::{Attempt, Offset, Outcome, Timestamp};
use pushline_queue::{Frame, Horizon};

use super::{DeadLetterKey, MessageKey};
use crate::{concurrency_limit::Permit, webhooks::Webhooks};

/// Both clocks, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Decides when something is due.
    pub monotonic: Instant,
    /// Stands in dead letters and decides what is older than `backlog.max_age`. Decides nothing about windows.
    pub wall: Timestamp,
}

/// The log as this process sees it at one moment.
#[derive(Debug, Clone, Copy)]
pub struct LogState {
    /// The offset after the last record that can be read.
    pub end: Offset,
    /// Which log times are over, where the backend can tell; else the core appends ticks.
    pub horizon: Option<Horizon>,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Live reading has read a frame. It holds at least one record at or above the live offset.
    LiveFrame {
        /// The frame.
        frame: &'a Frame,
        /// The log after it was read.
        log: LogState,
    },
    /// The catch-up read that was asked for ([`super::Effects::read`]) has read these frames, which follow each other.
    CatchUpBlock {
        /// The frames, in the order of their offsets.
        frames: &'a [Frame],
    },
    /// Attempts have ended. The core takes them out.
    AttemptsEnded(&'a mut Vec<AttemptEnded>),
    /// Dead letters are durable.
    DeadLettersDurable(DeadLetterKey),
    /// Another process serves the partition: no dead letters are written any more, and those that were asked for won't be.
    OwnershipLost,
    /// The save that was asked for has ended.
    SaveEnded(SaveEnded),
    /// The tick that was asked for has its offset and is durable, or was refused.
    TickEnded(Result<Offset, TickRefused>),
    /// The oldest record was read that was asked for ([`super::Effects::look_at`]).
    OldestRead(OldestRead),
    /// Another task has woken this one: a permit or memory may be free, or a breaker has changed.
    Woken {
        /// [`crate::Wake::for_catch_up`].
        for_catch_up: bool,
    },
    /// The registry was read again.
    Reloaded(Arc<Webhooks>),
    /// The time that [`super::Effects::wake_at`] asked for has come.
    TimePassed {
        /// The log at this time.
        log: LogState,
        /// Where the oldest records end that the log has no space for ([`pushline_queue::Partition::overflow`]).
        overflow: Option<Offset>,
    },
    /// The task must leave the partition: at shutdown, or since another process takes it over.
    Leave(Leave),
    /// The attempts that were in flight are aborted, and their permits are back.
    AttemptsAborted,
}

/// An attempt's end.
#[derive(Debug)]
pub struct AttemptEnded {
    /// The message that [`super::StartAttempt`] named.
    pub key: MessageKey,
    /// The permit that came with it.
    pub permit: Permit,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// What a dead letter says of the attempt.
    pub attempt: Attempt,
    /// From 0 to 1: spreads the delay before the next attempt.
    pub jitter: f64,
}

/// How a save ended. Any other failure ends the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaveEnded {
    /// Checkpoint and watermark are durable.
    Durable,
    /// It can't be made for now: the disk is full, the brokers are away.
    Postponed {
        /// The queue's error.
        why: String,
    },
}

/// Why a tick couldn't be appended, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickRefused(pub String);

/// The first record, ticks aside, at or above an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldestRead {
    /// From where it was looked for.
    pub from: Offset,
    /// When it was received; `None`: there was none below the end of the log.
    pub received_at: Option<Timestamp>,
    /// Where the oldest records end that the log has no space for ([`pushline_queue::Partition::overflow`]).
    pub overflow: Option<Offset>,
}

/// Until when a task may take to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    /// Attempts in flight may end until then.
    pub attempts_until: Instant,
    /// The last save may take until then.
    pub until: Instant,
}
