//! All lanes of one partition (LANES.md): live reading, sweeps, window time, dispatch, outcomes, watermark and progress.
//! Pure: the driver beside it ([`crate::partition`]) reads, sends, writes and keeps time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hashbrown::HashMap;
use pushline_batch::Cut;
use pushline_model::{Attempt, Cause, DeadLetter, GroupId, MessageId, Offset, Order, Outcome, Timestamp};
use pushline_queue::{Frame, Kind, LastPassed, Progress, Record, Replay, Restart};
use slab::Slab;

use crate::{
    lane::{Dead, Lane, Message, Parcel, Shown, State, Unsent},
    outcome::{Next, what_next},
    outlets::{Outlet, Outlets},
};

/// How long a group may be unknown before its packets become dead letters (L13): the registry may be older than the one that let them in.
const UNKNOWN_FOR: Duration = Duration::from_mins(5);

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
    /// When time closes the windows of live lanes: by the log's time, and by the monotonic clock. Entries outlive their window: they are
    /// dropped when they come up, or all at once when they are too many, since only one of the two moves at a time.
    closes_by_log: BinaryHeap<Reverse<(Timestamp, LaneKey)>>,
    closes_by_clock: BinaryHeap<Reverse<(Instant, LaneKey)>>,
    pauses: BinaryHeap<Reverse<(Instant, LaneKey, Offset)>>,
    /// When lanes whose group is unknown are lost.
    unknown: BinaryHeap<Reverse<(Instant, LaneKey)>>,
    /// What is too old to be sent, while there is any (L12).
    expiry: Option<Expiry>,
    /// How often that was looked at.
    looks: u64,
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

/// Packets beyond one of these are dead letters `expired` (L12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// Received before: `backlog.max_age`.
    pub(crate) before: Timestamp,
    /// Stored below: `queue.max_bytes`.
    pub(crate) below: Offset,
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

/// Names what a dead letter is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BurialKey {
    /// A message.
    Message(MessageKey),
    /// Packets of a lane that were in no message, up to an offset.
    Packets { lane: LaneKey, to: Offset, count: u64 },
}

/// Dead letters to write. What they stand for settles when they are durable.
#[derive(Debug)]
pub(crate) struct Burial {
    pub(crate) key: BurialKey,
    pub(crate) cause: Cause,
    pub(crate) letters: Vec<DeadLetter>,
}

