//! One log in one folder: the records that wait to be durable, those that are durable, and how appenders and readers see both. Only the committer
//! beside it writes.

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::{Offset, Timestamp};
use tokio::sync::watch;

use super::{clock::LogClock, fs::FileSystem, reader::LogReader, segment::Segment};
use crate::{
    Append, AppendError, Appended, Frame, FrameBuilder, Horizon, QueueError, Read, Reader, Record, Resolver,
    failure::Failure,
    frame::fits,
    sessions::{SessionLog, SessionTable},
};

/// A log.
pub(super) struct Log {
    pub(super) name: &'static str,
    pub(super) dir: PathBuf,
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) failure: Arc<Failure>,
    clock: LogClock,
    pending: Mutex<Pending>,
    /// Notified when the first record of a commit arrives, and at the end.
    arrived: Condvar,
    stored: Mutex<Stored>,
    end: watch::Sender<Offset>,
    tail_max: usize,
    waiting: AtomicBool,
    /// The sessions that its records change.
    sessions: Option<Arc<SessionTable>>,
}

/// What a log is opened with.
pub(super) struct Opened {
    pub(super) name: &'static str,
    pub(super) dir: PathBuf,
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) failure: Arc<Failure>,
    pub(super) clock: LogClock,
    /// At least one.
    pub(super) segments: VecDeque<Segment>,
    /// Bytes of its end that stay in memory.
    pub(super) tail_max: usize,
    /// The sessions that its records change.
    pub(super) sessions: Option<Arc<SessionTable>>,
}

/// The records of the next commit.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) frames: Vec<FrameBuilder>,
    pub(super) resolvers: Vec<Resolver>,
    /// When its first record arrived.
    pub(super) since: Option<Instant>,
    closed: bool,
}

/// The records that are durable. Log time is given, and the end is published, under the one lock around this.
#[derive(Debug)]
struct Stored {
    /// At least one.
    segments: VecDeque<Segment>,
    /// The frames written last, for readers that are near the end.
    tail: VecDeque<Frame>,
    tail_bytes: usize,
    /// The log time of the oldest frame that is sealed and not published.
    sealed: Option<Timestamp>,
}

/// Where a reader finds the records at an offset.
pub(super) enum Found {
    /// In memory.
    Frame(Frame),
    /// In a file: the reader reads frames from `position` up to `limit`. The first may lie before the offset.
    File { segment: SegmentFile, position: u64, limit: u64 },
    /// The log ends at the offset or below.
    Nothing,
}

/// A segment, as far as reading it needs.
#[derive(Debug, Clone)]
pub(super) struct SegmentFile {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn super::fs::File>,
}

const ONE_AT_LEAST: &str = "recovery leaves one segment at least, and the last one is never deleted";

// === impl Log ===

impl Log {
    pub(super) fn new(opened: Opened) -> Self {
        let Opened { name, dir, fs, failure, clock, segments, tail_max, sessions } = opened;
        let stored = Stored { segments, tail: VecDeque::new(), tail_bytes: 0, sealed: None };
        let (end, stored) = (watch::Sender::new(stored.end()), Mutex::new(stored));
        Self {
            name,
            dir,
            fs,
            failure,
            clock,
            pending: Mutex::default(),
            arrived: Condvar::new(),
            stored,
            end,
            tail_max,
            waiting: AtomicBool::new(false),
            sessions,
        }
    }

    // --- for the committer

    /// Waits for records to write, at most that long. `None`: the log was closed and everything is written.
    pub(super) fn take_pending(&self, at_most: Duration) -> Option<Pending> {
        let pending = lock(&self.pending);
        let idle = |pending: &mut Pending| pending.frames.is_empty() && !pending.closed;
        let (mut pending, _) = self.arrived.wait_timeout_while(pending, at_most, idle).unwrap_or_else(PoisonError::into_inner);
        if pending.frames.is_empty() && pending.closed {
            return None;
        }
        let closed = pending.closed;
        Some(std::mem::replace(&mut pending, Pending { closed, ..Pending::default() }))
    }

