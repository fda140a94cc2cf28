//! A lane: one group's way through the log at its own pace (LANES.md). Pure: events in, messages ready to be sent out.
//!
//! A lane is a few numbers. `taken`: it was shown all its records below this offset. `next`: its records below this offset are settled
//! or in a listed message. Between the two lies only its unfinished message. Everything that isn't under way can be let go and is
//! rebuilt from the log.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
    time::Instant,
};

use pushline_batch::{Body, Cut, Cutter, Sealed, Window, message_id};
use pushline_model::{Attempt, DeadPacket, GroupId, MessageId, Offset, Packet, Timestamp, Webhook};
use pushline_queue::{Kind, LaneProgress, Listed, OpenWindow, Record, Replay};

use crate::{
    outlets::Outlet,
    room::{Lease, Pause, Slot},
};

/// One group that has something unfinished in the partition.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) group: GroupId,
    /// Where its messages go; `None`: nowhere that this process knows (L13).
    pub(crate) outlet: Option<Arc<Outlet>>,
    pace: Pace,
    cutter: Cutter,
    /// What the unfinished message holds.
    lease: Option<Lease>,
    /// In offset order, until they settle.
    messages: VecDeque<Message>,
    /// When time closes the window at the end of the log (L6).
    pub(crate) closes: Option<Instant>,
    /// Since when nobody has known where its messages go (L13).
    pub(crate) unknown_since: Option<Instant>,
    /// It has waited for that too long: its packets become dead letters.
    pub(crate) is_lost: bool,
    /// Dead letters of its packets below this offset are being written; nothing else is taken meanwhile.
    burying: Option<Offset>,
    /// The last look for expired packets that found none here (L12).
    pub(crate) fresh_at: u64,
    /// Packets that were passed and haven't settled.
    pub(crate) unsettled: u64,
    /// How many messages wait for an attempt.
    waiting: usize,
    /// Whether it stands in its webhook's line for the next slot.
    pub(crate) in_line: bool,
}

/// How far it was shown its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// All of them up to the head.
    Live,
    /// Those below `taken`. `next` counts where no message is being put together.
    Behind { taken: Offset, next: Offset },
}

/// A message, listed until it settles.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) listed: Listed,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) state: State,
    /// Its dead letter is on its way.
    pub(crate) is_buried: bool,
}

/// Where a message stands. All but the first two have a body; the last three are *under way* and keep it.
#[derive(Debug)]
pub(crate) enum State {
    /// Let go: no body.
    Gone,
    /// Its packets are being taken from the log again.
    Rebuilding(Body, Option<Lease>),
    /// Ready for its first attempt, or for the next after it was let go in between.
    Waiting(Parcel),
    /// An attempt is under way. It ends under the definition that it began with.
    InFlight { parcel: Parcel, slot: Slot, outlet: Arc<Outlet> },
    /// Between two attempts, until then.
    Pausing { parcel: Parcel, until: Instant, _pause: Pause },
    /// Its dead letter is being written.
    Dying(Parcel),
}

/// What is sent, and what it holds of the room.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) id: MessageId,
    pub(crate) body: Sealed,
    _lease: Option<Lease>,
}

/// What won't be sent, found in a turn of a sweep.
#[derive(Debug, Default)]
pub(crate) struct Dead {
    /// Packets that were in no message, each by itself, and replays, each whole and with the id that it brings back.
    pub(crate) unlisted: Vec<Unsent>,
    /// First offsets of messages that are whole again.
    pub(crate) messages: Vec<Offset>,
}

/// What won't be sent: a packet by itself, or a replay.
#[derive(Debug)]
pub(crate) struct Unsent {
    pub(crate) message: Replay,
    /// What is wrong with it by itself, for people; mostly nothing.
    pub(crate) why: String,
}

