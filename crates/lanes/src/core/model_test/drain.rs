//! How a schedule ends: one customer stays dead while the others answer and traffic goes on; then all answer. Only effects cause events from here on, so a
//! wake-up that was lost shows.

use std::time::Duration;

use pushline_model::Offset;

use super::{
    driver::Process,
    log::GROUPS,
    schedule::{Append, Change, Ending, How, What},
    world::{Common, WEBHOOKS, World},
};

/// The server that doesn't answer.
#[derive(Debug, Clone, Copy)]
struct Dead {
    webhook: &'static str,
    /// Its attempts never end; else they end without a response.
    hangs: bool,
}

/// Decides what effects don't.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

impl World {
    pub(super) fn end(&mut self, ending: &Ending) {
        self.end_zombie();
        (0..self.main.tasks.len()).for_each(|place| _ = self.reload_task(false, place));
        let mut dice = Dice(ending.seed);
        self.common.tell(|| "--- one customer stays dead, the others answer".into());
        self.outlive_dead_customer(Dead { webhook: WEBHOOKS[ending.dead], hangs: ending.hangs }, &mut dice);
        self.common.tell(|| "--- all answer".into());
        self.common.logs.iter_mut().for_each(super::log::Log::show_all);
        self.give_all_groups_a_webhook();
        self.settle_all(&mut dice);
        self.leave_clean();
        self.check_naive();
    }

    /// Customers that answer are served beside a dead one.
    fn outlive_dead_customer(&mut self, dead: Dead, dice: &mut Dice) {
        let owed: Vec<Vec<Offset>> = (0..self.main.tasks.len()).map(|place| self.owed(place, dead)).collect();
        let is_owed = |common: &Common| {
            let left = |(log, owed): (&super::log::Log, &Vec<Offset>)| owed.iter().any(|offset| log.unsettled.contains(offset));
            common.logs.iter().zip(&owed).any(left)
        };
        let deadline = self.deadline();
        let mut records = 10;
        while is_owed(&self.common) {
            if self.round(Some(dead), dice) {
                continue;
            }
            if records > 0 {
                records -= 1;
                self.append_one(dice);
            }
            let now = self.common.clock.instant();
            assert!(now < deadline && self.sleep(), "starved beside a dead customer: {owed:?} {}", self.describe());
        }
    }

    fn append_one(&mut self, dice: &mut Dice) {
        let partition = usize::try_from(dice.below(self.common.logs.len() as u64)).expect("it is small");
        let group = usize::try_from(dice.below(self.common.setup.groups as u64)).expect("it is small");
        let what = What::Packet;
        self.append(&Append { partition, group, after: 0, size: 1, what, late: 0, is_gap_before: false, is_visible: false });
    }

    /// What customers that answer are owed. A message stuck in flight to the dead one holds up its group's later ones, perhaps. In strict order those hold
    /// memory of the group's webhook of now, whose other groups may wait for it.
    fn owed(&self, place: usize, dead: Dead) -> Vec<Offset> {
        let (task, log, config) = (&self.main.tasks[place], &self.common.logs[place], self.common.config());
        let route = |group: &str| {
            let group = GROUPS.iter().position(|other| *other == group)?;
            config.route[group].map(|webhook| WEBHOOKS[webhook])
        };
        let is_stuck = |group: &str| {
            let mut stuck = task.in_flight.iter().filter(|attempt| attempt.handle.webhook.name == dead.webhook);
            stuck.any(|attempt| task.core.lanes.get(attempt.key.lane).is_some_and(|lane| lane.group.key() == group))
        };
        let strict = self.main.tasks.iter().filter(|_| self.common.setup.is_strict);
        let in_flight = strict.flat_map(|task| task.in_flight.iter().map(move |attempt| (task, attempt)));
        let stuck: Vec<&str> = in_flight
            .filter(|(_, attempt)| attempt.handle.webhook.name == dead.webhook)
            .filter_map(|(task, attempt)| route(task.core.lanes.get(attempt.key.lane)?.group.key()))
            .collect();
        let is_owed = |offset: &Offset| {
            let group = log.ever[offset].key();
            let answers = |webhook: &str| webhook != dead.webhook && !stuck.contains(&webhook);
            group.is_empty() || route(group).is_some_and(answers) && !is_stuck(group)
        };
        log.unsettled.iter().copied().filter(is_owed).collect()
    }

    fn give_all_groups_a_webhook(&mut self) {
        for group in 0..self.common.setup.groups {
            if self.common.config().route[group].is_none() {
                self.common.reconfigure(&Change::Route { group, webhook: Some(0) });
                self.read_again(false);
                (0..self.main.tasks.len()).for_each(|place| _ = self.reload_task(false, place));
            }
        }
    }

