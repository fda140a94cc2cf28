//! All lanes of one partition (LANES.md): live reading, sweeps, window time, dispatch, outcomes, watermark and progress.
//! Pure: the driver beside it ([`crate::partition`]) reads, sends, writes and keeps time.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use hashbrown::HashMap;
use pushline_batch::Cut;
use pushline_model::{Attempt, Cause, DeadLetter, GroupId, MessageId, Offset, Order, Outcome, Timestamp, Webhook};
use pushline_queue::{Frame, LastPassed, Progress, Record, Restart};
use slab::Slab;

use crate::{
    lane::{Lane, Message, Parcel, Shown, State},
    outcome::{Next, what_next},
    outlets::{Outlet, Outlets},
};

/// A lane at most this many records behind the head is served by the near sweep (L4).
const NEAR: Offset = 200_000;

/// One partition's lanes and how far it has read.
#[derive(Debug)]
pub(crate) struct Lanes {
    partition: u32,
    outlets: Arc<Outlets>,
    /// How far behind the head the near sweep goes.
    near: Offset,
    head: Offset,
    last: Option<LastPassed>,
    lanes: Slab<Lane>,
    by_group: HashMap<GroupId, LaneKey>,
    behind: BTreeSet<LaneKey>,
    lines: HashMap<String, Line>,
    /// When time closes the windows of live lanes: by the log's time, and by the monotonic clock. Entries outlive their window and
    /// are dropped when they come up.
    closes_by_log: BinaryHeap<Reverse<(Timestamp, LaneKey)>>,
    closes_by_clock: BinaryHeap<Reverse<(Instant, LaneKey)>>,
    pauses: BinaryHeap<Reverse<(Instant, LaneKey, Offset)>>,
    unsettled: u64,
    /// How many suspicions of webhooks it has seen.
    suspicions: u64,
    cuts: Vec<Cut>,
}

/// A lane's place in the slab. A lane with a listed message keeps it.
pub(crate) type LaneKey = usize;

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

/// Who waits for a slot of one webhook.
#[derive(Debug, Default)]
struct Line {
    /// Lanes with messages that wait for their first attempt, each once, in turn.
    lanes: VecDeque<LaneKey>,
    /// Messages whose pause is over.
    again: VecDeque<(LaneKey, Offset)>,
}

/// Names a message under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageKey {
    pub(crate) lane: LaneKey,
    pub(crate) first: Offset,
}

/// An attempt to make.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) key: MessageKey,
    pub(crate) webhook: Arc<Webhook>,
    pub(crate) id: MessageId,
    pub(crate) body: Bytes,
    pub(crate) packets: usize,
    /// Whether it was never sent before by this process.
    pub(crate) is_first: bool,
}

/// What an outcome means.
#[derive(Debug)]
pub(crate) enum Consequence {
    /// Its message was accepted: this many packets.
    Delivered(u64),
    /// To be written; the message settles when it is durable.
    Bury(Box<DeadLetter>),
    /// It will be sent again.
    Again,
    /// Nobody waits for it any more.
    Discarded,
}

// === impl Lanes ===

impl Lanes {
    /// L10.
    pub(crate) fn new(partition: u32, outlets: Arc<Outlets>, restart: Restart, now: Instant) -> Self {
        let mut lanes = Self {
            partition,
            outlets,
            near: NEAR,
            head: restart.head,
            last: restart.last,
            lanes: Slab::new(),
            by_group: HashMap::new(),
            behind: BTreeSet::new(),
            lines: HashMap::new(),
            closes_by_log: BinaryHeap::new(),
            closes_by_clock: BinaryHeap::new(),
            pauses: BinaryHeap::new(),
            unsettled: 0,
            suspicions: 0,
            cuts: Vec::new(),
        };
        for listed in restart.lanes {
            // A key that is no group can't be routed: it keeps its lane without an outlet (L13).
            let Ok(group) = listed.group.parse::<GroupId>() else { continue };
            let lane = Lane::resume(group.clone(), lanes.outlets.of(&group), &listed, restart.head, now);
            lanes.unsettled += lane.unsettled;
            let key = lanes.lanes.insert(lane);
            lanes.by_group.insert(group, key);
            lanes.settle_in(key);
        }
        lanes
    }

