//! The delivery core of one partition (docs/delivery.md): events in, effects out. Pure: no clock, no I/O.
//!
//! [`Core::on`] is the only entry. The core alone decides when a catch-up read is needed, how long it may be, when a checkpoint is saved, a tick is
//! appended or the oldest record is read, and when it wants to be woken. The driver (`pushline-deliver`) executes the effects and decides nothing.
//!
//! | rule | file |
//! |---|---|
//! | what a lane takes as it comes | `live.rs` |
//! | when a window is over | `windows.rs` |
//! | when lanes that are behind are served, and what is read for them | `catch_up.rs` |
//! | what they take of it | `block.rs` |
//! | whose message goes out next | `dispatch.rs` |
//! | what follows from an outcome | `outcomes.rs` |
//! | what is held of a suspended webhook | `suspensions.rs` |
//! | what becomes a dead letter, and when that settles | `dead_letters.rs` |
//! | what has waited too long | `expiry.rs` |
//! | lanes whose webhook changed or is unknown | `reload.rs` |
//! | what has settled, and the watermark | `settling.rs` |
//! | when a checkpoint is saved | `saving.rs` |
//! | how a task leaves its partition | `leaving.rs` |

mod block;
mod catch_up;
mod dead_letters;
mod dispatch;
mod effects;
mod event;
mod expiry;
mod lane;
mod leaving;
mod live;
mod message;
mod outcomes;
mod reload;
mod saving;
mod settling;
mod suspensions;
mod tuning;
mod windows;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    sync::Arc,
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use pushline_model::{GroupId, Offset, Timestamp};
use slab::Slab;

use self::{
    catch_up::CatchUp,
    dead_letters::{DeadLetters, Unwritten},
    dispatch::Line,
    expiry::Expiry,
    lane::{Intake, Lane, LastRules, Scratch},
    leaving::Leaving,
    saving::Saving,
    windows::Windows,
};
pub use self::{
    effects::{DeadLetterBatch, Effects, Excuse, Notice, ReadBlock, Save, StartAttempt},
    event::{AttemptEnded, Event, Leave, LogState, Now, OldestRead, SaveEnded, TickRefused},
    tuning::Tuning,
};
use crate::{
    budgets::Budgets,
    checkpoint::{LastPassed, Restart},
    webhooks::Webhooks,
};

/// A partition's lanes and everything that is decided about them.
#[derive(Debug)]
pub struct Core {
    partition: u32,
    tuning: Tuning,
    webhooks: Arc<Webhooks>,
    /// The next offset of live reading.
    live_offset: Offset,
    last: Option<LastPassed>,
    /// The end of the log as it was seen last.
    log_end: Offset,
    /// The end of the log at the start: the process before may have read what lies below.
    end_at_start: Offset,
    lanes: Slab<Lane>,
    by_group: HashMap<GroupId, LaneKey>,
    behind: BTreeSet<LaneKey>,
    lines: HashMap<String, Line>,
    windows: Windows,
    /// When messages may be sent again.
    pauses: BinaryHeap<Reverse<(Instant, LaneKey, Offset)>>,
    /// When lanes have waited long enough for their group's webhook.
    unknown: BinaryHeap<Reverse<(Instant, LaneKey)>>,
    catch_up: CatchUp,
    dead_letters: DeadLetters,
    expiry: Expiry,
    saving: Saving,
    leaving: Leaving,
    /// Packets that live reading has passed and that haven't settled.
    unsettled: u64,
    /// Breaker openings of the process that it knows of.
    openings: u64,
    /// Suspensions of the process that it knows of.
    suspensions: u64,
    /// When a webhook's rate allows the next attempt.
    rate_due: Option<Instant>,
    /// When what happens once a second is due.
    next_second: Instant,
    scratch: Scratch,
}

/// What the gauges show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Lanes that have read all their records up to the live offset.
    pub live_lanes: usize,
    /// Lanes that catch-up reads serve.
    pub lanes_behind: usize,
    /// Packets that haven't settled. Records that live reading hasn't read yet count as one each.
    pub unsettled: u64,
    /// Records between live reading and the end of the log.
    pub lag: u64,
    /// When the oldest unsettled packet was received; `None`: all have settled.
    pub oldest: Option<Timestamp>,
    /// For how long changes haven't been saved.
    pub checkpoint_age: Duration,
    /// Webhooks of the process that are unresponsive.
    pub unresponsive: usize,
    /// Webhooks of the process that are suspended.
    pub suspended: usize,
}

