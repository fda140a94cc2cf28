//! The sweeps (LANES.md L4), for the driver that reads for them: whose turn begins where, and one turn over what was read.
//!
//! A sweep keeps no position: the lanes that are behind are its position, and a lane that reaches the head is live again.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use pushline_model::{Cause, Offset, Timestamp};
use pushline_queue::{Frame, Record};

use super::{Burial, LaneKey, Lanes, burying::holds, group_of, settling::is_suspect};
use crate::lane::{Dead, Lane, Shown};

/// A lane at most this many records behind the head is served by the near sweep (L4).
pub(super) const NEAR: Offset = 200_000;

/// How long lanes of suspect webhooks wait for a turn. None of them may begin more than one message, and that may be spread over megabytes of the
/// log: so they are served together.
const TOGETHER: Duration = Duration::from_millis(100);

/// The two sweeps, so that a short stumble doesn't wait behind a long backlog (L4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sweep {
    /// For lanes at most 200,000 records behind the head.
    #[default]
    Near,
    /// For those beyond.
    Far,
}

impl Sweep {
    /// The one whose turn comes after this one's.
    fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }
}

/// Whose turn is next.
#[derive(Debug, Default)]
pub(super) struct Turns {
    next: Sweep,
    suspects: Suspects,
}

/// The lanes of suspect webhooks.
#[derive(Debug, Default)]
enum Suspects {
    /// None wants a turn.
    #[default]
    Rest,
    /// They wait until then.
    Wait(Instant),
    /// They have waited, and have turns like others until none wants one.
    Served,
}

/// The smallest `taken` of lanes that want a turn, of the near sweep's and of the far sweep's.
#[derive(Debug, Default, Clone, Copy)]
struct Wanted {
    near: Option<Offset>,
    far: Option<Offset>,
}

// === impl Turns ===

impl Turns {
    pub(super) fn next_tick(&self) -> Option<Instant> {
        if let Suspects::Wait(until) = self.suspects { Some(until) } else { None }
    }

    /// Returns whether lanes of suspect webhooks have waited long enough.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let is_due = self.next_tick().is_some_and(|until| until <= now);
        if is_due {
            self.suspects = Suspects::Served;
        }
        is_due
    }

    /// What lanes of suspect webhooks want counts once they have waited, whoever else wants a turn.
    fn admit(&mut self, wanted: Wanted, now: Instant) -> Wanted {
        match self.suspects {
            _ if wanted.near.or(wanted.far).is_none() => self.suspects = Suspects::Rest,
            Suspects::Rest => self.suspects = Suspects::Wait(now + TOGETHER),
            Suspects::Wait(_) => {}
            Suspects::Served => return wanted,
        }
        Wanted::default()
    }
}

// === impl Wanted ===

impl Wanted {
    fn of(&self, sweep: Sweep) -> Option<Offset> {
        match sweep {
            Sweep::Near => self.near,
            Sweep::Far => self.far,
        }
    }

    fn add(&mut self, sweep: Sweep, taken: Offset) {
        let smallest = match sweep {
            Sweep::Near => &mut self.near,
            Sweep::Far => &mut self.far,
        };
        *smallest = Some(smallest.map_or(taken, |smallest| smallest.min(taken)));
    }
}

impl Lanes {
    /// Where the next turn begins, if anybody wants one now: near and far sweep take turns.
    pub(crate) fn next_turn(&mut self, now: Instant) -> Option<Offset> {
        let [mut wanted, of_suspects, dead] = self.wanted();
        let of_suspects = self.turns.admit(of_suspects, now);
        of_suspects.near.iter().for_each(|taken| wanted.add(Sweep::Near, *taken));
        of_suspects.far.iter().chain(&dead.far).for_each(|taken| wanted.add(Sweep::Far, *taken));
        let first = self.turns.next;
        let sweep = [first, first.other()].into_iter().find(|sweep| wanted.of(*sweep).is_some())?;
        self.turns.next = sweep.other();
        wanted.of(sweep)
    }

