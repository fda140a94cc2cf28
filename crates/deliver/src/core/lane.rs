//! A lane: one group's way through the log at its own pace (docs/delivery.md, Lanes). Records and outcomes in, messages ready to be sent out.
//!
//! A lane is a few numbers and its outstanding messages. Everything that isn't active can be evicted, and is rebuilt from the log.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use pushline_batch::{Body, Cut, CutRules, Cutter, NextPacket, Sealed, Window};
use pushline_model::{Cause, GroupId, IccidForm, Identify, MessageId, Offset, PayloadForm, Timestamp};
use pushline_queue::{Record, Replay};

use super::message::{Home, Message, Prepared, Rebuild, State, evicted_at, packets, push_all};
use crate::{
    checkpoint::{LaneCheckpoint, MessageSpan, OpenWindow},
    memory_budget::Lease,
    webhooks::WebhookHandle,
};

/// The window length of a group whose webhook this process has never known (document rule 1).
const DOCUMENTS_WINDOW: Duration = Duration::from_secs(1);

/// How bodies are written that only dead letters are made from: any form serves.
const NEVER_SENT: CutRules = CutRules {
    window: DOCUMENTS_WINDOW,
    max_packets: usize::MAX,
    max_body_bytes: usize::MAX,
    always_array: false,
    send: Identify::Iccid,
    iccid: IccidForm::Number,
    payload: PayloadForm::Text,
};

/// One group that has something unfinished in the partition. None exists for an idle group.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(super) group: GroupId,
    pub(super) intake: Intake,
    pub(super) reading: Reading,
    pub(super) cutter: Cutter,
    /// What the open message holds.
    lease: Option<Lease>,
    /// In offset order.
    pub(super) messages: VecDeque<Message>,
    /// The last expiry check that found no expired record here.
    pub(super) fresh_at: u64,
    /// Packets that live reading has passed and that haven't settled.
    pub(super) unsettled: u64,
    /// Messages cut below this offset may have been sent by the process before under other cut rules.
    pub(super) excused_below: Offset,
    /// How many messages wait for an attempt.
    waiting: u32,
    /// Whether it stands in its webhook's line for the next permit.
    pub(super) in_line: bool,
    /// It is behind, at a record that becomes a dead letter, while no more of them could be made.
    pub(super) waits_to_dead_letter: bool,
}

/// What becomes of a lane's next record.
#[derive(Debug)]
pub(super) enum Intake {
    /// It goes into a message of this webhook.
    Taking(Arc<WebhookHandle>),
    /// It waits: this process knows no webhook of the group since then.
    UnknownGroup { since: Instant, last: LastRules },
    /// It becomes a dead letter: the group has had no webhook for too long.
    NoWebhook { last: LastRules },
    /// It becomes a dead letter: no group can be read from it.
    Unreadable,
}

/// How far a lane has read.
#[derive(Debug)]
pub(super) enum Reading {
    /// All its records up to the live offset.
    Live,
    /// Its records below `read_until`. Those below `batched_until` are settled or in an outstanding message; while a message is open, that begins
    /// there.
    Behind { read_until: Offset, batched_until: Offset },
    /// Behind, and dead letters of records that are in no message aren't durable yet. It begins no message and reads nothing meanwhile.
    DeadLettering(Box<DeadLettering>),
}

/// Records whose dead letters are being written.
#[derive(Debug)]
pub(super) struct DeadLettering {
    pub(super) read_until: Offset,
    /// The first of them. Below it every record is settled or in an outstanding message.
    pub(super) first: Offset,
    /// The offset after the last of them.
    pub(super) until: Offset,
    /// The window that was open at the first: a restart begins there.
    pub(super) window: Option<Window>,
}

/// What was known last of the cut rules of a group without webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastRules {
    pub(super) window: Duration,
    pub(super) hash: Option<u64>,
}

