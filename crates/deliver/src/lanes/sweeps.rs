//! The sweeps (LANES.md L4), for the driver that reads for them: whose turn begins where, and one turn over what was read.
//!
//! A sweep keeps no position: the lanes that are behind are its position, and a lane that reaches the head is live again.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use pushline_model::{Cause, Offset, Timestamp};
use pushline_queue::{Frame, Record};

use super::{Burial, LaneKey, Lanes, group_of};
use crate::lane::{Dead, Lane, Shown};

/// A lane at most this many records behind the head is served by the near sweep (L4).
pub(super) const NEAR: Offset = 200_000;

/// The two sweeps, so that a short stumble doesn't wait behind a long backlog (L4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// For lanes at most 200,000 records behind the head.
    Near,
    /// For those beyond.
    Far,
}

impl Sweep {
    /// The one whose turn comes after this one's.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }
}

impl Lanes {
    /// Where a turn of this sweep would begin: the smallest `taken` of its lanes that have a message at hand or may begin one. The far sweep
    /// also serves lanes whose packets won't be sent, wherever they are.
    pub(crate) fn sweep_from(&self, sweep: Sweep) -> Option<Offset> {
        let near = self.head.saturating_sub(self.near);
        let is_its = |lane: &&Lane| {
            let is_far = lane.taken(self.head) < near;
            wants(lane) && is_far == (sweep == Sweep::Far) || sweep == Sweep::Far && self.may_be_dead(lane)
        };
        self.behind.iter().map(|&key| &self.lanes[key]).filter(is_its).map(|lane| lane.taken(self.head)).min()
    }

    /// One turn over frames that follow each other from `from` on: shows each record to its lane, and takes in every lane that it meets.
    /// `wall`: the wall clock, for dead letters.
    pub(crate) fn sweep(&mut self, from: Offset, frames: &[Frame], now: Instant, wall: Timestamp) -> Vec<Burial> {
        let read = frames.last().map_or(from, Frame::end);
        let to = if read >= self.passed() { self.head } else { read };
        let mut ahead: Vec<(Offset, LaneKey)> = self.sweepable(from, to);
        ahead.sort_unstable_by_key(|&(taken, _)| Reverse(taken));
        let (mut joined, mut last, mut dead) = (BTreeSet::new(), None, BTreeMap::new());
        for (offset, record) in frames.iter().flat_map(|frame| frame.records(from)).take_while(|(offset, _)| *offset < to) {
            while let Some((_, key)) = ahead.pop_if(|(taken, _)| *taken <= offset) {
                joined.insert(key);
            }
            if joined.is_empty() && ahead.is_empty() {
                break; // the rest of the turn is nobody's
            }
            last = Some(record.at);
            if let Some(&key) = self.by_group.get(group_of(&record))
                && joined.contains(&key)
                && !self.sweep_one(key, offset, &record, now, &mut dead)
            {
                joined.remove(&key);
            }
        }
        joined.extend(ahead.into_iter().map(|(_, key)| key));
        for key in joined {
            self.end_turn(key, to, last);
        }
        dead.into_iter().flat_map(|((key, cause), dead)| self.bury(key, cause, dead, wall)).collect()
    }

    /// Whether a lane is still behind exactly there, at the end of what a turn has shown, and may take more.
    pub(crate) fn goes_on_at(&self, offset: Offset) -> bool {
        let goes_on = |lane: &Lane| lane.taken(self.head) == offset && (wants(lane) || self.may_be_dead(lane));
        offset < self.head && self.behind.iter().any(|&key| goes_on(&self.lanes[key]))
    }

    fn sweepable(&self, from: Offset, to: Offset) -> Vec<(Offset, LaneKey)> {
        let taken = |&key: &LaneKey| (self.lanes[key].taken(self.head), key);
        let meets = |(taken, key): &(Offset, LaneKey)| {
            let lane = &self.lanes[*key];
            (from..to).contains(taken) && (wants(lane) || self.may_be_dead(lane))
        };
        self.behind.iter().map(taken).filter(meets).collect()
    }

    /// Returns whether the lane goes on.
    fn sweep_one(
        &mut self,
        key: LaneKey,
        offset: Offset,
        record: &Record<'_>,
        now: Instant,
        dead: &mut BTreeMap<(LaneKey, Cause), Dead>,
    ) -> bool {
        let (cause, looks) = (self.cause(key, offset, record), self.looks);
        let lane = &mut self.lanes[key];
        if let Some(cause) = cause {
            lane.show_dead(offset, record, self.partition, dead.entry((key, cause)).or_default());
            lane.advance(offset + 1, Offset::MAX);
            self.line_up(key);
            return true;
        }
        lane.fresh_at = looks;
        if lane.burying().is_some() {
            return false; // what comes now waits until the dead letters before it are durable
        }
        let shown = lane.show(offset, record, self.partition, now, &mut self.cuts);
        match shown {
            Shown::Taken => lane.advance(offset + 1, Offset::MAX),
            Shown::Refused => lane.refused_at(offset, self.head),
        }
        self.line_up(key);
        shown == Shown::Taken
    }

    /// A lane that reaches the head is live again. Behind it, the log's time closes its window, unless it is below its `next`.
    fn end_turn(&mut self, key: LaneKey, to: Offset, time: Option<Timestamp>) {
        let (head, partition) = (self.head, self.partition);
        let lane = &mut self.lanes[key];
        lane.advance(to, head);
        let over = lane.window_end().zip(time).is_some_and(|(end, time)| end <= time);
        if over && !lane.is_live() && lane.taken(head) >= lane.next(head) {
            lane.close(partition);
            self.line_up(key);
        }
        self.settle_in(key);
    }
}

/// Whether a sweep has something to do for it.
fn wants(lane: &Lane) -> bool {
    lane.burying().is_none() && lane.outlet.as_ref().is_some_and(|outlet| lane.is_at_hand() || outlet.share.may_begin())
}
