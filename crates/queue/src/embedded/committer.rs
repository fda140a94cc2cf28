//! The thread that makes a log durable: takes all records that arrived meanwhile, writes them, syncs once, shows them to the readers, and only then
//! resolves their batches. It waits out a full disk. A failed sync is final.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{Gauge, counter, gauge, histogram};
use pushline_model::Offset;
use tracing::{info, warn};

use super::{
    fs::File,
    log::{Log, Pending},
    segment::{SEGMENT_HEADER, Segment},
};
use crate::{Frame, FrameBuilder, QueueError, metrics as names};

/// How often the committer looks at a full disk and at the age of dead letters.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Under load it looks at the free space once per this many bytes, not for each commit.
const LOOK_AFTER: u64 = 8 << 20;

/// A log that keeps records for a time begins this many segments in that time, however few records come. So records go at most an eighth of the
/// time too late.
const SEGMENTS: u32 = 8;

/// How large a log may be, and how old.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of a segment.
    pub(super) segment: u64,
    /// Appends wait while less than this is free.
    pub(super) min_free: u64,
    /// `None`: records go only once the watermark has passed them.
    pub(super) retention: Option<Retention>,
}

/// When the oldest segments of a log are deleted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    /// When they are older than this. Age is the time in which a process had the log, so no clock makes a record older.
    pub(super) keep: Duration,
    /// When the log is larger than this many bytes.
    pub(super) max_bytes: u64,
}

/// A log's thread.
pub(super) struct Committer {
    log: Arc<Log>,
    bounds: Bounds,
    file: Arc<dyn File>,
    /// Where in the file the next frame goes.
    position: u64,
    end: Offset,
    /// Every record below it is durable.
    durable_end: Offset,
    /// Frames that are written and not synced.
    written: Vec<Frame>,
    since_look: u64,
    looked: Instant,
    waits: bool,
    /// Bytes that the log holds.
    size: Gauge,
}

