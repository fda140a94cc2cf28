//! Dead letters (docs/delivery.md, Dead letters): what won't be sent and becomes one. What a dead letter stands for settles when it is durable, never
//! before.
//!
//! A record in no message becomes a dead letter by itself, and so does the rest of its window; an outstanding message becomes one as a whole. So a dead
//! letter never moves a cut.

use std::collections::BTreeMap;

use pushline_model::{Cause, DeadLetter, DeadPacket, GroupId, Offset, Outcome, RecordPlace, Timestamp};
use pushline_queue::{Kind, Record, Replay};

use super::{
    Core, DeadLetterBatch, DeadLetterKey, Effects, LaneKey, MessageKey, Now,
    lane::{Intake, Lane, Offer},
    live::Owner,
    message::{Message, Prepared, State},
};
use crate::webhooks::WebhookHandle;

/// What a packet's dead letter holds in memory beside its payload, about, in bytes.
const BESIDE_PAYLOAD: usize = 512;

/// How many dead letters are on their way.
#[derive(Debug)]
pub(super) struct DeadLetters {
    pub(super) unwritten: Unwritten,
    /// Whether this process still owns the partition. If it doesn't, none are written, and none are waited for.
    pub(super) is_owner: bool,
}

/// Dead letters that catch-up reads and expiry found and that aren't durable. They hold memory outside the budget.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unwritten {
    pub(super) bytes: usize,
    /// No more are made before their bytes have come down to this.
    resumes_at: Option<usize>,
}

/// What a block has found in one lane.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Records in no message.
    records: Vec<Unsent>,
    /// First offsets of outstanding messages that are complete again.
    pub(super) messages: Vec<(Offset, Cause)>,
}

/// A record in no message.
#[derive(Debug)]
struct Unsent {
    offset: Offset,
    what: Content,
    cause: Cause,
    /// What is wrong with it by itself, for people; mostly nothing.
    why: String,
}

/// What a record holds.
#[derive(Debug)]
enum Content {
    Packet(DeadPacket),
    Replay(Replay),
}

impl Unwritten {
    /// A block has found dead letters. No more are made before those are durable: else the first lane whose dead letters are would read the next block
    /// alone, and each other lane would read it again.
    pub(super) fn pause(&mut self, before: Self) {
        self.resumes_at = Some(before.bytes).filter(|bytes| self.bytes > *bytes);
    }

    /// More are made again: one that the log refuses holds up the others for a second. Returns whether none was to be made.
    pub(super) fn resume(&mut self) -> bool {
        self.resumes_at.take().is_some()
    }

    fn remove(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.resumes_at = self.resumes_at.filter(|bytes| self.bytes > *bytes);
    }
}

impl Found {
    pub(super) fn add(&mut self, offer: &Offer<'_>, cause: Cause) {
        self.records.push(Unsent::new(offer, cause));
    }
}

impl Unsent {
    fn new(offer: &Offer<'_>, cause: Cause) -> Self {
        let record = offer.record;
        let (what, why) = match (record.as_packet(), Replay::of(record), record.kind) {
            (Some(packet), ..) => (Content::Packet(packet.into()), ""),
            (None, Some(replay), _) => (Content::Replay(replay), ""),
            (None, None, kind) => {
                let why =
                    if let Kind::Foreign { why } = kind { why } else { "it doesn't belong on this topic, or a later version wrote it" };
                let payload = record.payload.to_vec();
                (Content::Packet(DeadPacket { received_at: record.at, topic: String::new(), iccid: String::new(), payload }), why)
            }
        };
        Self { offset: offer.offset, what, cause, why: why.to_owned() }
    }

    fn into_letter(self, group: &GroupId, webhook: Option<&str>, partition: u32, wall: Timestamp) -> DeadLetter {
        let (webhook, response) = (webhook.map(str::to_owned), self.why.into_bytes());
        let letter = |packets| DeadLetter { webhook, response, ..DeadLetter::unsent(wall, group.key().to_owned(), self.cause, packets) };
        match self.what {
            Content::Packet(packet) => DeadLetter { record: Some(RecordPlace { partition, offset: self.offset }), ..letter(vec![packet]) },
            Content::Replay(Replay { message_id, array, packets }) => {
                DeadLetter { message_id: Some(message_id.to_string()), array, ..letter(packets) }
            }
        }
    }
}

impl Core {
    /// Why a record won't be sent, whatever window or message it is in.
    pub(super) fn own_cause(&self, key: LaneKey, offer: &Offer<'_>) -> Option<Cause> {
        match self.lanes[key].intake {
            _ if Owner::of(offer.record) == Owner::Nobody => Some(Cause::Unreadable),
            Intake::Unreadable => Some(Cause::Unreadable),
            Intake::NoWebhook { .. } => Some(Cause::NoWebhook),
            Intake::Taking(_) | Intake::UnknownGroup { .. } => {
                let is_over = self.expiry.limit.is_some_and(|limit| offer.record.at < limit.before || offer.offset < limit.below);
                is_over.then_some(Cause::Expired)
            }
        }
    }

    /// Whether a catch-up read may find records of it that become dead letters.
    pub(super) fn may_dead_letter(&self, lane: &Lane) -> bool {
        let may_expire = self.expiry.limit.is_some() && lane.fresh_at < self.expiry.checks;
        // Below `batched_until` a dead-lettered window counts for nothing: there it has outstanding messages.
        let is_in_window =
            || lane.dead_lettered_window().is_some() && lane.read_until(self.live_offset) >= lane.batched_until(self.live_offset);
        let is_for_none = matches!(lane.intake, Intake::NoWebhook { .. } | Intake::Unreadable);
        !lane.is_dead_lettering() && self.may_write_dead_letters() && (is_for_none || may_expire || is_in_window())
    }

