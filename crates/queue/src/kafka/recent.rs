//! The frames that live reading has just passed are kept for a while, so that a lane that fell behind a moment ago is served from memory. They are
//! bounded by bytes, however fast customers are: no reader keeps a frame here. Pure.

use std::collections::VecDeque;

use pushline_model::Offset;

use crate::Frame;

/// The last frames of a partition that its task has taken.
#[derive(Debug, Default)]
pub(super) struct Recent {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Recent {
    /// Adds the next frame, and drops the oldest ones while there are more than `most` bytes.
    pub(super) fn push(&mut self, frame: Frame, most: usize) {
        self.bytes += frame.bytes().len();
        self.frames.push_back(frame);
        while self.bytes > most
            && let Some(oldest) = self.frames.pop_front()
        {
            self.bytes -= oldest.bytes().len();
        }
    }

    /// The frame with the first record at or above an offset. `None`: an earlier one may have been dropped, or there is none yet.
    pub(super) fn at(&self, offset: Offset) -> Option<&Frame> {
        let is_kept = self.frames.front().is_some_and(|oldest| oldest.base() <= offset);
        let place = self.frames.partition_point(|frame| frame.end() <= offset);
        self.frames.get(place).filter(|_| is_kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::frame;

    #[test]
    fn what_was_passed_lately_is_found_and_what_is_older_is_not() {
        let (mut recent, most) = (Recent::default(), 3 * frame(0, 10).bytes().len());
        assert!(recent.at(0).is_none());
        // Offsets 30 to 34 have no record.
        for base in [0, 10, 20, 35] {
            recent.push(frame(base, 10), most);
        }
        let found = [9, 10, 19, 20, 30, 44, 45].map(|offset| recent.at(offset).map(Frame::base));
        assert_eq!(found, [None, Some(10), Some(10), Some(20), Some(35), Some(35), None]);
        assert!(recent.bytes <= most);
    }

    #[test]
    fn a_frame_larger_than_the_bound_is_not_kept() {
        let mut recent = Recent::default();
        recent.push(frame(0, 10), 10);
        assert!(recent.at(0).is_none() && recent.bytes == 0);
    }
}
