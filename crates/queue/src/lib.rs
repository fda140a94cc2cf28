//! The durable queue: its contract, and the backends that keep it.
//!
//! A *log* is a sequence of [`Record`]s with rising offsets. The queue has one log of packets for each partition (a record's
//! key is its group, so a group's packets lie in one partition in arrival order), a log of dead letters, and a log of unrouted:
//! dead letters that no group wanted, kept apart so that a flood of them evicts nobody's (LANES.md L14).
//!
//! The contract is the documentation of the traits below. `conformance.rs` is the contract as tests; every backend passes it.
//!
//! | rule | what it says |
//! |---|---|
//! | durability | [`Appended`] resolves `Ok` only when every record of the batch survives the loss of power. |
//! | order | batches appended one after the other by one caller lie in that order; a batch lies in its own order. |
//! | visibility | a reader sees a record only once it is durable, and sees every durable record from its position on, in offset order. |
//! | blocking | [`Append::append`] never waits: the caller holds a lease on a byte budget for what isn't durable yet. |
//! | cancellation | dropping [`Appended`] takes nothing back; dropping [`Reader::next`]'s future loses nothing. |
//! | failure | a backend that can't go on resolves [`Queue::failed`]; nothing is acknowledged after that. |

mod checkpoint;
#[cfg(test)]
mod conformance;
mod dead_letters;
pub mod embedded;
mod error;
mod failure;
mod frame;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod memory;
pub mod metrics;
mod record;
mod replay;

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use pushline_model::Offset;
use tokio::sync::{oneshot, watch};

pub use crate::{
    checkpoint::{Checkpoint, LaneCheckpoint, LastPassed, Listed, OpenWindow, Restart, Saved},
    dead_letters::{DeadLetters, Filter, Found, Page},
    error::{AppendError, QueueError},
    frame::{FRAME_MAX, Frame, FrameBuilder},
    record::{Kind, Record},
    replay::Replay,
};

/// What a process that takes packets in, sends them, or both, sees of the queue.
pub trait Queue: Append + Send + Sync {
    /// The partitions of the packets log that this process serves, as they come and go. One that has left the list is handed over
    /// once nobody holds it any more; coming back, it is another [`Arc`].
    fn partitions(&self) -> watch::Receiver<Partitions>;

    /// Dead letters of groups.
    fn dead_letters(&self) -> DeadLetters;

    /// Dead letters that no group wanted (`unrouted`, ingest's `no_webhook`).
    fn unrouted(&self) -> DeadLetters;

    /// Why nothing that is appended becomes durable at the moment, though it may later: the disk is full, the brokers are away.
    fn stalled(&self) -> Option<Stalled>;

    /// Resolves when the backend can't go on (embedded: a failed fsync; a corrupt frame met while reading). The process ends then,
    /// with this message; what was appended and isn't durable was never acknowledged.
    fn failed(&self) -> BoxFuture<'static, QueueError>;

    /// Makes what was appended durable, refuses what comes later with [`AppendError::Closed`], and lets go of files and locks.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// The writing end of a log.
pub trait Append: Send + Sync {
    /// Appends a batch. Copies what it is given before it returns, takes one lock for the whole batch, and never waits. An empty
    /// batch is durable at once.
    fn append(&self, batch: &[Record<'_>]) -> Appended;
}

/// The reading end of a log.
pub trait Read: Send + Sync {
    /// The oldest offset still kept, and the end: the offset that the next record gets at the least. Everything in between is
    /// durable. Both only ever rise.
    fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>>;

    /// A reader of its own at an offset; below the log's start it stands for the start. Readers know nothing of each other.
    fn reader(&self, from: Offset) -> Box<dyn Reader>;
}

/// One partition of the packets log, for the one task that owns it.
pub trait Partition: Read {
    /// Which one, from 0.
    fn index(&self) -> u32;

    /// The end of the log as far as this process knows. While live reading is at the end, it is the head; it may lag behind the
    /// real one meanwhile.
    fn end(&self) -> Offset;

    /// Live reading from an offset on, for the task that owns the partition. Called once.
    fn live(&self, from: Offset) -> Box<dyn Reader>;

    /// How long its task may take to let go of it when it must: another process waits for it. `None`: nobody does.
    fn revoke_deadline(&self) -> Option<Duration>;

    /// Where the oldest records end that the log has no room for any more (`queue.max_bytes`); `None`: it has room. They go when the watermark
    /// has passed them.
    fn overflow(&self) -> Option<Offset>;

    /// What was saved last.
    fn load(&self) -> BoxFuture<'_, Result<Saved, QueueError>>;

    /// Saves checkpoint, then the watermark (LANES.md L9), and lets the log forget what lies below the watermark. When it returns
    /// `Ok`, both are durable; an owner that has lost the partition meanwhile is told `Ok` too, and its watermark doesn't count. A
    /// crash in between leaves the older or the newer, never half of one.
    fn save<'a>(&'a self, checkpoint: &'a Checkpoint, watermark: Offset) -> BoxFuture<'a, Result<(), QueueError>>;

    /// Whether this process still serves it: asked before dead letters are written, for a process that was stopped past its session doesn't
    /// know yet that another took over. Waits while nobody can tell. May save the watermark, which is safe alone (L10).
    fn confirm_ownership(&self, watermark: Offset) -> BoxFuture<'_, bool>;

    /// The log isn't the one that the saved watermark speaks of: sets it back to the log's start, before anything is read (L10).
    fn reset(&self, watermark: Offset) -> BoxFuture<'_, Result<(), QueueError>>;
}

/// A position in a log.
pub trait Reader: Send {
    /// The next frame, and moves past it. Waits at the end of the log until there is more. The frame may begin with records below
    /// the position ([`Frame::records`] takes the offset to begin at), and it always holds at least one that isn't. Offsets that no
    /// frame holds have no record: a record that is waited for must be known to be there.
    ///
    /// Cancel safe. Reading never blocks the runtime's threads on a disk.
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>>;
}

/// Some partitions.
pub type Partitions = Vec<Arc<dyn Partition>>;

/// What a queue waits for, for people: what it is, what it means, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled(pub String);

/// Resolves when a batch is durable, or never will be.
#[derive(Debug)]
pub struct Appended(oneshot::Receiver<Result<(), AppendError>>);

/// The other end of an [`Appended`], for a backend. Dropped without a word it says [`AppendError::Closed`].
#[derive(Debug)]
pub struct Resolver(oneshot::Sender<Result<(), AppendError>>);

// === impl Appended ===

impl Appended {
    /// A batch under way.
    #[must_use]
    pub fn pending() -> (Resolver, Self) {
        let (sender, receiver) = oneshot::channel();
        (Resolver(sender), Self(receiver))
    }

    /// A batch that is decided already.
    #[must_use]
    pub fn ready(result: Result<(), AppendError>) -> Self {
        let (resolver, appended) = Self::pending();
        resolver.resolve(result);
        appended
    }
}

impl Future for Appended {
    type Output = Result<(), AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|received| received.unwrap_or(Err(AppendError::Closed)))
    }
}

impl Resolver {
    /// Says how it ended. Nobody listening is fine: the caller went away.
    pub fn resolve(self, result: Result<(), AppendError>) {
        drop(self.0.send(result));
    }
}
