//! Settling (LANES.md L7), and what follows from it: lanes that end, the watermark (L8) and checkpoint (L9), for the driver that saves them.
//!
//! Everything below the watermark has settled, and checkpoint lists whatever hasn't.

use pushline_model::Offset;

use super::{LaneKey, Lanes, MessageKey};
use crate::{
    checkpoint::Checkpoint,
    lane::{Lane, Message, State},
};

impl Lanes {
    /// L7. Returns how many packets settled.
    pub(super) fn settle(&mut self, key: MessageKey) -> u64 {
        let Some(lane) = self.lanes.get_mut(key.lane) else { return 0 };
        let was_live = lane.is_live();
        let count = lane.settle(key.first, self.head);
        self.unsettled = self.unsettled.saturating_sub(count);
        self.line_up(key.lane);
        match was_live {
            true => self.tidy(key.lane),
            false => self.settle_in(key.lane), // it may have come to the head
        }
        count
    }

    /// Nothing exists for an idle group.
    pub(super) fn tidy(&mut self, key: LaneKey) {
        if !self.lanes[key].is_clean() || self.lanes[key].in_line {
            return;
        }
        let lane = self.lanes.remove(key);
        self.by_group.remove(lane.group.key());
        self.behind.remove(&key);
        self.unsettled = self.unsettled.saturating_sub(lane.unsettled);
    }

    /// The smallest offset that is not settled.
    pub(crate) fn watermark(&self) -> Offset {
        self.lanes.iter().map(|(_, lane)| lane.watermark(self.head)).fold(self.head, Offset::min)
    }

    /// What a restart needs; `None` before the first record was passed.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        let lanes = self.lanes.iter().map(|(_, lane)| lane.checkpoint(self.head)).collect();
        self.last.map(|last| Checkpoint { head: self.head, last, lanes })
    }

    /// What a shutdown waits for: messages in flight, unless their webhook is suspect, and dead letters, where any are written.
    pub(crate) fn awaited(&self, dead_letters: bool) -> usize {
        let is_awaited = |lane: &Lane, message: &Message| match message.state {
            State::InFlight { .. } => !is_suspect(lane),
            State::Dying(_) => dead_letters,
            _ => false,
        };
        let buries = |lane: &Lane| dead_letters && lane.burying().is_some();
        let its = |lane: &Lane| lane.messages().filter(|message| is_awaited(lane, message)).count() + usize::from(buries(lane));
        self.lanes.iter().map(|(_, lane)| its(lane)).sum()
    }
}

pub(super) fn is_suspect(lane: &Lane) -> bool {
    lane.outlet.as_ref().is_some_and(|outlet| outlet.share.is_suspect())
}
