//! Dispatch: the line before each webhook's slots, for live reading, sweeps and retries that put messages in it, and for the driver that sends them.
//!
//! A group's messages start for the first time in the order of their offsets, and the groups of a webhook take turns.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use pushline_model::{MessageId, Offset, Order};

use super::{LaneKey, Lanes, MessageKey};
use crate::{
    lane::{Lane, Message, State},
    outlets::Outlet,
    room::Slot,
};

/// Who waits for a slot of one webhook.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Lanes with messages that wait for their first attempt, each once, in turn.
    lanes: VecDeque<LaneKey>,
    /// Messages whose pause is over.
    again: VecDeque<(LaneKey, Offset)>,
}

/// An attempt to make.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) key: MessageKey,
    /// Ends with the attempt, whatever becomes of its message meanwhile.
    pub(crate) slot: Slot,
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) id: MessageId,
    pub(crate) body: Bytes,
    pub(crate) packets: usize,
    /// Whether it was never sent before by this process.
    pub(crate) is_first: bool,
}

impl Lanes {
    /// A lane with a message that waits stands in its webhook's line, once.
    pub(super) fn line_up(&mut self, key: LaneKey) {
        let lane = &mut self.lanes[key];
        if lane.in_line || !lane.has_waiting() {
            return;
        }
        if let Some(outlet) = &lane.outlet {
            self.lines.entry_ref(outlet.webhook.name.as_str()).or_default().lanes.push_back(key);
            lane.in_line = true;
        }
    }

    /// A message whose pause is over stands in line again.
    pub(super) fn send_again(&mut self, lane: LaneKey, first: Offset) {
        if let Some(outlet) = self.lanes.get(lane).and_then(|lane| lane.outlet.clone()) {
            self.lines.entry_ref(outlet.webhook.name.as_str()).or_default().again.push_back((lane, first));
        }
    }

    /// Nobody stands in line any more. Returns what was to be sent again.
    pub(super) fn leave_lines(&mut self) -> Vec<(LaneKey, Offset)> {
        self.lanes.iter_mut().for_each(|(_, lane)| lane.in_line = false);
        self.lines.drain().flat_map(|(_, line)| line.again).collect()
    }

    /// Starts what may start: for each webhook what was to be sent again, then the first message that waits of each of its groups in turn.
    pub(crate) fn dispatch(&mut self, mut send: impl FnMut(Sending)) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain(|_, line| {
            self.dispatch_again(line, &mut send);
            self.dispatch_line(line, &mut send);
            !line.lanes.is_empty() || !line.again.is_empty()
        });
        self.lines = lines;
    }

    fn dispatch_again(&mut self, line: &mut Line, send: &mut impl FnMut(Sending)) {
        while let Some(&(lane_key, first)) = line.again.front() {
            let Some((message, outlet)) = self.lanes.get_mut(lane_key).and_then(|lane| pausing(lane, first)) else {
                line.again.pop_front(); // it was let go, or has ended
                continue;
            };
            let Some(slot) = outlet.share.start_again(outlet.webhook.concurrency) else { return };
            message.fly(&outlet);
            line.again.pop_front();
            send_off(lane_key, message, slot, &outlet, send);
        }
    }

    fn dispatch_line(&mut self, line: &mut Line, send: &mut impl FnMut(Sending)) {
        while let Some(&key) = line.lanes.front() {
            let lane = &mut self.lanes[key];
            let Some(outlet) = lane.outlet.clone().filter(|_| lane.has_waiting()) else {
                leave_line(line, lane); // what waited was let go
                self.tidy(key);
                continue;
            };
            if outlet.webhook.order == Order::Strict && lane.is_under_way() {
                leave_line(line, lane); // it lines up again when its message settles
                continue;
            }
            let Some(slot) = outlet.share.start(outlet.webhook.concurrency) else { return };
            leave_line(line, lane);
            if let Some(message) = lane.start(&outlet) {
                send_off(key, message, slot, &outlet, send);
            }
            if lane.has_waiting() {
                lane.in_line = true;
                line.lanes.push_back(key);
            }
        }
    }
}

/// A message that waits for its next attempt, and where that goes.
fn pausing(lane: &mut Lane, first: Offset) -> Option<(&mut Message, Arc<Outlet>)> {
    let outlet = lane.outlet.clone()?;
    let message = lane.message(first).filter(|message| matches!(message.state, State::Pausing { .. }))?;
    Some((message, outlet))
}

fn leave_line(line: &mut Line, lane: &mut Lane) {
    line.lanes.pop_front();
    lane.in_line = false;
}

fn send_off(lane: LaneKey, message: &Message, slot: Slot, outlet: &Arc<Outlet>, send: &mut impl FnMut(Sending)) {
    if let Some(parcel) = message.parcel() {
        let key = MessageKey { lane, first: message.listed.first };
        let (outlet, is_first) = (Arc::clone(outlet), message.attempts.is_empty());
        send(Sending { key, slot, outlet, id: parcel.id, body: parcel.body.bytes(), packets: parcel.body.count(), is_first });
    }
}
