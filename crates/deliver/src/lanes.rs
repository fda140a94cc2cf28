//! All lanes of one partition (LANES.md), for the driver beside it ([`crate::partition`]): it reads, sends, writes and keeps time, these decide.
//! Pure: no clock, no I/O. Here are the lanes themselves and live reading (L1, L2); each further rule has a file.
//!
//! | what | where |
//! |---|---|
//! | reading what is behind (L4) | `sweeps.rs` |
//! | when windows close (L6) | `windows.rs` |
//! | whose message goes out next | `dispatch.rs` |
//! | what follows from an outcome | `outcomes.rs` |
//! | what won't be sent, and dead letters (L12, L14) | `burying.rs` |
//! | lanes whose webhook changed or is unknown (L13) | `reload.rs` |
//! | what has settled, watermark and checkpoint (L7, L8, L9) | `settling.rs` |

mod burying;
mod dispatch;
mod outcomes;
mod reload;
mod settling;
mod sweeps;
mod windows;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    sync::Arc,
    time::Instant,
};

use hashbrown::HashMap;
use pushline_batch::Cut;
use pushline_model::{GroupId, Offset, Timestamp};
use pushline_queue::{Frame, Kind, Record, Replay};
use slab::Slab;

use self::{
    burying::UNWRITTEN,
    dispatch::Line,
    sweeps::{NEAR, Turns},
};
pub(crate) use self::{
    burying::{Burial, BurialKey, Expiry},
    dispatch::Sending,
    outcomes::Consequence,
};
use crate::{
    checkpoint::{LastPassed, Restart},
    lane::{Lane, Shown},
    outlets::Outlets,
};

/// One partition's lanes and how far it has read.
#[derive(Debug)]
pub(crate) struct Lanes {
    partition: u32,
    outlets: Arc<Outlets>,
    /// How far behind the head the near sweep goes.
    near: Offset,
    turns: Turns,
    head: Offset,
    last: Option<LastPassed>,
    lanes: Slab<Lane>,
    by_group: HashMap<GroupId, LaneKey>,
    behind: BTreeSet<LaneKey>,
    lines: HashMap<String, Line>,
    /// When time closes the windows of live lanes: by the log's time, and by the monotonic clock. Entries may outlive their window: they are
    /// dropped when they come to the front.
    closes_by_log: BinaryHeap<Reverse<(Timestamp, LaneKey)>>,
    closes_by_clock: BinaryHeap<Reverse<(Instant, LaneKey)>>,
    /// When messages are sent again.
    pauses: BinaryHeap<Reverse<(Instant, LaneKey, Offset)>>,
    /// When lanes whose group is unknown are lost.
    unknown: BinaryHeap<Reverse<(Instant, LaneKey)>>,
    /// What is too old to be sent, while there is any (L12).
    expiry: Option<Expiry>,
    /// How often that was looked at.
    looks: u64,
    /// Bytes of dead letters for what sweeps and expiry found, that aren't durable yet.
    unwritten: usize,
    /// Sweeps find no more while there are so many.
    most_unwritten: usize,
    unsettled: u64,
    /// How many suspicions of webhooks it has seen.
    suspicions: u64,
    cuts: Vec<Cut>,
}

/// A lane's place in the slab. A lane with a listed message keeps it.
pub(crate) type LaneKey = usize;

/// Names a message under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageKey {
    pub(crate) lane: LaneKey,
    pub(crate) first: Offset,
}

// === impl Lanes ===

impl Lanes {
    /// L10.
    pub(crate) fn new(partition: u32, outlets: Arc<Outlets>, restart: Restart, now: Instant) -> Self {
        // Those before it have nothing of this partition to let go.
        let suspicions = outlets.suspicions();
        let mut lanes = Self {
            partition,
            outlets,
            near: NEAR,
            turns: Turns::default(),
            head: restart.head,
            last: restart.last,
            lanes: Slab::new(),
            by_group: HashMap::new(),
            behind: BTreeSet::new(),
            lines: HashMap::new(),
            closes_by_log: BinaryHeap::new(),
            closes_by_clock: BinaryHeap::new(),
            pauses: BinaryHeap::new(),
            unknown: BinaryHeap::new(),
            expiry: None,
            looks: 0,
            unwritten: 0,
            most_unwritten: UNWRITTEN,
            unsettled: 0,
            suspicions,
            cuts: Vec::new(),
        };
        for listed in restart.lanes {
            // Checkpoint lists lanes, and each lane has a group: a key that is none was never written.
            let Ok(group) = GroupId::of_record(&listed.group) else { continue };
            let lane = Lane::resume(group.clone(), lanes.outlets.of(&group), &listed, restart.head, now);
            lanes.unsettled += lane.unsettled;
            let key = lanes.lanes.insert(lane);
            lanes.by_group.insert(group, key);
            lanes.watch_unknown(key, now);
            lanes.settle_in(key);
        }
        lanes
    }

