//! The embedded queue: a segmented log in a folder, for one process on one machine (DESIGN.md section 3).
//!
//! ```text
//! <dir>/lock                          held for as long as the process has the queue
//! <dir>/packets/<first offset>.log    segments of 64 MiB: a header, then frames
//! <dir>/dead-letters/…  <dir>/unrouted/…   logs of the same kind
//! <dir>/checkpoint.a  checkpoint.b        alternating
//! ```

mod checkpoint_files;
mod committer;
pub mod fs;
mod log;
mod reader;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::{Offset, Timestamp};
use tokio::sync::watch;

use self::{
    checkpoint_files::{CheckpointFiles, Envelope, LogEnd},
    committer::{Bounds, Committer, LastSegment},
    fs::{FileSystem, OsFileSystem},
    log::{Log, lock},
    recovery::{Known, recover},
};
use crate::{
    Append, AppendError, Appended, DeadLetters, Horizon, Partition, Partitions, Queue, QueueError, Read, Reader, Record, Saved,
    SavedCheckpoint, Stalled, failure::Failure,
};

/// How to keep the queue.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder. Created where it is missing.
    pub dir: PathBuf,
    /// Bytes of packets that are kept: beyond, the oldest become dead letters.
    pub max_bytes: u64,
    /// Bytes that must stay free on the disk: below, appends wait. Dead letters and checkpoint may use the rest.
    pub min_free: u64,
    /// How long dead letters are kept.
    pub keep_dead_letters: Duration,
    /// Bytes that dead letters may take; unrouted get a quarter of it.
    pub dead_letters_max_bytes: u64,
    /// Bytes of a segment of the packets log.
    pub segment_bytes: u64,
}

/// The queue. Dropping it makes durable what was appended, as [`Queue::close`] does.
#[derive(Debug)]
pub struct Embedded {
    partition: Arc<OnePartition>,
    letters: DeadLetters,
    unrouted: DeadLetters,
    committers: Mutex<Committers>,
    failure: Arc<Failure>,
    _lock: Box<dyn Any + Send + Sync>,
}

/// The threads that write, each with its log. Dropping them closes the logs and waits until what was appended is written.
#[derive(Debug, Default)]
struct Committers(Vec<(Arc<Log>, JoinHandle<()>)>);

/// The packets log with its checkpoint.
#[derive(Debug)]
struct OnePartition {
    log: Arc<Log>,
    files: Arc<Mutex<CheckpointFiles>>,
    saved: Arc<Mutex<Saved>>,
    max_bytes: u64,
}

/// How much of a log's end stays in memory for its readers.
const PACKETS_TAIL: usize = 16 << 20;
const DEAD_LETTERS_TAIL: usize = 1 << 20;

// === impl Options ===

impl Options {
    /// The defaults of DESIGN.md, in a folder.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            max_bytes: 10 << 30,
            min_free: 1 << 30,
            keep_dead_letters: Duration::from_hours(14 * 24),
            dead_letters_max_bytes: 5 << 30,
            segment_bytes: 64 << 20,
        }
    }

    fn dead_letters(&self, max_bytes: u64) -> Bounds {
        let segment = (max_bytes / 8).clamp(1 << 20, 64 << 20);
        Bounds { segment, min_free: 0, keep: Some((self.keep_dead_letters, max_bytes)) }
    }
}

// === impl Embedded ===

impl Embedded {
    /// Opens the queue in a folder, checks every frame of it and cuts a torn tail.
    ///
    /// # Errors
    /// [`QueueError`]: the folder can't be used, another process has it, a later version wrote it, or it is corrupt.
    pub fn open(options: &Options) -> Result<Self, QueueError> {
        Self::open_on(&(Arc::new(OsFileSystem) as Arc<dyn FileSystem>), options)
    }

    /// The same on any file system.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_on(fs: &Arc<dyn FileSystem>, options: &Options) -> Result<Self, QueueError> {
        let dir = &options.dir;
        fs.create_dir(dir).map_err(QueueError::io("create", dir))?;
        let path = dir.join("lock");
        let held = fs.lock(&path).map_err(QueueError::io("lock", &path))?.ok_or(QueueError::Locked { path })?;
        let (files, envelope, saved) = CheckpointFiles::open(&**fs, dir)?;
        let envelope = envelope.unwrap_or_default();
        let known = Known { durable_end: envelope.ends[0].durable_end, needed_from: saved.watermark.unwrap_or(0) };
        let failure = Arc::new(Failure::default());
        let mut committers = Committers::default();
        let mut open = |name, tail, known, bounds| -> Result<Arc<Log>, QueueError> {
            let log_dir = dir.join(name);
            let segments = recover(&**fs, &log_dir, known)?;
            let last = segments.back().map(LastSegment::of).expect("recovery leaves at least one segment");
            let log = Arc::new(Log::new(name, log_dir, Arc::clone(fs), Arc::clone(&failure), segments, tail));
            let committer = Committer::new(Arc::clone(&log), bounds, &last);
            let thread = std::thread::Builder::new().name(format!("commit-{name}")).spawn(move || committer.run());
            committers.0.push((Arc::clone(&log), thread.map_err(QueueError::io("start a thread for", dir))?));
            Ok(log)
        };
        let packets =
            open("packets", PACKETS_TAIL, known, Bounds { segment: options.segment_bytes, min_free: options.min_free, keep: None })?;
        let anywhere = Known { durable_end: 0, needed_from: Offset::MAX };
        let dead_letters = open("dead-letters", DEAD_LETTERS_TAIL, anywhere, options.dead_letters(options.dead_letters_max_bytes))?;
        let unrouted = open("unrouted", DEAD_LETTERS_TAIL, anywhere, options.dead_letters(options.dead_letters_max_bytes / 4))?;
        fs.sync_dir(dir).map_err(QueueError::io("sync", dir))?;
        let partition = Arc::new(OnePartition {
            log: packets,
            files: Arc::new(Mutex::new(files)),
            saved: Arc::new(Mutex::new(saved)),
            max_bytes: options.max_bytes,
        });
        let letters = DeadLetters::new(Arc::new(dead_letters));
        let unrouted = DeadLetters::new(Arc::new(unrouted));
        Ok(Self { partition, letters, unrouted, committers: Mutex::new(committers), failure, _lock: held })
    }
}

