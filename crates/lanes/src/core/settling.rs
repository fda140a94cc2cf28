//! Settling (docs/delivery.md, Settling): what follows when a message is accepted or its dead letter is durable. Lanes end, and the watermark rises.

use pushline_model::Offset;

use super::{Core, LaneKey, MessageKey};

impl Core {
    /// Returns how many packets have settled.
    pub(super) fn settle(&mut self, key: MessageKey) -> u64 {
        let Some(lane) = self.lanes.get_mut(key.lane) else { return 0 };
        let was_live = lane.is_live();
        let count = lane.settle(key.first, self.live_offset);
        self.unsettled = self.unsettled.saturating_sub(count);
        self.line_up(key.lane);
        if was_live {
            self.tidy(key.lane);
        } else {
            self.place(key.lane); // it may have come to the live offset
        }
        count
    }

    /// Puts a lane where it belongs after it may have fallen behind or become live.
    pub(super) fn place(&mut self, key: LaneKey) {
        if self.lanes[key].is_live() {
            if self.behind.remove(&key) {
                self.watch_window(key);
            }
            self.tidy(key);
        } else {
            self.behind.insert(key);
        }
    }

    /// No lane exists for an idle group.
    pub(super) fn tidy(&mut self, key: LaneKey) {
        if !self.lanes[key].is_clean() || self.lanes[key].in_line {
            return;
        }
        let lane = self.lanes.remove(key);
        self.by_group.remove(lane.group.key());
        self.behind.remove(&key);
        self.unsettled = self.unsettled.saturating_sub(lane.unsettled);
    }

    pub(super) fn evict(&mut self, key: LaneKey) {
        self.lanes[key].evict(self.live_offset);
        self.place(key);
    }

    /// The smallest offset that isn't settled.
    pub(crate) fn watermark(&self) -> Offset {
        self.lanes.iter().map(|(_, lane)| lane.watermark(self.live_offset)).fold(self.live_offset, Offset::min)
    }
}
