//! A queue in memory, for tests and benches. Everything is "durable" at once and gone with the process.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::Offset;
use tokio::sync::watch;

use crate::{
    Append, AppendError, Appended, Checkpoint, DeadLetters, Frame, FrameBuilder, Partition, Partitions, Queue, QueueError, Read, Reader,
    Record, Saved, Stalled, frame::fits,
};

/// One partition in memory.
#[derive(Debug)]
pub struct Memory {
    packets: Arc<MemoryLog>,
    logs: [Arc<MemoryLog>; 2],
    dead_letters: DeadLetters,
    unrouted: DeadLetters,
}

#[derive(Debug)]
struct MemoryLog {
    frames: Mutex<Vec<Frame>>,
    end: watch::Sender<Offset>,
    closed: watch::Sender<bool>,
    saved: Mutex<Saved>,
}

struct MemoryReader {
    log: Arc<MemoryLog>,
    position: Offset,
    end: watch::Receiver<Offset>,
}

impl Memory {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let logs = [MemoryLog::new(), MemoryLog::new()];
        let [dead_letters, unrouted] = logs.each_ref().map(|log| DeadLetters::new(Arc::new(OnePartition(Arc::clone(log)))));
        Arc::new(Self { packets: MemoryLog::new(), logs, dead_letters, unrouted })
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
    fn new() -> Arc<Self> {
        Arc::new(Self { frames: Mutex::default(), end: watch::Sender::new(0), closed: watch::Sender::new(false), saved: Mutex::default() })
    }

    fn append(&self, batch: &[Record<'_>]) -> Appended {
        if *self.closed.borrow() {
            return Appended::ready(Err(AppendError::Closed));
        }
        if let Some(refused) = batch.iter().find_map(|record| fits(record).err()) {
            return Appended::ready(Err(refused));
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
        let frame = builder.seal(end, end);
        let end = frame.end();
        frames.push(frame);
        self.end.send_replace(end);
    }

    fn frame_at(&self, position: Offset) -> Option<Frame> {
        let frames = lock(&self.frames);
        let place = frames.partition_point(|frame| frame.end() <= position);
        frames.get(place).cloned()
    }
}

/// The only partition; its newtype keeps the log shared with its readers.
struct OnePartition(Arc<MemoryLog>);

impl Append for OnePartition {
    fn append(&self, batch: &[Record<'_>]) -> Appended {
        self.0.append(batch)
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

    fn load(&self) -> BoxFuture<'_, Result<Saved, QueueError>> {
        std::future::ready(Ok(lock(&self.0.saved).clone())).boxed()
    }

    /// Nobody else can.
    fn confirm_ownership(&self, _: Offset) -> BoxFuture<'_, bool> {
        std::future::ready(true).boxed()
    }

    fn save<'a>(&'a self, checkpoint: &'a Checkpoint, watermark: Offset) -> BoxFuture<'a, Result<(), QueueError>> {
        *lock(&self.0.saved) = Saved { checkpoint: Some(checkpoint.clone()), watermark: Some(watermark) };
        std::future::ready(Ok(())).boxed()
    }

    /// There is no other log.
    fn reset(&self, _: Offset) -> BoxFuture<'_, Result<(), QueueError>> {
        std::future::ready(Ok(())).boxed()
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
        crate::conformance::all(&|| Box::new(|| async { Memory::new() as Arc<dyn Queue> }.boxed()), false).await;
    }
}
