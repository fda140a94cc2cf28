//! The embedded queue: a segmented log in a folder, for one process on one machine (docs/queue-format.md).
//!
//! ```text
//! <dir>/lock                               held while the process has the queue
//! <dir>/packets/<first offset>.log         segments of 64 MiB: a header, then frames
//! <dir>/dead-letters/…  <dir>/unrouted/…   logs of the same kind
//! <dir>/checkpoint.a  checkpoint.b         written in turns
//! <dir>/sessions.a    sessions.b           likewise
//! ```

mod alternating_files;
mod checkpoint_files;
mod checkpoints;
mod clock;
mod committer;
pub mod fs;
mod log;
mod reader;
mod recovery;
mod segment;
mod session_checkpoints;
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
    alternating_files::{AlternatingFiles, Found},
    checkpoint_files::{Envelope, LogEnd},
    checkpoints::Checkpoints,
    clock::{Clock, LogClock, SystemClock},
    committer::{Bounds, Committer, LastSegment, Retention},
    fs::{FileSystem, OsFileSystem},
    log::{Log, Opened, lock},
    recovery::{Known, recover},
    session_checkpoints::SessionCheckpoints,
};
use crate::{
    Append, AppendError, Appended, DeadLetters, Horizon, Partition, Partitions, Queue, QueueError, Read, Reader, Record, Saved, Sessions,
    Stalled, blocking,
    failure::Failure,
    sessions::{LogSessions, SessionTable},
};

/// How to keep the queue.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder. Created where it is missing.
    pub dir: PathBuf,
    /// Bytes that the packets log may have. Beyond them the oldest packets become dead letters.
    pub max_bytes: u64,
    /// Bytes that must stay free on the disk. Below that, appends wait; dead letters and checkpoints may use them.
    pub min_free: u64,
    /// How long dead letters are kept, in time during which a process has the queue.
    pub keep_dead_letters: Duration,
    /// Bytes that dead letters may have. Unrouted packets may have a quarter of that.
    pub dead_letters_max_bytes: u64,
    /// Bytes of a segment of the packets log.
    pub segment_bytes: u64,
}

/// The queue. Dropping it makes durable what was appended, as [`Queue::close`] does.
#[derive(Debug)]
pub struct Embedded {
    partition: Arc<OnePartition>,
    sessions: LogSessions,
    dead_letters: DeadLetters,
    unrouted: DeadLetters,
    committers: Mutex<Committers>,
    failure: Arc<Failure>,
    _lock: Box<dyn Any + Send + Sync>,
}

/// The threads that write, each with its log. Dropping them closes the logs, waits until every appended record is written, and saves where the logs
/// end: a clean stop.
#[derive(Debug, Default)]
struct Committers {
    threads: Vec<(Arc<Log>, JoinHandle<()>)>,
    checkpoints: Option<Arc<Checkpoints>>,
}

/// The packets log with its checkpoint.
#[derive(Debug)]
struct OnePartition {
    log: Arc<Log>,
    checkpoints: Arc<Checkpoints>,
    max_bytes: u64,
}

/// How a log is opened.
struct Opening<'a> {
    options: &'a Options,
    fs: &'a Arc<dyn FileSystem>,
    failure: &'a Arc<Failure>,
    committers: &'a mut Committers,
}

/// Bytes of a log's end that stay in memory for its readers.
const PACKETS_TAIL: usize = 16 << 20;
const DEAD_LETTERS_TAIL: usize = 1 << 20;

// === impl Options ===

impl Options {
    /// The defaults, in a folder.
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

    fn packets(&self) -> Bounds {
        Bounds { segment: self.segment_bytes, min_free: self.min_free, retention: None }
    }

    fn dead_letters(&self, max_bytes: u64) -> Bounds {
        let segment = (max_bytes / 8).clamp(1 << 20, 64 << 20);
        Bounds { segment, min_free: 0, retention: Some(Retention { keep: self.keep_dead_letters, max_bytes }) }
    }
}

// === impl Embedded ===

