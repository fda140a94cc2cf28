//! Reading for the sweeps (LANES.md L4): turns of at most 8 MiB, between live reading.
//!
//! While the head is behind the end of the log, sweeps get at most half of the reading.

use std::time::Instant;

use pushline_model::Offset;
use pushline_queue::{Frame, Partition, Reader};

use super::{Task, wall};

/// The longest turn of a sweep (LANES.md L4).
const TURN: usize = 8 << 20;

/// A turn is shown to the lanes piece by piece, each twice the one before, and ends when nobody goes on: whoever begins one message and may begin
/// no other hasn't read much.
const FIRST_PIECE: usize = 256 << 10;

/// Reading for the sweeps: one turn at a time.
pub(super) struct Turn {
    pub(super) reader: Box<dyn Reader>,
    /// Where the reader stands.
    at: Offset,
    under_way: Option<Piece>,
    /// Bytes that the turn has read.
    bytes: usize,
    /// Somebody may want a turn.
    pub(super) wanted: bool,
    /// Bytes that live reading has to read first, so that sweeps get at most half of the reading while the head is behind the end.
    owed: usize,
}

/// What is being read, and then shown at once.
struct Piece {
    from: Offset,
    frames: Vec<Frame>,
    bytes: usize,
    /// It is whole with so many.
    most: usize,
}

// === impl Turn ===

impl Turn {
    pub(super) fn new(reader: Box<dyn Reader>, at: Offset) -> Self {
        Self { reader, at, under_way: None, bytes: 0, wanted: true, owed: 0 }
    }

    /// Whether a turn is under way and may read on: at the end of the log always, before it when live reading has read as much.
    pub(super) fn may_read(&self, is_at_end: bool) -> bool {
        self.under_way.is_some() && (self.owed == 0 || is_at_end)
    }

    /// Live reading has read so many bytes.
    pub(super) fn live_has_read(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_sub(bytes);
    }

    fn begin(&mut self, partition: &dyn Partition, from: Offset) {
        // One that goes on where it stands keeps what it has read ahead.
        if from != self.at {
            (self.reader, self.at) = (partition.reader(from), from);
        }
        self.bytes = 0;
        self.under_way = Some(Piece::new(from, FIRST_PIECE));
    }

    /// A frame was read. When it completes the piece, that is handed out.
    fn read(&mut self, frame: Frame, passed: Offset) -> Option<Piece> {
        self.at = frame.end();
        self.bytes += frame.bytes().len();
        let whole = self.under_way.as_mut()?.push(frame) || self.at >= passed;
        self.under_way.take_if(|_| whole)
    }

    /// A piece was shown: goes on with the next, or ends the turn.
    fn shown(&mut self, piece: &Piece, goes_on: bool) {
        if goes_on && self.bytes < TURN {
            self.under_way = Some(Piece::new(self.at, (piece.most * 2).min(TURN - self.bytes)));
        } else {
            self.owed = self.bytes;
            self.wanted = true;
        }
    }
}

// === impl Piece ===

impl Piece {
    fn new(from: Offset, most: usize) -> Self {
        Self { from, frames: Vec::new(), bytes: 0, most }
    }

    /// Returns whether it is whole.
    fn push(&mut self, frame: Frame) -> bool {
        self.bytes += frame.bytes().len();
        self.frames.push(frame);
        self.bytes >= self.most
    }
}

// === impl Task ===

impl Task {
    /// Begins a turn where somebody may want one and does.
    pub(super) fn begin_turn(&mut self) {
        if self.turn.under_way.is_some() || !std::mem::take(&mut self.turn.wanted) {
            return;
        }
        if let Some(from) = self.lanes.next_turn(Instant::now()) {
            self.turn.begin(&*self.partition, from);
        }
    }

    /// The turn's reader has read a frame.
    pub(super) fn swept(&mut self, frame: Frame) {
        let passed = self.lanes.passed();
        if let Some(piece) = self.turn.read(frame, passed) {
            let burials = self.lanes.sweep(piece.from, &piece.frames, Instant::now(), wall());
            self.turn.shown(&piece, self.lanes.goes_on(piece.from, self.turn.at));
            self.bury(burials);
            self.saving.changed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use pushline_queue::{FrameBuilder, Kind, QueueError, Record};

    use super::*;

    struct Nothing;

    impl Reader for Nothing {
        fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
            Box::pin(std::future::pending())
        }
    }

    /// One record of 64 KiB.
    fn frame(base: Offset) -> Frame {
        let mut builder = FrameBuilder::default();
        builder.push(&Record { group: "o/g", at: pushline_model::Timestamp(0), kind: Kind::Replay, payload: &[0; 64 << 10] });
        builder.seal(base, base, pushline_model::Timestamp(0))
    }

    /// How many records each piece has, until the turn ends; somebody goes on up to that many records.
    fn pieces(until: Offset) -> (Vec<usize>, usize) {
        let mut turn = Turn::new(Box::new(Nothing), 0);
        turn.under_way = Some(Piece::new(0, FIRST_PIECE));
        let mut pieces = Vec::new();
        for base in 0.. {
            if let Some(piece) = turn.read(frame(base), Offset::MAX) {
                assert_eq!(piece.from, pieces.iter().sum::<usize>() as Offset);
                pieces.push(piece.frames.len());
                turn.shown(&piece, turn.at < until);
            }
            if turn.under_way.is_none() {
                break;
            }
        }
        (pieces, turn.owed)
    }

    #[test]
    fn a_turn_grows_piece_by_piece_while_somebody_goes_on_and_never_beyond_its_bound() {
        let (pieces, owed) = pieces(Offset::MAX);
        assert_eq!(pieces, [4, 8, 16, 32, 64, 4]);
        assert!((TURN..TURN + (128 << 10)).contains(&owed), "{owed}");
    }

    #[test]
    fn a_turn_that_nobody_goes_on_with_ends_early() {
        assert_eq!(pieces(5).0, [4, 8]);
    }

    #[test]
    fn a_piece_ends_where_live_reading_stands() {
        let mut turn = Turn::new(Box::new(Nothing), 0);
        turn.under_way = Some(Piece::new(0, FIRST_PIECE));
        assert!(turn.read(frame(0), 2).is_none() && turn.read(frame(1), 2).is_some());
    }
}