impl Append for Embedded {
    fn append(&self, batch: &[Record<'_>]) -> Appended {
        self.partition.log.append(batch)
    }
}

impl Queue for Embedded {
    fn partitions(&self) -> watch::Receiver<Partitions> {
        watch::channel(vec![Arc::clone(&self.partition) as Arc<dyn Partition>]).1
    }

    fn dead_letters(&self) -> DeadLetters {
        self.letters.clone()
    }

    fn unrouted(&self) -> DeadLetters {
        self.unrouted.clone()
    }

    fn stalled(&self) -> Option<Stalled> {
        // While no dead letter can be written nothing settles that needs one, and no unrouted packet is acknowledged.
        let waits = lock(&self.committers).0.iter().any(|(log, _)| log.is_waiting());
        waits.then(|| "the disk is full: nothing is acknowledged until there is room".to_owned()).map(Stalled)
    }

    fn failed(&self) -> BoxFuture<'static, QueueError> {
        self.failure.noted()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let committers = std::mem::take(&mut *lock(&self.committers));
        committers.close_logs();
        async move { tokio::task::spawn_blocking(move || drop(committers)).await.unwrap_or_default() }.boxed()
    }
}

// === impl Committers ===

impl Committers {
    fn close_logs(&self) {
        self.0.iter().for_each(|(log, _)| log.close());
    }
}

impl Drop for Committers {
    fn drop(&mut self) {
        self.close_logs();
        for (_, thread) in self.0.drain(..) {
            // One that panicked is a bug: whoever closes the queue hears of it.
            if let Err(panic) = thread.join() {
                tracing::error!(?panic, "a committer panicked");
            }
        }
    }
}

// === impl OnePartition ===

impl Read for OnePartition {
    fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>> {
        Read::bounds(&self.log)
    }

    fn reader(&self, from: Offset) -> Box<dyn Reader> {
        self.log.reader(from)
    }
}

impl Partition for OnePartition {
    fn index(&self) -> u32 {
        0
    }

    fn end(&self) -> Offset {
        self.log.range().end
    }

    fn live(&self, from: Offset) -> Box<dyn Reader> {
        self.log.reader(from)
    }

    fn revoke_deadline(&self) -> Option<Duration> {
        None
    }

    fn overflow(&self) -> Option<Offset> {
        let oldest = self.log.oldest().map(|(end, _)| end);
        oldest.filter(|_| self.log.bytes() > self.max_bytes)
    }

    fn horizon(&self) -> Option<Horizon> {
        Some(Horizon { offset: 0, time: Timestamp(0) })
    }

    fn tick(&self) -> BoxFuture<'static, Result<Offset, AppendError>> {
        std::future::ready(Err(AppendError::no_tick())).boxed()
    }

    fn load(&self) -> BoxFuture<'_, Result<Saved, QueueError>> {
        std::future::ready(Ok(lock(&self.saved).clone())).boxed()
    }

    /// No other process can own it.
    fn confirm_ownership(&self) -> BoxFuture<'_, bool> {
        std::future::ready(true).boxed()
    }

    fn save(&self, checkpoint: Bytes, watermark: Offset) -> BoxFuture<'static, Result<(), QueueError>> {
        let (files, log, saved) = (Arc::clone(&self.files), Arc::clone(&self.log), Arc::clone(&self.saved));
        let done = tokio::task::spawn_blocking(move || {
            let ends = [LogEnd { durable_end: log.range().end, log_time: Timestamp(0) }, LogEnd::default(), LogEnd::default()];
            lock(&files).save(&Envelope { watermark: Some(watermark), ends, checkpoint: Some(checkpoint.to_vec()) })?;
            *lock(&saved) = Saved { watermark: Some(watermark), checkpoint: SavedCheckpoint::Named(checkpoint) };
            log.forget_below(watermark).map(drop)
        });
        async move { done.await.unwrap_or(Err(QueueError::Closed)) }.boxed()
    }

    /// One save holds both.
    fn reset(&self, checkpoint: Bytes, watermark: Offset) -> BoxFuture<'_, Result<(), QueueError>> {
        self.save(checkpoint, watermark)
    }
}
