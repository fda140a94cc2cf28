//! Outcomes: what follows when an attempt ends, for the driver that made it. The message settles, waits for its next attempt, or becomes a dead letter;
//! its webhook becomes suspect or is no longer (LANES.md, *Suspect*).
//!
//! An attempt ends under the definition that it began with, and a suspect webhook keeps only what is under way.

use std::{cmp::Reverse, sync::Arc, time::Instant};

use pushline_model::{Attempt, Cause, Outcome};

use super::{Burial, LaneKey, Lanes, MessageKey, take_due};
use crate::{
    lane::{Lane, Message, Parcel, State},
    outcome::{Next, what_next},
    outlets::Outlet,
};

/// What an outcome means.
#[derive(Debug)]
pub(crate) enum Consequence {
    /// Its message was accepted: this many packets.
    Delivered(u64),
    /// To be written; the message settles when it is durable.
    Bury(Burial),
    /// It will be sent again.
    Again,
    /// Nobody waits for it any more.
    Discarded,
}

impl Lanes {
    /// An attempt ended, and its slot. `jitter` from 0 to 1 spreads the delay before the next. Says what that means, and whether the webhook is
    /// suspect: then a sweep may have something to do.
    pub(crate) fn outcome(
        &mut self,
        key: MessageKey,
        outcome: Outcome,
        attempt: Attempt,
        jitter: f64,
        now: Instant,
    ) -> (Consequence, bool) {
        let Some(lane) = self.lanes.get_mut(key.lane) else { return (Consequence::Discarded, false) };
        let Some(message) = lane.message(key.first).filter(|message| matches!(message.state, State::InFlight { .. })) else {
            return (Consequence::Discarded, false);
        };
        let State::InFlight { parcel, outlet } = std::mem::replace(&mut message.state, State::Gone) else {
            return (Consequence::Discarded, false);
        };
        if !outcome.is_local() {
            message.attempts.push(attempt);
        }
        let consequence = self.ended(key, parcel, &outlet, outcome, jitter, now);
        (consequence, outlet.share.is_suspect())
    }

    /// Under the definition that the attempt began with.
    fn ended(&mut self, key: MessageKey, parcel: Parcel, outlet: &Arc<Outlet>, outcome: Outcome, jitter: f64, now: Instant) -> Consequence {
        let Some(message) = self.lanes[key.lane].message(key.first) else { return Consequence::Discarded };
        let tries = u32::try_from(message.attempts.len()).unwrap_or(u32::MAX);
        let next = what_next(&outlet.webhook, tries, &outcome, jitter);
        let answered = outcome.answered();
        if answered {
            outlet.share.answered();
        }
        let consequence = match next {
            Next::Settled => {
                drop(parcel);
                Consequence::Delivered(self.settle(key))
            }
            Next::DeadLetter(cause) => {
                self.bury_ended(key, parcel, outlet, cause, outcome).map_or(Consequence::Discarded, Consequence::Bury)
            }
            Next::Again { after } => {
                self.again(key, parcel, outlet, answered, now + after);
                Consequence::Again
            }
            Next::Later { after } => {
                self.later(key, parcel, outlet, now + after);
                Consequence::Again
            }
        };
        if !answered && matches!(next, Next::Again { .. } | Next::DeadLetter(Cause::NoResponse)) {
            self.suspect(outlet, key.lane);
        }
        consequence
    }

    /// This machine couldn't make the attempt: the message keeps its body and waits, and nothing else changes.
    fn later(&mut self, key: MessageKey, parcel: Parcel, outlet: &Arc<Outlet>, at: Instant) {
        if self.is_current(key.lane, outlet) {
            self.pause(key, parcel, outlet, at);
        } else {
            self.let_go(key.lane); // it goes out again under the new definition
        }
    }

    fn is_current(&self, key: LaneKey, outlet: &Arc<Outlet>) -> bool {
        self.lanes[key].outlet.as_ref().is_some_and(|current| Arc::ptr_eq(current, outlet))
    }

    fn again(&mut self, key: MessageKey, parcel: Parcel, outlet: &Arc<Outlet>, answered: bool, at: Instant) {
        if !self.is_current(key.lane, outlet) {
            self.let_go(key.lane); // it goes out again under the new definition
        } else if answered || !outlet.share.is_pausing() {
            // After a no response only one message of the webhook keeps its body and waits; the others are let go (L3).
            self.pause(key, parcel, outlet, at);
        }
    }

    fn pause(&mut self, key: MessageKey, parcel: Parcel, outlet: &Outlet, until: Instant) {
        if let Some(message) = self.lanes[key.lane].message(key.first) {
            message.state = State::Pausing { parcel, until, _pause: outlet.share.pause() };
            self.pauses.push(Reverse((until, key.lane, key.first)));
        }
    }

    /// Messages whose pause is over may be sent again.
    pub(super) fn end_pauses(&mut self, now: Instant) {
        while let Some((at, lane, first)) = take_due(&mut self.pauses, |(at, ..)| *at <= now) {
            let is_due = |message: &&mut Message| matches!(message.state, State::Pausing { until, .. } if until == at);
            if self.lanes.get_mut(lane).and_then(|lane| lane.message(first)).filter(is_due).is_some() {
                self.send_again(lane, first);
            }
        }
    }

    /// A webhook that gave no response keeps what is under way and lets everything else go.
    fn suspect(&mut self, outlet: &Arc<Outlet>, key: LaneKey) {
        match outlet.share.suspect() {
            true => self.let_go_of(outlet),
            false => self.let_go(key),
        }
    }

    fn let_go_of(&mut self, outlet: &Arc<Outlet>) {
        let its = |lane: &Lane| lane.outlet.as_ref().is_some_and(|other| Arc::ptr_eq(other, outlet));
        let keys: Vec<LaneKey> = self.lanes.iter().filter(|(_, lane)| its(lane)).map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.let_go(key));
    }

    /// Another partition's task may have found a webhook suspect: what this one holds of it and isn't under way is let go, once.
    /// Returns whether there was any: then a sweep may have something to do.
    pub(crate) fn woken(&mut self) -> bool {
        let suspected = self.outlets.suspected_since(&mut self.suspicions);
        suspected.iter().for_each(|outlet| self.let_go_of(outlet));
        !suspected.is_empty()
    }
}
