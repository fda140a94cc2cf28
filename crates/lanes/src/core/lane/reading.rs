//! How far a lane has read (docs/delivery.md, Lanes): it is live, behind, or dead-letters records that are in no message.

use pushline_batch::Window;
use pushline_model::{Cause, Offset};

use super::{Lane, Offer};
use crate::core::message::State;

/// How far a lane has read.
#[derive(Debug)]
pub(in crate::core) enum Reading {
    /// All its records up to the live offset.
    Live,
    /// Its records below `read_until`. Those below `batched_until` are settled or in an outstanding message; while a message is open, that begins
    /// there.
    Behind { read_until: Offset, batched_until: Offset },
    /// Behind, and dead letters of records that are in no message aren't durable yet. It begins no message and reads nothing meanwhile.
    DeadLettering(Box<DeadLettering>),
}

/// Records whose dead letters are being written.
#[derive(Debug)]
pub(in crate::core) struct DeadLettering {
    pub(super) read_until: Offset,
    /// The first of them. Below it every record is settled or in an outstanding message.
    pub(super) first: Offset,
    /// The offset after the last of them.
    pub(super) until: Offset,
    /// The window that was open at the first: a restart begins there.
    pub(super) window: Option<Window>,
}

impl Lane {
    pub(in crate::core) fn is_live(&self) -> bool {
        matches!(self.reading, Reading::Live)
    }

    pub(in crate::core) fn is_dead_lettering(&self) -> bool {
        matches!(self.reading, Reading::DeadLettering(_))
    }

    /// Every record of it below this offset was read by the lane, or has settled.
    pub(in crate::core) fn read_until(&self, live_offset: Offset) -> Offset {
        match &self.reading {
            Reading::Live => live_offset,
            Reading::Behind { read_until, .. } => *read_until,
            Reading::DeadLettering(letters) => letters.read_until,
        }
    }

    /// Every record of it below this offset is settled or in an outstanding message.
    pub(in crate::core) fn batched_until(&self, live_offset: Offset) -> Offset {
        match (&self.reading, self.cutter.first()) {
            (Reading::DeadLettering(letters), _) => letters.first,
            (_, Some(first)) => first,
            (Reading::Live, None) => live_offset,
            (Reading::Behind { read_until, batched_until }, None) => *batched_until.max(read_until),
        }
    }

    /// The smallest of its offsets that isn't settled; the live offset where there is none.
    pub(in crate::core) fn watermark(&self, live_offset: Offset) -> Offset {
        self.messages.front().map_or(live_offset, |message| message.span.first).min(self.batched_until(live_offset))
    }

    /// It was offered everything below `to`. At the live offset it is live.
    pub(in crate::core) fn advance(&mut self, to: Offset, live_offset: Offset) {
        let is_filling = self.cutter.first().is_some();
        match &mut self.reading {
            Reading::Live => {}
            Reading::DeadLettering(letters) => letters.read_until = letters.read_until.max(to),
            Reading::Behind { read_until, batched_until } => {
                *read_until = to.max(*read_until);
                if !is_filling {
                    *batched_until = (*batched_until).max(*read_until);
                }
                if *read_until >= live_offset {
                    self.reading = Reading::Live;
                    self.waits_to_dead_letter = false;
                }
            }
        }
    }

    /// It stops before its record at `offset`, which live reading has passed.
    pub(in crate::core) fn stop_at(&mut self, offset: Offset, live_offset: Offset) {
        match &mut self.reading {
            Reading::DeadLettering(letters) => letters.read_until = letters.read_until.max(offset),
            Reading::Live | Reading::Behind { .. } => {
                let batched_until = self.batched_until(offset).max(offset);
                self.fall_behind(offset, batched_until, live_offset);
            }
        }
    }

    pub(super) fn fall_behind(&mut self, read_until: Offset, batched_until: Offset, live_offset: Offset) {
        self.reading = if read_until < live_offset { Reading::Behind { read_until, batched_until } } else { Reading::Live };
    }

    /// Nothing of it is left below its watermark, so no catch-up read goes there again: the log may be deleted there.
    pub(super) fn pass_settled(&mut self, live_offset: Offset) {
        self.advance(self.watermark(live_offset), live_offset);
    }

    /// A record in no message becomes a dead letter, and the rest of its window does. There is no open message.
    pub(in crate::core) fn dead_letter(&mut self, offer: &Offer<'_>, cause: Cause, live_offset: Offset) {
        let until = offer.offset + 1;
        match &mut self.reading {
            Reading::DeadLettering(letters) => letters.until = until,
            Reading::Live | Reading::Behind { .. } => {
                let window = self.cutter.window();
                let read_until = self.read_until(live_offset);
                self.reading = Reading::DeadLettering(Box::new(DeadLettering { read_until, first: offer.offset, until, window }));
            }
        }
        if offer.record.as_packet().is_some() {
            self.cutter.dead_letter(offer.log_time, cause);
        }
    }

    /// Where the records end whose dead letters are being written.
    pub(in crate::core) fn dead_lettering_until(&self) -> Option<Offset> {
        if let Reading::DeadLettering(letters) = &self.reading { Some(letters.until) } else { None }
    }

    /// The dead letters of records that were in no message are durable, below `until`: this many packets have settled.
    pub(in crate::core) fn dead_letters_durable(&mut self, until: Offset, packets: u64, live_offset: Offset) {
        let Reading::DeadLettering(letters) = &self.reading else { return };
        debug_assert_eq!(letters.until, until, "a lane writes the dead letters of one block at a time");
        let (read_until, batched_until) = (letters.read_until, letters.until.max(letters.read_until));
        self.fall_behind(read_until, batched_until, live_offset);
        self.unsettled = self.unsettled.saturating_sub(packets);
        // It may have evicted an earlier message meanwhile: then it stays where it is.
        self.pass_settled(live_offset);
    }

    /// Whether it is rebuilding a message, the one that it stands in.
    fn is_rebuilding(&self) -> bool {
        let read_until = match &self.reading {
            Reading::Live => return false,
            Reading::Behind { read_until, .. } => *read_until,
            Reading::DeadLettering(letters) => letters.read_until,
        };
        let place = self.messages.partition_point(|message| message.span.last < read_until);
        self.messages.get(place).is_some_and(|message| matches!(message.state, State::Rebuilding(_)))
    }

    /// Whether it is filling a body: of the open message, or of one that is being rebuilt.
    pub(in crate::core) fn is_filling(&self) -> bool {
        self.cutter.first().is_some() || self.is_rebuilding()
    }
}
