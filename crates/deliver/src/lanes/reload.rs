//! Reload (LANES.md L13): lanes whose webhook or group changed, and lanes whose group nobody knows.
//!
//! What is in flight ends as it began, everything else goes out under the new definition; a group that is unknown is waited for, then lost.

use std::{
    cmp::Reverse,
    sync::Arc,
    time::{Duration, Instant},
};

use pushline_model::GroupId;

use super::{LaneKey, Lanes, take_due};
use crate::outlets::Outlets;

/// How long a group may be unknown before its packets become dead letters (L13): the registry may be older than the one that let them in.
pub(super) const UNKNOWN_FOR: Duration = Duration::from_mins(5);

impl Lanes {
    /// The registry was read again. What of a changed webhook or group isn't in flight is let go, and goes out under the new definition.
    pub(crate) fn redirect(&mut self, outlets: Arc<Outlets>, now: Instant) {
        self.outlets = outlets;
        let again = self.leave_lines();
        for key in self.lanes.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            let lane = &mut self.lanes[key];
            let outlet = self.outlets.of(&lane.group);
            if outlet.as_ref().map(Arc::as_ptr) != lane.outlet.as_ref().map(Arc::as_ptr) {
                lane.redirect(outlet, self.head, now);
                self.watch_unknown(key, now);
            }
            self.line_up(key);
            self.settle_in(key);
        }
        for (key, first) in again {
            self.send_again(key, first);
        }
    }

    /// A lane that is born or resumed without an outlet waits for one for a while; what belongs to no group has nothing to wait for.
    pub(super) fn watch_unknown(&mut self, key: LaneKey, now: Instant) {
        let lane = &mut self.lanes[key];
        if lane.group == GroupId::none() {
            lane.is_lost = true;
        } else if lane.outlet.is_none() {
            lane.unknown_since = Some(now);
            self.unknown.push(Reverse((now + UNKNOWN_FOR, key)));
        }
    }

    /// Lanes that have waited too long: a sweep makes their packets dead letters. Returns whether there are any.
    pub(super) fn lose_unknown(&mut self, now: Instant) -> bool {
        let mut lost = false;
        while let Some((at, key)) = take_due(&mut self.unknown, |(at, _)| *at <= now) {
            if let Some(lane) = self.lanes.get_mut(key).filter(|lane| lane.unknown_since.is_some_and(|since| since + UNKNOWN_FOR == at)) {
                lane.lose();
                self.tidy(key);
                lost = true;
            }
        }
        lost
    }
}