/// The form of bodies that only dead letters are made from.
static NOWHERE: LazyLock<Arc<Webhook>> = LazyLock::new(|| {
    let url = "http://nowhere.invalid/".parse().expect("this is a URL");
    Arc::new(Webhook::new("nowhere", url))
});

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The lane has it, or had it before.
    Taken,
    /// It would begin a message, and the webhook may not begin one (L2).
    Refused,
}

// === impl Lane ===

impl Lane {
    /// A lane that is born live, by its first record.
    pub(crate) fn new(group: GroupId, outlet: Option<Arc<Outlet>>) -> Self {
        Self {
            group,
            outlet,
            pace: Pace::Live,
            cutter: Cutter::default(),
            lease: None,
            messages: VecDeque::new(),
            closes: None,
            unknown_since: None,
            is_lost: false,
            burying: None,
            fresh_at: 0,
            unsettled: 0,
            waiting: 0,
            in_line: false,
        }
    }

    /// A lane as progress lists it: behind, with everything let go (L10). Its window closes one length after the start.
    pub(crate) fn resume(group: GroupId, outlet: Option<Arc<Outlet>>, listed: &LaneProgress, head: Offset, now: Instant) -> Self {
        let window = listed.window.map(|open| Window { opened: open.opened, cut_from: open.cut_from });
        let message = |listed: &Listed| Message { listed: *listed, attempts: Vec::new(), state: State::Gone, is_buried: false };
        let taken = listed.messages.first().map_or(listed.next, |first| first.first.min(listed.next));
        let mut lane = Self::new(group, outlet);
        lane.cutter = Cutter::resume(window);
        lane.messages = listed.messages.iter().map(message).collect();
        lane.closes = lane.outlet.as_ref().filter(|_| window.is_some()).map(|outlet| now + outlet.webhook.window);
        lane.unsettled = listed.unsettled;
        lane.fall_behind(taken, listed.next, head);
        lane
    }

    /// Shows a record of its group (L1, L2). Below `next` it can only belong to a listed message that was let go (L3).
    pub(crate) fn show(&mut self, offset: Offset, record: &Record<'_>, partition: u32, now: Instant, cuts: &mut Vec<Cut>) -> Shown {
        let Some(outlet) = self.outlet.clone() else { return Shown::Refused };
        if offset < self.next_or(offset) {
            return self.rebuild(&outlet, offset, record, partition);
        }
        let taken = match record.as_packet() {
            Some(packet) => self.take(&outlet, offset, &packet, partition, now, cuts),
            None => self.take_replay(&outlet, offset, record, partition),
        };
        if taken {
            return Shown::Taken;
        }
        outlet.share.refused();
        Shown::Refused
    }

    fn take(
        &mut self,
        outlet: &Arc<Outlet>,
        offset: Offset,
        packet: &Packet<'_>,
        partition: u32,
        now: Instant,
        cuts: &mut Vec<Cut>,
    ) -> bool {
        let opened = self.cutter.window().map(|window| window.opened);
        let taken = self.cutter.show(&outlet.webhook, offset, packet, || outlet.share.may_begin(), cuts);
        for cut in cuts.drain(..) {
            self.list(outlet, cut, partition);
        }
        self.lease_unfinished(outlet);
        let opens = self.cutter.window().map(|window| window.opened);
        if opens != opened {
            self.closes = opens.map(|_| now + outlet.webhook.window);
        }
        taken
    }

    /// L15: a replay closes the window and is one message by itself.
    fn take_replay(&mut self, outlet: &Arc<Outlet>, offset: Offset, record: &Record<'_>, partition: u32) -> bool {
        self.close(partition);
        let Some(replay) = Replay::of(record).filter(|replay| !replay.packets.is_empty()) else { return true };
        if !outlet.share.may_begin() {
            return false;
        }
        let count = u32::try_from(replay.packets.len()).unwrap_or(u32::MAX);
        let listed = Listed { first: offset, last: offset, count, array: replay.array || count > 1, replay: true };
        let mut body = Body::default();
        push_all(&mut body, &outlet.webhook, record);
        self.push_message(outlet, listed, body.seal(listed.array), replay.id(), partition);
        true
    }

