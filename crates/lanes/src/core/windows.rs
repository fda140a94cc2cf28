//! Windows (docs/delivery.md, Windows): when one is over. The log alone says so, never a clock of this process, so each process cuts the same messages.
//!
//! A window is over *by a record*, anyone's, whose log time lies one window length or more from its opening; or *by the horizon*, where the log promises
//! that the window is over by each later record. Where the backend has no horizon, the core appends a *tick*, a record that comes back and says what
//! time it is in the log. The monotonic clock only says when to look at the horizon, or to append a tick.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    time::{Duration, Instant},
};

use pushline_model::{Offset, Timestamp};
use pushline_queue::Horizon;

use super::{Core, Effects, LaneKey, LogState, Notice, Now, event::TickRefused};

/// A horizon that stands still is looked at again after this time, then after twice as long, and so on. A commit that ends wakes the task by its frame.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_secs(1);

/// A tick that was refused is appended again after this time, then after twice as long, and so on.
const TICK_AGAIN: Duration = Duration::from_millis(100);
const TICK_AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// The windows of the live lanes, and the log's time. Lanes that are behind have theirs closed by the catch-up read that they are in.
#[derive(Debug)]
pub(super) struct Windows {
    /// From which log time on a live lane's window is over. An entry may outlive its window: it is dropped when it comes to the front.
    pub(super) ends: BinaryHeap<Reverse<(Timestamp, LaneKey)>>,
    /// The log time that live reading has come to, and when: what time it is in the log is about this, and what has passed since.
    reached: Option<(Timestamp, Instant)>,
    horizon: HorizonLook,
    tick: Tick,
}

/// The horizon as it was seen last.
#[derive(Debug)]
struct HorizonLook {
    seen: Option<Horizon>,
    /// When it was first seen as it is.
    since: Instant,
    /// It stood still when it was looked at: not before that time again.
    not_before: Instant,
    pause: Duration,
}

/// Where the tick of a partition stands. There is never more than one.
#[derive(Debug)]
enum Tick {
    None,
    /// Ticks before it were refused, perhaps.
    Appending {
        before: Option<TickRefusal>,
    },
    /// Live reading has passed it when it has passed this offset.
    Appended(Offset),
    Refused {
        again_at: Instant,
        refusal: TickRefusal,
    },
}

/// How ticks are being refused.
#[derive(Debug)]
struct TickRefusal {
    why: String,
    /// Between the last two.
    pause: Duration,
}

/// The windows of the lanes that a catch-up block is offered to.
#[derive(Debug, Default)]
pub(super) struct BlockWindows {
    ends: BinaryHeap<Reverse<(Timestamp, LaneKey)>>,
    /// Lanes that read below their `batched_until`, where no record closes their window.
    below: BinaryHeap<Reverse<(Offset, LaneKey)>>,
    reached: Option<Timestamp>,
}

impl Windows {
    /// `reached`: the log time of the last record that the process before has passed.
    pub(super) fn new(reached: Option<Timestamp>, log: LogState, now: Instant) -> Self {
        let horizon = HorizonLook { seen: log.horizon, since: now, not_before: now, pause: LOOK_AGAIN };
        Self { ends: BinaryHeap::new(), reached: reached.map(|time| (time, now)), horizon, tick: Tick::None }
    }

    /// Whether an earlier record had a later log time: then windows may be over by a record before their opening. So may they at the first record.
    fn steps_back(reached: Option<Timestamp>, to: Timestamp) -> bool {
        reached.is_none_or(|reached| to < reached)
    }
}

impl HorizonLook {
    fn update(&mut self, horizon: Option<Horizon>, now: Instant) {
        if self.seen != horizon {
            (self.seen, self.since, self.not_before, self.pause) = (horizon, now, now, LOOK_AGAIN);
        } else if now >= self.not_before {
            self.not_before = now + self.pause;
            self.pause = (self.pause * 2).min(LOOK_AGAIN_AT_MOST);
        }
    }
}

impl Core {
    // --- live lanes

    /// Live reading comes to a record with this log time: before it is offered, the windows close that it shows to be over.
    pub(super) fn close_by_live_record(&mut self, log_time: Timestamp, now: Now) {
        let reached = self.windows.reached.replace((log_time, now.monotonic)).map(|(reached, _)| reached);
        if Windows::steps_back(reached, log_time) {
            let over = |lane: &super::lane::Lane| lane.is_live() && lane.is_window_over_by(log_time);
            let keys: Vec<LaneKey> = self.lanes.iter().filter(|(_, lane)| over(lane)).map(|(key, _)| key).collect();
            keys.into_iter().for_each(|key| self.close_window(key));
        }
        self.close_until(log_time);
    }

    /// The log as this process sees it now.
    pub(super) fn log_is(&mut self, log: LogState, now: Now) {
        self.log_end = log.end;
        self.windows.horizon.update(log.horizon, now.monotonic);
        self.close_by_horizon();
    }

    /// Live reading is at or above the horizon's offset: the next record, whenever it comes, would close the window too.
    pub(super) fn close_by_horizon(&mut self) {
        if let Some(horizon) = self.windows.horizon.seen
            && self.live_offset >= horizon.offset
        {
            self.close_until(horizon.time);
        }
    }

    fn close_until(&mut self, log_time: Timestamp) {
        while let Some(&Reverse((end, key))) = self.windows.ends.peek()
            && (end <= log_time || !self.is_open_until(key, end))
        {
            self.windows.ends.pop();
            if self.is_open_until(key, end) {
                self.close_window(key);
            }
        }
    }