/// A record offered to a lane at or above its `batched_until`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) offset: Offset,
    pub(super) log_time: Timestamp,
    pub(super) record: &'a Record<'a>,
    pub(super) partition: u32,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// The lane has it, or had it before.
    Accepted,
    /// It would begin a message, and the webhook may not begin one.
    Refused,
}

/// What a lane has cut, for [`crate::core::Core`] to count.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    cuts: Vec<Cut>,
    /// Messages that may have been sent before under another id, since the cut rules changed.
    pub(super) excused: u64,
}

// === impl LastRules ===

impl LastRules {
    /// Nothing is known.
    pub(super) const UNKNOWN: Self = Self { window: DOCUMENTS_WINDOW, hash: None };
}

// === impl Intake ===

impl Intake {
    /// Of a group with this webhook; without one it waits from now on.
    pub(super) fn new(group: &GroupId, handle: Option<Arc<WebhookHandle>>, last: LastRules, now: Instant) -> Self {
        match handle {
            _ if *group == GroupId::none() => Self::Unreadable,
            Some(handle) => Self::Taking(handle),
            None => Self::UnknownGroup { since: now, last },
        }
    }

    pub(super) fn handle(&self) -> Option<&Arc<WebhookHandle>> {
        if let Self::Taking(handle) = self { Some(handle) } else { None }
    }

    pub(super) fn last_rules(&self) -> LastRules {
        match self {
            Self::Taking(handle) => LastRules { window: handle.rules.window, hash: Some(handle.rules_hash) },
            Self::UnknownGroup { last, .. } | Self::NoWebhook { last } => *last,
            Self::Unreadable => LastRules::UNKNOWN,
        }
    }
}

// === impl Lane ===

impl Lane {
    /// A lane that is born live, by its first record.
    pub(super) fn new(group: GroupId, intake: Intake) -> Self {
        Self {
            group,
            intake,
            reading: Reading::Live,
            cutter: Cutter::default(),
            lease: None,
            messages: VecDeque::new(),
            fresh_at: 0,
            unsettled: 0,
            excused_below: 0,
            waiting: 0,
            in_line: false,
            waits_to_dead_letter: false,
        }
    }

    /// A lane as a checkpoint has it: with everything evicted.
    pub(super) fn resume(group: GroupId, intake: Intake, saved: LaneCheckpoint, live_offset: Offset) -> Self {
        let window = saved.window.map(|open| Window { opened: open.opened, cut_from: open.cut_from, dead_lettered: open.dead_lettered });
        let read_until = saved.messages.first().map_or(saved.batched_until, |first| first.first.min(saved.batched_until));
        let mut lane = Self::new(group, intake);
        lane.cutter = Cutter::resume(window);
        lane.messages = saved.messages.into_iter().map(|span| Message::new(span, State::Evicted)).collect();
        lane.unsettled = saved.unsettled;
        lane.fall_behind(read_until, saved.batched_until, live_offset);
        lane
    }

    // --- where it reads

    pub(super) fn is_live(&self) -> bool {
        matches!(self.reading, Reading::Live)
    }

    pub(super) fn is_dead_lettering(&self) -> bool {
        matches!(self.reading, Reading::DeadLettering(_))
    }

    /// Every record of it below this offset was read by the lane, or has settled.
    pub(super) fn read_until(&self, live_offset: Offset) -> Offset {
        match &self.reading {
            Reading::Live => live_offset,
            Reading::Behind { read_until, .. } => *read_until,
            Reading::DeadLettering(letters) => letters.read_until,
        }
    }

    /// Every record of it below this offset is settled or in an outstanding message.
    pub(super) fn batched_until(&self, live_offset: Offset) -> Offset {
        match (&self.reading, self.cutter.first()) {
            (Reading::DeadLettering(letters), _) => letters.first,
            (_, Some(first)) => first,
            (Reading::Live, None) => live_offset,
            (Reading::Behind { read_until, batched_until }, None) => *batched_until.max(read_until),
        }
    }

