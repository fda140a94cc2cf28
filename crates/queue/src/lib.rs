//! The durable queue: its contract, and the backends that keep it.
//!
//! A *log* is a sequence of [`Record`]s with rising offsets. The queue has one log of packets for each partition (a record's
//! key is its group, so a group's packets lie in one partition in arrival order), a log of dead letters, and a log of unrouted
//! packets. Unrouted packets are dead letters without a group; they have a log of their own, so that a flood of them evicts no group's dead letters.
//!
//! The documentation of the traits below is the contract. `conformance.rs` is the contract as tests; every backend passes it.
//!
//! | rule | promise |
//! |---|---|
//! | durability | [`Appended`] resolves `Ok` only when every record of the batch survives the loss of power. |
//! | order | batches appended one after the other by one caller lie in that order; a batch lies in its own order. |
//! | visibility | a reader sees a record only once it is durable, and sees every durable record from its position on, in offset order. |
//! | blocking | [`Append::append`] never waits: the caller holds a lease on a byte budget for what isn't durable yet. |
//! | cancellation | dropping [`Appended`] takes nothing back; dropping [`Reader::next`]'s future loses nothing. |
//! | log time | each frame has one, given when it was stored and the same for every reader; where a backend has a horizon, log time never decreases. |
//! | checkpoint | [`Partition::load`] returns a watermark with the checkpoint that was saved with it, or says that this one is gone. |
//! | sessions | [`Sessions`] has their own contract (`sessions/mod.rs`). |
//! | failure | a backend with a fatal error resolves [`Queue::failed`]; no batch is acknowledged after that. |

mod blocking;
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
pub mod sessions;

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pushline_model::{Offset, Timestamp};
use tokio::sync::{oneshot, watch};

pub use crate::{
    dead_letters::{DeadLetters, Filter, Found, Page},
    error::{AppendError, QueueError},
    frame::{FRAME_MAX, Frame, FrameBuilder},
    record::{Kind, Record},
    replay::Replay,
    sessions::{HeldId, OpenSession, OpenedSession, PacketIds, Session, SessionId, SessionKey, Sessions},
};

/// The queue, as a process sees it that takes packets in, sends them, or both.
pub trait Queue: Append + Send + Sync {
    /// The partitions of the packets log that this process serves, as they come and go. A partition that has left the list is handed over once its last
    /// [`Arc`] is dropped. When it comes back, it is another [`Arc`].
    fn partitions(&self) -> watch::Receiver<Partitions>;

    /// Dead letters of groups.
    fn dead_letters(&self) -> DeadLetters;

    /// Dead letters without a group (`unrouted`), and ingest's `no_webhook`.
    fn unrouted(&self) -> DeadLetters;

    /// The MQTT sessions of the devices that connect to listeners.
    fn sessions(&self) -> Arc<dyn Sessions>;

    /// Why appended records don't become durable at the moment, or why a partition isn't served: the disk is full, the brokers are away.
    fn stalled(&self) -> Option<Stalled>;

    /// Resolves at a fatal error (embedded: a failed fsync, a corrupt frame that a reader has met). The process ends then, with this message. Records
    /// that aren't durable were not acknowledged.
    fn failed(&self) -> BoxFuture<'static, QueueError>;