    /// The next offset of live reading.
    pub(crate) fn head(&self) -> Offset {
        self.head
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
    /// log's own time closes windows (L6).
    pub(crate) fn live(&mut self, frame: &Frame, end: Offset, now: Instant) {
        for (offset, record) in frame.records(self.head) {
            self.head = offset + 1;
            self.last = Some(LastPassed { offset, at: record.at });
            self.pass(offset, &record, now);
        }
        self.head = self.head.max(frame.end());
        if let (true, Some(last)) = (self.head < end, self.last) {
            self.close_by_log(last.at);
        }
    }

    fn pass(&mut self, offset: Offset, record: &Record<'_>, now: Instant) {
        let Some(packet) = record.as_packet() else { return };
        let Some(key) = self.lane_of(record.group) else { return };
        self.unsettled += 1;
        let lane = &mut self.lanes[key];
        lane.unsettled += 1;
        if !lane.is_live() {
            return; // a sweep will show it
        }
        let window_end = lane.window_end();
        match lane.show(offset, &packet, self.partition, now, &mut self.cuts) {
            Shown::Taken if lane.window_end() != window_end => self.watch_window(key),
            Shown::Taken => {}
            Shown::Refused => {
                lane.refused_at(offset, self.head);
                self.behind.insert(key);
            }
        }
        self.line_up(key);
    }

    fn lane_of(&mut self, group: &str) -> Option<LaneKey> {
        if let Some(&key) = self.by_group.get(group) {
            return Some(key);
        }
        let group: GroupId = group.parse().ok()?;
        let lane = Lane::new(group.clone(), self.outlets.of(&group));
        let key = self.lanes.insert(lane);
        self.by_group.insert(group, key);
        Some(key)
    }

    // --- window time (L6)

    /// The log has come to this time: windows that are over close. (Said after each frame: a frame's records were written together, and
    /// a lane's own records close its window anyway.)
    fn close_by_log(&mut self, time: Timestamp) {
        while let Some(&Reverse((at, key))) = self.closes_by_log.peek() {
            if at > time {
                break;
            }
            self.closes_by_log.pop();
            let is_due = |lane: &Lane| lane.window_end() == Some(at);
            self.close_if(key, is_due);
        }
    }

    /// At the end of the log a window closes by the monotonic clock. Pauses end.
    pub(crate) fn tick(&mut self, end: Offset, now: Instant) {
        while let Some(&Reverse((at, key))) = self.closes_by_clock.peek() {
            if at > now || self.head < end {
                break;
            }
            self.closes_by_clock.pop();
            self.close_if(key, |lane| lane.closes == Some(at));
        }
        while let Some(&Reverse((at, key, first))) = self.pauses.peek() {
            if at > now {
                break;
            }
            self.pauses.pop();
            self.end_pause(key, first, at);
        }
    }

    /// When [`Lanes::tick`] has something to do.
    pub(crate) fn next_tick(&self, end: Offset) -> Option<Instant> {
        let window = self.closes_by_clock.peek().filter(|_| self.head >= end).map(|Reverse((at, _))| *at);
        let pause = self.pauses.peek().map(|Reverse((at, ..))| *at);
        window.into_iter().chain(pause).min()
    }

    fn close_if(&mut self, key: LaneKey, is_due: impl FnOnce(&Lane) -> bool) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.is_live() && is_due(lane) {
            lane.close(self.partition);
            self.line_up(key);
            self.tidy(key);
        }
    }

    fn watch_window(&mut self, key: LaneKey) {
        let lane = &self.lanes[key];
        if let (Some(by_log), Some(by_clock)) = (lane.window_end(), lane.closes) {
            self.closes_by_log.push(Reverse((by_log, key)));
            self.closes_by_clock.push(Reverse((by_clock, key)));
        }
    }

    // --- sweeps (L4)

    /// Where a turn of this sweep would begin: the smallest `taken` of its lanes that have a message at hand or may begin one.
    pub(crate) fn sweep_from(&self, sweep: Sweep) -> Option<Offset> {
        let near = self.head.saturating_sub(self.near);
        let its = |taken: &Offset| (*taken < near) == (sweep == Sweep::Far);
        self.behind.iter().map(|&key| &self.lanes[key]).filter(|lane| wants(lane)).map(|lane| lane.taken(self.head)).filter(its).min()
    }