    /// All the group's records from a listed message's first to its last offset are that message.
    fn rebuild(&mut self, outlet: &Arc<Outlet>, offset: Offset, record: &Record<'_>, partition: u32) -> Shown {
        let group = self.group.key();
        let Some(message) = self.messages.iter_mut().find(|message| message.is_let_go_at(offset)) else { return Shown::Taken };
        if matches!(message.state, State::Gone) {
            if !outlet.share.may_begin() {
                outlet.share.refused();
                return Shown::Refused;
            }
            message.state = State::Rebuilding(Body::default(), Some(outlet.share.lease()));
        }
        if let State::Rebuilding(body, lease) = &mut message.state {
            push_all(body, &outlet.webhook, record);
            lease.iter_mut().for_each(|lease| lease.resize(body.held()));
            if offset == message.listed.last {
                let sealed = std::mem::take(body).seal(message.listed.array);
                let lease = Some(outlet.share.lease());
                message.state = State::Waiting(Parcel::new(sealed, group, partition, &message.listed, replayed_id(record), lease));
                self.waiting += 1;
            }
        }
        Shown::Taken
    }

    fn list(&mut self, outlet: &Arc<Outlet>, cut: Cut, partition: u32) {
        let count = u32::try_from(cut.body.count()).unwrap_or(u32::MAX);
        let listed = Listed { first: cut.first, last: cut.last, count, array: cut.body.is_array(), replay: false };
        self.push_message(outlet, listed, cut.body, None, partition);
    }

    fn push_message(&mut self, outlet: &Arc<Outlet>, listed: Listed, body: Sealed, id: Option<MessageId>, partition: u32) {
        let parcel = Parcel::new(body, self.group.key(), partition, &listed, id, Some(outlet.share.lease()));
        if self.messages.is_empty() {
            self.messages.reserve_exact(1); // most lanes have one: the usual growth begins with four
        }
        self.messages.push_back(Message { listed, attempts: Vec::new(), state: State::Waiting(parcel), is_buried: false });
        self.waiting += 1;
        if let Pace::Behind { next, .. } = &mut self.pace {
            *next = (*next).max(listed.last + 1);
        }
    }

    /// The lease of what was cut has gone over to the message; what is left is the unfinished one's.
    fn lease_unfinished(&mut self, outlet: &Arc<Outlet>) {
        match self.cutter.held() {
            0 => self.lease = None,
            held => self.lease.get_or_insert_with(|| outlet.share.lease()).resize(held),
        }
    }

    /// Time closes the window (L6). Returns whether that made a message.
    pub(crate) fn close(&mut self, partition: u32) -> bool {
        self.closes = None;
        let Some(outlet) = self.outlet.clone() else { return false };
        let cut = self.cutter.close(&outlet.webhook);
        let made = cut.is_some();
        cut.into_iter().for_each(|cut| self.list(&outlet, cut, partition));
        self.lease_unfinished(&outlet);
        made
    }

    /// L3: drops every body that isn't under way; what is listed stays listed, and `taken` falls back to the smallest offset that
    /// has lost its body.
    pub(crate) fn let_go(&mut self, head: Offset) {
        let (taken, next) = (self.taken(head), self.next(head));
        let unfinished = self.cutter.let_go();
        self.lease = None;
        self.waiting = 0;
        for message in &mut self.messages {
            if !message.is_under_way() {
                message.state = State::Gone;
            }
        }
        let lost = self.messages.iter().filter(|message| matches!(message.state, State::Gone)).map(|message| message.listed.first);
        let taken = lost.chain(unfinished).fold(taken, Offset::min);
        self.fall_behind(taken, next, head);
    }