    /// Makes appended records durable, refuses later ones with [`AppendError::Closed`], and closes files and locks. On the embedded queue this is a clean
    /// stop: the next start knows where each log ended.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// The writing end of a log.
pub trait Append: Send + Sync {
    /// Appends a batch. Copies the records before it returns, takes one lock for the whole batch, and never waits. An empty batch is durable at once.
    fn append(&self, batch: &[Record<'_>]) -> Appended;
}

/// The reading end of a log.
pub trait Read: Send + Sync {
    /// The oldest offset that is still kept, and the end: the next record gets this offset or a higher one. Every record in between is durable. Both only
    /// ever rise.
    fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>>;

    /// A new reader at an offset. An offset below the log's start stands for the start. Readers don't affect each other.
    fn reader(&self, from: Offset) -> Box<dyn Reader>;
}

/// One partition of the packets log, for the one task that owns it.
pub trait Partition: Read {
    /// Its number, from 0.
    fn index(&self) -> u32;

    /// The end of the log as far as this process knows. It is the live offset while live reading stands at the end; else it may lag behind the real end.
    fn end(&self) -> Offset;

    /// Live reading from an offset on, for the task that owns the partition. Called once.
    fn live(&self, from: Offset) -> Box<dyn Reader>;

    /// How long the task may take to give the partition up after a revoke, since another process waits for it. `None`: no process waits.
    fn revoke_deadline(&self) -> Option<Duration>;

    /// Where the oldest records end that exceed the size of the log (`queue.max_bytes`). `None`: the log isn't too large. They are deleted once the
    /// watermark has passed them.
    fn overflow(&self) -> Option<Offset>;

    /// What the log shows of windows that are over (docs/delivery.md, Horizon). `None`: this backend has no horizon; [`Partition::tick`]
    /// is for it. Never waits.
    fn horizon(&self) -> Option<Horizon>;

    /// Appends a tick (docs/delivery.md, Tick): a record without group and payload that only says what time it is in the log. Resolves to an
    /// offset at or above the tick's, once the tick is durable: reading has passed the tick when it has passed that offset.
    ///
    /// Only where [`Partition::horizon`] is `None`; other backends refuse it.
    ///
    /// # Errors
    /// The returned future gives [`AppendError::Refused`] where the log doesn't accept it (rights, size), [`AppendError::Closed`] once the queue
    /// is closed.
    fn tick(&self) -> BoxFuture<'static, Result<Offset, AppendError>>;

    /// Reads what was saved last.
    fn load(&self) -> BoxFuture<'_, Result<Saved, QueueError>>;

    /// Saves the checkpoint, then the watermark that belongs to it, and allows the log to delete records below the watermark. The watermark
    /// names its checkpoint, so that [`Partition::load`] always returns a pair that was saved together. When the future resolves to `Ok`, both are
    /// durable. An owner that has lost the partition meanwhile gets `Ok` too; neither counts then. A crash leaves the older pair or the newer one.
    fn save(&self, checkpoint: Bytes, watermark: Offset) -> BoxFuture<'static, Result<(), QueueError>>;

    /// Commits the watermark of the last durable checkpoint again (before the first save: the one that was loaded). Resolves to whether this
    /// process still owns the partition. Deliver calls it before it writes dead letters, since a process that was stopped for longer than its
    /// session doesn't know yet that another one took over. Waits while Kafka can't tell.
    fn confirm_ownership(&self) -> BoxFuture<'_, bool>;

    /// The log isn't the one that the saved watermark was saved for: sets the watermark to the log's start, then makes the given checkpoint
    /// durable. Deliver calls it before it reads or sends anything.
    fn reset(&self, checkpoint: Bytes, watermark: Offset) -> BoxFuture<'_, Result<(), QueueError>>;
}

/// What a partition had saved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// Every record below it is settled. `None`: it was never saved, and every record that the log still has is to be sent.
    pub watermark: Option<Offset>,
    /// The checkpoint that was saved with it.
    pub checkpoint: SavedCheckpoint,
}

/// A checkpoint as it was found: opaque bytes, and whether it is the one that belongs to the watermark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SavedCheckpoint {
    /// Nothing was ever saved.
    #[default]
    None,
    /// The one that the watermark names.
    Named(Bytes),
    /// The one that the watermark names is gone; this is the last one that was written.
    Unnamed(Bytes),
    /// There was one, and it is gone or can't be read.
    Missing {
        /// Why, for people.
        reason: String,
    },
}

/// A promise of the log: every record at or above `offset` has a log time of `time` or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// The end of what readers can see.
    pub offset: Offset,
    /// The earliest log time that a later record can have.
    pub time: Timestamp,
}

/// A position in a log.
pub trait Reader: Send {
    /// Returns the next frame and moves past it. Waits at the end of the log for the next record. The frame may begin with records below the position
    /// ([`Frame::records`] takes the offset to begin at), and it holds at least one record at or above it. Offsets that no frame holds have no record: a
    /// caller that waits for a record must know that it exists.
    ///
    /// Cancel safe. Reading never blocks the runtime's threads on a disk.
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>>;

    /// Tells how many bytes the caller still wants at most, until it tells another number. A backend that reads far ahead reads no further, apart from a
    /// smallest block; it returns the same frames. A backend that reads little ahead does nothing.
    fn limit_ahead(&mut self, bytes: usize) {
        _ = bytes;
    }
}

/// Some partitions.
pub type Partitions = Vec<Arc<dyn Partition>>;

/// Why the queue waits, for people: what happened, what it means, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled(pub String);

/// Resolves when a batch is durable, or never will be.
#[derive(Debug)]
pub struct Appended(oneshot::Receiver<Result<(), AppendError>>);

/// The other end of an [`Appended`], for a backend. Dropping it resolves the batch with [`AppendError::Closed`].
#[derive(Debug)]
pub struct Resolver(oneshot::Sender<Result<(), AppendError>>);

// === impl Appended ===

impl Appended {
    /// A batch that isn't durable yet.
    #[must_use]
    pub fn pending() -> (Resolver, Self) {
        let (sender, receiver) = oneshot::channel();
        (Resolver(sender), Self(receiver))
    }

    /// A batch whose result is known already.
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
    /// Resolves the batch. The caller may have dropped its end.
    pub fn resolve(self, result: Result<(), AppendError>) {
        drop(self.0.send(result));
    }
}
