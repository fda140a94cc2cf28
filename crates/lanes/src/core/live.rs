//! Live reading (docs/delivery.md, Live reading): each record is offered to its lane as it comes. A lane that can't take it falls behind, and live reading
//! goes on.

use pushline_model::{GroupId, Offset};
use pushline_queue::{Frame, Kind, Record, Replay};

use super::{
    Core, Effects, LaneKey, Now,
    lane::{Intake, Lane, LastRules, Offer, Offered},
};
use crate::checkpoint::LastPassed;

/// Whose record it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    /// A group's.
    Group(&'a str),
    /// It can't be read: it becomes a dead letter of no group.
    Nobody,
    /// It only shows what time it is in the log: a tick, or a change of a session.
    Tick,
}

impl<'a> Owner<'a> {
    pub(super) fn of(record: &Record<'a>) -> Self {
        match record.kind {
            Kind::Packet { .. } => Self::Group(record.group),
            Kind::Replay if Replay::of(record).is_some() => Self::Group(record.group),
            Kind::Tick | Kind::Release(_) | Kind::Session => Self::Tick,
            Kind::Replay | Kind::DeadLetter | Kind::Replayed | Kind::Foreign { .. } => Self::Nobody,
        }
    }

    /// The key of its lane.
    pub(super) fn key(self) -> Option<&'a str> {
        match self {
            Self::Group(group) => Some(group),
            Self::Nobody => Some(""),
            Self::Tick => None,
        }
    }
}

impl Core {
    pub(super) fn live_frame(&mut self, frame: &Frame, now: Now, effects: &mut Effects) {
        self.catch_up.live_has_read(frame.bytes().len());
        let log_time = frame.log_time();
        self.close_by_live_record(log_time, now);
        for (offset, record) in frame.records(self.live_offset) {
            self.live_offset = offset + 1;
            self.last = Some(LastPassed { offset, at: record.at, log_time });
            self.pass(offset, &record, frame, now, effects);
        }
        self.live_offset = self.live_offset.max(frame.end());
        self.saving.changed = true;
    }

    fn pass(&mut self, offset: Offset, record: &Record<'_>, frame: &Frame, now: Now, effects: &mut Effects) {
        let packets = packets_of(record);
        if offset < self.end_at_start {
            effects.more_at_start += i64::try_from(packets).expect("a record has at most 1 GiB") - 1;
        }
        let Some(key) = Owner::of(record).key().and_then(|group| self.lane_of(group, now)) else { return };
        self.unsettled += packets;
        let partition = self.partition;
        let lane = &mut self.lanes[key];
        lane.unsettled += packets;
        if !lane.is_live() {
            // A catch-up read will offer it. It is asked for where nothing else tells of it.
            self.catch_up.wanted |= lane.becomes_dead_letters();
            return;
        }
        let window_end = lane.window_end();
        let offer = Offer { offset, log_time: frame.log_time(), record, partition };
        if lane.becomes_dead_letters() {
            // Not a refusal: that would hold up the webhook's other groups.
            self.catch_up.wanted = true;
            self.fall_behind_at(key, offset);
        } else if lane.offer(&offer, &mut self.scratch) == Offered::Refused {
            self.fall_behind_at(key, offset);
        }
        let lane = &self.lanes[key];
        if lane.window_end() != window_end {
            self.watch_window(key);
        }
        self.line_up(key);
    }

    fn fall_behind_at(&mut self, key: LaneKey, offset: Offset) {
        self.lanes[key].stop_at(offset, self.live_offset);
        self.behind.insert(key);
    }

    fn lane_of(&mut self, group: &str, now: Now) -> Option<LaneKey> {
        if let Some(&key) = self.by_group.get(group) {
            return Some(key);
        }
        let group = GroupId::of_record(group).ok()?;
        let intake = Intake::new(&group, self.webhooks.of(&group), LastRules::UNKNOWN, now.monotonic);
        let key = self.lanes.insert(Lane::new(group.clone(), intake));
        self.by_group.insert(group, key);
        self.watch_unknown(key);
        Some(key)
    }
}

/// How many packets a record stands for.
pub(super) fn packets_of(record: &Record<'_>) -> u64 {
    match record.kind {
        Kind::Tick | Kind::Release(_) | Kind::Session => 0,
        Kind::Replay => Replay::of(record).map_or(1, |replay| replay.packets.len() as u64),
        Kind::Packet { .. } | Kind::DeadLetter | Kind::Replayed | Kind::Foreign { .. } => 1,
    }
}