    /// L13: its messages go elsewhere from now on. What is in flight ends as it began; everything else is let go.
    pub(crate) fn redirect(&mut self, outlet: Option<Arc<Outlet>>, head: Offset, now: Instant) {
        for message in &mut self.messages {
            if matches!(message.state, State::Pausing { .. }) {
                message.state = State::Gone;
            }
        }
        self.let_go(head);
        self.closes = outlet.as_ref().filter(|_| self.window().is_some()).map(|outlet| now + outlet.webhook.window);
        (self.unknown_since, self.is_lost) = (outlet.is_none().then_some(now), false);
        self.outlet = outlet;
    }

    /// L13: it has waited too long for somewhere to go. Nobody can close its window any more.
    pub(crate) fn lose(&mut self) {
        self.is_lost = true;
        self.cutter = Cutter::default();
        self.closes = None;
    }

    // --- packets that become dead letters without an attempt (L12, L13)

    /// Shows a record that won't be sent. A packet that isn't in a message yet is a dead letter by itself; one of a message that was let go makes
    /// the message whole again, and that becomes one.
    pub(crate) fn show_dead(&mut self, offset: Offset, record: &Record<'_>, partition: u32, dead: &mut Dead) {
        if offset < self.next_or(offset) {
            if let Some(message) = self.rebuild_dead(offset, record, partition) {
                dead.messages.push(message);
            }
        } else {
            // No message goes across a record that isn't in it: rebuilt, it would be another one.
            self.close(partition);
            self.burying = Some(offset + 1);
            dead.unlisted.extend(unlisted(record));
        }
    }

    fn rebuild_dead(&mut self, offset: Offset, record: &Record<'_>, partition: u32) -> Option<Offset> {
        let message = self.messages.iter_mut().find(|message| message.is_let_go_at(offset))?;
        // Where nobody knows the webhook, any form of the body serves: only its packets are taken out again.
        let form = self.outlet.as_ref().map_or_else(|| Arc::clone(&NOWHERE), |outlet| Arc::clone(&outlet.webhook));
        if matches!(message.state, State::Gone) {
            message.state = State::Rebuilding(Body::default(), self.outlet.as_ref().map(|outlet| outlet.share.lease()));
        }
        let State::Rebuilding(body, lease) = &mut message.state else { return None };
        push_all(body, &form, record);
        lease.iter_mut().for_each(|lease| lease.resize(body.held()));
        if offset < message.listed.last {
            return None;
        }
        let sealed = std::mem::take(body).seal(message.listed.array);
        let lease = self.outlet.as_ref().map(|outlet| outlet.share.lease());
        message.state = State::Dying(Parcel::new(sealed, self.group.key(), partition, &message.listed, replayed_id(record), lease));
        Some(message.listed.first)
    }

    /// What it was shown to be dead is durable up to there. Returns how many packets settled.
    pub(crate) fn buried(&mut self, to: Offset, packets: u64, head: Offset) {
        if self.burying != Some(to) {
            return;
        }
        self.burying = None;
        self.unsettled = self.unsettled.saturating_sub(packets);
        if let Pace::Behind { next, .. } = &mut self.pace {
            *next = (*next).max(to);
        }
        // It may have let go of an earlier message meanwhile: it stays where it is.
        self.advance(0, head);
    }

    /// Where the packets end whose dead letters are being written.
    pub(crate) fn burying(&self) -> Option<Offset> {
        self.burying
    }

    /// It was refused at its record at `offset`, which live reading has passed.
    pub(crate) fn refused_at(&mut self, offset: Offset, head: Offset) {
        let next = self.next_or(offset).max(offset);
        self.fall_behind(offset, next, head);
    }

    /// It was shown everything below `to`. Returns whether that makes it live.
    pub(crate) fn advance(&mut self, to: Offset, head: Offset) -> bool {
        if let Pace::Behind { taken, next } = &mut self.pace {
            *taken = (*taken).max(to);
            if self.cutter.first().is_none() && self.burying.is_none() {
                *next = (*next).max(*taken);
            }
            if *taken >= head && self.burying.is_none() {
                self.pace = Pace::Live;
                return true;
            }
        }
        false
    }