    /// It was offered everything below `to`. At the live offset it is live.
    pub(super) fn advance(&mut self, to: Offset, live_offset: Offset) {
        let is_filling = self.cutter.first().is_some();
        match &mut self.reading {
            Reading::Live => {}
            Reading::DeadLettering(letters) => letters.read_until = letters.read_until.max(to),
            Reading::Behind { read_until, batched_until } => {
                *read_until = to.max(*read_until);
                if !is_filling {
                    *batched_until = (*batched_until).max(*read_until);
                }
                if *read_until >= live_offset {
                    self.reading = Reading::Live;
                    self.waits_to_dead_letter = false;
                }
            }
        }
    }

    /// It stops before its record at `offset`, which live reading has passed.
    pub(super) fn stop_at(&mut self, offset: Offset, live_offset: Offset) {
        match &mut self.reading {
            Reading::DeadLettering(letters) => letters.read_until = letters.read_until.max(offset),
            Reading::Live | Reading::Behind { .. } => {
                let batched_until = self.batched_until(offset).max(offset);
                self.fall_behind(offset, batched_until, live_offset);
            }
        }
    }

    fn fall_behind(&mut self, read_until: Offset, batched_until: Offset, live_offset: Offset) {
        self.reading = if read_until < live_offset { Reading::Behind { read_until, batched_until } } else { Reading::Live };
    }

    /// Nothing of it is left below its watermark, so no catch-up read goes there again: the log may be deleted there.
    fn pass_settled(&mut self, live_offset: Offset) {
        self.advance(self.watermark(live_offset), live_offset);
    }

    /// The smallest of its offsets that isn't settled; the live offset where there is none.
    pub(super) fn watermark(&self, live_offset: Offset) -> Offset {
        self.messages.front().map_or(live_offset, |message| message.span.first).min(self.batched_until(live_offset))
    }

    /// The dead letters of records that were in no message are durable, below `until`: this many packets have settled.
    pub(super) fn dead_letters_durable(&mut self, until: Offset, packets: u64, live_offset: Offset) {
        let Reading::DeadLettering(letters) = &self.reading else { return };
        debug_assert_eq!(letters.until, until, "a lane writes the dead letters of one block at a time");
        let (read_until, batched_until) = (letters.read_until, letters.until.max(letters.read_until));
        self.fall_behind(read_until, batched_until, live_offset);
        self.unsettled = self.unsettled.saturating_sub(packets);
        // It may have evicted an earlier message meanwhile: then it stays where it is.
        self.pass_settled(live_offset);
    }

    /// Whether it is rebuilding a message, the one that it stands in.
    fn is_rebuilding(&self) -> bool {
        let read_until = match &self.reading {
            Reading::Live => return false,
            Reading::Behind { read_until, .. } => *read_until,
            Reading::DeadLettering(letters) => letters.read_until,
        };
        let place = self.messages.partition_point(|message| message.span.last < read_until);
        self.messages.get(place).is_some_and(|message| matches!(message.state, State::Rebuilding(_)))
    }

    /// Whether it is filling a body: of the open message, or of one that is being rebuilt.
    pub(super) fn is_filling(&self) -> bool {
        self.cutter.first().is_some() || self.is_rebuilding()
    }

    /// Whether nothing of it is left. An open window keeps it until it closes.
    pub(super) fn is_clean(&self) -> bool {
        self.is_live() && self.messages.is_empty() && self.cutter.window().is_none()
    }

    // --- records

    /// Offers a record to the webhook, live or behind, at or above `batched_until`.
    pub(super) fn offer(&mut self, offer: &Offer<'_>, scratch: &mut Scratch) -> Offered {
        let Intake::Taking(handle) = &self.intake else { return Offered::Refused };
        let handle = Arc::clone(handle);
        let is_accepted = match offer.record.as_packet() {
            Some(packet) => {
                let next = NextPacket { offset: offer.offset, log_time: offer.log_time, packet };
                let is_accepted = self.cutter.offer(&handle.rules, &next, || handle.may_begin(), &mut scratch.cuts);
                self.take_cuts(&handle, offer.partition, scratch);
                is_accepted
            }
            None => self.offer_replay(&handle, offer, scratch),
        };
        if is_accepted {
            return Offered::Accepted;
        }
        handle.budgets.refused();
        Offered::Refused
    }