impl Embedded {
    /// Opens the queue in a folder, checks every frame of it and cuts a torn tail.
    ///
    /// # Errors
    /// [`QueueError`]: the folder can't be used, another process has it, another version wrote it, or it is corrupt.
    pub fn open(options: &Options) -> Result<Self, QueueError> {
        Self::open_on(&(Arc::new(OsFileSystem) as Arc<dyn FileSystem>), options)
    }

    /// The same on any file system.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_on(fs: &Arc<dyn FileSystem>, options: &Options) -> Result<Self, QueueError> {
        Self::open_with(fs, &(Arc::new(SystemClock::new()) as Arc<dyn Clock>), options)
    }

    fn open_with(fs: &Arc<dyn FileSystem>, clock: &Arc<dyn Clock>, options: &Options) -> Result<Self, QueueError> {
        let dir = &options.dir;
        fs.create_dir(dir).map_err(QueueError::io("create", dir))?;
        let path = dir.join("lock");
        let held = fs.lock(&path).map_err(QueueError::io("lock", &path))?.ok_or(QueueError::Locked { path })?;
        let (files, found) = AlternatingFiles::<Envelope>::open(&**fs, dir)?;
        if let Found::BothSpoiled = found {
            return Err(QueueError::CheckpointsUnreadable { dir: dir.clone() });
        }
        let sessions = Arc::new(SessionCheckpoints::open(&**fs, dir)?);
        // Without a checkpoint that can be read it is unknown which packets must still be there.
        let (ends, needed_from) = match &found {
            Found::Saved(envelope) => (envelope.ends, envelope.watermark.unwrap_or(0)),
            _ => (Default::default(), Offset::MAX),
        };
        let (failure, mut committers) = (Arc::new(Failure::default()), Committers::default());
        let mut opening = Opening { options, fs, failure: &failure, committers: &mut committers };
        let known = Known { durable_end: ends[0].durable_end, needed_from, may_be_absent: false };
        let windows = |last: Timestamp| LogClock::for_windows(clock, last);
        let packets = opening.log("packets", PACKETS_TAIL, options.packets(), known, windows, Some(sessions.table()))?;
        sessions.check(dir, &packets)?;
        let saved = found.saved(dir, packets.range().end);
        let mut open_dead_letters = |name, max_bytes, end: LogEnd| {
            let known = Known { durable_end: end.durable_end, needed_from: Offset::MAX, may_be_absent: true };
            // The last save may be younger than the last record.
            let retention = |last: Timestamp| LogClock::for_retention(clock, last.max(end.log_time));
            opening.log(name, DEAD_LETTERS_TAIL, options.dead_letters(max_bytes), known, retention, None)
        };
        let dead_letters = open_dead_letters("dead-letters", options.dead_letters_max_bytes, ends[1])?;
        let unrouted = open_dead_letters("unrouted", options.dead_letters_max_bytes / 4, ends[2])?;
        fs.sync_dir(dir).map_err(QueueError::io("sync", dir))?;
        let logs = [&packets, &dead_letters, &unrouted].map(Arc::clone);
        let envelope = found.envelope();
        let is_first = envelope.is_none() && packets.range().end == 0;
        let kept = LogSessions::new(Arc::new(Arc::clone(&packets)), Arc::clone(sessions.table()));
        let checkpoints = Checkpoints::new((files, envelope.unwrap_or_default()), saved, logs, sessions, Arc::clone(&failure));
        let checkpoints = Arc::new(checkpoints);
        if is_first {
            checkpoints.save_first()?;
        }
        committers.checkpoints = Some(Arc::clone(&checkpoints));
        let partition = Arc::new(OnePartition { log: packets, checkpoints, max_bytes: options.max_bytes });
        let (dead_letters, unrouted) = (DeadLetters::new(Arc::new(dead_letters)), DeadLetters::new(Arc::new(unrouted)));
        Ok(Self { partition, sessions: kept, dead_letters, unrouted, committers: Mutex::new(committers), failure, _lock: held })
    }
}