    fn fall_behind(&mut self, taken: Offset, next: Offset, head: Offset) {
        self.pace = if taken < head || self.burying.is_some() { Pace::Behind { taken, next } } else { Pace::Live };
    }

    pub(crate) fn is_live(&self) -> bool {
        self.pace == Pace::Live
    }

    pub(crate) fn taken(&self, head: Offset) -> Offset {
        match self.pace {
            Pace::Live => head,
            Pace::Behind { taken, .. } => taken,
        }
    }

    /// Its records below this are settled or in a listed message.
    pub(crate) fn next(&self, head: Offset) -> Offset {
        self.next_or(head)
    }

    fn next_or(&self, live: Offset) -> Offset {
        match (self.cutter.first(), self.pace) {
            (Some(first), _) => first,
            (None, Pace::Live) => live,
            (None, Pace::Behind { next, .. }) if self.burying.is_some() => next,
            (None, Pace::Behind { taken, next }) => next.max(taken),
        }
    }

    pub(crate) fn window(&self) -> Option<Window> {
        self.cutter.window()
    }

    /// When the log's time closes the window.
    pub(crate) fn window_end(&self) -> Option<Timestamp> {
        let outlet = self.outlet.as_ref()?;
        self.window().map(|window| window.opened.plus(outlet.webhook.window))
    }

    /// Whether it has a message at hand: unfinished, or being rebuilt.
    pub(crate) fn is_at_hand(&self) -> bool {
        self.cutter.first().is_some() || self.messages.iter().any(|message| matches!(message.state, State::Rebuilding(..)))
    }

    /// Nothing is left of it: no lane exists for an idle group. A window that was cut from keeps it until it closes.
    pub(crate) fn is_clean(&self) -> bool {
        self.is_live() && self.messages.is_empty() && self.cutter.first().is_none() && !self.window().is_some_and(|window| window.cut_from)
    }

    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter()
    }

    pub(crate) fn message(&mut self, first: Offset) -> Option<&mut Message> {
        let place = self.place(first)?;
        self.messages.get_mut(place)
    }

    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.messages.iter().any(Message::is_under_way)
    }

    /// Starts the first message that waits: what to send, in which slot. `None`: none waits.
    pub(crate) fn start(&mut self, slot: Slot, outlet: &Arc<Outlet>) -> Option<&Message> {
        let message = self.messages.iter_mut().find(|message| matches!(message.state, State::Waiting(_)))?;
        self.waiting -= 1;
        message.fly(slot, outlet);
        Some(message)
    }

    /// A message with a body won't be sent (any more). `None`: it has none, or its dead letter is being written already.
    pub(crate) fn die(&mut self, first: Offset) -> Option<&Message> {
        let place = self.place(first)?;
        let message = self.messages.get_mut(place)?;
        let was_waiting = matches!(message.state, State::Waiting(_));
        let (parcel, fresh) = match std::mem::replace(&mut message.state, State::Gone) {
            State::Waiting(parcel) | State::InFlight { parcel, .. } | State::Pausing { parcel, .. } => (parcel, true),
            State::Dying(parcel) => (parcel, !message.is_buried),
            other => {
                message.state = other;
                return None;
            }
        };
        message.state = State::Dying(parcel);
        message.is_buried = true;
        self.waiting -= usize::from(was_waiting);
        fresh.then_some(&self.messages[place])
    }

    /// L7. Returns how many packets settled.
    pub(crate) fn settle(&mut self, first: Offset) -> u64 {
        let Some(message) = self.place(first).and_then(|place| self.messages.remove(place)) else { return 0 };
        let count = u64::from(message.listed.count);
        self.unsettled = self.unsettled.saturating_sub(count);
        count
    }

    fn place(&self, first: Offset) -> Option<usize> {
        self.messages.binary_search_by_key(&first, |message| message.listed.first).ok()
    }

    /// L8: the smallest of its offsets that isn't settled; the head where there is none.
    pub(crate) fn watermark(&self, head: Offset) -> Offset {
        self.messages.front().map_or(head, |message| message.listed.first).min(self.next(head))
    }

    /// L9.
    pub(crate) fn progress(&self, head: Offset) -> LaneProgress {
        LaneProgress {
            group: self.group.key().to_owned(),
            next: self.next(head),
            window: self.window().map(|window| OpenWindow { opened: window.opened, cut_from: window.cut_from }),
            messages: self.messages.iter().map(|message| message.listed).collect(),
            unsettled: self.unsettled,
        }
    }
}

