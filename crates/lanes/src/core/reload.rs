//! Reload (docs/delivery.md, Reload): lanes whose webhook or group changed, and lanes of groups without a webhook.
//!
//! What is in flight ends as it began. Everything else is evicted and goes out under the new definition; outstanding messages keep their packets, id and
//! shape, and an open window stays open.

use std::{cmp::Reverse, sync::Arc, time::Instant};

use super::{
    Core, LaneKey, Now,
    lane::{Intake, LastRules},
    take_due,
};
use crate::webhooks::Webhooks;

impl Core {
    /// The registry was read again.
    pub(super) fn reload(&mut self, webhooks: Arc<Webhooks>, now: Now) {
        self.webhooks = webhooks;
        let again = self.leave_lines();
        for key in self.lanes.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            let lane = &mut self.lanes[key];
            let handle = self.webhooks.of(&lane.group);
            if handle.as_ref().map(Arc::as_ptr) != lane.intake.handle().map(Arc::as_ptr) {
                let last = lane.intake.last_rules();
                let is_known = lane.intake.handle().is_some();
                if is_known || handle.is_some() {
                    lane.redirect(Intake::new(&lane.group.clone(), handle, last, now.monotonic), self.live_offset);
                    self.excuse_other_rules(key, last);
                    self.watch_unknown(key);
                    self.watch_window(key); // it may be longer or shorter now
                }
            }
            self.line_up(key);
            self.place(key);
        }
        for (key, first) in again {
            self.line_up_again(key, first);
        }
        self.catch_up.wanted = true;
        self.saving.changed = true;
        self.saving.is_urgent = true; // the rules that count from now on
    }

    /// The process before may have sent what lies below the end that the log had at the start: cut by other rules, those records come under a second id.
    pub(super) fn excuse_other_rules(&mut self, key: LaneKey, last: LastRules) {
        let lane = &mut self.lanes[key];
        if lane.intake.last_rules().hash != last.hash && last.hash.is_some() {
            lane.excused_below = self.end_at_start;
        }
    }

    /// A lane that waits for its group's webhook waits for a while. The registry may be older than that of the process that let its packets in.
    pub(super) fn watch_unknown(&mut self, key: LaneKey) {
        if let Intake::UnknownGroup { since, .. } = self.lanes[key].intake {
            self.unknown.push(Reverse((since + self.tuning.unknown_for, key)));
        }
    }

    /// Lanes that have waited too long: a catch-up read makes their records dead letters.
    pub(super) fn give_up_unknown(&mut self, now: Instant) {
        while let Some((at, key)) = take_due(&mut self.unknown, |(at, _)| *at <= now) {
            if let Some(lane) = self.lanes.get_mut(key)
                && let Intake::UnknownGroup { since, last } = lane.intake
                && since + self.tuning.unknown_for == at
            {
                lane.intake = Intake::NoWebhook { last };
                self.catch_up.wanted = true;
            }
        }
    }
}
