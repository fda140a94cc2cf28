//! The thread that makes a log durable: takes all that arrived meanwhile, writes it, syncs once, shows it to the readers, and only then
//! says that it is durable. A full disk is waited out; a failed sync is final.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use metrics::{Gauge, counter, gauge, histogram};
use pushline_model::{Offset, Timestamp};
use tracing::{info, warn};

use super::{
    fs::File,
    log::{Log, Pending},
    segment::{SEGMENT_HEADER, Segment},
};
use crate::{Frame, QueueError, metrics as names};

/// How often a full disk, and the age of what is kept, is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How free space is looked at under load: not for each commit.
const LOOK_AFTER: u64 = 8 << 20;

/// What is kept for a time begins a segment so many times meanwhile, however little comes: so it goes at most that part of the time too late.
const SEGMENTS: u32 = 8;

/// What bounds a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of a segment.
    pub(super) segment: u64,
    /// Appends wait while less than this is free.
    pub(super) min_free: u64,
    /// Oldest segments go when the log is larger or they are older. `None`: only the watermark deletes.
    pub(super) keep: Option<(Duration, u64)>,
}

/// A log's thread.
pub(super) struct Committer {
    log: Arc<Log>,
    bounds: Bounds,
    file: Arc<dyn File>,
    /// Where in the file the next frame goes.
    position: u64,
    end: Offset,
    /// Written, not synced.
    written: Vec<Frame>,
    since_look: u64,
    looked: Instant,
    waits: bool,
    /// Bytes that the log holds.
    size: Gauge,
}

/// Why a commit stopped.
enum Stop {
    /// It was closed while it waited for space.
    Closed,
    Failed(QueueError),
}

impl From<QueueError> for Stop {
    fn from(error: QueueError) -> Self {
        Self::Failed(error)
    }
}

impl Committer {
    pub(super) fn new(log: Arc<Log>, bounds: Bounds, last: &LastSegment) -> Self {
        let (file, position, end) = (Arc::clone(&last.file), last.position, last.end);
        let size = gauge!(names::LOG_BYTES, "log" => log.name);
        Self { log, bounds, file, position, end, size, written: Vec::new(), since_look: LOOK_AFTER, looked: Instant::now(), waits: false }
    }

    /// Runs until the log is closed and all of it is written, or writing fails.
    pub(super) fn run(mut self) {
        while let Some(pending) = self.log.take_pending(LOOK_EVERY) {
            self.size.set(approximately(self.log.bytes()));
            if let Err(stop) = self.commit(pending).and_then(|()| Ok(self.forget()?)) {
                if let Stop::Failed(error) = stop {
                    self.log.failure.note(&error);
                }
                // What is pending is dropped, which says that it isn't durable.
                self.log.close();
                while self.log.take_pending(Duration::ZERO).is_some() {}
                return;
            }
        }
    }

    fn commit(&mut self, pending: Pending) -> Result<(), Stop> {
        let Pending { frames, resolvers, since, .. } = pending;
        if frames.is_empty() {
            return Ok(());
        }
        let durable_end = self.end;
        for builder in frames {
            let frame = builder.seal(self.end, durable_end, Timestamp::of(SystemTime::now()));
            self.make_room(frame.bytes().len() as u64)?;
            self.write(frame)?;
        }
        self.sync()?;
        resolvers.into_iter().for_each(|resolver| resolver.resolve(Ok(())));
        since.into_iter().for_each(|since| histogram!(names::APPEND_SECONDS).record(since.elapsed()));
        Ok(())
    }

    /// Begins a segment where the last one is full, and waits where the disk is.
    fn make_room(&mut self, bytes: u64) -> Result<(), Stop> {
        self.since_look += bytes;
        if self.since_look >= LOOK_AFTER || self.looked.elapsed() >= LOOK_EVERY {
            (self.since_look, self.looked) = (0, Instant::now());
            while self.free()? < self.bounds.min_free {
                self.wait_until_it_passes("less than queue.min_free is free")?;
            }
            self.has_space();
        }
        if self.position + bytes > self.bounds.segment && self.position > SEGMENT_HEADER as u64 {
            self.sync()?;
            self.patiently(Self::begin_segment)?;
        }
        Ok(())
    }