/// An attempt to make.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) key: MessageKey,
    pub(crate) outlet: Arc<Outlet>,
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
    Bury(Burial),
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
            unknown: BinaryHeap::new(),
            expiry: None,
            looks: 0,
            unsettled: 0,
            suspicions: 0,
            cuts: Vec::new(),
        };
        for listed in restart.lanes {
            // Progress lists lanes, and each lane has a group: a key that is none was never written.
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
    /// log's own time closes windows (L6). Returns whether a sweep has something to do that nothing else would tell of: what nobody can read.
    pub(crate) fn live(&mut self, frame: &Frame, end: Offset, now: Instant) -> bool {
        let mut foreign = false;
        for (offset, record) in frame.records(self.head) {
            self.head = offset + 1;
            self.last = Some(LastPassed { offset, at: record.at });
            foreign |= group_of(&record).is_empty();
            self.pass(offset, &record, now);
        }
        self.head = self.head.max(frame.end());
        if let (true, Some(last)) = (self.head < end, self.last) {
            self.close_by_log(last.at);
        }
        foreign
    }

    fn pass(&mut self, offset: Offset, record: &Record<'_>, now: Instant) {
        let Some(key) = self.lane_of(group_of(record), now) else { return };
        let packets = Replay::of(record).map_or(1, |replay| replay.packets.len().max(1) as u64);
        self.unsettled += packets;
        let lane = &mut self.lanes[key];
        lane.unsettled += packets;
        if !lane.is_live() {
            return; // a sweep will show it
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

    // --- unknown groups and reload (L13)

    /// A lane that is born or resumed without an outlet waits for one for a while; what belongs to no group has nothing to wait for.
    fn watch_unknown(&mut self, key: LaneKey, now: Instant) {
        let lane = &mut self.lanes[key];
        if lane.group == GroupId::none() {
            lane.is_lost = true;
        } else if lane.outlet.is_none() {
            lane.unknown_since = Some(now);
            self.unknown.push(Reverse((now + UNKNOWN_FOR, key)));
        }
    }

    /// The registry was read again. What of a changed webhook or group isn't in flight is let go, and goes out under the new definition.
    pub(crate) fn redirect(&mut self, outlets: Arc<Outlets>, now: Instant) {
        self.outlets = outlets;
        let again: Vec<(LaneKey, Offset)> = self.lines.drain().flat_map(|(_, line)| line.again).collect();
        for key in self.lanes.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            let lane = &mut self.lanes[key];
            lane.in_line = false;
            let outlet = self.outlets.of(&lane.group);
            if outlet.as_ref().map(Arc::as_ptr) != lane.outlet.as_ref().map(Arc::as_ptr) {
                lane.redirect(outlet, self.head, now);
                self.watch_unknown(key, now);
            }
            self.line_up(key);
            self.settle_in(key);
        }
        for (key, first) in again {
            self.send_again(key, first);
        }
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
        // What the one clock has closed leaves its entry with the other: those in front are dropped, or a task that is always behind the end
        // of its log, or never, would keep one for each window.
        while let Some(&Reverse((at, key))) = self.closes_by_clock.peek()
            && !self.is_open(key, |lane| lane.closes == Some(at))
        {
            self.closes_by_clock.pop();
        }
    }

    fn is_open(&self, key: LaneKey, by: impl FnOnce(&Lane) -> bool) -> bool {
        self.lanes.get(key).is_some_and(|lane| lane.is_live() && by(lane))
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
        while let Some(&Reverse((at, key))) = self.closes_by_log.peek()
            && !self.is_open(key, |lane| lane.window_end() == Some(at))
        {
            self.closes_by_log.pop();
        }
        while let Some(&Reverse((at, key, first))) = self.pauses.peek() {
            if at > now {
                break;
            }
            self.pauses.pop();
            self.end_pause(key, first, at);
        }
        while let Some(&Reverse((at, key))) = self.unknown.peek() {
            if at > now {
                break;
            }
            self.unknown.pop();
            if let Some(lane) = self.lanes.get_mut(key).filter(|lane| lane.unknown_since.is_some_and(|since| since + UNKNOWN_FOR == at)) {
                lane.lose();
                self.tidy(key);
            }
        }
    }

    /// When [`Lanes::tick`] has something to do.
    pub(crate) fn next_tick(&self, end: Offset) -> Option<Instant> {
        let window = self.closes_by_clock.peek().filter(|_| self.head >= end).map(|Reverse((at, _))| *at);
        let pause = self.pauses.peek().map(|Reverse((at, ..))| *at);
        let unknown = self.unknown.peek().map(|Reverse((at, _))| *at);
        window.into_iter().chain(pause).chain(unknown).min()
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
            Shown::Taken => _ = lane.advance(offset + 1, Offset::MAX),
            Shown::Refused => lane.refused_at(offset, self.head),
        }
        self.line_up(key);
        shown == Shown::Taken
    }

    // --- expiry (L12) and lost lanes (L13)

    /// The oldest record that hasn't settled was looked at. While anything is too old, the far sweep makes it dead letters; what has a body and
    /// isn't in flight becomes one at once, and beyond `queue.max_bytes` what is in flight too.
    pub(crate) fn expire(&mut self, expiry: Option<Expiry>, wall: Timestamp) -> Vec<Burial> {
        self.expiry = expiry;
        self.looks += 1;
        let Some(expiry) = expiry else { return Vec::new() };
        let mut expired = Vec::new();
        for (key, lane) in &self.lanes {
            let its = lane.messages().filter(|message| message.is_expired(expiry.before, expiry.below));
            expired.extend(its.map(|message| MessageKey { lane: key, first: message.listed.first }));
        }
        let burials = expired.into_iter().filter_map(|key| self.bury_message(key, Cause::Expired, wall)).collect();
        let behind: Vec<LaneKey> = self.behind.iter().copied().collect();
        behind.into_iter().for_each(|key| self.let_go(key));
        burials
    }

    /// Whether a sweep may find packets of it that won't be sent.
    fn may_be_dead(&self, lane: &Lane) -> bool {
        lane.burying().is_none() && (lane.is_lost || self.expiry.is_some() && lane.fresh_at < self.looks)
    }

    /// Why a record won't be sent.
    fn cause(&self, key: LaneKey, offset: Offset, record: &Record<'_>) -> Option<Cause> {
        if group_of(record).is_empty() {
            return Some(Cause::Unreadable);
        }
        if self.lanes[key].is_lost {
            return Some(Cause::NoWebhook);
        }
        self.expiry.filter(|expiry| record.at < expiry.before || offset < expiry.below).map(|_| Cause::Expired)
    }

    fn bury(&mut self, key: LaneKey, cause: Cause, dead: Dead, wall: Timestamp) -> Vec<Burial> {
        // A lane of which nothing was dead may have ended its turn, and itself.
        let Some(lane) = self.lanes.get(key) else { return Vec::new() };
        let (group, webhook) = (lane.group.key().to_owned(), lane.outlet.as_ref().map(|outlet| outlet.webhook.name.clone()));
        let letter = |Unsent { message: Replay { message_id, array, packets }, why }| DeadLetter {
            time: wall,
            group: group.clone(),
            webhook: webhook.clone(),
            message_id,
            array,
            cause,
            status: None,
            response: why.into_bytes(),
            attempts: Vec::new(),
            packets,
        };
        let count = dead.unlisted.iter().map(|unlisted| unlisted.message.packets.len() as u64).sum();
        let letters = dead.unlisted.into_iter().map(letter).collect();
        let packets = lane.burying().map(|to| Burial { key: BurialKey::Packets { lane: key, to, count }, cause, letters });
        let whole = dead.messages.into_iter().filter_map(|first| self.bury_message(MessageKey { lane: key, first }, cause, wall));
        whole.collect::<Vec<_>>().into_iter().chain(packets).collect()
    }

    /// A message with a body becomes a dead letter, in flight or not.
    fn bury_message(&mut self, key: MessageKey, cause: Cause, wall: Timestamp) -> Option<Burial> {
        let lane = self.lanes.get_mut(key.lane)?;
        let (group, webhook) = (lane.group.clone(), lane.outlet.as_ref().map(|outlet| outlet.webhook.name.clone()));
        let message = lane.die(key.first)?;
        let letter = DeadLetter { time: wall, ..dead_letter(&group, webhook, message, cause, None)? };
        Some(Burial { key: BurialKey::Message(key), cause, letters: vec![letter] })
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
            message.fly(slot, &outlet);
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
            if let Some(message) = lane.start(slot, &outlet) {
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
        let Some(lane) = self.lanes.get_mut(key.lane) else { return (Consequence::Discarded, false) };
        let Some(message) = lane.message(key.first).filter(|message| matches!(message.state, State::InFlight { .. })) else {
            return (Consequence::Discarded, false);
        };
        let State::InFlight { parcel, slot, outlet } = std::mem::replace(&mut message.state, State::Gone) else {
            return (Consequence::Discarded, false);
        };
        drop(slot);
        message.attempts.push(attempt);
        let consequence = self.ended(key, parcel, &outlet, outcome, jitter, now);
        (consequence, outlet.share.is_suspect())
    }

    /// Under the definition that the attempt began with.
    fn ended(&mut self, key: MessageKey, parcel: Parcel, outlet: &Arc<Outlet>, outcome: Outcome, jitter: f64, now: Instant) -> Consequence {
        let lane = &mut self.lanes[key.lane];
        let (group, is_current) = (lane.group.clone(), lane.outlet.as_ref().is_some_and(|current| Arc::ptr_eq(current, outlet)));
        let Some(message) = lane.message(key.first) else { return Consequence::Discarded };
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
                (message.state, message.is_buried) = (State::Dying(parcel), true);
                match dead_letter(&group, Some(outlet.webhook.name.clone()), message, cause, Some(outcome)) {
                    Some(letter) => Consequence::Bury(Burial { key: BurialKey::Message(key), cause, letters: vec![letter] }),
                    None => Consequence::Discarded,
                }
            }
            Next::Again { after } => {
                if !is_current {
                    self.let_go(key.lane); // it goes out again under the new definition
                } else if answered || !outlet.share.is_pausing() {
                    // After a no response only one message of the webhook keeps its body and waits; the others are let go (L3).
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
        let is_due = |message: &&mut Message| matches!(message.state, State::Pausing { until, .. } if until == at);
        if self.lanes.get_mut(lane).and_then(|lane| lane.message(first)).filter(is_due).is_some() {
            self.send_again(lane, first);
        }
    }

    fn send_again(&mut self, lane: LaneKey, first: Offset) {
        if let Some(outlet) = self.lanes.get(lane).and_then(|lane| lane.outlet.clone()) {
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

    /// Dead letters are durable. Returns how many packets settled.
    pub(crate) fn buried(&mut self, key: BurialKey) -> u64 {
        match key {
            BurialKey::Message(key) => self.settle(key),
            BurialKey::Packets { lane: key, to, count } => {
                let Some(lane) = self.lanes.get_mut(key) else { return 0 };
                lane.buried(to, count, self.head);
                self.unsettled = self.unsettled.saturating_sub(count);
                self.settle_in(key);
                count
            }
        }
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

    /// What a shutdown waits for: dead letters that are being written, and messages in flight, unless their webhook is suspect.
    pub(crate) fn awaited(&self) -> usize {
        let is_awaited = |lane: &Lane, message: &Message| match message.state {
            State::InFlight { .. } => !is_suspect(lane),
            State::Dying(_) => true,
            _ => false,
        };
        let its = |lane: &Lane| lane.messages().filter(|message| is_awaited(lane, message)).count() + usize::from(lane.burying().is_some());
        self.lanes.iter().map(|(_, lane)| its(lane)).sum()
    }
}

/// The group that a record belongs to: none where nobody can read it.
fn group_of<'a>(record: &Record<'a>) -> &'a str {
    match record.kind {
        Kind::Packet { .. } => record.group,
        Kind::Replay if Replay::of(record).is_some_and(|replay| !replay.packets.is_empty()) => record.group,
        _ => "",
    }
}

fn leave_line(line: &mut Line, lane: &mut Lane) {
    line.lanes.pop_front();
    lane.in_line = false;
}

fn is_suspect(lane: &Lane) -> bool {
    lane.outlet.as_ref().is_some_and(|outlet| outlet.share.is_suspect())
}

/// Whether a sweep has something to do for it.
fn wants(lane: &Lane) -> bool {
    lane.burying().is_none() && lane.outlet.as_ref().is_some_and(|outlet| lane.is_at_hand() || outlet.share.may_begin())
}

fn send_off(lane: LaneKey, message: &Message, outlet: &Arc<Outlet>, send: &mut impl FnMut(Sending)) {
    if let Some(parcel) = message.parcel() {
        let key = MessageKey { lane, first: message.listed.first };
        let (outlet, is_first) = (Arc::clone(outlet), message.attempts.is_empty());
        send(Sending { key, outlet, id: parcel.id, body: parcel.body.bytes(), packets: parcel.body.count(), is_first });
    }
}

/// The dead letter of a message with a body; `outcome`: of its last attempt, where that decided.
fn dead_letter(group: &GroupId, webhook: Option<String>, message: &Message, cause: Cause, outcome: Option<Outcome>) -> Option<DeadLetter> {
    let parcel = message.parcel()?;
    let (status, response) = match outcome {
        Some(Outcome::Accepted { status }) => (Some(status), Vec::new()),
        Some(Outcome::ErrorResponse { status, response }) => (Some(status), response),
        Some(Outcome::NoResponse(_)) | None => (None, Vec::new()),
        Some(Outcome::BlockedAddress { what }) => (None, what.into_bytes()),
    };
    Some(DeadLetter {
        time: message.attempts.last().map_or(Timestamp::default(), |attempt| attempt.at.plus(attempt.took)),
        group: group.key().to_owned(),
        webhook,
        message_id: Some(parcel.id.to_string()),
        array: parcel.body.is_array(),
        cause,
        status,
        response,
        attempts: message.attempts.clone(),
        packets: parcel.body.packets(),
    })
}

#[cfg(test)]
mod edge_test;
#[cfg(test)]
mod memory_test;
#[cfg(test)]
mod model_test;