    /// Who has a message at hand or may begin one: lanes of webhooks that aren't suspect, and those of suspect ones. And who has packets that
    /// won't be sent: the far sweep serves them, wherever they are.
    fn wanted(&self) -> [Wanted; 3] {
        let near = self.head.saturating_sub(self.near);
        let [mut wanted, mut of_suspects, mut dead] = [Wanted::default(); 3];
        for lane in self.behind.iter().map(|&key| &self.lanes[key]) {
            let taken = lane.taken(self.head);
            let sweep = if taken < near { Sweep::Far } else { Sweep::Near };
            if self.wants(lane) {
                if is_suspect(lane) { &mut of_suspects } else { &mut wanted }.add(sweep, taken);
            }
            if self.may_be_dead(lane) {
                dead.add(Sweep::Far, taken);
            }
        }
        [wanted, of_suspects, dead]
    }

    /// Where a turn of this sweep would begin, if suspects had waited.
    #[cfg(test)]
    pub(super) fn sweep_from(&self, sweep: Sweep) -> Option<Offset> {
        self.wanted().iter().filter_map(|wanted| wanted.of(sweep)).min()
    }

    /// One turn over frames that follow each other from `from` on: shows each record to its lane, and takes in every lane that it meets.
    /// `wall`: the wall clock, for dead letters.
    pub(crate) fn sweep(&mut self, from: Offset, frames: &[Frame], now: Instant, wall: Timestamp) -> Vec<Burial> {
        let read = frames.last().map_or(from, Frame::end);
        let to = if read >= self.passed() { self.head } else { read };
        let mut ahead: Vec<(Offset, LaneKey)> = self.sweepable(from, to);
        ahead.sort_unstable_by_key(|&(taken, _)| Reverse(taken));
        let (mut joined, mut last, mut dead) = (BTreeSet::new(), None, BTreeMap::new());
        let unwritten = self.unwritten;
        // A frame may begin before the end of the one before it.
        let mut at = from;
        let records = frames.iter().flat_map(|frame| frame.records(std::mem::replace(&mut at, frame.end())));
        for (offset, record) in records.take_while(|(offset, _)| *offset < to) {
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
        // Until here it was a guess; each letter counts itself.
        self.unwritten = unwritten;
        dead.into_iter().flat_map(|((key, cause), dead)| self.bury(key, cause, dead, wall)).collect()
    }

    /// Whether a turn goes on, which has shown the records from `from` to `to`: somebody wants what comes next, or soon after.
    pub(crate) fn goes_on(&self, from: Offset, to: Offset) -> bool {
        let soon = to..to + (to - from);
        to < self.head
            && self
                .behind
                .iter()
                .map(|&key| &self.lanes[key])
                .any(|lane| soon.contains(&lane.taken(self.head)) && (self.wants(lane) || self.may_be_dead(lane)))
    }

    fn sweepable(&self, from: Offset, to: Offset) -> Vec<(Offset, LaneKey)> {
        let taken = |&key: &LaneKey| (self.lanes[key].taken(self.head), key);
        let meets = |(taken, key): &(Offset, LaneKey)| {
            let lane = &self.lanes[*key];
            (from..to).contains(taken) && (self.wants(lane) || self.may_be_dead(lane))
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
        let (cause, looks, may_bury) = (self.cause(key, offset, record), self.looks, self.may_bury());
        let lane = &mut self.lanes[key];
        lane.is_held_up = cause.is_some() && !may_bury;
        if lane.is_held_up {
            return false;
        }
        if let Some(cause) = cause {
            self.unwritten += holds(record);
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

    /// Whether a sweep has something to do for it.
    fn wants(&self, lane: &Lane) -> bool {
        let goes_on = lane.burying().is_none() && (!lane.is_held_up || self.may_bury());
        goes_on && lane.outlet.as_ref().is_some_and(|outlet| lane.is_at_hand() || outlet.share.may_begin())
    }
}
