//! How far a lane has come (LANES.md, *Lane*), for live reading and sweeps: `taken` and `next`.
//!
//! It was shown all its records below `taken`, or they have settled; those below `next` are settled or in a listed message. `taken` is never below its
//! watermark, and a lane that has taken all below the head is live.

use pushline_model::Offset;

use super::{Lane, State};

/// How far it was shown its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// All of them up to the head.
    Live,
    /// Those below `taken`. `next` counts where no message is being put together.
    Behind { taken: Offset, next: Offset },
}

impl Lane {
    /// It was refused at its record at `offset`, which live reading has passed.
    pub(crate) fn refused_at(&mut self, offset: Offset, head: Offset) {
        let next = self.next(offset).max(offset);
        self.fall_behind(offset, next, head);
    }

    /// It was shown everything below `to`, which makes it live at the head.
    pub(crate) fn advance(&mut self, to: Offset, head: Offset) {
        if let Pace::Behind { taken, next } = &mut self.pace {
            *taken = (*taken).max(to);
            if self.cutter.first().is_none() && self.burying.is_none() {
                *next = (*next).max(*taken);
            }
            if *taken >= head && self.burying.is_none() {
                self.pace = Pace::Live;
            }
        }
    }

    /// Nothing of it is left below its watermark, so nobody reads that again: the log may be deleted there.
    pub(super) fn pass_settled(&mut self, head: Offset) {
        self.advance(self.watermark(head), head);
    }

    /// What it has below this is settled or in a listed message by now, whatever it was shown.
    pub(super) fn raise_next(&mut self, to: Offset) {
        if let Pace::Behind { next, .. } = &mut self.pace {
            *next = (*next).max(to);
        }
    }

    pub(super) fn fall_behind(&mut self, taken: Offset, next: Offset, head: Offset) {
        self.pace = if taken < head || self.burying.is_some() { Pace::Behind { taken, next } } else { Pace::Live };
    }

    /// Whether it is rebuilding a message: the one that it stands in.
    pub(super) fn is_rebuilding(&self) -> bool {
        let Pace::Behind { taken, .. } = self.pace else { return false };
        let place = self.messages.partition_point(|message| message.listed.last < taken);
        self.messages.get(place).is_some_and(|message| matches!(message.state, State::Rebuilding(..)))
    }

    pub(crate) fn is_live(&self) -> bool {
        self.pace == Pace::Live
    }

    /// It was shown all its records below this.
    pub(crate) fn taken(&self, head: Offset) -> Offset {
        match self.pace {
            Pace::Live => head,
            Pace::Behind { taken, .. } => taken,
        }
    }

    /// Its records below this are settled or in a listed message. `head` says it for a lane that is live and puts no message together.
    pub(crate) fn next(&self, head: Offset) -> Offset {
        match (self.cutter.first(), self.pace) {
            (Some(first), _) => first,
            (None, Pace::Live) => head,
            (None, Pace::Behind { next, .. }) if self.burying.is_some() => next,
            (None, Pace::Behind { taken, next }) => next.max(taken),
        }
    }
}
