//! Expiry (docs/delivery.md, Expiry): what waits longer than `backlog.max_age`, or in more space than `queue.max_bytes`, becomes dead letters. It also
//! knows how old the oldest unsettled packet is.
//!
//! The oldest record is read now and then. While it is beyond a limit, catch-up reads cut all that is, and the messages become dead letters.

use std::time::{Duration, Instant};

use pushline_model::{Cause, Offset, Timestamp};

use super::{Core, Effects, LaneKey, MessageKey, Notice, Now, event::OldestRead};

/// A wall clock that has moved this much more or less than the monotonic clock since the last check was set: the next check decides.
const CLOCK_STEP: Duration = Duration::from_secs(10);

/// What expires, and what is known of the oldest unsettled record.
#[derive(Debug)]
pub(super) struct Expiry {
    /// `None`: nothing expires.
    pub(super) limit: Option<Limit>,
    /// How often it was decided what expires.
    pub(super) checks: u64,
    due_at: Instant,
    checked_at: Now,
    is_reading: bool,
    /// What was read last, and from where.
    read: Option<(Offset, Option<Timestamp>)>,
    /// When the oldest unsettled packet was received.
    oldest: Option<Timestamp>,
}

/// Records beyond one of these expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    /// Received before: `backlog.max_age`.
    pub(super) before: Timestamp,
    /// Stored below: `queue.max_bytes`.
    pub(super) below: Offset,
}

impl Expiry {
    pub(super) fn new(now: Now) -> Self {
        Self { limit: None, checks: 0, due_at: now.monotonic, checked_at: now, is_reading: false, read: None, oldest: None }
    }

    /// When the oldest unsettled packet was received; `None`: all have settled.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.oldest
    }
}

impl Core {
    /// Once a second: asks for the oldest unsettled record, where a check is due or nothing else tells how old it is.
    pub(super) fn check_oldest(&mut self, overflow: Option<Offset>, now: Now, effects: &mut Effects) {
        let watermark = self.watermark();
        if self.expiry.is_reading {
            return;
        }
        if watermark >= self.log_end {
            self.expiry.oldest = None;
            if self.expiry.limit.is_some() {
                self.decide(None, overflow, now, effects);
            }
            return;
        }
        let known = self.received_at(watermark);
        self.expiry.oldest = known.or(self.expiry.oldest);
        if known.is_none() || self.expiry.due_at <= now.monotonic || overflow.is_some() {
            self.expiry.is_reading = true;
            effects.look_at = Some(watermark);
        }
    }

    pub(super) fn oldest_read(&mut self, read: OldestRead, now: Now, effects: &mut Effects) {
        self.expiry.is_reading = false;
        self.expiry.read = Some((read.from, read.received_at));
        self.expiry.oldest = read.received_at;
        if self.expiry.due_at <= now.monotonic || read.overflow.is_some() {
            self.decide(read.received_at, read.overflow, now, effects);
        }
    }

    /// When the record at the watermark was received, if that is known without reading it.
    fn received_at(&self, watermark: Offset) -> Option<Timestamp> {
        if let Some((from, Some(received_at))) = self.expiry.read
            && from == watermark
        {
            return Some(received_at);
        }
        let its = |lane: &&super::lane::Lane| lane.watermark(self.live_offset) == watermark;
        self.lanes.iter().map(|(_, lane)| lane).find(its)?.first_received_at(watermark)
    }

    fn decide(&mut self, oldest: Option<Timestamp>, overflow: Option<Offset>, now: Now, effects: &mut Effects) {
        self.expiry.due_at = now.monotonic + (self.tuning.max_age / 60).clamp(Duration::from_millis(500), Duration::from_mins(1));
        let before = std::mem::replace(&mut self.expiry.checked_at, now);
        let (monotonic, wall) = (now.monotonic.saturating_duration_since(before.monotonic), now.wall.distance(before.wall));
        let is_set = now.wall < before.wall && wall > CLOCK_STEP || wall.abs_diff(monotonic) > CLOCK_STEP;
        let limit = Limit { before: now.wall.minus(self.tuning.max_age), below: overflow.unwrap_or(0) };
        let is_old = oldest.is_some_and(|oldest| oldest < limit.before) && (!is_set || self.expiry.limit.is_some());
        let takes_space = overflow.is_some_and(|below| self.watermark() < below);
        let limit = (is_old || takes_space).then_some(limit);
        if limit.is_some() != self.expiry.limit.is_some() {
            effects.notices.push(if limit.is_some() { Notice::Expiring { overflow: takes_space } } else { Notice::NoneExpires });
        }
        self.expire(limit, now, effects);
    }

    /// While a limit is set, catch-up reads make dead letters of what lies beyond it. What has a body and isn't active becomes one at once; beyond
    /// `queue.max_bytes`, what is in flight too.
    pub(super) fn expire(&mut self, limit: Option<Limit>, now: Now, effects: &mut Effects) {
        self.expiry.limit = limit;
        self.expiry.checks += 1;
        let Some(limit) = limit else { return };
        let mut expired = Vec::new();
        for (key, lane) in &self.lanes {
            expired.extend(lane.expired(limit).map(|first| MessageKey { lane: key, first }));
        }
        for key in expired {
            self.dead_letter_message(key, Cause::Expired, now, effects);
        }
        let behind: Vec<LaneKey> = self.behind.iter().copied().collect();
        behind.into_iter().for_each(|key| self.evict(key));
        self.catch_up.wanted = true;
    }
}
