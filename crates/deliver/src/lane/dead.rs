//! What of a lane won't be sent (LANES.md L12, L13, L15), for the sweep that finds it and for whoever decides that a message isn't sent any more.
//!
//! Packets that are in no message are dead letters by themselves, a listed message goes whole; and nothing else is taken until what was
//! found is durable.

use std::sync::{Arc, LazyLock};

use pushline_batch::{Body, Cutter};
use pushline_model::{DeadPacket, Offset, Webhook};
use pushline_queue::{Kind, Record, Replay};

use super::{Lane, Message, State, message::let_go_at};

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

impl Lane {
    /// Shows a record that won't be sent. A packet that isn't in a message yet is a dead letter by itself; one of a message that was let go makes
    /// the message whole again, and that becomes one.
    pub(crate) fn show_dead(&mut self, offset: Offset, record: &Record<'_>, partition: u32, dead: &mut Dead) {
        if offset < self.next(offset) {
            if let Some(message) = self.rebuild_dead(offset, record, partition) {
                dead.messages.push(message);
            }
        } else {
            // No message goes across a record that isn't in it: rebuilt, it would be another one.
            self.close(partition);
            self.burying = Some(offset + 1);
            dead.unlisted.push(unlisted(record));
        }
    }

    fn rebuild_dead(&mut self, offset: Offset, record: &Record<'_>, partition: u32) -> Option<Offset> {
        let message = let_go_at(&mut self.messages, offset)?;
        // Where nobody knows the webhook, any form of the body serves: only its packets are taken out again.
        let form = self.outlet.as_ref().map_or_else(|| Arc::clone(&NOWHERE), |outlet| Arc::clone(&outlet.webhook));
        if matches!(message.state, State::Gone) {
            message.state = State::Rebuilding(Body::default(), self.outlet.as_ref().map(|outlet| outlet.share.lease()));
        }
        let parcel = message.take_back(&form, self.group.key(), partition, offset, record)?;
        message.state = State::Dying(parcel);
        Some(message.listed.first)
    }

    /// What it was shown to be dead is durable up to there: so many packets have settled.
    pub(crate) fn buried(&mut self, to: Offset, packets: u64, head: Offset) {
        if self.burying != Some(to) {
            return;
        }
        self.burying = None;
        self.unsettled = self.unsettled.saturating_sub(packets);
        self.raise_next(to);
        // It may have let go of an earlier message meanwhile: then it stays where it is.
        self.pass_settled(head);
    }

    /// Where the packets end whose dead letters are being written.
    pub(crate) fn burying(&self) -> Option<Offset> {
        self.burying
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

    /// L13: it has waited too long for somewhere to go. Nobody can close its window any more.
    pub(crate) fn lose(&mut self) {
        self.is_lost = true;
        self.cutter = Cutter::default();
        self.closes = None;
    }
}

fn unlisted(record: &Record<'_>) -> Unsent {
    let alone = |packet| Replay { message_id: None, array: false, packets: vec![packet] };
    let (message, why) = match (record.as_packet(), Replay::of(record), record.kind) {
        (Some(packet), ..) => (alone(packet.into()), ""),
        (None, Some(replay), _) => (replay, ""),
        (None, None, kind) => {
            let why = if let Kind::Foreign { why } = kind { why } else { "it doesn't belong on this topic, or a later version wrote it" };
            let payload = record.payload.to_vec();
            (alone(DeadPacket { received_at: record.at, topic: String::new(), iccid: String::new(), payload }), why)
        }
    };
    Unsent { message, why: why.to_owned() }
}