    fn is_open_until(&self, key: LaneKey, end: Timestamp) -> bool {
        self.lanes.get(key).is_some_and(|lane| lane.is_live() && lane.window_end() == Some(end))
    }

    fn close_window(&mut self, key: LaneKey) {
        self.lanes[key].close_window(self.partition, &mut self.scratch);
        self.line_up(key);
        self.tidy(key);
    }

    /// A window may have opened, or its lane is live again.
    pub(super) fn watch_window(&mut self, key: LaneKey) {
        let lane = &self.lanes[key];
        if let Some(end) = lane.window_end().filter(|_| lane.is_live()) {
            self.windows.ends.push(Reverse((end, key)));
        }
    }

    // --- the end of the log

    #[cfg(test)]
    pub(super) fn windows_horizon(&self) -> Option<Horizon> {
        self.windows.horizon.seen
    }

    /// When the horizon is to be looked at, or a tick appended: as soon as the log's time has come to the first end of a window.
    pub(super) fn window_due(&self) -> Option<Instant> {
        let Reverse((end, _)) = *self.windows.ends.peek()?;
        if let Some(horizon) = self.windows.horizon.seen {
            let look = &self.windows.horizon;
            // What lies below the horizon's offset is still to be read: that comes by itself.
            let due = look.since + end.distance(horizon.time.min(end));
            return (self.live_offset >= horizon.offset).then(|| due.max(look.not_before));
        }
        if self.live_offset < self.log_end {
            return None;
        }
        let (reached, at) = self.windows.reached?;
        let due = at + end.distance(reached.min(end)) + self.tuning.tick_grace;
        match self.windows.tick {
            Tick::None => Some(due),
            Tick::Appending { .. } => None,
            Tick::Appended(offset) => (self.live_offset > offset).then_some(due),
            Tick::Refused { again_at, .. } => Some(due.max(again_at)),
        }
    }

    /// Appends a tick where one is due.
    pub(super) fn append_tick(&mut self, now: Now, effects: &mut Effects) {
        let is_due = self.windows.horizon.seen.is_none() && self.window_due().is_some_and(|due| due <= now.monotonic);
        if is_due && !self.is_leaving() {
            effects.append_tick = true;
            let before = if let Tick::Refused { refusal, .. } = std::mem::replace(&mut self.windows.tick, Tick::None) {
                Some(refusal)
            } else {
                None
            };
            self.windows.tick = Tick::Appending { before };
        }
    }

    pub(super) fn tick_ended(&mut self, ended: Result<Offset, TickRefused>, now: Now, effects: &mut Effects) {
        let Tick::Appending { before } = std::mem::replace(&mut self.windows.tick, Tick::None) else { return };
        match ended {
            Ok(offset) => {
                self.windows.tick = Tick::Appended(offset);
                if before.is_some() {
                    effects.notices.push(Notice::TicksResumed);
                }
            }
            Err(TickRefused(why)) => {
                let pause = before.as_ref().map_or(TICK_AGAIN, |before| (before.pause * 2).min(TICK_AGAIN_AT_MOST));
                if before.is_none_or(|before| before.why != why) {
                    effects.notices.push(Notice::TicksRefused { why: why.clone() });
                }
                self.windows.tick = Tick::Refused { again_at: now.monotonic + pause, refusal: TickRefusal { why, pause } };
            }
        }
    }

    // --- lanes that are behind

    /// A lane joins a block at a record of a frame that ends at `frame_end`, with this log time.
    pub(super) fn join_block(&mut self, windows: &mut BlockWindows, key: LaneKey, frame_end: Offset, log_time: Timestamp) {
        let batched_until = self.lanes[key].batched_until(self.live_offset);
        if batched_until >= frame_end {
            windows.below.push(Reverse((batched_until, key)));
            return;
        }
        if self.lanes[key].is_window_over_by(log_time) {
            self.close_in_block(key);
        }
        self.watch_window_in_block(windows, key);
    }

    /// A block comes to a frame that ends at `frame_end`: each lane that stands there closes a window that is over by it, before the first record at or above its
    /// `batched_until`.
    pub(super) fn close_by_block_frame(
        &mut self,
        windows: &mut BlockWindows,
        joined: &BTreeSet<LaneKey>,
        frame_end: Offset,
        log_time: Timestamp,
    ) {
        if Windows::steps_back(windows.reached.replace(log_time), log_time) {
            for &key in joined {
                if self.lanes[key].batched_until(self.live_offset) < frame_end && self.lanes[key].is_window_over_by(log_time) {
                    self.close_in_block(key);
                }
            }
        }
        while let Some(&Reverse((end, key))) = windows.ends.peek()
            && end <= log_time
        {
            windows.ends.pop();
            if joined.contains(&key) && self.lanes[key].window_end() == Some(end) {
                self.close_in_block(key);
            }
        }
        while let Some(&Reverse((batched_until, key))) = windows.below.peek()
            && batched_until < frame_end
        {
            windows.below.pop();
            if joined.contains(&key) {
                self.join_block(windows, key, frame_end, log_time);
            }
        }
    }

    pub(super) fn watch_window_in_block(&self, windows: &mut BlockWindows, key: LaneKey) {
        if let Some(end) = self.lanes[key].window_end() {
            windows.ends.push(Reverse((end, key)));
        }
    }

    fn close_in_block(&mut self, key: LaneKey) {
        self.lanes[key].close_window(self.partition, &mut self.scratch);
        self.line_up(key);
    }
}
