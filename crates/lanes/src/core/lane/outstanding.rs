//! The outstanding messages of a lane: they are evicted and rebuilt, start, become dead letters and settle (docs/delivery.md, Eviction and rebuilding).

use std::{sync::Arc, time::Instant};

use pushline_batch::{Body, CutRules};
use pushline_model::{Cause, IccidForm, Identify, Offset, PayloadForm, Timestamp};

use super::{Intake, Lane, Offer, Offered, Reading, intake::DOCUMENTS_WINDOW};
use crate::{
    core::expiry::Limit,
    core::message::{Home, Message, Rebuild, State, evicted_at},
    webhooks::WebhookHandle,
};

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

impl Lane {
    /// Adds a record below `batched_until` to the outstanding message that it belongs to, if that was evicted. `dead`: why that record becomes a dead
    /// letter; a message whose first record does goes whole. Returns the first offset of a message that is complete and dead.
    pub(in crate::core) fn rebuild(&mut self, offer: &Offer<'_>, dead: Option<Cause>) -> Result<Option<(Offset, Cause)>, Offered> {
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

    /// Whether a record at this offset, below `batched_until`, would begin to rebuild an evicted message.
    pub(in crate::core) fn would_rebuild(&mut self, offset: Offset) -> bool {
        evicted_at(&mut self.messages, offset).is_some_and(|message| message.is_evicted())
    }

    /// Drops every body that isn't active. Outstanding messages stay outstanding, and `read_until` falls back to the smallest offset that has lost its
    /// body.
    pub(in crate::core) fn evict(&mut self, live_offset: Offset) {
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

    /// Drops the bodies of messages that back off until such a time. [`Self::evict`] follows.
    pub(in crate::core) fn evict_pausing(&mut self, is_one: impl Fn(Instant) -> bool) {
        for message in &mut self.messages {
            if matches!(message.state, State::Pausing { until, .. } if is_one(until)) {
                message.state = State::Evicted;
            }
        }
    }

    /// Its messages go elsewhere from now on. What is in flight ends as it began; everything else is evicted. The window stays open.
    pub(in crate::core) fn redirect(&mut self, intake: Intake, live_offset: Offset) {
        self.evict_pausing(|_| true);
        self.evict(live_offset);
        self.intake = intake;
    }

    pub(in crate::core) fn message(&mut self, first: Offset) -> Option<&mut Message> {
        let place = self.place(first)?;
        self.messages.get_mut(place)
    }

    /// When the packet at an offset was received, if that begins a body of the lane. A replay's packets were received before its record.
    pub(in crate::core) fn first_received_at(&self, offset: Offset) -> Option<Timestamp> {
        let oldest = self.messages.front().filter(|message| message.span.first == offset && !message.span.replay);
        let of_message = oldest.and_then(|message| message.prepared()).map(|prepared| prepared.body.first_received_at());
        of_message.or_else(|| self.cutter.first_received_at().filter(|_| self.cutter.first() == Some(offset)))
    }

    /// The first offsets of its messages that have a body and expire.
    pub(in crate::core) fn expired(&self, limit: Limit) -> impl Iterator<Item = Offset> {
        self.messages.iter().filter(move |message| message.is_expired(limit)).map(|message| message.span.first)
    }

    pub(in crate::core) fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    pub(in crate::core) fn has_active(&self) -> bool {
        self.messages.iter().any(Message::is_active)
    }

    /// Starts the first message that waits. `None`: none does.
    pub(in crate::core) fn start(&mut self, handle: &Arc<WebhookHandle>) -> Option<&Message> {
        let message = self.messages.iter_mut().find(|message| matches!(message.state, State::Waiting(_)))?;
        self.waiting -= 1;
        message.start(handle);
        Some(message)
    }

    /// A message with a body becomes a dead letter. `None`: it has no body, or its dead letter is being written already.
    pub(in crate::core) fn dead_letter_message(&mut self, first: Offset) -> Option<&Message> {
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
    pub(in crate::core) fn settle(&mut self, first: Offset, live_offset: Offset) -> u64 {
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
}
