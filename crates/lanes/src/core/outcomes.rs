//! Outcomes (docs/delivery.md, Circuit breaker): what follows when an attempt ends. The message settles, waits for its next attempt, or becomes a dead letter; its
//! webhook's breaker opens or closes.
//!
//! An attempt ends under the definition that it began with.

use std::{cmp::Reverse, sync::Arc, time::Instant};

use pushline_model::{Attempt, Cause, Outcome};

use super::{
    AttemptEnded, Core, Effects, LaneKey, MessageKey, Notice, Now,
    message::{Message, Prepared, State},
    take_due,
};
use crate::{
    budgets::Budgets,
    outcome::{Next, what_next},
    retry_after::suspends_for,
    webhooks::WebhookHandle,
};

/// How an attempt ended.
struct End {
    outcome: Outcome,
    attempt: Attempt,
    jitter: f64,
}

impl Core {
    pub(super) fn attempt_ended(&mut self, ended: AttemptEnded, now: Now, effects: &mut Effects) {
        // The permit ends when this returns: a pause begins before, so no other attempt slips in between.
        let AttemptEnded { key, permit: _permit, outcome, attempt, jitter } = ended;
        self.saving.changed = true;
        let Some(message) = self.lanes.get_mut(key.lane).and_then(|lane| lane.message(key.first)) else { return };
        match std::mem::replace(&mut message.state, State::Evicted) {
            State::InFlight { prepared, handle } => {
                self.ended(key, prepared, &handle, End { outcome, attempt, jitter }, now, effects);
                // Lanes of an unresponsive webhook begin again one after the other, without a record that tells of it.
                self.catch_up.wanted |= handle.is_unresponsive();
            }
            // It became a dead letter meanwhile, since the log has no space for it: the outcome is discarded.
            other => message.state = other,
        }
    }

    fn ended(&mut self, key: MessageKey, prepared: Prepared, handle: &Arc<WebhookHandle>, end: End, now: Now, effects: &mut Effects) {
        let End { outcome, attempt, jitter } = end;
        let message = self.lanes[key.lane].message(key.first).expect("it was just there");
        if !outcome.is_local() {
            message.attempts.push(attempt);
        }
        let attempts = u32::try_from(message.attempts.len()).expect("a webhook has at most 100 retries");
        let next = what_next(&handle.webhook, attempts, &outcome, jitter);
        let is_answered = outcome.answered();
        if is_answered {
            handle.budgets.answered();
        }
        let suspends_for = suspends_for(&handle.webhook, &outcome, now.wall);
        let suspended = suspends_for.and_then(|wait| Some((wait, handle.budgets.suspension.extend(now.monotonic + wait)?)));
        match next {
            Next::Settled => {
                drop(prepared);
                effects.delivered += self.settle(key);
            }
            Next::DeadLetter(cause) => {
                let batch = self.dead_letter_ended(key, prepared, handle, (cause, outcome), now);
                effects.dead_letters.push(batch);
            }
            Next::Again { after } => self.again(key, prepared, handle, is_answered, now.monotonic + after),
            // This machine couldn't make the attempt: the message waits and keeps its body, like the one probe of an unresponsive webhook.
            Next::Later { after } => self.again(key, prepared, handle, !handle.is_unresponsive(), now.monotonic + after),
        }
        if !is_answered && matches!(next, Next::Again { .. } | Next::DeadLetter(Cause::NoResponse)) {
            self.open_breaker(handle, key.lane);
        }
        if let Some((wait, begun)) = suspended {
            effects.notices.push(Notice::Suspended { webhook: handle.webhook.name.clone(), until: now.wall.plus(wait) });
            self.suspended(handle, begun, now.monotonic);
        }
    }

    /// `keeps_body`: also beside another message of the webhook that waits for its next attempt.
    fn again(&mut self, key: MessageKey, prepared: Prepared, handle: &Arc<WebhookHandle>, keeps_body: bool, at: Instant) {
        let is_current = self.lanes[key.lane].intake.handle().is_some_and(|current| Arc::ptr_eq(current, handle));
        if is_current && (keeps_body || !handle.budgets.breaker.is_pausing()) {
            self.pause(key, prepared, handle, at);
        } else {
            // It goes out again under the new definition; or, after no response, another message of the webhook keeps its body and waits.
            drop(prepared);
            self.evict(key.lane);
        }
        self.catch_up.wanted = true;
    }

    fn pause(&mut self, key: MessageKey, prepared: Prepared, handle: &WebhookHandle, until: Instant) {
        let message = self.lanes[key.lane].message(key.first).expect("its attempt has just ended");
        message.state = State::Pausing { prepared, until, _pause: handle.budgets.breaker.pause() };
        self.pauses.push(Reverse((until, key.lane, key.first)));
    }

    /// Messages whose pause is over may be sent again. Those of a suspended webhook wait without a body.
    pub(super) fn end_pauses(&mut self, now: Instant) {
        while let Some((at, key, first)) = take_due(&mut self.pauses, |(at, ..)| *at <= now) {
            let is_due = |message: &&mut Message| matches!(message.state, State::Pausing { until, .. } if until == at);
            let Some(lane) = self.lanes.get_mut(key) else { continue };
            if lane.message(first).filter(is_due).is_none() {
                continue;
            }
            if lane.is_suspended() {
                lane.evict_pausing(|until| until <= now);
                self.evict(key);
            } else {
                self.line_up_again(key, first);
            }
        }
    }

    /// A webhook that gave no response keeps what is active, and everything else of it is evicted.
    fn open_breaker(&mut self, handle: &Arc<WebhookHandle>, key: LaneKey) {
        match handle.budgets.breaker.open() {
            Some(opening) => {
                // Where another breaker opened meanwhile, the next event looks for both.
                self.openings += u64::from(opening == self.openings + 1);
                self.evict_of(handle);
            }
            None => self.evict(key),
        }
    }

    fn evict_of(&mut self, handle: &WebhookHandle) {
        self.lanes_of(handle).into_iter().for_each(|key| self.evict(key));
    }

    /// An attempt may have begun under an earlier definition: a webhook is told by its breaker, which it keeps.
    pub(super) fn lanes_of(&self, handle: &WebhookHandle) -> Vec<LaneKey> {
        let is_its = |other: &Arc<WebhookHandle>| Arc::ptr_eq(&other.budgets.breaker, &handle.budgets.breaker);
        let its = |lane: &super::lane::Lane| lane.intake.handle().is_some_and(is_its);
        self.lanes.iter().filter(|(_, lane)| its(lane)).map(|(key, _)| key).collect()
    }

    /// Another partition's core may have opened breakers: what this one holds of those webhooks and isn't active is evicted, once.
    pub(super) fn evict_of_unresponsive(&mut self, budgets: &Budgets) {
        let openings = budgets.openings();
        if openings == self.openings {
            return;
        }
        let since = std::mem::replace(&mut self.openings, openings);
        let webhooks = Arc::clone(&self.webhooks);
        webhooks.opened_after(since).for_each(|handle| self.evict_of(handle));
        self.catch_up.wanted = true;
    }
}
