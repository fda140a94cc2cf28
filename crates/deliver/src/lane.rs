//! A lane: one group's way through the log at its own pace (LANES.md), for all of a partition ([`crate::lanes`]). Pure: records and outcomes in,
//! messages ready to be sent out.
//!
//! A lane is a few numbers (`pace.rs`) and its listed messages (`message.rs`); between the two numbers lies only its unfinished message. Everything
//! that isn't under way can be let go and is rebuilt from the log. What won't be sent has its own way through (`dead.rs`).

mod dead;
mod message;
mod pace;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use pushline_batch::{Body, Cut, Cutter, Sealed, Window};
use pushline_model::{GroupId, MessageId, Offset, Packet, Timestamp};
use pushline_queue::{Record, Replay};

pub(crate) use self::{
    dead::{Dead, Unsent},
    message::{Message, Parcel, State},
};
use self::{
    message::{let_go_at, push_all},
    pace::Pace,
};
use crate::{
    checkpoint::{LaneCheckpoint, Listed, OpenWindow},
    outlets::Outlet,
    room::Lease,
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
    /// It has come to a record that won't be sent, while no more dead letters could be made.
    pub(crate) is_held_up: bool,
    /// The last look for expired packets that found none here (L12).
    pub(crate) fresh_at: u64,
    /// Packets that were passed and haven't settled.
    pub(crate) unsettled: u64,
    /// How many messages wait for an attempt.
    waiting: usize,
    /// Whether it stands in its webhook's line for the next slot.
    pub(crate) in_line: bool,
}

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
            is_held_up: false,
            fresh_at: 0,
            unsettled: 0,
            waiting: 0,
            in_line: false,
        }
    }

    /// A lane as checkpoint lists it: behind, with everything let go (L10). Its window closes one length after the start.
    pub(crate) fn resume(group: GroupId, outlet: Option<Arc<Outlet>>, listed: &LaneCheckpoint, head: Offset, now: Instant) -> Self {
        let window = listed.window.map(|open| Window { opened: open.opened, cut_from: open.cut_from });
        let taken = listed.messages.first().map_or(listed.next, |first| first.first.min(listed.next));
        let mut lane = Self::new(group, outlet);
        lane.cutter = Cutter::resume(window);
        lane.messages = listed.messages.iter().map(|listed| Message::new(*listed, State::Gone)).collect();
        lane.closes = lane.outlet.as_ref().filter(|_| window.is_some()).map(|outlet| now + outlet.webhook.window);
        lane.unsettled = listed.unsettled;
        lane.fall_behind(taken, listed.next, head);
        lane
    }

    /// Shows a record of its group (L1, L2). Below `next` it can only belong to a listed message that was let go (L3).
    pub(crate) fn show(&mut self, offset: Offset, record: &Record<'_>, partition: u32, now: Instant, cuts: &mut Vec<Cut>) -> Shown {
        let Some(outlet) = self.outlet.clone() else { return Shown::Refused };
        if offset < self.next(offset) {
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
        let Some(replay) = Replay::of(record) else { return true };
        if !outlet.share.may_begin() {
            return false;
        }
        let count = u32::try_from(replay.packets.len()).unwrap_or(u32::MAX);
        // What brings no id back was never sent in either shape: it has that of any other message.
        let array = replay.array || count > 1 || replay.message_id.is_none() && outlet.webhook.always_array;
        let listed = Listed { first: offset, last: offset, count, array, replay: true };
        let mut body = Body::default();
        push_all(&mut body, &outlet.webhook, record);
        self.push_message(outlet, listed, body.seal(listed.array), replay.id(), partition);
        true
    }

    /// All the group's records from a listed message's first to its last offset are that message.
    fn rebuild(&mut self, outlet: &Arc<Outlet>, offset: Offset, record: &Record<'_>, partition: u32) -> Shown {
        let group = self.group.key();
        let Some(message) = let_go_at(&mut self.messages, offset) else { return Shown::Taken };
        if matches!(message.state, State::Gone) {
            if !outlet.share.may_begin() {
                outlet.share.refused();
                return Shown::Refused;
            }
            message.state = State::Rebuilding(Body::default(), Some(outlet.share.lease()));
        }
        if let Some(parcel) = message.take_back(&outlet.webhook, group, partition, offset, record) {
            message.state = State::Waiting(parcel);
            self.waiting += 1;
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
        self.messages.push_back(Message::new(listed, State::Waiting(parcel)));
        self.waiting += 1;
        self.raise_next(listed.last + 1);
    }

    /// The lease of what was cut has gone over to the message; what is left is the unfinished one's.
    fn lease_unfinished(&mut self, outlet: &Arc<Outlet>) {
        match self.cutter.held() {
            0 => self.lease = None,
            held => self.lease.get_or_insert_with(|| outlet.share.lease()).resize(held),
        }
    }

    /// Time, or a record that shares no message with what came before, closes the window (L6).
    pub(crate) fn close(&mut self, partition: u32) {
        self.closes = None;
        let Some(outlet) = self.outlet.clone() else { return };
        if let Some(cut) = self.cutter.close(&outlet.webhook) {
            self.list(&outlet, cut, partition);
        }
        self.lease_unfinished(&outlet);
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
        self.cutter.first().is_some() || self.is_rebuilding()
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

    /// Starts the first message that waits: what to send. `None`: none waits.
    pub(crate) fn start(&mut self, outlet: &Arc<Outlet>) -> Option<&Message> {
        let message = self.messages.iter_mut().find(|message| matches!(message.state, State::Waiting(_)))?;
        self.waiting -= 1;
        message.fly(outlet);
        Some(message)
    }

    /// L7. Returns how many packets settled.
    pub(crate) fn settle(&mut self, first: Offset, head: Offset) -> u64 {
        let Some(message) = self.place(first).and_then(|place| self.messages.remove(place)) else { return 0 };
        let count = u64::from(message.listed.count);
        self.unsettled = self.unsettled.saturating_sub(count);
        self.pass_settled(head);
        count
    }

    fn place(&self, first: Offset) -> Option<usize> {
        if self.messages.front().is_some_and(|oldest| oldest.listed.first == first) {
            return Some(0); // mostly it is
        }
        self.messages.binary_search_by_key(&first, |message| message.listed.first).ok()
    }

    /// L8: the smallest of its offsets that isn't settled; the head where there is none.
    pub(crate) fn watermark(&self, head: Offset) -> Offset {
        self.messages.front().map_or(head, |message| message.listed.first).min(self.next(head))
    }

    /// L9.
    pub(crate) fn checkpoint(&self, head: Offset) -> LaneCheckpoint {
        LaneCheckpoint {
            group: self.group.key().to_owned(),
            next: self.next(head),
            window: self.window().map(|window| OpenWindow { opened: window.opened, cut_from: window.cut_from }),
            messages: self.messages.iter().map(|message| message.listed).collect(),
            unsettled: self.unsettled,
        }
    }
}