/// Where and when a core starts.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// The log at the start.
    pub log: LogState,
    /// When that is.
    pub now: Now,
}

/// A lane's place in the slab. A lane with an outstanding message keeps it.
pub type LaneKey = usize;

/// Names an outstanding message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageKey {
    /// Its lane.
    pub lane: LaneKey,
    /// The offset of its first record.
    pub first: Offset,
}

/// Names what dead letters were written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadLetterKey {
    /// A message whose last attempt decided.
    Message(MessageKey),
    /// A message that isn't sent (any more).
    Unsent {
        /// Its key.
        message: MessageKey,
        /// What the letters hold in memory, about.
        bytes: usize,
    },
    /// Records of a lane that are in no message.
    Records {
        /// The lane.
        lane: LaneKey,
        /// Below this offset.
        until: Offset,
        /// How many packets they hold.
        packets: u64,
        /// What the letters hold in memory, about.
        bytes: usize,
    },
}

impl Core {
    /// Starts where a checkpoint says. `partition`: its number in the queue.
    pub fn new(partition: u32, webhooks: Arc<Webhooks>, restart: Restart, tuning: Tuning, start: Start, budgets: &Budgets) -> Self {
        let Start { log, now } = start;
        let opened = restart.lanes.iter().filter_map(|lane| lane.window).map(|window| window.opened).max();
        let reached = restart.last.map(|last| last.log_time).max(opened);
        let mut core = Self {
            partition,
            tuning,
            webhooks,
            live_offset: restart.live_offset,
            last: restart.last,
            log_end: log.end,
            end_at_start: restart.end_at_start,
            lanes: Slab::new(),
            by_group: HashMap::new(),
            behind: BTreeSet::new(),
            lines: HashMap::new(),
            windows: Windows::new(reached, log, now.monotonic),
            pauses: BinaryHeap::new(),
            unknown: BinaryHeap::new(),
            catch_up: CatchUp::new(),
            dead_letters: DeadLetters { unwritten: Unwritten::default(), is_owner: true },
            expiry: Expiry::new(now),
            saving: Saving::new(now.monotonic),
            leaving: Leaving::No,
            unsettled: 0,
            // This partition holds nothing yet of the webhooks concerned.
            openings: budgets.openings(),
            suspensions: budgets.suspensions().begun(),
            rate_due: None,
            next_second: now.monotonic,
            scratch: Scratch::default(),
        };
        for saved in restart.lanes {
            core.resume(saved, now);
        }
        core
    }

    fn resume(&mut self, saved: crate::checkpoint::LaneCheckpoint, now: Now) {
        let group = GroupId::of_record(&saved.group).expect("a decoded checkpoint names groups");
        let last = LastRules { window: saved.window_length, hash: saved.rules_hash };
        let intake = Intake::new(&group, self.webhooks.of(&group), last, now.monotonic);
        let lane = Lane::resume(group.clone(), intake, saved, self.live_offset);
        self.unsettled += lane.unsettled;
        let is_live = lane.is_live();
        let key = self.lanes.insert(lane);
        self.by_group.insert(group, key);
        self.excuse_other_rules(key, last);
        self.watch_unknown(key);
        if is_live {
            self.watch_window(key);
        }
        self.place(key);
    }

    /// Something happened. `effects` is emptied first; then it holds what is to be done. The first event is [`Event::TimePassed`], right after the start.
    pub fn on(&mut self, event: Event<'_>, now: Now, budgets: &Budgets, effects: &mut Effects) {
        effects.clear();
        self.evict_of_unresponsive(budgets);
        self.follow_suspensions(now.monotonic, budgets, effects);
        self.happen(event, now, effects);
        self.pass_time(now, effects);
        if self.is_leaving() {
            self.go_on_leaving(now, effects);
        }
        if let Some(wake) = budgets.take_owed() {
            self.catch_up.wanted |= wake.for_catch_up;
            effects.wake_others = Some(wake);
        }
        if !self.is_leaving() {
            self.dispatch(now.monotonic, effects);
            self.plan_read(now, effects);
        }
        if self.scratch.excused > 0 {
            let messages = std::mem::take(&mut self.scratch.excused);
            effects.notices.push(Notice::Excused { reason: Excuse::CutRules, messages });
        }
        effects.wake_at = self.next_wake(budgets);
    }