    /// A replay closes the window and is one message by itself.
    fn offer_replay(&mut self, handle: &Arc<WebhookHandle>, offer: &Offer<'_>, scratch: &mut Scratch) -> bool {
        self.close_window(offer.partition, scratch);
        let Some(replay) = Replay::of(offer.record) else { return true };
        if !handle.may_begin() {
            return false;
        }
        let count = packets(replay.packets.len());
        let span = MessageSpan { first: offer.offset, last: offer.offset, count, array: replay.array, replay: true };
        let mut body = Body::default();
        push_all(&mut body, &handle.rules, offer.record);
        self.push_message(handle, span, body.seal(replay.array), Some(replay.message_id), offer.partition);
        true
    }

    /// Adds a record below `batched_until` to the outstanding message that it belongs to, if that was evicted. `dead`: why that record becomes a dead
    /// letter; a message whose first record does goes whole. Returns the first offset of a message that is complete and dead.
    pub(super) fn rebuild(&mut self, offer: &Offer<'_>, dead: Option<Cause>) -> Result<Option<(Offset, Cause)>, Offered> {
        let Some(message) = evicted_at(&mut self.messages, offer.offset) else { return Ok(None) };
        let handle = self.intake.handle();
        if message.is_evicted() {
            let lease = match (handle, dead) {
                (Some(handle), None) if !handle.may_begin() => {
                    handle.budgets.refused();
                    return Err(Offered::Refused);
                }
                (None, None) => return Err(Offered::Refused),
                (handle, _) => handle.map(|handle| handle.budgets.memory.lease()),
            };
            message.state = State::Rebuilding(Rebuild { body: Body::default(), lease, dead });
        }
        let dead = if let State::Rebuilding(rebuild) = &message.state { rebuild.dead } else { None };
        let rules = handle.map_or(&NEVER_SENT, |handle| &handle.rules);
        let home = Home { group: self.group.key(), partition: offer.partition };
        let Some(prepared) = message.add(rules, home, offer.offset, offer.record) else { return Ok(None) };
        message.state = State::Waiting(prepared);
        self.waiting += 1;
        Ok(dead.map(|cause| (message.span.first, cause)))
    }

    /// A record in no message becomes a dead letter, and the rest of its window does. There is no open message.
    pub(super) fn dead_letter(&mut self, offer: &Offer<'_>, cause: Cause, live_offset: Offset) {
        let until = offer.offset + 1;
        match &mut self.reading {
            Reading::DeadLettering(letters) => letters.until = until,
            Reading::Live | Reading::Behind { .. } => {
                let window = self.cutter.window();
                let read_until = self.read_until(live_offset);
                self.reading = Reading::DeadLettering(Box::new(DeadLettering { read_until, first: offer.offset, until, window }));
            }
        }
        if offer.record.as_packet().is_some() {
            self.cutter.dead_letter(offer.log_time, cause);
        }
    }

    /// Whether a record at this offset, below `batched_until`, would begin to rebuild an evicted message.
    pub(super) fn would_rebuild(&mut self, offset: Offset) -> bool {
        evicted_at(&mut self.messages, offset).is_some_and(|message| message.is_evicted())
    }

    /// Whether its next record becomes a dead letter: only a catch-up read makes them.
    pub(super) fn becomes_dead_letters(&self) -> bool {
        matches!(self.intake, Intake::NoWebhook { .. } | Intake::Unreadable) || self.dead_lettered_window().is_some()
    }

    /// Where the records end whose dead letters are being written.
    pub(super) fn dead_lettering_until(&self) -> Option<Offset> {
        if let Reading::DeadLettering(letters) = &self.reading { Some(letters.until) } else { None }
    }

    // --- windows

    /// How long its windows are.
    pub(super) fn window_length(&self) -> Duration {
        match &self.intake {
            Intake::Taking(handle) => handle.rules.window,
            other => other.last_rules().window,
        }
    }