    /// One turn over frames that follow each other from `from` on: shows each record to its lane, and takes in every lane that it meets.
    pub(crate) fn sweep(&mut self, from: Offset, frames: &[Frame], now: Instant) {
        let to = frames.last().map_or(from, Frame::end).min(self.head);
        let mut ahead: Vec<(Offset, LaneKey)> = self.sweepable(from, to);
        ahead.sort_unstable_by_key(|&(taken, _)| Reverse(taken));
        let (mut joined, mut last) = (BTreeSet::new(), None);
        for (offset, record) in frames.iter().flat_map(|frame| frame.records(from)).take_while(|(offset, _)| *offset < to) {
            while let Some((_, key)) = ahead.pop_if(|(taken, _)| *taken <= offset) {
                joined.insert(key);
            }
            last = Some(record.at);
            if let Some(&key) = self.by_group.get(record.group)
                && joined.contains(&key)
                && !self.sweep_one(key, offset, &record, now)
            {
                joined.remove(&key);
            }
        }
        joined.extend(ahead.into_iter().map(|(_, key)| key));
        for key in joined {
            self.end_turn(key, to, last);
        }
    }

    fn sweepable(&self, from: Offset, to: Offset) -> Vec<(Offset, LaneKey)> {
        let taken = |&key: &LaneKey| (self.lanes[key].taken(self.head), key);
        let meets = |(taken, key): &(Offset, LaneKey)| (from..to).contains(taken) && wants(&self.lanes[*key]);
        self.behind.iter().map(taken).filter(meets).collect()
    }

