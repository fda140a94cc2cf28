//! A listed message and where it stands, for its lane and for whoever sends it.
//!
//! It is listed until it settles. It may lose its body and be rebuilt from the log, but not while it is under way; and its id is always made from the
//! packets in the body.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use pushline_batch::{Body, Sealed, message_id};
use pushline_model::{Attempt, MessageId, Offset, Timestamp, Webhook};
use pushline_queue::{Record, Replay};

use crate::{
    checkpoint::Listed,
    outlets::Outlet,
    room::{Lease, Pause},
};

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
    /// An attempt is under way, and has the slot. It ends under the definition that it began with.
    InFlight { parcel: Parcel, outlet: Arc<Outlet> },
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

// === impl Message ===

impl Message {
    pub(super) fn new(listed: Listed, state: State) -> Self {
        Self { listed, attempts: Vec::new(), state, is_buried: false }
    }

    /// Takes one of its records from the log again. The last makes it whole: then what is sent is handed out, for its next state.
    pub(super) fn take_back(&mut self, form: &Webhook, group: &str, partition: u32, offset: Offset, record: &Record<'_>) -> Option<Parcel> {
        let State::Rebuilding(body, lease) = &mut self.state else { return None };
        push_all(body, form, record);
        lease.iter_mut().for_each(|lease| lease.resize(body.held()));
        if offset < self.listed.last {
            return None;
        }
        let (body, lease) = (std::mem::take(body), lease.take());
        Some(Parcel::new(body.seal(self.listed.array), group, partition, &self.listed, replayed_id(record), lease))
    }

    /// Whether this record belongs to the body that it has lost.
    fn is_let_go_at(&self, offset: Offset) -> bool {
        matches!(self.state, State::Gone | State::Rebuilding(..)) && (self.listed.first..=self.listed.last).contains(&offset)
    }

    /// Takes off with the parcel that it has; without one it stays where it is.
    pub(crate) fn fly(&mut self, outlet: &Arc<Outlet>) {
        let outlet = Arc::clone(outlet);
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Waiting(parcel) | State::Pausing { parcel, .. } => State::InFlight { parcel, outlet },
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

    /// Whether it has a body and is too old (L12): received before, and not under way; or stored below, whatever it is doing. The packets of a replay
    /// are old from the start: they have waited since its record was written, which a sweep judges it by.
    pub(crate) fn is_expired(&self, before: Timestamp, below: Offset) -> bool {
        let is_old = |parcel: &Parcel| !self.listed.replay && parcel.body.first_received_at() < before;
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

/// The message that a record belongs to and whose body is lost, of messages in the order of their offsets.
pub(super) fn let_go_at(messages: &mut VecDeque<Message>, offset: Offset) -> Option<&mut Message> {
    let place = messages.partition_point(|message| message.listed.last < offset);
    messages.get_mut(place).filter(|message| message.is_let_go_at(offset))
}

// === impl Parcel ===

impl Parcel {
    /// The id is always made from the packets in the body, or is the one that a replay brings back.
    pub(super) fn new(body: Sealed, group: &str, partition: u32, listed: &Listed, id: Option<MessageId>, mut lease: Option<Lease>) -> Self {
        lease.iter_mut().for_each(|lease| lease.resize(body.held()));
        let count = u32::try_from(body.count()).unwrap_or(u32::MAX);
        let made = || message_id(group, partition, listed.first, body.first_received_at(), listed.last, count, body.is_array());
        Self { id: id.unwrap_or_else(made), body, _lease: lease }
    }
}

/// The packet of a record, or those of a replay.
pub(super) fn push_all(body: &mut Body, form: &Webhook, record: &Record<'_>) {
    match record.as_packet() {
        Some(packet) => body.push(form, &packet),
        None => Replay::of(record).into_iter().for_each(|replay| replay.packets().for_each(|packet| body.push(form, &packet))),
    }
}

fn replayed_id(record: &Record<'_>) -> Option<MessageId> {
    Replay::of(record)?.id()
}
