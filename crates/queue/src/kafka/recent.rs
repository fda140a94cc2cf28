//! What live reading has just passed is kept for a while: a lane that fell behind a moment ago is served from memory, and Kafka isn't asked for the
//! same records twice. Bounded by bytes, whatever customers do: nobody's reading holds a frame here.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::Offset;

use super::{catch_up::CatchUpReader, live::Live, log::KafkaLog};
use crate::{Frame, QueueError, Reader};

/// The last frames of a partition that its task has taken. Pure.
#[derive(Debug, Default)]
pub(super) struct Recent {
    frames: VecDeque<Frame>,
    bytes: usize,
}

/// A reader at a place of its own: from memory where the place was passed lately, else from Kafka.
pub(super) struct NearReader {
    live: Arc<Live>,
    log: KafkaLog,
    at: Offset,
    /// While the place isn't in memory.
    far: Option<CatchUpReader>,
}

impl Recent {
    /// Frames come in order. The oldest go when there are more bytes than that.
    pub(super) fn push(&mut self, frame: Frame, most: usize) {
        self.bytes += frame.bytes().len();
        self.frames.push_back(frame);
        while self.bytes > most
            && let Some(oldest) = self.frames.pop_front()
        {
            self.bytes -= oldest.bytes().len();
        }
    }

    /// The frame with the first record from an offset on, if no record in between was passed before what is kept.
    pub(super) fn at(&self, offset: Offset) -> Option<&Frame> {
        let is_kept = self.frames.front().is_some_and(|oldest| oldest.base() <= offset);
        let place = self.frames.partition_point(|frame| frame.end() <= offset);
        self.frames.get(place).filter(|_| is_kept)
    }
}

impl NearReader {
    pub(super) fn new(live: &Arc<Live>, log: &KafkaLog, from: Offset) -> Self {
        Self { live: Arc::clone(live), log: log.clone(), at: from, far: None }
    }

    async fn read(&mut self) -> Result<Frame, QueueError> {
        let frame = match self.live.recent(self.at) {
            Some(frame) => {
                self.far = None;
                frame
            }
            None => self.far.get_or_insert_with(|| self.log.read_from(self.at)).next_frame().await?,
        };
        self.at = frame.end();
        Ok(frame)
    }
}

impl Reader for NearReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
        self.read().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrameBuilder, frame::tests::record};

    fn frame(base: Offset, records: usize) -> Frame {
        let mut builder = FrameBuilder::default();
        (0..records).for_each(|_| builder.push(&record("o/g", b"payload")));
        builder.seal(base, base)
    }

    #[test]
    fn what_was_passed_lately_is_found_and_what_is_older_is_not() {
        let (mut recent, most) = (Recent::default(), 3 * frame(0, 10).bytes().len());
        assert!(recent.at(0).is_none());
        // Offsets 30 to 34 have no record.
        for base in [0, 10, 20, 35] {
            recent.push(frame(base, 10), most);
        }
        let found = |offset| recent.at(offset).map(Frame::base);
        assert_eq!(
            [found(9), found(10), found(19), found(20), found(30), found(44), found(45)].map(|base| base.unwrap_or(0)),
            [0, 10, 10, 20, 35, 35, 0]
        );
        assert!(recent.bytes <= most);
    }

    #[test]
    fn a_frame_larger_than_the_bound_is_not_kept() {
        let mut recent = Recent::default();
        recent.push(frame(0, 10), 10);
        assert!(recent.at(0).is_none() && recent.bytes == 0);
    }
}