    /// Returns whether the lane goes on.
    fn sweep_one(&mut self, key: LaneKey, offset: Offset, record: &Record<'_>, now: Instant) -> bool {
        let Some(packet) = record.as_packet() else { return true };
        let lane = &mut self.lanes[key];
        let shown = lane.show(offset, &packet, self.partition, now, &mut self.cuts);
        match shown {
            Shown::Taken => _ = lane.advance(offset + 1, Offset::MAX),
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

    // --- dispatch

    fn line_up(&mut self, key: LaneKey) {
        let lane = &mut self.lanes[key];
        if lane.in_line || !lane.has_waiting() {
            return;
        }
        if let Some(outlet) = &lane.outlet {
            self.lines.entry_ref(outlet.webhook.name.as_str()).or_default().lanes.push_back(key);
            lane.in_line = true;
        }
    }

    /// Starts what may start: for each webhook what was to be sent again, then the first message that waits of each of its groups in turn.
    pub(crate) fn dispatch(&mut self, mut send: impl FnMut(Sending)) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain(|_, line| {
            self.dispatch_again(line, &mut send);
            self.dispatch_line(line, &mut send);
            !line.lanes.is_empty() || !line.again.is_empty()
        });
        self.lines = lines;
    }

    fn dispatch_again(&mut self, line: &mut Line, send: &mut impl FnMut(Sending)) {
        while let Some(&(lane_key, first)) = line.again.front() {
            let Some(lane) = self.lanes.get_mut(lane_key) else {
                _ = line.again.pop_front();
                continue;
            };
            let Some(outlet) = lane.outlet.clone() else {
                _ = line.again.pop_front();
                continue;
            };
            let Some(message) = lane.message(first).filter(|message| matches!(message.state, State::Pausing { .. })) else {
                line.again.pop_front();
                continue;
            };
            let Some(slot) = outlet.share.start_again(outlet.webhook.concurrency) else { return };
            message.fly(slot);
            line.again.pop_front();
            send_off(lane_key, message, &outlet, send);
        }
    }

    fn dispatch_line(&mut self, line: &mut Line, send: &mut impl FnMut(Sending)) {
        while let Some(&key) = line.lanes.front() {
            let lane = &mut self.lanes[key];
            let Some(outlet) = lane.outlet.clone().filter(|_| lane.has_waiting()) else {
                leave_line(line, lane); // what waited was let go
                self.tidy(key);
                continue;
            };
            if outlet.webhook.order == Order::Strict && lane.is_under_way() {
                leave_line(line, lane); // it lines up again when its message settles
                continue;
            }
            let Some(slot) = outlet.share.start(outlet.webhook.concurrency) else { return };
            leave_line(line, lane);
            if let Some(message) = lane.start(slot) {
                send_off(key, message, &outlet, send);
            }
            if lane.has_waiting() {
                lane.in_line = true;
                line.lanes.push_back(key);
            }
        }
    }

    // --- outcomes

    /// An attempt ended. `jitter` from 0 to 1 spreads the delay before the next. Says what that means, and whether the webhook is suspect:
    /// then a sweep may have something to do.
    pub(crate) fn outcome(
        &mut self,
        key: MessageKey,
        outcome: Outcome,
        attempt: Attempt,
        jitter: f64,
        now: Instant,
    ) -> (Consequence, bool) {
        let outlet = self.lanes.get(key.lane).and_then(|lane| lane.outlet.clone());
        match outlet {
            None => (Consequence::Discarded, false),
            Some(outlet) => (self.ended(key, &outlet, outcome, attempt, jitter, now), outlet.share.is_suspect()),
        }
    }

    fn ended(
        &mut self,
        key: MessageKey,
        outlet: &Arc<Outlet>,
        outcome: Outcome,
        attempt: Attempt,
        jitter: f64,
        now: Instant,
    ) -> Consequence {
        let Some(lane) = self.lanes.get_mut(key.lane) else { return Consequence::Discarded };
        let group = lane.group.clone();
        let Some(message) = lane.message(key.first) else { return Consequence::Discarded };
        let State::InFlight(parcel, slot) = std::mem::replace(&mut message.state, State::Gone) else { return Consequence::Discarded };
        drop(slot);
        message.attempts.push(attempt);
        let tries = u32::try_from(message.attempts.len()).unwrap_or(u32::MAX);
        let next = what_next(&outlet.webhook, tries, &outcome, jitter);
        let answered = matches!(outcome, Outcome::Accepted { .. } | Outcome::ErrorResponse { .. });
        if answered {
            outlet.share.answered();
        }
        let consequence = match next {
            Next::Settled => {
                drop(parcel);
                Consequence::Delivered(self.settle(key))
            }
            Next::DeadLetter(cause) => {
                let letter = dead_letter(&group, &outlet.webhook, message, &parcel, cause, outcome);
                message.state = State::Dying(parcel);
                Consequence::Bury(Box::new(letter))
            }
            Next::Again { after } => {
                // After a no response only one message of the webhook keeps its body and waits; the others are let go (L3).
                if answered || !outlet.share.is_pausing() {
                    self.pause(key, parcel, outlet, now + after);
                }
                Consequence::Again
            }
        };
        if !answered && matches!(next, Next::Again { .. } | Next::DeadLetter(Cause::NoResponse)) {
            self.suspect(outlet, key.lane);
        }
        consequence
    }

    fn pause(&mut self, key: MessageKey, parcel: Parcel, outlet: &Outlet, until: Instant) {
        if let Some(message) = self.lanes[key.lane].message(key.first) {
            message.state = State::Pausing { parcel, until, _pause: outlet.share.pause() };
            self.pauses.push(Reverse((until, key.lane, key.first)));
        }
    }

    fn end_pause(&mut self, lane: LaneKey, first: Offset, at: Instant) {
        let Some(found) = self.lanes.get_mut(lane) else { return };
        let Some(outlet) = found.outlet.clone() else { return };
        let is_due = |message: &&mut Message| matches!(message.state, State::Pausing { until, .. } if until == at);
        if found.message(first).filter(is_due).is_some() {
            self.lines.entry_ref(outlet.webhook.name.as_str()).or_default().again.push_back((lane, first));
        }
    }

    /// A webhook that gave no response keeps what is under way and lets everything else go.
    fn suspect(&mut self, outlet: &Arc<Outlet>, key: LaneKey) {
        match outlet.share.suspect() {
            true => self.let_go_of(outlet),
            false => self.let_go(key),
        }
    }

    fn let_go_of(&mut self, outlet: &Arc<Outlet>) {
        let its = |lane: &Lane| lane.outlet.as_ref().is_some_and(|other| Arc::ptr_eq(other, outlet));
        let keys: Vec<LaneKey> = self.lanes.iter().filter(|(_, lane)| its(lane)).map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.let_go(key));
    }

