//! A queue in memory, for tests and benches. Records are "durable" at once and gone with the process.
//!
//! It plays both kinds of backend: one with a horizon, as the embedded queue, and one with ticks, as Kafka. Its log time comes from the
//! monotonic clock, or from the test.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::{Offset, Timestamp};
use tokio::sync::watch;

use crate::{
    Append, AppendError, Appended, DeadLetters, Frame, FrameBuilder, Horizon, Kind, Partition, Partitions, Queue, QueueError, Read, Reader,
    Record, Saved, SavedCheckpoint, Sessions, Stalled,
    frame::fits,
    sessions::{LogSessions, SessionLog, SessionTable},
};

/// One partition in memory.
#[derive(Debug)]
pub struct Memory {
    packets: Arc<MemoryLog>,
    logs: [Arc<MemoryLog>; 2],
    dead_letters: DeadLetters,
    unrouted: DeadLetters,
    sessions: LogSessions,
}

/// How a window ends where no record comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The log has a horizon.
    Horizon,
    /// Deliver appends ticks.
    Ticks,
}

/// Where log time comes from. Clones share it.
#[derive(Debug, Clone)]
pub enum LogTime {
    /// The monotonic clock, from this time on.
    Monotonic(Timestamp, Instant),
    /// What the test has set. It may step back.
    Manual(Arc<Mutex<Timestamp>>),
}

#[derive(Debug)]
struct MemoryLog {
    mode: Mode,
    time: LogTime,
    frames: Mutex<Vec<Frame>>,
    end: watch::Sender<Offset>,
    closed: watch::Sender<bool>,
    saved: Mutex<Saved>,
    /// The sessions that its records change.
    table: Arc<SessionTable>,
}

struct MemoryReader {
    log: Arc<MemoryLog>,
    position: Offset,
    end: watch::Receiver<Offset>,
}

impl Memory {
    /// An empty queue with a horizon.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::with(Mode::Horizon, &LogTime::monotonic())
    }

    /// An empty queue.
    #[must_use]
    pub fn with(mode: Mode, time: &LogTime) -> Arc<Self> {
        let new = || MemoryLog::new(mode, time.clone());
        let logs = [new(), new()];
        let [dead_letters, unrouted] = logs.each_ref().map(|log| DeadLetters::new(Arc::new(OnePartition(Arc::clone(log)))));
        let packets = new();
        let sessions = LogSessions::new(Arc::new(OnePartition(Arc::clone(&packets))), Arc::clone(&packets.table));
        Arc::new(Self { packets, logs, dead_letters, unrouted, sessions })
    }
}

impl LogTime {
    /// The wall clock's time now, and the monotonic clock from here on.
    #[must_use]
    pub fn monotonic() -> Self {
        Self::Monotonic(Timestamp::of(SystemTime::now()), Instant::now())
    }

    /// A time that only [`LogTime::set`] changes.
    #[must_use]
    pub fn manual(time: Timestamp) -> Self {
        Self::Manual(Arc::new(Mutex::new(time)))
    }

    /// Sets a manual time, for records that are appended from now on.
    ///
    /// # Panics
    /// The time is the monotonic clock's.
    #[expect(clippy::panic, reason = "a mistake of the test that calls it")]
    pub fn set(&self, time: Timestamp) {
        match self {
            Self::Monotonic(..) => panic!("only a manual log time can be set"),
            Self::Manual(now) => *lock(now) = time,
        }
    }

    /// The log time that a record gets now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::Monotonic(began, since) => began.plus(since.elapsed()),
            Self::Manual(now) => *lock(now),
        }
    }
}

impl Queue for Memory {
    fn partitions(&self) -> watch::Receiver<Partitions> {
        watch::channel(vec![Arc::new(OnePartition(Arc::clone(&self.packets))) as Arc<dyn Partition>]).1
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
        None
    }

    fn failed(&self) -> BoxFuture<'static, QueueError> {
        std::future::pending().boxed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        for log in self.logs.iter().chain([&self.packets]) {
            log.closed.send_replace(true);
        }
        std::future::ready(()).boxed()
    }
}

impl Append for Memory {
    fn append(&self, batch: &[Record<'_>]) -> Appended {
        self.packets.append(batch)
    }
}

impl MemoryLog {
    fn new(mode: Mode, time: LogTime) -> Arc<Self> {
        Arc::new(Self {
            mode,
            time,
            frames: Mutex::default(),
            end: watch::Sender::new(0),
            closed: watch::Sender::new(false),
            saved: Mutex::default(),
            table: Arc::default(),
        })
    }