    fn happen(&mut self, event: Event<'_>, now: Now, effects: &mut Effects) {
        match event {
            Event::LiveFrame { frame, log } => {
                self.live_frame(frame, now, effects);
                self.log_is(log, now);
            }
            // A task that leaves begins nothing: neither messages nor dead letters.
            Event::CatchUpBlock { .. } | Event::OldestRead(_) if self.is_leaving() => {}
            Event::CatchUpBlock { frames } => self.block(frames, now, effects),
            Event::AttemptsEnded(ended) => ended.drain(..).for_each(|ended| self.attempt_ended(ended, now, effects)),
            Event::DeadLettersDurable(key) => self.dead_letters_durable(key),
            Event::OwnershipLost => self.dead_letters.is_owner = false,
            Event::SaveEnded(ended) => self.save_ended(ended, now, effects),
            Event::TickEnded(ended) => self.tick_ended(ended, now, effects),
            Event::OldestRead(read) => self.oldest_read(read, now, effects),
            Event::Woken { for_catch_up } => self.catch_up.wanted |= for_catch_up,
            Event::Reloaded(webhooks) => self.reload(webhooks, now),
            Event::TimePassed { log, overflow } => {
                self.log_is(log, now);
                if self.next_second <= now.monotonic && !self.is_leaving() {
                    self.next_second = now.monotonic + self.tuning.save_every;
                    self.check_oldest(overflow, now, effects);
                    self.catch_up.wanted |= self.dead_letters.unwritten.resume();
                    self.save_changes(effects);
                    effects.report = true;
                }
            }
            Event::Leave(leave) => self.leave(leave),
            Event::AttemptsAborted => self.attempts_aborted(),
        }
    }

    /// What is due, whatever happened.
    fn pass_time(&mut self, now: Now, effects: &mut Effects) {
        self.end_pauses(now.monotonic);
        self.give_up_unknown(now.monotonic);
        self.catch_up.pass_time(now.monotonic);
        self.append_tick(now, effects);
        if self.saving.is_urgent && !self.is_leaving() {
            self.save_changes(effects);
        }
    }

    fn next_wake(&self, budgets: &Budgets) -> Option<Instant> {
        if self.is_leaving() {
            return self.leaving_due();
        }
        let pause = self.pauses.peek().map(|Reverse((at, ..))| *at);
        let unknown = self.unknown.peek().map(|Reverse((at, _))| *at);
        let others = [self.window_due(), pause, unknown, self.catch_up.due(), budgets.suspensions().due(), self.rate_due];
        Some(others.into_iter().flatten().fold(self.next_second, Instant::min))
    }

    /// Whether live reading goes on: not while the task leaves.
    #[must_use]
    pub fn reads_live(&self) -> bool {
        !self.is_leaving()
    }

    /// What the gauges show now.
    #[must_use]
    pub fn status(&self, now: Now) -> Status {
        let lag = self.log_end.saturating_sub(self.live_offset);
        Status {
            live_lanes: self.lanes.len() - self.behind.len(),
            lanes_behind: self.behind.len(),
            unsettled: self.unsettled + lag,
            lag,
            oldest: self.expiry.oldest(),
            checkpoint_age: self.saving.age(now.monotonic),
            unresponsive: self.webhooks.unresponsive(),
            suspended: self.webhooks.suspended(),
        }
    }
}

/// What comes up first, taken out if it is due.
fn take_due<T: Ord>(heap: &mut BinaryHeap<Reverse<T>>, is_due: impl FnOnce(&T) -> bool) -> Option<T> {
    heap.peek().filter(|Reverse(first)| is_due(first))?;
    heap.pop().map(|Reverse(first)| first)
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod edge_test;
#[cfg(test)]
mod memory_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod reading_test;
