//! A reader of a log: from memory near the end, else from the files, on threads that may block.

use std::{collections::VecDeque, io, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::Offset;
use tokio::sync::watch;

use super::log::{Found, Log, Place};
use crate::{
    Frame, QueueError, Reader,
    frame::{HEADER, Header},
};

/// How much is read from a file at once.
const BLOCK: usize = 1 << 20;

pub(super) struct LogReader {
    log: Arc<Log>,
    position: Offset,
    /// Read already, in order.
    ahead: VecDeque<Frame>,
    end: watch::Receiver<Offset>,
}

impl LogReader {
    pub(super) fn new(log: Arc<Log>, position: Offset) -> Self {
        let end = log.watch_end();
        Self { log, position, ahead: VecDeque::new(), end }
    }

    async fn next_frame(&mut self) -> Result<Frame, QueueError> {
        loop {
            while let Some(frame) = self.ahead.pop_front() {
                if frame.end() > self.position {
                    self.position = frame.end();
                    return Ok(frame);
                }
            }
            match self.log.find(self.position) {
                Found::Frame(frame) => self.ahead.push_back(frame),
                Found::File { segment, position, limit } => {
                    let failure = Arc::clone(&self.log.failure);
                    let (offset, file) = (self.position, segment.clone());
                    let block = tokio::task::spawn_blocking(move || read_block(&file, position, limit, offset)).await;
                    self.ahead = block.unwrap_or(Err(QueueError::Closed)).inspect_err(|error| failure.note(error))?;
                }
                Found::Nothing => {
                    let position = self.position;
                    self.end.wait_for(|end| *end > position).await.map_err(|_| QueueError::Closed)?;
                }
            }
        }
    }
}

impl Reader for LogReader {
    fn seek(&mut self, to: Offset) {
        let holds_it = self.ahead.front().is_some_and(|first| first.base() <= to) && self.ahead.back().is_some_and(|last| last.end() > to);
        if !holds_it {
            self.ahead.clear();
        }
        self.position = to;
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
        self.next_frame().boxed()
    }
}

/// At least one frame that ends above `offset`, and those that follow in the same block.
fn read_block(segment: &Place, mut position: u64, limit: u64, offset: Offset) -> Result<VecDeque<Frame>, QueueError> {
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
fn read(segment: &Place, position: u64, limit: u64) -> io::Result<Bytes> {
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