    fn append(&self, batch: &[Record<'_>]) -> Appended {
        if let Some(refused) = batch.iter().find_map(|record| fits(record).err()) {
            return Appended::ready(Err(refused));
        }
        if *self.closed.borrow() {
            return Appended::ready(Err(AppendError::Closed));
        }
        let mut frames = lock(&self.frames);
        let mut builder = FrameBuilder::default();
        for record in batch {
            if builder.is_full_for(record) {
                self.publish(&mut frames, std::mem::take(&mut builder));
            }
            builder.push(record);
        }
        if !builder.is_empty() {
            self.publish(&mut frames, builder);
        }
        Appended::ready(Ok(()))
    }

    fn publish(&self, frames: &mut Vec<Frame>, builder: FrameBuilder) {
        let end = frames.last().map_or(0, Frame::end);
        let frame = builder.seal(end, end, self.time.now());
        let end = frame.end();
        self.table.apply(&frame).expect("this process made the frame");
        frames.push(frame);
        self.end.send_replace(end);
    }

    fn frame_at(&self, position: Offset) -> Option<Frame> {
        let frames = lock(&self.frames);
        let place = frames.partition_point(|frame| frame.end() <= position);
        frames.get(place).cloned()
    }

    /// Log time is taken and frames are published under one lock, so the next record's log time isn't earlier than this one.
    fn horizon(&self) -> Horizon {
        let frames = lock(&self.frames);
        Horizon { offset: frames.last().map_or(0, Frame::end), time: self.time.now() }
    }
}

/// The only partition; its newtype keeps the log shared with its readers.
struct OnePartition(Arc<MemoryLog>);

impl Append for OnePartition {
    fn append(&self, batch: &[Record<'_>]) -> Appended {
        self.0.append(batch)
    }
}

impl SessionLog for OnePartition {
    fn now(&self) -> Timestamp {
        self.0.time.now()
    }
}

impl Read for OnePartition {
    fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>> {
        std::future::ready(Ok(0..self.end())).boxed()
    }

    fn reader(&self, from: Offset) -> Box<dyn Reader> {
        Box::new(MemoryReader { log: Arc::clone(&self.0), position: from, end: self.0.end.subscribe() })
    }
}

impl Partition for OnePartition {
    fn index(&self) -> u32 {
        0
    }

    fn end(&self) -> Offset {
        *self.0.end.borrow()
    }

    fn live(&self, from: Offset) -> Box<dyn Reader> {
        self.reader(from)
    }

    fn revoke_deadline(&self) -> Option<Duration> {
        None
    }

    fn overflow(&self) -> Option<Offset> {
        None
    }

    fn horizon(&self) -> Option<Horizon> {
        (self.0.mode == Mode::Horizon).then(|| self.0.horizon())
    }

    fn tick(&self) -> BoxFuture<'static, Result<Offset, AppendError>> {
        let result = match self.0.mode {
            Mode::Horizon => Appended::ready(Err(AppendError::no_tick())),
            Mode::Ticks => self.0.append(&[Record { group: "", at: self.0.time.now(), kind: Kind::Tick, payload: b"" }]),
        };
        let end = self.end();
        async move { result.await.map(|()| end - 1) }.boxed()
    }

    fn load(&self) -> BoxFuture<'_, Result<Saved, QueueError>> {
        std::future::ready(Ok(lock(&self.0.saved).clone())).boxed()
    }

    fn save(&self, checkpoint: Bytes, watermark: Offset) -> BoxFuture<'static, Result<(), QueueError>> {
        *lock(&self.0.saved) = Saved { watermark: Some(watermark), checkpoint: SavedCheckpoint::Named(checkpoint) };
        std::future::ready(Ok(())).boxed()
    }

    /// No other process can own it.
    fn confirm_ownership(&self) -> BoxFuture<'_, bool> {
        std::future::ready(true).boxed()
    }

    fn reset(&self, checkpoint: Bytes, watermark: Offset) -> BoxFuture<'_, Result<(), QueueError>> {
        self.save(checkpoint, watermark)
    }
}

impl Reader for MemoryReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
        async {
            loop {
                if let Some(frame) = self.log.frame_at(self.position) {
                    self.position = frame.end();
                    return Ok(frame);
                }
                let position = self.position;
                self.end.wait_for(|end| *end > position).await.map_err(|_| QueueError::Closed)?;
            }
        }
        .boxed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_keeps_the_contract_as_long_as_it_lives() {
        for mode in [Mode::Horizon, Mode::Ticks] {
            let open = || Box::new(move || async move { Memory::with(mode, &LogTime::monotonic()) as Arc<dyn Queue> }.boxed()) as Box<_>;
            crate::conformance::all(&open, false).await;
            crate::sessions::conformance::all(&open, false).await;
        }
    }
}