    /// The log time from which a record shows that the window is over.
    pub(super) fn window_end(&self) -> Option<Timestamp> {
        self.cutter.window().map(|window| window.opened.plus(self.window_length()))
    }

    pub(super) fn is_window_over_by(&self, log_time: Timestamp) -> bool {
        self.cutter.window().is_some_and(|window| window.is_over_by(log_time, self.window_length()))
    }

    /// Why the open window's records become dead letters.
    pub(super) fn dead_lettered_window(&self) -> Option<Cause> {
        self.cutter.window().and_then(|window| window.dead_lettered)
    }

    /// Closes the window, and cuts the open message.
    pub(super) fn close_window(&mut self, partition: u32, scratch: &mut Scratch) {
        match &self.intake {
            Intake::Taking(handle) => {
                let handle = Arc::clone(handle);
                scratch.cuts.extend(self.cutter.close(&handle.rules));
                self.take_cuts(&handle, partition, scratch);
            }
            // Only a webhook fills a message, and losing it evicts that.
            _ => self.cutter.close_empty(),
        }
    }

    fn take_cuts(&mut self, handle: &Arc<WebhookHandle>, partition: u32, scratch: &mut Scratch) {
        for cut in scratch.cuts.drain(..) {
            scratch.excused += u64::from(cut.first < self.excused_below);
            let span = MessageSpan {
                first: cut.first,
                last: cut.last,
                count: packets(cut.body.count()),
                array: cut.body.is_array(),
                replay: false,
            };
            self.push_message(handle, span, cut.body, None, partition);
        }
        // The lease of what was cut has gone over to the message; what is left is the open message's.
        match self.cutter.held() {
            0 => self.lease = None,
            held => self.lease.get_or_insert_with(|| handle.budgets.memory.lease()).resize(held),
        }
    }

    fn push_message(&mut self, handle: &WebhookHandle, span: MessageSpan, body: Sealed, replayed: Option<MessageId>, partition: u32) {
        let home = Home { group: self.group.key(), partition };
        let prepared = Prepared::new(body, home, &span, replayed, Some(handle.budgets.memory.lease()));
        if self.messages.is_empty() {
            self.messages.reserve_exact(1); // most lanes have one: the usual growth begins with four
        }
        self.messages.push_back(Message::new(span, State::Waiting(prepared)));
        self.waiting += 1;
        if let Reading::Behind { batched_until, .. } = &mut self.reading {
            *batched_until = (*batched_until).max(span.last + 1);
        }
    }

    // --- messages

    /// Drops every body that isn't active. Outstanding messages stay outstanding, and `read_until` falls back to the smallest offset that has lost its
    /// body.
    pub(super) fn evict(&mut self, live_offset: Offset) {
        let (read_until, batched_until) = (self.read_until(live_offset), self.batched_until(live_offset));
        let open = self.cutter.evict();
        self.lease = None;
        self.waiting = 0;
        for message in self.messages.iter_mut().filter(|message| !message.is_active()) {
            message.state = State::Evicted;
        }
        let evicted = self.messages.iter().find(|message| message.is_evicted()).map(|message| message.span.first);
        let read_until = evicted.into_iter().chain(open).fold(read_until, Offset::min);
        match &mut self.reading {
            Reading::DeadLettering(letters) => letters.read_until = read_until,
            Reading::Live | Reading::Behind { .. } => self.fall_behind(read_until, batched_until, live_offset),
        }
    }

    /// Its messages go elsewhere from now on. What is in flight ends as it began; everything else is evicted. The window stays open.
    pub(super) fn redirect(&mut self, intake: Intake, live_offset: Offset) {
        self.evict_pausing(|_| true);
        self.evict(live_offset);
        self.intake = intake;
    }

    /// Drops the bodies of messages that back off until such a time. [`Self::evict`] follows.
    pub(super) fn evict_pausing(&mut self, is_one: impl Fn(Instant) -> bool) {
        for message in &mut self.messages {
            if matches!(message.state, State::Pausing { until, .. } if is_one(until)) {
                message.state = State::Evicted;
            }
        }
    }

