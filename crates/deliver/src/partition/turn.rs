//! Reading for the sweeps (LANES.md L4): turns of at most 8 MiB, between live reading.
//!
//! While the head is behind the end of the log, sweeps get at most half of the reading; near and far sweeps take turns.

use std::time::Instant;

use pushline_model::Offset;
use pushline_queue::{Frame, Partition, Reader};

use super::{Task, wall};
use crate::lanes::Sweep;

/// A turn of a sweep (LANES.md L4).
const TURN: usize = 8 << 20;

/// Reading for the sweeps: turns of at most 8 MiB, between live reading.
pub(super) struct Turn {
    pub(super) reader: Box<dyn Reader>,
    /// Where the reader stands.
    at: Offset,
    /// Under way: where it began, and what was read of it.
    under_way: Option<(Offset, Vec<Frame>)>,
    bytes: usize,
    /// Whose turn is next.
    next: Sweep,
    /// Somebody may want a turn.
    pub(super) wanted: bool,
    /// Bytes that live reading has to read first, so that sweeps get at most half of the reading while the head is behind the end.
    owed: usize,
}

// === impl Turn ===

impl Turn {
    pub(super) fn new(reader: Box<dyn Reader>, at: Offset) -> Self {
        Self { reader, at, under_way: None, bytes: 0, next: Sweep::Near, wanted: true, owed: 0 }
    }

    /// Whether a turn is under way and may read on: at the end of the log always, before it when live reading has read as much.
    pub(super) fn may_read(&self, is_at_end: bool) -> bool {
        self.under_way.is_some() && (self.owed == 0 || is_at_end)
    }

    /// Live reading has read so many bytes.
    pub(super) fn live_has_read(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_sub(bytes);
    }

    fn begin(&mut self, partition: &dyn Partition, sweep: Sweep, from: Offset) {
        // One that goes on where it stands keeps what it has read ahead.
        if from != self.at {
            (self.reader, self.at) = (partition.reader(from), from);
        }
        self.next = sweep.other();
        self.bytes = 0;
        self.under_way = Some((from, Vec::new()));
    }

    /// A frame was read. When it completes the turn, the turn is handed out.
    fn read(&mut self, frame: Frame, passed: Offset) -> Option<(Offset, Vec<Frame>)> {
        let (_, frames) = self.under_way.as_mut()?;
        self.bytes += frame.bytes().len();
        self.at = frame.end();
        frames.push(frame);
        if self.bytes < TURN && self.at < passed {
            return None;
        }
        self.owed = self.bytes;
        self.wanted = true;
        self.under_way.take()
    }
}

// === impl Task ===

impl Task {
    /// Begins a turn where somebody may want one and a sweep has something to do.
    pub(super) fn begin_turn(&mut self) {
        if self.turn.under_way.is_some() || !std::mem::take(&mut self.turn.wanted) {
            return;
        }
        let first = self.turn.next;
        for sweep in [first, first.other()] {
            if let Some(from) = self.lanes.sweep_from(sweep) {
                self.turn.begin(&*self.partition, sweep, from);
                return;
            }
        }
    }

    /// The turn's reader has read a frame.
    pub(super) fn swept(&mut self, frame: Frame) {
        let passed = self.lanes.passed();
        if let Some((from, frames)) = self.turn.read(frame, passed) {
            let burials = self.lanes.sweep(from, &frames, Instant::now(), wall());
            self.bury(burials);
            self.saving.changed = true;
        }
    }
}
