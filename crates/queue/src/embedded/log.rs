//! One log in one folder: what waits to be durable, what is durable, and how both are seen from outside. The committer beside it is the
//! only one that writes.

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

use super::{fs::FileSystem, reader::LogReader, segment::Segment};
use crate::{
    Append, AppendError, Appended, Frame, FrameBuilder, QueueError, Read, Reader, Record, Resolver, failure::Failure, frame::fits,
};

/// A log.
pub(super) struct Log {
    pub(super) name: &'static str,
    pub(super) dir: PathBuf,
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) failure: Arc<Failure>,
    pending: Mutex<Pending>,
    /// Notified when the first record of a commit arrives, and at the end.
    arrived: Condvar,
    stored: Mutex<Stored>,
    end: watch::Sender<Offset>,
    tail_max: usize,
    waiting: AtomicBool,
}

/// What the next commit will hold.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) frames: Vec<FrameBuilder>,
    pub(super) resolvers: Vec<Resolver>,
    /// When its first record arrived.
    pub(super) since: Option<Instant>,
    closed: bool,
}

/// What is durable.
#[derive(Debug)]
struct Stored {
    segments: VecDeque<Segment>,
    /// The frames written last, for readers that are near the end.
    tail: VecDeque<Frame>,
    tail_bytes: usize,
}

/// Where a reader finds the records at an offset.
pub(super) enum Found {
    /// In memory.
    Frame(Frame),
    /// In a file: read frames from `position` up to `limit`. The first may lie before the offset.
    File { segment: Place, position: u64, limit: u64 },
    /// Nowhere yet.
    Nothing,
}

/// A segment, as far as reading it needs.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn super::fs::File>,
}

// === impl Log ===

impl Log {
    pub(super) fn new(
        name: &'static str,
        dir: PathBuf,
        fs: Arc<dyn FileSystem>,
        failure: Arc<Failure>,
        segments: VecDeque<Segment>,
        tail_max: usize,
    ) -> Self {
        let end = watch::Sender::new(segments.back().map_or(0, |last| last.end));
        let stored = Mutex::new(Stored { segments, tail: VecDeque::new(), tail_bytes: 0 });
        Self {
            name,
            dir,
            fs,
            failure,
            pending: Mutex::default(),
            arrived: Condvar::new(),
            stored,
            end,
            tail_max,
            waiting: AtomicBool::new(false),
        }
    }

    // --- for the committer

    /// Waits until something is to be written, at most that long. `None`: the log was closed and all of it is written.
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

    /// Frames are durable now: readers may see them.
    pub(super) fn publish(&self, frames: Vec<Frame>) {
        let Some(end) = frames.last().map(Frame::end) else { return };
        let mut stored = lock(&self.stored);
        for frame in frames {
            if let Some(last) = stored.segments.back_mut() {
                last.extend(&frame);
            }
            stored.tail_bytes += frame.bytes().len();
            stored.tail.push_back(frame);
        }
        while stored.tail_bytes > self.tail_max
            && let Some(oldest) = stored.tail.pop_front()
        {
            stored.tail_bytes -= oldest.bytes().len();
        }
        drop(stored);
        self.end.send_replace(end);
    }

    /// A new last segment.
    pub(super) fn begin_segment(&self, segment: Segment) {
        lock(&self.stored).segments.push_back(segment);
    }

    /// Whether it waits for space.
    pub(super) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    // --- for everybody

    pub(super) fn range(&self) -> Range<Offset> {
        lock(&self.stored).start()..*self.end.borrow()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes no more; what was taken is still written.
    pub(super) fn close(&self) {
        lock(&self.pending).closed = true;
        self.arrived.notify_all();
    }

    /// Bytes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.stored).segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The time of the first record of the last segment.
    pub(super) fn last_began(&self) -> Option<Timestamp> {
        lock(&self.stored).segments.back().and_then(|last| last.oldest)
    }

    /// The end and the time of the last record of the oldest segment, unless it is the last.
    pub(super) fn oldest(&self) -> Option<(Offset, Timestamp)> {
        let stored = lock(&self.stored);
        (stored.segments.len() > 1).then(|| stored.segments.front().map(|oldest| (oldest.end, oldest.newest))).flatten()
    }

    /// Deletes whole segments below an offset; the last one stays. Returns how many records went.
    pub(super) fn forget_below(&self, offset: Offset) -> Result<u64, QueueError> {
        let mut forgotten = Vec::new();
        let mut stored = lock(&self.stored);
        while stored.segments.len() > 1
            && let Some(oldest) = stored.segments.pop_front_if(|oldest| oldest.end <= offset)
        {
            forgotten.push(oldest);
        }
        let start = stored.start();
        while let Some(frame) = stored.tail.pop_front_if(|frame| frame.end() <= start) {
            stored.tail_bytes -= frame.bytes().len();
        }
        drop(stored);
        for segment in &forgotten {
            self.fs.remove(&segment.path).map_err(QueueError::io("remove", &segment.path))?;
        }
        Ok(forgotten.iter().map(|segment| segment.end - segment.base).sum())
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
        let place = Place { path: segment.path.clone(), file: Arc::clone(&segment.file) };
        Found::File { segment: place, position, limit: segment.bytes }
    }

    pub(super) fn watch_end(&self) -> watch::Receiver<Offset> {
        self.end.subscribe()
    }
}

impl Stored {
    fn start(&self) -> Offset {
        self.segments.front().map_or(0, |oldest| oldest.base)
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