    pub(super) fn message(&mut self, first: Offset) -> Option<&mut Message> {
        let place = self.place(first)?;
        self.messages.get_mut(place)
    }

    /// When the packet at an offset was received, if that begins a body of the lane. A replay's packets were received before its record.
    pub(super) fn first_received_at(&self, offset: Offset) -> Option<Timestamp> {
        let oldest = self.messages.front().filter(|message| message.span.first == offset && !message.span.replay);
        let of_message = oldest.and_then(|message| message.prepared()).map(|prepared| prepared.body.first_received_at());
        of_message.or_else(|| self.cutter.first_received_at().filter(|_| self.cutter.first() == Some(offset)))
    }

    pub(super) fn is_unresponsive(&self) -> bool {
        self.intake.handle().is_some_and(|handle| handle.is_unresponsive())
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.intake.handle().is_some_and(|handle| handle.budgets.suspension.is_on())
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    pub(super) fn has_active(&self) -> bool {
        self.messages.iter().any(Message::is_active)
    }

    /// Starts the first message that waits. `None`: none does.
    pub(super) fn start(&mut self, handle: &Arc<WebhookHandle>) -> Option<&Message> {
        let message = self.messages.iter_mut().find(|message| matches!(message.state, State::Waiting(_)))?;
        self.waiting -= 1;
        message.start(handle);
        Some(message)
    }

    /// A message with a body becomes a dead letter. `None`: it has no body, or its dead letter is being written already.
    pub(super) fn dead_letter_message(&mut self, first: Offset) -> Option<&Message> {
        let message = self.place(first).and_then(|place| self.messages.get_mut(place))?;
        let prepared = match std::mem::replace(&mut message.state, State::Evicted) {
            State::Waiting(prepared) => {
                self.waiting -= 1;
                prepared
            }
            State::InFlight { prepared, .. } | State::Pausing { prepared, .. } => prepared,
            other => {
                message.state = other;
                return None;
            }
        };
        message.state = State::DeadLettering(prepared);
        Some(message)
    }

    /// A message was accepted, or its dead letter is durable. Returns how many packets have settled.
    pub(super) fn settle(&mut self, first: Offset, live_offset: Offset) -> u64 {
        let Some(message) = self.place(first).and_then(|place| self.messages.remove(place)) else { return 0 };
        let count = u64::from(message.span.count);
        self.unsettled = self.unsettled.saturating_sub(count);
        self.pass_settled(live_offset);
        count
    }

    fn place(&self, first: Offset) -> Option<usize> {
        if self.messages.front().is_some_and(|oldest| oldest.span.first == first) {
            return Some(0); // mostly it is
        }
        self.messages.binary_search_by_key(&first, |message| message.span.first).ok()
    }

    /// Each lease of its bodies, and what the body holds.
    #[cfg(test)]
    pub(super) fn leases(&self) -> impl Iterator<Item = (&Lease, usize)> {
        let open = self.lease.as_ref().map(|lease| (lease, self.cutter.held()));
        open.into_iter().chain(self.messages.iter().filter_map(Message::leased))
    }

    /// What a restart needs of it.
    pub(super) fn checkpoint(&self, live_offset: Offset) -> LaneCheckpoint {
        let window = if let Reading::DeadLettering(letters) = &self.reading { letters.window } else { self.cutter.window() };
        let last = self.intake.last_rules();
        LaneCheckpoint {
            group: self.group.key().to_owned(),
            batched_until: self.batched_until(live_offset),
            unsettled: self.unsettled,
            window: window.map(|window| OpenWindow {
                opened: window.opened,
                cut_from: window.cut_from,
                dead_lettered: window.dead_lettered,
            }),
            messages: self.messages.iter().map(|message| message.span).collect(),
            rules_hash: last.hash,
            window_length: last.window,
            extensions: Vec::new(),
        }
    }
}
