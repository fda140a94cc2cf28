//! Window time (LANES.md L6): which of two clocks closes the windows of live lanes.
//!
//! Behind the end of the log it is the log's own time, at the end the monotonic clock. Each window is entered with both, since it isn't known which
//! of them gets there first; a lane that is behind has its window closed by its sweep.

use std::{cmp::Reverse, time::Instant};

use pushline_model::{Offset, Timestamp};

use super::{LaneKey, Lanes, take_due};
use crate::lane::Lane;

impl Lanes {
    /// The log has come to this time: windows that are over close. (Said after each frame: a frame's records were written together, and
    /// a lane's own records close its window anyway.)
    pub(super) fn close_by_log(&mut self, time: Timestamp) {
        while let Some((at, key)) = take_due(&mut self.closes_by_log, |(at, _)| *at <= time) {
            self.close_if(key, |lane| lane.window_end() == Some(at));
        }
        // What the one clock has closed leaves its entry with the other: those in front are dropped, or a task that is always behind the end
        // of its log, or never, would keep one for each window.
        while let Some(&Reverse((at, key))) = self.closes_by_clock.peek()
            && !self.is_open(key, |lane| lane.closes == Some(at))
        {
            self.closes_by_clock.pop();
        }
    }

    /// The monotonic clock has come to this time: at the end of the log, windows that are over close.
    pub(super) fn close_by_clock(&mut self, end: Offset, now: Instant) {
        let is_at_end = self.head >= end;
        while let Some((at, key)) = take_due(&mut self.closes_by_clock, |(at, _)| is_at_end && *at <= now) {
            self.close_if(key, |lane| lane.closes == Some(at));
        }
        while let Some(&Reverse((at, key))) = self.closes_by_log.peek()
            && !self.is_open(key, |lane| lane.window_end() == Some(at))
        {
            self.closes_by_log.pop();
        }
    }

    /// A window may have opened, or its lane is live again.
    pub(super) fn watch_window(&mut self, key: LaneKey) {
        let lane = &self.lanes[key];
        if let (Some(by_log), Some(by_clock)) = (lane.window_end(), lane.closes) {
            self.closes_by_log.push(Reverse((by_log, key)));
            self.closes_by_clock.push(Reverse((by_clock, key)));
        }
    }

    fn close_if(&mut self, key: LaneKey, is_due: impl FnOnce(&Lane) -> bool) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.is_live() && is_due(lane) {
            lane.close(self.partition);
            self.line_up(key);
            self.tidy(key);
        }
    }

    fn is_open(&self, key: LaneKey, by: impl FnOnce(&Lane) -> bool) -> bool {
        self.lanes.get(key).is_some_and(|lane| lane.is_live() && by(lane))
    }
}