// === impl Message ===

impl Message {
    fn is_let_go_at(&self, offset: Offset) -> bool {
        matches!(self.state, State::Gone | State::Rebuilding(..)) && (self.listed.first..=self.listed.last).contains(&offset)
    }

    /// Takes off with the parcel that it has; without one it stays where it is.
    pub(crate) fn fly(&mut self, slot: Slot, outlet: &Arc<Outlet>) {
        let outlet = Arc::clone(outlet);
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Waiting(parcel) | State::Pausing { parcel, .. } => State::InFlight { parcel, slot, outlet },
            other => other,
        };
    }

    /// What is sent; `None` unless it is under way or ready to be.
    pub(crate) fn parcel(&self) -> Option<&Parcel> {
        match &self.state {
            State::Waiting(parcel) | State::InFlight { parcel, .. } | State::Pausing { parcel, .. } | State::Dying(parcel) => Some(parcel),
            State::Gone | State::Rebuilding(..) => None,
        }
    }

    /// Whether it has a body and is too old (L12): received before, and not under way; or stored below, whatever it is doing.
    pub(crate) fn is_expired(&self, before: Timestamp, below: Offset) -> bool {
        let is_old = |parcel: &Parcel| parcel.body.first_received_at() < before;
        match &self.state {
            State::Waiting(parcel) => is_old(parcel) || self.listed.first < below,
            State::InFlight { .. } | State::Pausing { .. } => self.listed.first < below,
            State::Gone | State::Rebuilding(..) | State::Dying(_) => false,
        }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self.state, State::InFlight { .. } | State::Pausing { .. } | State::Dying(_))
    }
}

impl Parcel {
    /// The id is always made from the packets in the body, or is the one that a replay brings back.
    fn new(body: Sealed, group: &str, partition: u32, listed: &Listed, id: Option<MessageId>, mut lease: Option<Lease>) -> Self {
        lease.iter_mut().for_each(|lease| lease.resize(body.held()));
        let count = u32::try_from(body.count()).unwrap_or(u32::MAX);
        let made = || message_id(group, partition, listed.first, body.first_received_at(), listed.last, count, body.is_array());
        Self { id: id.unwrap_or_else(made), body, _lease: lease }
    }
}

/// The packet of a record, or those of a replay.
fn push_all(body: &mut Body, form: &Webhook, record: &Record<'_>) {
    match record.as_packet() {
        Some(packet) => body.push(form, &packet),
        None => Replay::of(record).into_iter().for_each(|replay| replay.packets().for_each(|packet| body.push(form, &packet))),
    }
}

fn unlisted(record: &Record<'_>) -> Option<Unsent> {
    let alone = |packet| Replay { message_id: None, array: false, packets: vec![packet] };
    let (message, why) = match (record.as_packet(), record.kind) {
        (Some(packet), _) => (alone(packet.into()), ""),
        (None, Kind::Replay) if Replay::of(record).is_some_and(|replay| !replay.packets.is_empty()) => (Replay::of(record)?, ""),
        (None, kind) => {
            let why = if let Kind::Foreign { why } = kind { why } else { "it doesn't belong on this topic, or a later version wrote it" };
            let payload = record.payload.to_vec();
            (alone(DeadPacket { received_at: record.at, topic: String::new(), iccid: String::new(), payload }), why)
        }
    };
    Some(Unsent { message, why: why.to_owned() })
}

fn replayed_id(record: &Record<'_>) -> Option<MessageId> {
    Replay::of(record)?.id()
}
