//! Catch-up reads (docs/delivery.md, Catch-up reads): what serves the lanes that are behind, in slices of bounded size between live reading.
//!
//! A catch-up read keeps no position of its own: the lanes that are behind are its position, and a lane that comes to the live offset is live again.
//! Lanes a little behind and lanes far behind take turns, so that a short stumble doesn't wait for a long backlog.

use std::time::Instant;

use pushline_model::Offset;
use pushline_queue::Frame;

use super::{
    Core, Effects, Now, ReadBlock, Tuning,
    lane::{Intake, Lane},
};

/// What is being read, and whose turn is next.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// A lane may want a slice that doesn't have one.
    pub(super) wanted: bool,
    next: Distance,
    gather: Gather,
    slice: Option<Slice>,
    /// Bytes that live reading has to read first: catch-up reads get at most half of the reading while live reading is behind the end of the log.
    owed: usize,
}

/// How far behind live reading a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Distance {
    #[default]
    Near,
    Far,
}

/// A run of blocks. Each is twice as long as the one before, and the slice ends when no lane goes on: a lane that begins one message and may begin no
/// other hasn't read much then.
#[derive(Debug)]
struct Slice {
    /// Where the block begins.
    at: Offset,
    /// Bytes of the block.
    block: usize,
    /// Bytes of the blocks before.
    read: usize,
    /// The block was asked for.
    is_reading: bool,
}

/// Lanes of unresponsive webhooks begin one message each, and those may be spread over megabytes of the log: so they wait a little for each other.
#[derive(Debug, Default)]
enum Gather {
    /// None of them wants a slice.
    #[default]
    Rest,
    /// They wait until then.
    Wait(Instant),
    /// They have waited, and have slices like others until none wants one.
    Served,
}

/// The smallest `read_until` of the lanes that want a slice.
#[derive(Debug, Default, Clone, Copy)]
struct Wanted {
    near: Option<Offset>,
    far: Option<Offset>,
}

impl Distance {
    fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }
}

// === impl CatchUp ===

impl CatchUp {
    /// After a start, lanes may be behind.
    pub(super) fn new() -> Self {
        Self { wanted: true, ..Self::default() }
    }

    /// Live reading has read this many bytes.
    pub(super) fn live_has_read(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_sub(bytes);
    }

    /// When lanes of unresponsive webhooks have waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        if let Gather::Wait(until) = self.gather { Some(until) } else { None }
    }

    pub(super) fn pass_time(&mut self, now: Instant) {
        if self.due().is_some_and(|until| until <= now) {
            self.gather = Gather::Served;
            self.wanted = true;
        }
    }

    /// What lanes of unresponsive webhooks want counts once they have waited, whatever else is wanted.
    fn gather(&mut self, wanted: Wanted, now: Now, tuning: &Tuning) -> Wanted {
        match self.gather {
            _ if wanted.near.or(wanted.far).is_none() => self.gather = Gather::Rest,
            Gather::Rest => self.gather = Gather::Wait(now.monotonic + tuning.gather),
            Gather::Wait(_) => {}
            Gather::Served => return wanted,
        }
        Wanted::default()
    }
}

// === impl Wanted ===

impl Wanted {
    fn of(&self, distance: Distance) -> Option<Offset> {
        match distance {
            Distance::Near => self.near,
            Distance::Far => self.far,
        }
    }

    fn add(&mut self, distance: Distance, read_until: Offset) {
        let smallest = match distance {
            Distance::Near => &mut self.near,
            Distance::Far => &mut self.far,
        };
        *smallest = Some(smallest.map_or(read_until, |smallest| smallest.min(read_until)));
    }

    fn merge(&mut self, other: Self) {
        other.near.iter().for_each(|read_until| self.add(Distance::Near, *read_until));
        other.far.iter().for_each(|read_until| self.add(Distance::Far, *read_until));
    }
}

