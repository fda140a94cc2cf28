//! The open window and the open message of a lane: what it takes of its records, and when that is cut (docs/delivery.md, Windows).

use std::{sync::Arc, time::Duration};

use pushline_batch::{Body, Cut, NextPacket, Sealed};
use pushline_model::{Cause, MessageId, Offset, Packet, Timestamp};
use pushline_queue::{Record, Replay};

use super::{Intake, Lane, Reading};
use crate::{
    checkpoint::MessageSpan,
    core::message::{Home, Message, Prepared, State, packets, push_all},
    webhooks::WebhookHandle,
};

/// A record offered to a lane at or above its `batched_until`.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Offer<'a> {
    pub(in crate::core) offset: Offset,
    pub(in crate::core) log_time: Timestamp,
    pub(in crate::core) record: &'a Record<'a>,
    pub(in crate::core) partition: u32,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Offered {
    /// The lane has it, or had it before.
    Accepted,
    /// It would begin a message, and the webhook may not begin one.
    Refused,
}

/// What a lane has cut, for [`crate::core::Core`] to count.
#[derive(Debug, Default)]
pub(in crate::core) struct Scratch {
    cuts: Vec<Cut>,
    /// Messages that may have been sent before under another id, since the cut rules changed.
    pub(in crate::core) excused: u64,
}

impl Lane {
    /// Offers a record to the webhook, live or behind, at or above `batched_until`.
    pub(in crate::core) fn offer(&mut self, offer: &Offer<'_>, scratch: &mut Scratch) -> Offered {
        let Intake::Taking(handle) = &self.intake else { return Offered::Refused };
        let handle = Arc::clone(handle);
        let is_accepted = match offer.record.as_packet() {
            Some(packet) => self.offer_packet(&handle, offer, packet, || handle.may_begin(), scratch),
            None => self.offer_replay(&handle, offer, scratch),
        };
        if is_accepted {
            return Offered::Accepted;
        }
        handle.budgets.refused();
        Offered::Refused
    }

    /// Takes a packet that has expired, whatever the webhook may begin.
    pub(in crate::core) fn take_expired(&mut self, offer: &Offer<'_>, packet: Packet<'_>, scratch: &mut Scratch) {
        let handle = Arc::clone(self.intake.handle().expect("only packets of a group with a webhook are cut"));
        self.offer_packet(&handle, offer, packet, || true, scratch);
    }

    fn offer_packet(
        &mut self,
        handle: &Arc<WebhookHandle>,
        offer: &Offer<'_>,
        packet: Packet<'_>,
        may_begin: impl FnOnce() -> bool,
        scratch: &mut Scratch,
    ) -> bool {
        let next = NextPacket { offset: offer.offset, log_time: offer.log_time, packet };
        let is_accepted = self.cutter.offer(&handle.rules, &next, may_begin, &mut scratch.cuts);
        self.take_cuts(handle, offer.partition, scratch);
        is_accepted
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

    /// How long its windows are.
    pub(in crate::core) fn window_length(&self) -> Duration {
        match &self.intake {
            Intake::Taking(handle) => handle.rules.window,
            other => other.last_rules().window,
        }
    }

    /// The log time from which a record shows that the window is over.
    pub(in crate::core) fn window_end(&self) -> Option<Timestamp> {
        self.cutter.window().map(|window| window.opened.plus(self.window_length()))
    }

    pub(in crate::core) fn is_window_over_by(&self, log_time: Timestamp) -> bool {
        self.cutter.window().is_some_and(|window| window.is_over_by(log_time, self.window_length()))
    }

    /// Why the open window's records become dead letters.
    pub(in crate::core) fn dead_lettered_window(&self) -> Option<Cause> {
        self.cutter.window().and_then(|window| window.dead_lettered)
    }

    /// Closes the window, and cuts the open message.
    pub(in crate::core) fn close_window(&mut self, partition: u32, scratch: &mut Scratch) {
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
}