    /// The next offset of live reading.
    pub(crate) fn head(&self) -> Offset {
        self.head
    }

    /// The end of the last record that was passed: between it and the head lies none.
    pub(crate) fn passed(&self) -> Offset {
        self.last.map_or(self.head, |last| last.offset + 1)
    }

    /// Packets that were passed and haven't settled.
    pub(crate) fn unsettled(&self) -> u64 {
        self.unsettled
    }

    /// Live and behind.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.lanes.len() - self.behind.len(), self.behind.len())
    }

    /// Live reading: shows each record to its lane (L1); one that is refused stays behind (L2). `end` is the log's end: before it, the
    /// log's own time closes windows (L6). Returns whether a sweep has something to do that nothing else would tell of: what nobody can read, or
    /// waits for.
    pub(crate) fn live(&mut self, frame: &Frame, end: Offset, now: Instant) -> bool {
        let mut lost = false;
        for (offset, record) in frame.records(self.head) {
            self.head = offset + 1;
            self.last = Some(LastPassed { offset, at: record.at });
            if record.kind == Kind::Tick {
                continue; // it belongs to no group
            }
            lost |= self.pass(offset, &record, now);
        }
        self.head = self.head.max(frame.end());
        if let (true, Some(last)) = (self.head < end, self.last) {
            self.close_by_log(last.at);
        }
        lost
    }

    /// Returns whether only a sweep can do something with it: its lane is lost.
    fn pass(&mut self, offset: Offset, record: &Record<'_>, now: Instant) -> bool {
        let Some(key) = self.lane_of(group_of(record), now) else { return false };
        let packets = Replay::of(record).map_or(1, |replay| replay.packets.len() as u64);
        self.unsettled += packets;
        let lane = &mut self.lanes[key];
        lane.unsettled += packets;
        let is_lost = lane.is_lost;
        if !lane.is_live() {
            return is_lost; // a sweep will show it
        }
        let window_end = lane.window_end();
        match lane.show(offset, record, self.partition, now, &mut self.cuts) {
            Shown::Taken if lane.window_end() != window_end => self.watch_window(key),
            Shown::Taken => {}
            Shown::Refused => {
                lane.refused_at(offset, self.head);
                self.behind.insert(key);
            }
        }
        self.line_up(key);
        is_lost
    }

    fn lane_of(&mut self, group: &str, now: Instant) -> Option<LaneKey> {
        if let Some(&key) = self.by_group.get(group) {
            return Some(key);
        }
        let group = GroupId::of_record(group).ok()?;
        let lane = Lane::new(group.clone(), self.outlets.of(&group));
        let key = self.lanes.insert(lane);
        self.by_group.insert(group, key);
        self.watch_unknown(key, now);
        Some(key)
    }

    /// What waits for a time: windows at the end of the log, pauses, and groups that may become known. Returns whether a sweep may have something
    /// to do: windows and pauses that end give it nothing.
    pub(crate) fn tick(&mut self, end: Offset, now: Instant) -> bool {
        self.close_by_clock(end, now);
        self.end_pauses(now);
        let lost = self.lose_unknown(now);
        self.turns.tick(now) || lost
    }

    /// When [`Lanes::tick`] has something to do.
    pub(crate) fn next_tick(&self, end: Offset) -> Option<Instant> {
        let window = self.closes_by_clock.peek().filter(|_| self.head >= end).map(|Reverse((at, _))| *at);
        let pause = self.pauses.peek().map(|Reverse((at, ..))| *at);
        let unknown = self.unknown.peek().map(|Reverse((at, _))| *at);
        window.into_iter().chain(pause).chain(unknown).chain(self.turns.next_tick()).min()
    }

    /// Puts a lane where it belongs after its pace may have changed.
    fn settle_in(&mut self, key: LaneKey) {
        if self.lanes[key].is_live() {
            self.behind.remove(&key);
            self.watch_window(key);
            self.tidy(key);
        } else {
            self.behind.insert(key);
        }
    }

    /// L3.
    fn let_go(&mut self, key: LaneKey) {
        self.lanes[key].let_go(self.head);
        self.settle_in(key);
    }
}

/// The group that a record belongs to: none where nobody can read it.
fn group_of<'a>(record: &Record<'a>) -> &'a str {
    match record.kind {
        Kind::Packet { .. } => record.group,
        Kind::Replay if Replay::of(record).is_some() => record.group,
        _ => "",
    }
}

/// What comes up first, taken out if it is due.
fn take_due<T: Ord>(heap: &mut BinaryHeap<Reverse<T>>, is_due: impl FnOnce(&T) -> bool) -> Option<T> {
    heap.peek().filter(|Reverse(first)| is_due(first))?;
    heap.pop().map(|Reverse(first)| first)
}

#[cfg(test)]
mod edge_test;
#[cfg(test)]
mod memory_test;
#[cfg(test)]
mod model_test;
