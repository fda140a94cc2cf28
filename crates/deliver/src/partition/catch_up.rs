//! Reading a catch-up block, frame by frame.

use pushline_lanes::ReadBlock;
use pushline_model::Offset;
use pushline_queue::{Frame, Partition, QueueError, Reader};

/// The reader of catch-up blocks. It stays where the last one ended: the next one mostly begins there, and part of it may be read ahead.
pub(super) struct CatchUpReader {
    reader: Box<dyn Reader>,
    at: Offset,
    block: Option<ReadBlock>,
    frames: Vec<Frame>,
    bytes: usize,
}

impl CatchUpReader {
    pub(super) fn new(reader: Box<dyn Reader>, at: Offset) -> Self {
        Self { reader, at, block: None, frames: Vec::new(), bytes: 0 }
    }

    pub(super) fn begin(&mut self, partition: &dyn Partition, block: ReadBlock) {
        if block.from != self.at {
            (self.reader, self.at) = (partition.reader(block.from), block.from);
        }
        self.block = Some(block);
    }

    /// Resolves when the block is read; waits for ever while none was begun. Cancel safe.
    pub(super) async fn read(&mut self) -> Result<(), QueueError> {
        let Some(block) = self.block else { return std::future::pending().await };
        while self.bytes < block.bytes && self.at < block.until {
            let frame = self.reader.next().await?;
            self.at = frame.end();
            self.bytes += frame.bytes().len();
            self.frames.push(frame);
        }
        Ok(())
    }

    /// The frames of the block.
    pub(super) fn take(&mut self) -> Vec<Frame> {
        (self.block, self.bytes) = (None, 0);
        std::mem::take(&mut self.frames)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use pushline_model::Timestamp;
    use pushline_queue::{Append, Kind, Queue, Record, memory::Memory};

    use super::*;

    /// Frames of one record of 64 KiB each, of a block of at most this many bytes, up to an offset; then of one more.
    fn frames(bytes: usize, until: Offset) -> [Option<usize>; 2] {
        let queue = Memory::new();
        for _ in 0..20 {
            let record = Record { group: "o/g", at: Timestamp(0), kind: Kind::Replay, payload: &[0; 64 << 10] };
            queue.append(&[record]).now_or_never().unwrap().unwrap();
        }
        let partition = std::sync::Arc::clone(&queue.partitions().borrow()[0]);
        let mut reader = CatchUpReader::new(partition.reader(0), 0);
        [(); 2].map(|()| {
            reader.begin(&*partition, ReadBlock { from: reader.at, bytes, until });
            reader.read().now_or_never().map(|read| {
                read.unwrap();
                reader.take().len()
            })
        })
    }

    #[test]
    fn a_block_ends_with_the_frame_that_reaches_its_bytes_or_where_live_reading_stands() {
        assert_eq!(frames(256 << 10, Offset::MAX), [Some(4), Some(4)]);
        assert_eq!(frames(usize::MAX, 3), [Some(3), Some(0)]);
    }
}