    /// Whether catch-up reads may find more dead letters.
    pub(super) fn may_write_dead_letters(&self) -> bool {
        let Unwritten { bytes, resumes_at } = self.dead_letters.unwritten;
        resumes_at.is_none() && bytes < self.tuning.dead_letter_bytes
    }

    /// Asks for the dead letters that a block has found.
    pub(super) fn write_found(&mut self, found: BTreeMap<LaneKey, Found>, now: Now, effects: &mut Effects) {
        for (lane, found) in found {
            for (first, cause) in found.messages {
                self.dead_letter_message(MessageKey { lane, first }, cause, now, effects);
            }
            self.write_records(lane, found.records, now, effects);
        }
    }

    fn write_records(&mut self, key: LaneKey, records: Vec<Unsent>, now: Now, effects: &mut Effects) {
        let lane = &self.lanes[key];
        let Some(until) = lane.dead_lettering_until().filter(|_| !records.is_empty()) else { return };
        let webhook = lane.intake.handle().map(|handle| handle.webhook.name.as_str());
        let letters: Vec<DeadLetter> =
            records.into_iter().map(|unsent| unsent.into_letter(&lane.group, webhook, self.partition, now.wall)).collect();
        let packets = letters.iter().map(|letter| letter.packets.len() as u64).sum();
        let bytes = letters.iter().map(held).sum();
        self.dead_letters.unwritten.bytes += bytes;
        effects.dead_letters.push(DeadLetterBatch { key: DeadLetterKey::Records { lane: key, until, packets, bytes }, letters });
    }

    /// A message with a body becomes a dead letter, in flight or not.
    pub(super) fn dead_letter_message(&mut self, key: MessageKey, cause: Cause, now: Now, effects: &mut Effects) {
        let lane = &mut self.lanes[key.lane];
        let (group, webhook) = (lane.group.clone(), lane.intake.handle().map(|handle| handle.webhook.name.clone()));
        let Some(message) = lane.dead_letter_message(key.first) else { return };
        let letter = letter(&group, webhook, message, cause, None, now.wall);
        let bytes = held(&letter);
        self.dead_letters.unwritten.bytes += bytes;
        effects.dead_letters.push(DeadLetterBatch { key: DeadLetterKey::Unsent { message: key, bytes }, letters: vec![letter] });
    }

    /// A message's last attempt decided that it becomes a dead letter.
    pub(super) fn dead_letter_ended(
        &mut self,
        key: MessageKey,
        prepared: Prepared,
        handle: &WebhookHandle,
        end: (Cause, Outcome),
        now: Now,
    ) -> DeadLetterBatch {
        let (cause, outcome) = end;
        let lane = &mut self.lanes[key.lane];
        let group = lane.group.clone();
        let message = lane.message(key.first).expect("an attempt's message is outstanding until the attempt ends");
        message.state = State::DeadLettering(prepared);
        let letter = letter(&group, Some(handle.webhook.name.clone()), message, cause, Some(outcome), now.wall);
        DeadLetterBatch { key: DeadLetterKey::Message(key), letters: vec![letter] }
    }

    pub(super) fn dead_letters_durable(&mut self, key: DeadLetterKey) {
        match key {
            // It holds memory, and a lane that waits for that is woken by its lease.
            DeadLetterKey::Message(message) => _ = self.settle(message),
            DeadLetterKey::Unsent { message, bytes } => {
                self.written(bytes);
                self.settle(message);
            }
            DeadLetterKey::Records { lane: key, until, packets, bytes } => {
                self.written(bytes);
                self.lanes[key].dead_letters_durable(until, packets, self.live_offset);
                self.unsettled = self.unsettled.saturating_sub(packets);
                self.place(key);
            }
        }
        self.saving.changed = true;
    }

    fn written(&mut self, bytes: usize) {
        self.dead_letters.unwritten.remove(bytes);
        self.catch_up.wanted = true;
    }
}

/// What a record becomes as a dead letter, in bytes of memory, about.
pub(super) fn held_by(record: &Record<'_>) -> usize {
    BESIDE_PAYLOAD + record.payload.len()
}

fn held(letter: &DeadLetter) -> usize {
    letter.packets.iter().map(|packet| BESIDE_PAYLOAD + packet.payload.len()).sum()
}

/// The dead letter of a message with a body. `outcome`: of its last attempt, where that decided.
fn letter(
    group: &GroupId,
    webhook: Option<String>,
    message: &Message,
    cause: Cause,
    outcome: Option<Outcome>,
    wall: Timestamp,
) -> DeadLetter {
    let prepared = message.prepared().expect("its body was just put there");
    let status = outcome.as_ref().and_then(Outcome::status);
    let (response, headers) = outcome.map(Outcome::into_response).unwrap_or_default();
    DeadLetter {
        time: wall,
        group: group.key().to_owned(),
        webhook,
        message_id: Some(prepared.id.to_string()),
        record: None,
        array: prepared.body.is_array(),
        cause,
        status,
        response,
        attempts: message.attempts.clone(),
        packets: prepared.body.packets(),
        headers,
    }
}