    fn settle_all(&mut self, dice: &mut Dice) {
        let deadline = self.deadline();
        loop {
            let is_unsettled = self.common.logs.iter().any(|log| !log.unsettled.is_empty());
            if !is_unsettled && self.main.tasks.iter().all(|task| task.core.lanes.is_empty()) {
                break;
            }
            if !self.round(None, dice) {
                let now = self.common.clock.instant();
                assert!(now < deadline && self.sleep(), "never settled: {}", self.describe());
            }
        }
        for task in &self.main.tasks {
            let status = task.core.status(self.common.clock.now());
            assert_eq!((task.core.watermark(), status.unsettled - status.lag), (task.core.live_offset, 0));
            assert_eq!(task.core.dead_letters.unwritten.bytes, 0);
        }
        let memory = i64::try_from(self.common.setup.memory).expect("it is small");
        assert_eq!(self.main.budgets.free(), memory, "bytes are held for nothing");
    }

    /// The process leaves, and its last checkpoint says that all has settled.
    fn leave_clean(&mut self) {
        self.main.leave(&mut self.common);
        self.play_until_left(usize::MAX);
        for (task, log) in self.main.tasks.iter().zip(&self.common.logs) {
            let has_passed = task.core.last.is_some();
            assert!(!has_passed || log.committed == Some(task.core.live_offset), "committed {:?} of {}", log.committed, log.end);
        }
    }

    /// Plays at most so many rounds while the tasks leave. All answer.
    pub(super) fn play_until_left(&mut self, rounds: usize) {
        let mut dice = Dice(1);
        let deadline = self.common.clock.instant() + Duration::from_secs(10);
        for _ in 0..rounds {
            if self.main.has_left() {
                return;
            }
            if !self.round(None, &mut dice) {
                let now = self.common.clock.instant();
                assert!(now < deadline && self.sleep(), "never leaves: {}", self.describe());
            }
        }
    }

    /// Bounds how long it may take, in the world's time.
    fn deadline(&self) -> std::time::Instant {
        let unsettled: usize = self.common.logs.iter().map(|log| log.unsettled.len()).sum();
        self.common.clock.instant() + Duration::from_secs(30 + unsettled as u64)
    }

    /// Everything that was begun ends, once. Returns whether anything happened.
    fn round(&mut self, dead: Option<Dead>, dice: &mut Dice) -> bool {
        let mut has_happened = self.common.logs.iter().any(|log| !log.pending.is_empty());
        if dead.is_none() || dice.below(2) == 0 {
            self.common.logs.iter_mut().for_each(super::log::Log::show_all);
        }
        let order = usize::try_from(dice.below(2)).expect("it is small");
        for step in 0..self.main.tasks.len() {
            let place = (step + order) % self.main.tasks.len();
            if self.main.tasks[place].has_left {
                continue;
            }
            let (main, common) = (&mut self.main, &mut self.common);
            has_happened |= main.live(place, 3, common);
            has_happened |= main.woken(place, common);
            has_happened |= main.catch_up(place, common);
            has_happened |= main.save(place, true, false, common);
            has_happened |= main.tick(place, false, false, common);
            has_happened |= main.oldest(place, common);
            while main.dead_letters(place, 0, false, common) {
                has_happened = true;
            }
            has_happened |= main.answer(place, dead, dice, common);
            has_happened |= main.time(place, common);
        }
        self.check();
        has_happened
    }

    /// Time passes until a task wants to be woken. Returns whether one does.
    fn sleep(&mut self) -> bool {
        let wake_at = self.main.tasks.iter().filter(|task| !task.has_left).filter_map(|task| task.wake_at).min();
        wake_at.into_iter().for_each(|at| self.common.clock.move_to(at));
        wake_at.is_some()
    }

    pub(super) fn describe(&self) -> String {
        let tasks: Vec<String> = self.main.tasks.iter().map(super::driver::Task::describe).collect();
        let left: Vec<Vec<Offset>> = self.common.logs.iter().map(|log| log.unsettled.iter().copied().collect()).collect();
        format!("unsettled {left:?}\n{}", tasks.join("\n"))
    }
}

impl Process {
    /// Servers that answer accept what is in flight; beside a dead one, half of it.
    fn answer(&mut self, place: usize, dead: Option<Dead>, dice: &mut Dice, common: &mut Common) -> bool {
        let mut ended = Vec::new();
        let mut is_waiting = false;
        for (which, attempt) in self.tasks[place].in_flight.iter().enumerate() {
            match dead {
                Some(dead) if attempt.handle.webhook.name == dead.webhook && dead.hangs => continue,
                Some(_) if dice.below(2) == 0 => is_waiting = true,
                Some(dead) if attempt.handle.webhook.name == dead.webhook => ended.push((which, How::Timeout)),
                _ => ended.push((which, How::Accepted)),
            }
        }
        let has_ended = !ended.is_empty();
        if has_ended {
            self.attempts_ended(place, ended, common);
        }
        has_ended || is_waiting
    }
}