impl Opening<'_> {
    /// Recovers a log and starts its committer. `clock` makes the log's clock of the log time of its last record. `sessions`: those that its records change.
    fn log(
        &mut self,
        name: &'static str,
        tail_max: usize,
        bounds: Bounds,
        known: Known,
        clock: impl Fn(Timestamp) -> LogClock,
        sessions: Option<&Arc<SessionTable>>,
    ) -> Result<Arc<Log>, QueueError> {
        let dir = self.options.dir.join(name);
        let segments = recover(&**self.fs, &dir, known, |frame| sessions.map_or(Ok(()), |sessions| sessions.apply(frame)))?;
        let last = segments.back().expect("recovery leaves one segment at least");
        let (clock, last) = (clock(last.last_time), LastSegment::of(last));
        let (fs, failure) = (Arc::clone(self.fs), Arc::clone(self.failure));
        let log = Arc::new(Log::new(Opened { name, dir, fs, failure, clock, segments, tail_max, sessions: sessions.cloned() }));
        let committer = Committer::new(Arc::clone(&log), bounds, &last);
        let thread = std::thread::Builder::new().name(format!("commit-{name}")).spawn(move || committer.run());
        let thread = thread.map_err(QueueError::io("start a thread for", &log.dir))?;
        self.committers.threads.push((Arc::clone(&log), thread));
        Ok(log)
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
        self.dead_letters.clone()
    }

    fn unrouted(&self) -> DeadLetters {
        self.unrouted.clone()
    }

    fn sessions(&self) -> Arc<dyn Sessions> {
        Arc::new(self.sessions.clone())
    }

    fn stalled(&self) -> Option<Stalled> {
        // A log of dead letters that waits stalls packets too: those that need a dead letter don't settle, and unrouted ones aren't acknowledged.
        let waits = lock(&self.committers).threads.iter().any(|(log, _)| log.is_waiting());
        waits.then(|| Stalled("the disk is full: packets aren't acknowledged until it has space".to_owned()))
    }

    fn failed(&self) -> BoxFuture<'static, QueueError> {
        self.failure.noted()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let committers = std::mem::take(&mut *lock(&self.committers));
        committers.close_logs();
        async move {
            let closed = tokio::task::spawn_blocking(move || drop(committers)).await;
            closed.unwrap_or_else(|error| tracing::error!(%error, "the queue couldn't be closed cleanly"));
        }
        .boxed()
    }
}

// === impl Committers ===

impl Committers {
    fn close_logs(&self) {
        self.threads.iter().for_each(|(log, _)| log.close());
    }
}

impl Drop for Committers {
    fn drop(&mut self) {
        self.close_logs();
        for (log, thread) in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                tracing::error!(log = log.name, ?panic, "a committer panicked: records that it didn't write weren't acknowledged");
                self.checkpoints = None;
            }
        }
        if let Some(checkpoints) = self.checkpoints.take() {
            checkpoints.save_ends();
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
        let oldest = self.log.oldest().map(|(end, _last_time)| end);
        oldest.filter(|_| self.log.bytes() > self.max_bytes)
    }

    fn horizon(&self) -> Option<Horizon> {
        Some(self.log.horizon())
    }

    fn tick(&self) -> BoxFuture<'static, Result<Offset, AppendError>> {
        std::future::ready(Err(AppendError::no_tick())).boxed()
    }

    fn load(&self) -> BoxFuture<'_, Result<Saved, QueueError>> {
        std::future::ready(Ok(self.checkpoints.saved())).boxed()
    }

    /// No other process can own it.
    fn confirm_ownership(&self) -> BoxFuture<'_, bool> {
        std::future::ready(true).boxed()
    }

    fn save(&self, checkpoint: Bytes, watermark: Offset) -> BoxFuture<'static, Result<(), QueueError>> {
        let checkpoints = Arc::clone(&self.checkpoints);
        let done = tokio::task::spawn_blocking(move || checkpoints.save(checkpoint, watermark));
        async move { blocking::result(done).await.flatten() }.boxed()
    }

    /// One save holds both.
    fn reset(&self, checkpoint: Bytes, watermark: Offset) -> BoxFuture<'_, Result<(), QueueError>> {
        self.save(checkpoint, watermark)
    }
}