impl Core {
    /// Asks for the next block, if a lane wants one and it is the turn of catch-up reads.
    pub(super) fn plan_read(&mut self, now: Now, effects: &mut Effects) {
        if self.catch_up.owed > 0 && self.live_offset < self.log_end || self.is_leaving() {
            return;
        }
        loop {
            if self.catch_up.slice.is_none() {
                if !std::mem::take(&mut self.catch_up.wanted) {
                    return;
                }
                let Some(at) = self.next_slice(now) else { return };
                self.catch_up.slice = Some(Slice { at, block: self.tuning.first_block, read: 0, is_reading: false });
            }
            let until = self.passed();
            let slice = self.catch_up.slice.as_mut().expect("it was just begun, or goes on");
            if slice.is_reading {
                return;
            }
            slice.is_reading = true;
            if slice.at < until {
                effects.read = Some(ReadBlock { from: slice.at, bytes: slice.block, until });
                return;
            }
            // No record lies between: nothing is to be read, and its lanes are live.
            self.block(&[], now, effects);
        }
    }

    /// Where the next slice begins, if a lane wants one now.
    fn next_slice(&mut self, now: Now) -> Option<Offset> {
        let [mut wanted, of_unresponsive, dead] = self.wanted();
        let of_unresponsive = self.catch_up.gather(of_unresponsive, now, &self.tuning);
        wanted.merge(of_unresponsive);
        wanted.merge(dead);
        let first = self.catch_up.next;
        let distance = [first, first.other()].into_iter().find(|distance| wanted.of(*distance).is_some())?;
        self.catch_up.next = distance.other();
        wanted.of(distance)
    }

    /// Lanes that are filling a body or may begin one, of webhooks that respond and of unresponsive ones; and lanes with records that become dead
    /// letters, which count as far behind wherever they are.
    fn wanted(&self) -> [Wanted; 3] {
        let near = self.live_offset.saturating_sub(self.tuning.near);
        let [mut wanted, mut of_unresponsive, mut dead] = [Wanted::default(); 3];
        for lane in self.behind.iter().map(|&key| &self.lanes[key]) {
            let read_until = lane.read_until(self.live_offset);
            let distance = if read_until < near { Distance::Far } else { Distance::Near };
            if self.wants(lane) {
                if lane.is_unresponsive() { &mut of_unresponsive } else { &mut wanted }.add(distance, read_until);
            }
            if self.may_dead_letter(lane) {
                dead.add(Distance::Far, read_until);
            }
        }
        [wanted, of_unresponsive, dead]
    }

    /// The block was read that was asked for.
    pub(super) fn block(&mut self, frames: &[Frame], now: Now, effects: &mut Effects) {
        let Some(mut slice) = self.catch_up.slice.take() else { return };
        let from = slice.at;
        slice.at = frames.last().map_or(from, Frame::end);
        slice.read += frames.iter().map(|frame| frame.bytes().len()).sum::<usize>();
        slice.is_reading = false;
        self.offer_block(from, frames, now, effects);
        if self.goes_on(from, slice.at) && slice.read < self.tuning.slice {
            slice.block = (slice.block * 2).min(self.tuning.slice - slice.read);
            self.catch_up.slice = Some(slice);
        } else {
            self.catch_up.owed = slice.read;
            self.catch_up.wanted = true;
        }
        self.saving.changed = true;
    }

    /// Whether a slice goes on, which has offered the records from `from` to `to`: a lane wants what comes next, or soon after.
    fn goes_on(&self, from: Offset, to: Offset) -> bool {
        let soon = to..to + (to - from);
        let wants = |lane: &Lane| soon.contains(&lane.read_until(self.live_offset)) && (self.wants(lane) || self.may_dead_letter(lane));
        to < self.live_offset && self.behind.iter().any(|&key| wants(&self.lanes[key]))
    }

    /// Whether a catch-up read fills a body of the lane.
    pub(super) fn wants(&self, lane: &Lane) -> bool {
        let Intake::Taking(handle) = &lane.intake else { return false };
        let is_held_up = lane.is_dead_lettering() || lane.waits_to_dead_letter && !self.may_write_dead_letters();
        !is_held_up && (lane.is_filling() || handle.may_begin())
    }

    /// The offset after the last record that live reading has passed: no record lies between it and the live offset.
    pub(super) fn passed(&self) -> Offset {
        self.last.map_or(self.live_offset, |last| last.offset + 1)
    }
}