    /// What was written is durable by now.
    fn begin_segment(&mut self) -> Result<(), QueueError> {
        let segment = Segment::create(&*self.log.fs, &self.log.dir, self.end)?;
        (self.file, self.position) = (Arc::clone(&segment.file), segment.bytes);
        self.log.begin_segment(segment);
        Ok(())
    }

    fn write(&mut self, frame: Frame) -> Result<(), Stop> {
        self.patiently(|committer| {
            let written = committer.file.write_at(frame.bytes(), committer.position);
            written.map_err(QueueError::io("write", &committer.log.dir))
        })?;
        self.position += frame.bytes().len() as u64;
        self.end = frame.end();
        self.written.push(frame);
        Ok(())
    }

    /// Tries again as long as the disk is full. What was half written is written over.
    fn patiently<T>(&mut self, action: impl Fn(&mut Self) -> Result<T, QueueError>) -> Result<T, Stop> {
        loop {
            match action(self) {
                Ok(done) => {
                    self.has_space();
                    return Ok(done);
                }
                Err(error) if error.is_passing() => self.wait_until_it_passes(&error.to_string())?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn sync(&mut self) -> Result<(), QueueError> {
        if !self.written.is_empty() {
            self.file.sync().map_err(QueueError::io("sync", &self.log.dir))?;
            self.log.publish(std::mem::take(&mut self.written));
        }
        Ok(())
    }

    // --- space

    fn free(&self) -> Result<u64, QueueError> {
        if self.bounds.min_free == 0 {
            return Ok(u64::MAX);
        }
        self.log.fs.free_space(&self.log.dir).map_err(QueueError::io("ask for the free space of", &self.log.dir))
    }

    fn wait_until_it_passes(&mut self, why: &str) -> Result<(), Stop> {
        if !std::mem::replace(&mut self.waits, true) {
            warn!(log = self.log.name, dir = %self.log.dir.display(), min_free = self.bounds.min_free, why, "the disk is full, or no file can be opened: nothing is acknowledged until there is room");
            gauge!(names::WAITING_FOR_SPACE, "log" => self.log.name).set(1);
            self.log.set_waiting(true);
        }
        if self.log.wait(LOOK_EVERY) { Err(Stop::Closed) } else { Ok(()) }
    }

    fn has_space(&mut self) {
        if std::mem::take(&mut self.waits) {
            info!(log = self.log.name, "the disk has room again");
            gauge!(names::WAITING_FOR_SPACE, "log" => self.log.name).set(0);
            self.log.set_waiting(false);
        }
    }

    // --- retention

    /// Dead letters are kept for a time and within a size.
    fn forget(&mut self) -> Result<(), QueueError> {
        let Some((keep, max_bytes)) = self.bounds.keep else { return Ok(()) };
        self.forget_oldest(keep, max_bytes)?;
        let due = Timestamp::of(SystemTime::now()).minus(keep / SEGMENTS);
        if self.log.last_began().is_none_or(|began| began >= due) {
            return Ok(());
        }
        match self.begin_segment() {
            Err(error) if error.is_passing() => Ok(()), // nobody waits for it: the next look tries again
            begun => begun,
        }
    }

    /// A segment at a time.
    fn forget_oldest(&self, keep: Duration, max_bytes: u64) -> Result<(), QueueError> {
        let now = Timestamp::of(SystemTime::now());
        while let Some((end, newest)) = self.log.oldest() {
            let too_old = newest.plus(keep) < now;
            if !too_old && self.log.bytes() <= max_bytes {
                break;
            }
            let start = self.log.range().start;
            let records = self.log.forget_below(end)?;
            counter!(names::FORGOTTEN, "log" => self.log.name).increment(records);
            let why = if too_old { "older than dead_letters.keep" } else { "beyond dead_letters.max_bytes" };
            warn!(log = self.log.name, start, end, records, why, "the oldest dead letters were dropped");
        }
        Ok(())
    }
}

/// Where the committer goes on.
pub(super) struct LastSegment {
    pub(super) file: Arc<dyn File>,
    pub(super) position: u64,
    pub(super) end: Offset,
}

impl LastSegment {
    pub(super) fn of(segment: &Segment) -> Self {
        Self { file: Arc::clone(&segment.file), position: segment.bytes, end: segment.end }
    }
}

/// A gauge is a float; a log's size needs no more than its 52 bits.
#[expect(clippy::cast_precision_loss, reason = "a log's size is far below 2^52 bytes")]
fn approximately(bytes: u64) -> f64 {
    bytes as f64
}