/// Why a commit stopped.
enum Stop {
    /// The log was closed while the committer waited for space.
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
        Self {
            log,
            bounds,
            file,
            position,
            end,
            durable_end: end,
            written: Vec::new(),
            since_look: LOOK_AFTER,
            looked: Instant::now(),
            waits: false,
            size,
        }
    }

    /// Runs until the log is closed and everything is written, or until writing fails.
    pub(super) fn run(mut self) {
        while let Some(pending) = self.log.take_pending(LOOK_EVERY) {
            self.size.set(approximately(self.log.bytes()));
            if let Err(stop) = self.commit(pending).and_then(|()| Ok(self.delete_old()?)) {
                if let Stop::Failed(error) = stop {
                    self.log.failure.note(&error);
                }
                // Dropping the pending batches tells their appenders that they aren't durable.
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
        for builder in frames {
            self.make_space(builder.frame_len() as u64)?;
            self.write(builder)?;
        }
        self.sync()?;
        resolvers.into_iter().for_each(|resolver| resolver.resolve(Ok(())));
        since.into_iter().for_each(|since| histogram!(names::APPEND_SECONDS).record(since.elapsed()));
        Ok(())
    }

    /// Begins a segment where the last one is full, and waits while the disk is full. No frame is sealed while it waits.
    fn make_space(&mut self, bytes: u64) -> Result<(), Stop> {
        self.since_look += bytes;
        if self.since_look >= LOOK_AFTER || self.looked.elapsed() >= LOOK_EVERY {
            (self.since_look, self.looked) = (0, Instant::now());
            while self.free()? < self.bounds.min_free {
                self.wait_for_space("less than queue.min_free is free")?;
            }
            self.has_space();
        }
        if self.position + bytes > self.bounds.segment && self.position > SEGMENT_HEADER as u64 {
            self.sync()?;
            loop {
                match self.begin_segment() {
                    Err(error) if error.is_passing() => self.wait_for_space(&error.with_source())?,
                    begun => break begun?,
                }
            }
            self.has_space();
        }
        Ok(())
    }

    /// Every record that was written is durable by now.
    fn begin_segment(&mut self) -> Result<(), QueueError> {
        let segment = Segment::create(&*self.log.fs, &self.log.dir, self.end, self.log.last_time())?;
        (self.file, self.position) = (Arc::clone(&segment.file), segment.bytes);
        self.log.begin_segment(segment);
        Ok(())
    }

    /// Seals a frame and writes it. A frame that has to wait for space loses its log time and gets a new one: else a full disk would hold back the
    /// horizon, and with it every quiet group's packets.
    fn write(&mut self, builder: FrameBuilder) -> Result<(), Stop> {
        let mut frame = builder.seal(self.end, self.durable_end, self.log.stamp());
        loop {
            let written = self.file.write_at(frame.bytes(), self.position).map_err(QueueError::io("write", &self.log.dir));
            match written {
                Ok(()) => break,
                Err(error) if error.is_passing() => {
                    self.cut_half_written()?;
                    self.wait_for_space(&error.with_source())?;
                    frame = frame.with_log_time(self.log.stamp());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.has_space();
        self.position += frame.bytes().len() as u64;
        self.end = frame.end();
        self.written.push(frame);
        Ok(())
    }

    /// Makes the whole frames durable and shows them, and removes what was half written for good: so no crash brings back a frame whose log time
    /// was taken back.
    fn cut_half_written(&mut self) -> Result<(), QueueError> {
        self.file.truncate(self.position).map_err(QueueError::io("truncate a segment of", &self.log.dir))?;
        self.sync_file()
    }

    fn sync(&mut self) -> Result<(), QueueError> {
        if self.written.is_empty() { Ok(()) } else { self.sync_file() }
    }

    fn sync_file(&mut self) -> Result<(), QueueError> {
        self.file.sync().map_err(QueueError::io("sync", &self.log.dir))?;
        self.log.publish(std::mem::take(&mut self.written))?;
        self.durable_end = self.end;
        Ok(())
    }

    // --- space

    fn free(&self) -> Result<u64, QueueError> {
        if self.bounds.min_free == 0 {
            return Ok(u64::MAX);
        }
        self.log.fs.free_space(&self.log.dir).map_err(QueueError::io("ask for the free space of", &self.log.dir))
    }

    /// Waits a while. What was written before is durable and visible meanwhile.
    fn wait_for_space(&mut self, why: &str) -> Result<(), Stop> {
        self.sync()?;
        if !std::mem::replace(&mut self.waits, true) {
            warn!(
                log = self.log.name,
                dir = %self.log.dir.display(),
                min_free = self.bounds.min_free,
                why,
                "the disk is full or the limit of open files is reached: the log waits and acknowledges nothing; free space, or raise the limit"
            );
            gauge!(names::WAITING_FOR_SPACE, "log" => self.log.name).set(1);
            self.log.set_waiting(true);
        }
        if self.log.wait(LOOK_EVERY) { Err(Stop::Closed) } else { Ok(()) }
    }

    fn has_space(&mut self) {
        if std::mem::take(&mut self.waits) {
            info!(log = self.log.name, "the disk has space again; the log accepts records");
            gauge!(names::WAITING_FOR_SPACE, "log" => self.log.name).set(0);
            self.log.set_waiting(false);
        }
    }

    // --- retention

    /// Deletes the oldest segments of a log with a retention, and begins a segment now and then so that there are some to delete.
    fn delete_old(&mut self) -> Result<(), QueueError> {
        let Some(retention) = self.bounds.retention else { return Ok(()) };
        self.delete_oldest(retention)?;
        let due = self.log.now().minus(retention.keep / SEGMENTS);
        if self.log.last_began().is_none_or(|began| began >= due) {
            return Ok(());
        }
        match self.begin_segment() {
            Err(error) if error.is_passing() => Ok(()), // no record waits for it: the next look tries again
            begun => begun,
        }
    }

    /// One segment at a time.
    fn delete_oldest(&self, Retention { keep, max_bytes }: Retention) -> Result<(), QueueError> {
        while let Some((end, last_time)) = self.log.oldest() {
            let is_old = last_time.plus(keep) < self.log.now();
            if !is_old && self.log.bytes() <= max_bytes {
                break;
            }
            let start = self.log.range().start;
            let records = self.log.delete_below(end)?;
            counter!(names::FORGOTTEN, "log" => self.log.name).increment(records);
            let why = if is_old { "older than dead_letters.keep" } else { "beyond dead_letters.max_bytes" };
            warn!(log = self.log.name, start, end, records, why, "deleted the oldest dead letters");
        }
        Ok(())
    }
}

/// The segment to which the committer appends next.
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
