//! A reader of a log: from memory near the end, else from the files, on threads that may block.

use std::{collections::VecDeque, io, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::Offset;
use tokio::{sync::watch, task::JoinHandle};

use super::log::{Found, Log, SegmentFile};
use crate::{
    Frame, QueueError, Reader, blocking,
    frame::{HEADER, Header},
};

/// Bytes that are read from a file at once.
const BLOCK: usize = 1 << 20;

pub(super) struct LogReader {
    log: Arc<Log>,
    position: Offset,
    /// Frames that were read from a file, in order.
    ahead: VecDeque<Frame>,
    /// A block that is being read. A caller that stops waiting for it and comes back still gets it.
    reading: Option<JoinHandle<Result<VecDeque<Frame>, QueueError>>>,
    end: watch::Receiver<Offset>,
}

impl LogReader {
    pub(super) fn new(log: Arc<Log>, position: Offset) -> Self {
        let end = log.watch_end();
        Self { log, position, ahead: VecDeque::new(), reading: None, end }
    }

    async fn next_frame(&mut self) -> Result<Frame, QueueError> {
        loop {
            while let Some(frame) = self.ahead.pop_front() {
                if frame.end() > self.position {
                    self.position = frame.end();
                    return Ok(frame);
                }
            }
            if let Some(reading) = &mut self.reading {
                let block = blocking::result(reading).await.flatten();
                self.reading = None;
                self.ahead = block.inspect_err(|error| self.log.failure.note(error))?;
                continue;
            }
            match self.log.find(self.position) {
                Found::Frame(frame) => self.ahead.push_back(frame),
                Found::File { segment, position, limit } => {
                    let offset = self.position;
                    self.reading = Some(tokio::task::spawn_blocking(move || read_block(&segment, position, limit, offset)));
                }
                Found::Nothing => {
                    // The last segment may be empty, and those before it deleted.
                    let position = self.position.max(self.log.range().start);
                    self.end.wait_for(|end| *end > position).await.map_err(|_| QueueError::Closed)?;
                }
            }
        }
    }
}

impl Reader for LogReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
        self.next_frame().boxed()
    }
}

/// At least one frame that ends above `offset`, and those that follow in the same block.
fn read_block(segment: &SegmentFile, mut position: u64, limit: u64, offset: Offset) -> Result<VecDeque<Frame>, QueueError> {
    loop {
        let bytes = read(segment, position, limit).map_err(QueueError::io("read", &segment.path))?;
        let mut rest = bytes.clone();
        let mut frames = VecDeque::new();
        while let Some(frame) = Frame::parse(&rest) {
            rest = rest.slice(frame.bytes().len()..);
            if frame.end() > offset {
                frames.push_back(frame);
            }
        }
        if !frames.is_empty() {
            return Ok(frames);
        }
        let passed = (bytes.len() - rest.len()) as u64;
        if passed == 0 {
            let what = "a frame that was valid when it was written is invalid".to_owned();
            return Err(QueueError::Corrupt { path: segment.path.clone(), position, offset, what });
        }
        position += passed;
    }
}

/// A block, or one frame that is longer.
fn read(segment: &SegmentFile, position: u64, limit: u64) -> io::Result<Bytes> {
    let left = usize::try_from(limit - position).map_err(io::Error::other)?;
    let mut bytes = vec![0; left.min(BLOCK)];
    segment.file.read_at(&mut bytes, position)?;
    if let Some(long) = Header::parse(&bytes).map(|header| header.frame_len()).filter(|&len| len > bytes.len() && len <= left) {
        let have = bytes.len();
        bytes.resize(long, 0);
        segment.file.read_at(&mut bytes[have..], position + have as u64)?;
    }
    debug_assert!(bytes.len() >= HEADER);
    Ok(bytes.into())
}