    fn let_go(&mut self, key: LaneKey) {
        self.lanes[key].let_go(self.head);
        self.settle_in(key);
    }

    /// Another partition's task may have found a webhook suspect: what this one holds of it and isn't under way is let go, once.
    pub(crate) fn woken(&mut self) {
        for outlet in self.outlets.suspected_since(&mut self.suspicions) {
            self.let_go_of(&outlet);
        }
    }

    /// The dead letter of a message is durable.
    pub(crate) fn buried(&mut self, key: MessageKey) -> u64 {
        self.settle(key)
    }

    /// L7. Returns how many packets settled.
    fn settle(&mut self, key: MessageKey) -> u64 {
        let Some(lane) = self.lanes.get_mut(key.lane) else { return 0 };
        let count = lane.settle(key.first);
        self.unsettled = self.unsettled.saturating_sub(count);
        self.line_up(key.lane);
        self.tidy(key.lane);
        count
    }

    /// Nothing exists for an idle group.
    fn tidy(&mut self, key: LaneKey) {
        if !self.lanes[key].is_clean() || self.lanes[key].in_line {
            return;
        }
        let lane = self.lanes.remove(key);
        self.by_group.remove(lane.group.key());
        self.behind.remove(&key);
        self.unsettled = self.unsettled.saturating_sub(lane.unsettled);
    }

    // --- watermark and progress (L8, L9)

    /// The smallest offset that is not settled.
    pub(crate) fn watermark(&self) -> Offset {
        self.lanes.iter().map(|(_, lane)| lane.watermark(self.head)).fold(self.head, Offset::min)
    }

    /// What a restart needs; `None` before the first record was passed.
    pub(crate) fn progress(&self, durable_end: Offset) -> Option<Progress> {
        let lanes = self.lanes.iter().map(|(_, lane)| lane.progress(self.head)).collect();
        self.last.map(|last| Progress { head: self.head, last, durable_end, lanes })
    }

    /// Messages in flight, or only those whose webhook isn't suspect: a shutdown doesn't wait for the others.
    pub(crate) fn awaited(&self) -> usize {
        let flying = |lane: &Lane| lane.messages().filter(|message| matches!(message.state, State::InFlight(..) | State::Dying(_))).count();
        self.lanes.iter().filter(|(_, lane)| !is_suspect(lane)).map(|(_, lane)| flying(lane)).sum()
    }
}

fn leave_line(line: &mut Line, lane: &mut Lane) {
    line.lanes.pop_front();
    lane.in_line = false;
}

fn is_suspect(lane: &Lane) -> bool {
    lane.outlet.as_ref().is_some_and(|outlet| outlet.share.is_suspect())
}

fn wants(lane: &Lane) -> bool {
    lane.outlet.as_ref().is_some_and(|outlet| lane.is_at_hand() || outlet.share.may_begin())
}

fn send_off(lane: LaneKey, message: &Message, outlet: &Outlet, send: &mut impl FnMut(Sending)) {
    if let Some(parcel) = message.parcel() {
        let key = MessageKey { lane, first: message.listed.first };
        let (webhook, is_first) = (Arc::clone(&outlet.webhook), message.attempts.is_empty());
        send(Sending { key, webhook, id: parcel.id, body: parcel.body.bytes(), packets: parcel.body.count(), is_first });
    }
}

fn dead_letter(group: &GroupId, webhook: &Webhook, message: &Message, parcel: &Parcel, cause: Cause, outcome: Outcome) -> DeadLetter {
    let (status, response) = match outcome {
        Outcome::Accepted { status } => (Some(status), Vec::new()),
        Outcome::ErrorResponse { status, response } => (Some(status), response),
        Outcome::NoResponse(_) => (None, Vec::new()),
        Outcome::BlockedAddress { what } => (None, what.into_bytes()),
    };
    DeadLetter {
        time: message.attempts.last().map_or(Timestamp::default(), |attempt| attempt.at.plus(attempt.took)),
        group: group.key().to_owned(),
        webhook: Some(webhook.name.clone()),
        message_id: Some(parcel.id.to_string()),
        array: parcel.body.is_array(),
        cause,
        status,
        response,
        attempts: message.attempts.clone(),
        packets: parcel.body.packets(),
    }
}

#[cfg(test)]
mod model_test;