    /// Waits for a while, or until the log is closed. Returns whether it is.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        let pending = lock(&self.pending);
        let (pending, _) =
            self.arrived.wait_timeout_while(pending, at_most, |pending| !pending.closed).unwrap_or_else(PoisonError::into_inner);
        pending.closed
    }

    /// The log time of a frame that is sealed now. Until the frame is published, or its log time is taken back, the horizon stays there.
    pub(super) fn stamp(&self) -> Timestamp {
        let mut stored = lock(&self.stored);
        let now = self.clock.now();
        stored.sealed.get_or_insert(now);
        now
    }

    /// Applies durable frames to the sessions, and shows them to the readers. A frame that was sealed and isn't among them has lost its log time.
    pub(super) fn publish(&self, frames: Vec<Frame>) -> Result<(), QueueError> {
        for frame in &frames {
            self.sessions.iter().try_for_each(|sessions| sessions.apply(frame))?;
        }
        let mut stored = lock(&self.stored);
        stored.sealed = None;
        for frame in frames {
            stored.last_mut().extend(&frame);
            stored.tail_bytes += frame.bytes().len();
            stored.tail.push_back(frame);
        }
        while stored.tail_bytes > self.tail_max
            && let Some(oldest) = stored.tail.pop_front()
        {
            stored.tail_bytes -= oldest.bytes().len();
        }
        let end = stored.end();
        self.end.send_if_modified(|known| std::mem::replace(known, end) != end);
        Ok(())
    }

    /// A new last segment.
    pub(super) fn begin_segment(&self, segment: Segment) {
        lock(&self.stored).segments.push_back(segment);
    }

    /// Notes whether the committer waits for space.
    pub(super) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    // --- for readers and appenders

    /// The log's time now.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Every record that becomes visible later has that log time or a later one.
    pub(super) fn horizon(&self) -> Horizon {
        let stored = lock(&self.stored);
        Horizon { offset: stored.end(), time: stored.sealed.unwrap_or_else(|| self.clock.now()) }
    }

    pub(super) fn range(&self) -> Range<Offset> {
        let stored = lock(&self.stored);
        stored.start()..stored.end()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Refuses further records. The committer still writes those that were appended.
    pub(super) fn close(&self) {
        lock(&self.pending).closed = true;
        self.arrived.notify_all();
    }

    /// Bytes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.stored).segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes of the whole segments that end above one offset, and at the other or below it.
    pub(super) fn bytes_between(&self, above: Offset, to: Offset) -> u64 {
        let stored = lock(&self.stored);
        let whole = stored.segments.iter().take(stored.segments.len() - 1);
        whole.filter(|segment| segment.end > above && segment.end <= to).map(|segment| segment.bytes).sum()
    }

    /// The log time of the first record of the last segment. `None`: the last segment is empty.
    pub(super) fn last_began(&self) -> Option<Timestamp> {
        lock(&self.stored).last().first_time
    }

    /// The log time of the last record that was published; 1970 where there was none yet.
    pub(super) fn last_time(&self) -> Timestamp {
        lock(&self.stored).last().last_time
    }

    /// The end of the oldest segment and the log time of its last record. `None`: there is only one segment.
    pub(super) fn oldest(&self) -> Option<(Offset, Timestamp)> {
        let stored = lock(&self.stored);
        let oldest = stored.segments.front().filter(|_| stored.segments.len() > 1)?;
        Some((oldest.end, oldest.last_time))
    }

    /// Deletes whole segments below an offset, never the last one. Returns how many records it deleted.
    pub(super) fn delete_below(&self, offset: Offset) -> Result<u64, QueueError> {
        let mut deleted = Vec::new();
        let mut stored = lock(&self.stored);
        while stored.segments.len() > 1
            && let Some(oldest) = stored.segments.pop_front_if(|oldest| oldest.end <= offset)
        {
            deleted.push(oldest);
        }
        let start = stored.start();
        while let Some(frame) = stored.tail.pop_front_if(|frame| frame.end() <= start) {
            stored.tail_bytes -= frame.bytes().len();
        }
        drop(stored);
        for segment in &deleted {
            self.fs.remove(&segment.path).map_err(QueueError::io("remove", &segment.path))?;
        }
        Ok(deleted.iter().map(|segment| segment.end - segment.base).sum())
    }

    pub(super) fn find(&self, offset: Offset) -> Found {
        let stored = lock(&self.stored);
        let offset = offset.max(stored.start());
        if stored.tail.front().is_some_and(|oldest| oldest.base() <= offset) {
            let place = stored.tail.partition_point(|frame| frame.end() <= offset);
            return stored.tail.get(place).map_or(Found::Nothing, |frame| Found::Frame(frame.clone()));
        }
        let place = stored.segments.partition_point(|segment| segment.end <= offset);
        let Some(segment) = stored.segments.get(place) else { return Found::Nothing };
        let position = segment.position_before(offset);
        let place = SegmentFile { path: segment.path.clone(), file: Arc::clone(&segment.file) };
        Found::File { segment: place, position, limit: segment.bytes }
    }

    pub(super) fn watch_end(&self) -> watch::Receiver<Offset> {
        self.end.subscribe()
    }
}

impl Stored {
    fn start(&self) -> Offset {
        self.segments.front().expect(ONE_AT_LEAST).base
    }

    fn end(&self) -> Offset {
        self.last().end
    }

    fn last(&self) -> &Segment {
        self.segments.back().expect(ONE_AT_LEAST)
    }

    fn last_mut(&mut self) -> &mut Segment {
        self.segments.back_mut().expect(ONE_AT_LEAST)
    }
}

impl Append for Arc<Log> {
    fn append(&self, batch: &[Record<'_>]) -> Appended {
        if let Some(refused) = batch.iter().find_map(|record| fits(record).err()) {
            return Appended::ready(Err(refused));
        }
        if batch.is_empty() {
            return Appended::ready(Ok(()));
        }
        let (resolver, appended) = Appended::pending();
        let mut pending = lock(&self.pending);
        if pending.closed {
            return Appended::ready(Err(AppendError::Closed));
        }
        let idle = pending.frames.is_empty();
        for record in batch {
            if pending.frames.last().is_none_or(|frame| frame.is_full_for(record)) {
                pending.frames.push(FrameBuilder::default());
            }
            pending.frames.last_mut().into_iter().for_each(|frame| frame.push(record));
        }
        pending.resolvers.push(resolver);
        if idle {
            pending.since = Some(Instant::now());
            self.arrived.notify_all();
        }
        appended
    }
}

impl SessionLog for Arc<Log> {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl Read for Arc<Log> {
    fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>> {
        std::future::ready(Ok(self.range())).boxed()
    }

    fn reader(&self, from: Offset) -> Box<dyn Reader> {
        Box::new(LogReader::new(Arc::clone(self), from))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("name", &self.name).field("end", &*self.end.borrow()).finish()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
