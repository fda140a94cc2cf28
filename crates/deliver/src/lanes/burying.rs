//! What won't be sent, and the dead letters it becomes (LANES.md L12, L13, L14): for sweeps that find it in the log, for outcomes that decide it,
//! and for the driver that writes it.
//!
//! What a dead letter stands for settles when the letter is durable, never before.

use pushline_model::{Cause, DeadLetter, GroupId, Offset, Outcome, Timestamp};
use pushline_queue::{Record, Replay};

use super::{LaneKey, Lanes, MessageKey, group_of};
use crate::{
    lane::{Dead, Lane, Message, Parcel, State, Unsent},
    outlets::Outlet,
};

/// Packets beyond one of these are dead letters `expired` (L12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// Received before: `backlog.max_age`.
    pub(crate) before: Timestamp,
    /// Stored below: `queue.max_bytes`.
    pub(crate) below: Offset,
}

/// Names what a dead letter is written for. `bytes`: what the letters hold, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BurialKey {
    /// A message whose last attempt decided.
    Message(MessageKey),
    /// A message that isn't sent (any more).
    Unsent { message: MessageKey, bytes: usize },
    /// Packets of a lane that were in no message, up to an offset.
    Packets { lane: LaneKey, to: Offset, count: u64, bytes: usize },
}

/// Sweeps find no more that won't be sent while so much of it isn't durable: dead letters hold no room, and nobody knows how long they take to write.
pub(super) const UNWRITTEN: usize = 1 << 20;

/// What a packet's dead letter holds beside its payload, about.
const LETTER: usize = 512;

/// Dead letters to write. What they stand for settles when they are durable.
#[derive(Debug)]
pub(crate) struct Burial {
    pub(crate) key: BurialKey,
    pub(crate) cause: Cause,
    pub(crate) letters: Vec<DeadLetter>,
}

impl Lanes {
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
    pub(super) fn may_be_dead(&self, lane: &Lane) -> bool {
        lane.burying().is_none() && self.may_bury() && (lane.is_lost || self.expiry.is_some() && lane.fresh_at < self.looks)
    }

    /// Whether sweeps may find more that won't be sent.
    pub(super) fn may_bury(&self) -> bool {
        self.unwritten < self.most_unwritten
    }

    /// Why a record won't be sent.
    pub(super) fn cause(&self, key: LaneKey, offset: Offset, record: &Record<'_>) -> Option<Cause> {
        if group_of(record).is_empty() {
            return Some(Cause::Unreadable);
        }
        if self.lanes[key].is_lost {
            return Some(Cause::NoWebhook);
        }
        self.expiry.filter(|expiry| record.at < expiry.before || offset < expiry.below).map(|_| Cause::Expired)
    }

    /// What a turn of a sweep found in one lane.
    pub(super) fn bury(&mut self, key: LaneKey, cause: Cause, dead: Dead, wall: Timestamp) -> Vec<Burial> {
        // A lane of which nothing was dead may have ended its turn, and itself.
        let Some(lane) = self.lanes.get(key) else { return Vec::new() };
        let (group, webhook) = (lane.group.key().to_owned(), lane.outlet.as_ref().map(|outlet| outlet.webhook.name.clone()));
        let count = dead.unlisted.iter().map(|unsent| unsent.message.packets.len() as u64).sum();
        let letters: Vec<DeadLetter> =
            dead.unlisted.into_iter().map(|unsent| unsent_letter(group.clone(), webhook.clone(), unsent, cause, wall)).collect();
        let bytes = letters.iter().map(held).sum();
        let packets = lane.burying().map(|to| Burial { key: BurialKey::Packets { lane: key, to, count, bytes }, cause, letters });
        self.unwritten += packets.as_ref().map_or(0, |_| bytes);
        let whole = dead.messages.into_iter().filter_map(|first| self.bury_message(MessageKey { lane: key, first }, cause, wall));
        whole.collect::<Vec<_>>().into_iter().chain(packets).collect()
    }

    /// A message with a body becomes a dead letter, in flight or not.
    fn bury_message(&mut self, key: MessageKey, cause: Cause, wall: Timestamp) -> Option<Burial> {
        let lane = self.lanes.get_mut(key.lane)?;
        let (group, webhook) = (lane.group.clone(), lane.outlet.as_ref().map(|outlet| outlet.webhook.name.clone()));
        let message = lane.die(key.first)?;
        let letter = DeadLetter { time: wall, ..dead_letter(&group, webhook, message, cause, None)? };
        let bytes = held(&letter);
        self.unwritten += bytes;
        Some(Burial { key: BurialKey::Unsent { message: key, bytes }, cause, letters: vec![letter] })
    }

    /// A message whose last attempt decided that it is a dead letter.
    pub(super) fn bury_ended(
        &mut self,
        key: MessageKey,
        parcel: Parcel,
        outlet: &Outlet,
        cause: Cause,
        outcome: Outcome,
    ) -> Option<Burial> {
        let lane = self.lanes.get_mut(key.lane)?;
        let group = lane.group.clone();
        let message = lane.message(key.first)?;
        (message.state, message.is_buried) = (State::Dying(parcel), true);
        let letter = dead_letter(&group, Some(outlet.webhook.name.clone()), message, cause, Some(outcome))?;
        Some(Burial { key: BurialKey::Message(key), cause, letters: vec![letter] })
    }

    /// Dead letters are durable. Returns how many packets settled.
    pub(crate) fn buried(&mut self, key: BurialKey) -> u64 {
        match key {
            BurialKey::Message(key) => self.settle(key),
            BurialKey::Unsent { message, bytes } => {
                self.unwritten = self.unwritten.saturating_sub(bytes);
                self.settle(message)
            }
            BurialKey::Packets { lane: key, to, count, bytes } => {
                self.unwritten = self.unwritten.saturating_sub(bytes);
                let Some(lane) = self.lanes.get_mut(key) else { return 0 };
                lane.buried(to, count, self.head);
                self.unsettled = self.unsettled.saturating_sub(count);
                self.settle_in(key);
                count
            }
        }
    }
}

/// What a record becomes as a dead letter, in bytes of memory, about.
pub(super) fn holds(record: &Record<'_>) -> usize {
    LETTER + record.payload.len()
}

fn held(letter: &DeadLetter) -> usize {
    letter.packets.iter().map(|packet| LETTER + packet.payload.len()).sum()
}

/// The dead letter of what was in no message.
fn unsent_letter(group: String, webhook: Option<String>, unsent: Unsent, cause: Cause, wall: Timestamp) -> DeadLetter {
    let Unsent { message: Replay { message_id, array, packets }, why } = unsent;
    DeadLetter { webhook, message_id, array, response: why.into_bytes(), ..DeadLetter::unsent(wall, group, cause, packets) }
}

/// The dead letter of a message with a body; `outcome`: of its last attempt, where that decided.
fn dead_letter(group: &GroupId, webhook: Option<String>, message: &Message, cause: Cause, outcome: Option<Outcome>) -> Option<DeadLetter> {
    let parcel = message.parcel()?;
    let status = outcome.as_ref().and_then(Outcome::status);
    Some(DeadLetter {
        time: message.attempts.last().map_or(Timestamp::default(), |attempt| attempt.at.plus(attempt.took)),
        group: group.key().to_owned(),
        webhook,
        message_id: Some(parcel.id.to_string()),
        array: parcel.body.is_array(),
        cause,
        status,
        response: outcome.map(Outcome::into_response).unwrap_or_default(),
        attempts: message.attempts.clone(),
        packets: parcel.body.packets(),
    })
}
