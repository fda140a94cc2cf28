//! Dispatch (docs/delivery.md, Dispatch): the line before each webhook's permits.
//!
//! A group's messages start for the first time in the order of their offsets, and the groups of a webhook take turns.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use pushline_model::{Offset, Order};

use super::{
    Core, Effects, LaneKey, MessageKey, StartAttempt,
    lane::{Intake, Lane},
    message::{Message, State},
};
use crate::{
    budgets::{Nth, Wait},
    concurrency_limit::Permit,
    webhooks::WebhookHandle,
};

/// What waits for a permit of one webhook.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Lanes with messages that wait for their first attempt, each once, in turn.
    lanes: VecDeque<LaneKey>,
    /// Messages whose pause is over.
    again: VecDeque<(LaneKey, Offset)>,
}

impl Core {
    /// A lane with a message that waits stands in its webhook's line, once.
    pub(super) fn line_up(&mut self, key: LaneKey) {
        let lane = &mut self.lanes[key];
        if lane.in_line || !lane.has_waiting() {
            return;
        }
        if let Intake::Taking(handle) = &lane.intake {
            self.lines.entry_ref(handle.webhook.name.as_str()).or_default().lanes.push_back(key);
            lane.in_line = true;
        }
    }

    /// A message whose pause is over stands in line again.
    pub(super) fn line_up_again(&mut self, lane: LaneKey, first: Offset) {
        if let Some(handle) = self.lanes.get(lane).and_then(|lane| lane.intake.handle()) {
            self.lines.entry_ref(handle.webhook.name.as_str()).or_default().again.push_back((lane, first));
        }
    }

    /// Empties all lines. Returns the messages whose pause is over.
    pub(super) fn leave_lines(&mut self) -> Vec<(LaneKey, Offset)> {
        self.lanes.iter_mut().for_each(|(_, lane)| lane.in_line = false);
        self.lines.drain().flat_map(|(_, line)| line.again).collect()
    }

    /// Starts what may start: for each webhook the messages whose pause is over, then the first waiting message of each of its groups in turn.
    pub(super) fn dispatch(&mut self, now: Instant, effects: &mut Effects) {
        self.rate_due = None;
        if self.lines.is_empty() {
            return;
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain(|_, line| {
            self.dispatch_again(line, now, effects);
            self.dispatch_line(line, now, effects);
            !line.lanes.is_empty() || !line.again.is_empty()
        });
        self.lines = lines;
    }

    fn dispatch_again(&mut self, line: &mut Line, now: Instant, effects: &mut Effects) {
        while let Some(&(key, first)) = line.again.front() {
            let Some((message, handle)) = self.lanes.get_mut(key).and_then(|lane| pausing(lane, first)) else {
                line.again.pop_front(); // it was evicted, or has ended
                continue;
            };
            let permit = match handle.budgets.acquire(&handle.webhook, Nth::Later, now) {
                Ok(permit) => permit,
                Err(wait) => return self.note_wait(wait),
            };
            line.again.pop_front();
            message.start(&handle);
            start(key, message, permit, &handle, effects);
        }
    }

    fn dispatch_line(&mut self, line: &mut Line, now: Instant, effects: &mut Effects) {
        while let Some(&key) = line.lanes.front() {
            let lane = &mut self.lanes[key];
            let Some(handle) = lane.intake.handle().cloned().filter(|_| lane.has_waiting()) else {
                leave_line(line, lane); // what waited was evicted
                self.tidy(key);
                continue;
            };
            if handle.webhook.order == Order::Strict && lane.has_active() {
                leave_line(line, lane); // it lines up again when its message settles
                continue;
            }
            let permit = match handle.budgets.acquire(&handle.webhook, Nth::First, now) {
                Ok(permit) => permit,
                Err(wait) => return self.note_wait(wait),
            };
            leave_line(line, lane);
            if let Some(message) = lane.start(&handle) {
                start(key, message, permit, &handle, effects);
            }
            if lane.has_waiting() {
                lane.in_line = true;
                line.lanes.push_back(key);
            }
        }
    }

    /// Where time decides when an attempt may start, the core asks to be woken then.
    fn note_wait(&mut self, wait: Wait) {
        if let Wait::Until(due) = wait {
            self.rate_due = Some(self.rate_due.map_or(due, |earlier| earlier.min(due)));
        }
    }
}

/// A message that waits for its next attempt, and where that goes.
fn pausing(lane: &mut Lane, first: Offset) -> Option<(&mut Message, Arc<WebhookHandle>)> {
    let handle = lane.intake.handle().cloned()?;
    let message = lane.message(first).filter(|message| matches!(message.state, State::Pausing { .. }))?;
    Some((message, handle))
}

fn leave_line(line: &mut Line, lane: &mut Lane) {
    line.lanes.pop_front();
    lane.in_line = false;
}

fn start(lane: LaneKey, message: &Message, permit: Permit, handle: &Arc<WebhookHandle>, effects: &mut Effects) {
    let prepared = message.prepared().expect("a message that was just started has its body");
    effects.attempts.push(StartAttempt {
        key: MessageKey { lane, first: message.span.first },
        permit,
        handle: Arc::clone(handle),
        id: prepared.id,
        body: prepared.body.bytes(),
        packets: prepared.body.count(),
        is_first: message.attempts.is_empty(),
    });
}
