//! An outstanding message and where it stands: for its lane, and for the attempts that send it.
//!
//! It is outstanding until it settles. It may be evicted and rebuilt from the log, but not while it is active; and its id is always made from the
//! packets in its body.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use pushline_batch::{Body, CutRules, Identity, Sealed};
use pushline_model::{Attempt, Cause, MessageId, Offset};
use pushline_queue::{Record, Replay};

use super::expiry::Limit;
use crate::{checkpoint::MessageSpan, circuit_breaker::Pause, memory_budget::Lease, webhooks::WebhookHandle};

/// A message that hasn't settled.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) span: MessageSpan,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) state: State,
}

/// Where a message stands. All but the first two have a body. The last three are *active*: they keep it.
#[derive(Debug)]
pub(crate) enum State {
    /// Its body left memory, or was never there: it is rebuilt from the log.
    Evicted,
    /// Its packets are being read from the log again.
    Rebuilding(Rebuild),
    /// Ready for its first attempt, or for the next after it was evicted in between.
    Waiting(Prepared),
    /// An attempt is being made, under the definition that it began with.
    InFlight { prepared: Prepared, handle: Arc<WebhookHandle> },
    /// Between two attempts, until then.
    Pausing { prepared: Prepared, until: Instant, _pause: Pause },
    /// Its dead letter is being written.
    DeadLettering(Prepared),
}

/// A body that is being rebuilt.
#[derive(Debug)]
pub(crate) struct Rebuild {
    pub(super) body: Body,
    pub(super) lease: Option<Lease>,
    /// Why it becomes a dead letter once it is whole. Its first record decides.
    pub(super) dead: Option<Cause>,
}

/// What is sent, and what it holds of the memory budget.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) id: MessageId,
    pub(crate) body: Sealed,
    _lease: Option<Lease>,
}

/// Where a message belongs: its id is made from that, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home<'a> {
    pub(super) group: &'a str,
    pub(super) partition: u32,
}

// === impl Message ===

impl Message {
    pub(super) fn new(span: MessageSpan, state: State) -> Self {
        Self { span, attempts: Vec::new(), state }
    }

    /// Adds one of its records to the body that is being rebuilt. The last one completes it: then the message is returned as it will be sent.
    pub(super) fn add(&mut self, rules: &CutRules, home: Home<'_>, offset: Offset, record: &Record<'_>) -> Option<Prepared> {
        let State::Rebuilding(rebuild) = &mut self.state else { return None };
        push_all(&mut rebuild.body, rules, record);
        let held = rebuild.body.held();
        rebuild.lease.iter_mut().for_each(|lease| lease.resize(held));
        if offset < self.span.last {
            return None;
        }
        let (body, lease) = (std::mem::take(&mut rebuild.body), rebuild.lease.take());
        Some(Prepared::new(body.seal(self.span.array), home, &self.span, replayed_id(record), lease))
    }

    /// Whether a record at this offset belongs to the body that left memory.
    fn wants(&self, offset: Offset) -> bool {
        matches!(self.state, State::Evicted | State::Rebuilding(_)) && (self.span.first..=self.span.last).contains(&offset)
    }

    /// Starts an attempt with the body that it has; without one it stays as it is.
    pub(super) fn start(&mut self, handle: &Arc<WebhookHandle>) {
        let handle = Arc::clone(handle);
        self.state = match std::mem::replace(&mut self.state, State::Evicted) {
            State::Waiting(prepared) | State::Pausing { prepared, .. } => State::InFlight { prepared, handle },
            other => other,
        };
    }

    /// What is sent; `None` while its body isn't in memory.
    pub(super) fn prepared(&self) -> Option<&Prepared> {
        match &self.state {
            State::Waiting(prepared)
            | State::InFlight { prepared, .. }
            | State::Pausing { prepared, .. }
            | State::DeadLettering(prepared) => Some(prepared),
            State::Evicted | State::Rebuilding(_) => None,
        }
    }

    /// Whether it has a body and expires: received before the limit and not active, or stored below it and not being dead-lettered. The packets of a replay are
    /// old from the start: a catch-up read judges it by its record.
    pub(super) fn is_expired(&self, limit: Limit) -> bool {
        let Limit { before, below } = limit;
        let is_old = |prepared: &Prepared| !self.span.replay && prepared.body.first_received_at() < before;
        match &self.state {
            State::Waiting(prepared) => is_old(prepared) || self.span.first < below,
            State::InFlight { .. } | State::Pausing { .. } => self.span.first < below,
            State::Evicted | State::Rebuilding(_) | State::DeadLettering(_) => false,
        }
    }

    /// Its lease, and what its body holds.
    #[cfg(test)]
    pub(super) fn leased(&self) -> Option<(&Lease, usize)> {
        if let State::Rebuilding(rebuild) = &self.state {
            return rebuild.lease.as_ref().map(|lease| (lease, rebuild.body.held()));
        }
        self.prepared().and_then(|prepared| Some((prepared._lease.as_ref()?, prepared.body.held())))
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::InFlight { .. } | State::Pausing { .. } | State::DeadLettering(_))
    }

    pub(super) fn is_evicted(&self) -> bool {
        matches!(self.state, State::Evicted)
    }
}

/// The message that a record belongs to and whose body isn't in memory, of messages in the order of their offsets.
pub(super) fn evicted_at(messages: &mut VecDeque<Message>, offset: Offset) -> Option<&mut Message> {
    let place = messages.partition_point(|message| message.span.last < offset);
    messages.get_mut(place).filter(|message| message.wants(offset))
}

// === impl Prepared ===

impl Prepared {
    /// The id is made from the packets in the body, or is the one that a replay brings back.
    pub(super) fn new(body: Sealed, home: Home<'_>, span: &MessageSpan, replayed: Option<MessageId>, mut lease: Option<Lease>) -> Self {
        lease.iter_mut().for_each(|lease| lease.resize(body.held()));
        let id = replayed.unwrap_or_else(|| {
            let (packets, array, first_received_at) = (packets(body.count()), body.is_array(), body.first_received_at());
            Identity { group: home.group, partition: home.partition, first: span.first, first_received_at, last: span.last, packets, array }
                .id()
        });
        Self { id, body, _lease: lease }
    }
}

/// How many packets a message has.
pub(super) fn packets(count: usize) -> u32 {
    u32::try_from(count).expect("a message has at most max_packets, and a replay's record at most 1 GiB")
}

/// Adds the packet of a record, or those of a replay.
pub(super) fn push_all(body: &mut Body, rules: &CutRules, record: &Record<'_>) {
    match record.as_packet() {
        Some(packet) => body.push(rules, &packet),
        None => Replay::of(record).into_iter().for_each(|replay| replay.packets().for_each(|packet| body.push(rules, &packet))),
    }
}

fn replayed_id(record: &Record<'_>) -> Option<MessageId> {
    Some(Replay::of(record)?.message_id)
}
