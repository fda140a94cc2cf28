//! What each step of a schedule does.

use super::{
    driver::Process,
    log::{Rec, SEGMENT, stamp},
    schedule::{Act, Append, How, Step},
    world::World,
};

impl World {
    pub(super) fn step(&mut self, step: &Step) {
        self.common.tell(|| format!("{step:?}"));
        match step {
            Step::Append(append) => self.append(append),
            Step::Show { partition, records } => self.common.logs[*partition].show(*records),
            Step::Time(millis) => self.common.clock.now += millis,
            Step::SetClock(by) if self.common.clock.is_kafka => self.common.clock.broker += by,
            Step::SetClock(by) => self.common.clock.wall += by,
            Step::Act { zombie, partition, act } => self.act(*zombie && self.zombie.is_some(), *partition, act),
            Step::Run { append, time, frames, accepted } => self.run(append, *time, *frames, *accepted),
            Step::Reload { change, reaches_zombie, order } => {
                self.common.reconfigure(change);
                self.read_again(*reaches_zombie);
                self.reload_task(false, order % self.main.tasks.len());
            }
            Step::Crash(crash) => self.crash(crash),
            Step::HandOver { in_order, rounds, crash } => self.hand_over(*in_order, *rounds, crash),
            Step::ZombieEnds => self.end_zombie(),
            Step::Trim { partition, to_segment } => {
                let log = &mut self.common.logs[*partition];
                let to = log.committed.unwrap_or(0);
                if self.zombie.is_none() {
                    log.trim(if *to_segment { to / SEGMENT * SEGMENT } else { to });
                }
            }
            Step::Overflow { partition } => {
                let log = &mut self.common.logs[*partition];
                if log.end - log.start > 3 {
                    log.overflow = Some(((log.start / SEGMENT + 1) * SEGMENT).min(log.end)).max(log.overflow);
                }
            }
            Step::Remake { partition, appends, crash } => self.remake(*partition, appends, crash),
        }
        self.check();
    }

    /// Processes read the registry again.
    pub(super) fn read_again(&mut self, reaches_zombie: bool) {
        let (registry, config) = (self.common.registry(), self.common.configs.len() - 1);
        let zombie = self.zombie.as_mut().filter(|_| reaches_zombie);
        std::iter::once(&mut self.main).chain(zombie).for_each(|process| process.read_again(&registry, config));
    }

    pub(super) fn append(&mut self, append: &Append) {
        let Append { partition, group, after, size, what, late, is_gap_before, is_visible } = *append;
        self.common.clock.now += after;
        let at = pushline_model::Timestamp(stamp(self.common.clock.now.saturating_sub(late)).0 + self.common.logs[partition].epoch);
        self.common.append(partition, Rec { offset: 0, group, what, at, log_time: 0, size }, is_gap_before);
        if is_visible {
            self.common.logs[partition].show_all();
        }
    }

    /// Appends a packet of the first partition, and checks nothing.
    pub(super) fn append_packet(&mut self, group: usize) {
        let what = super::schedule::What::Packet;
        self.append(&Append { partition: 0, group, after: 0, size: 1, what, late: 0, is_gap_before: false, is_visible: true });
    }

    fn act(&mut self, is_zombie: bool, place: usize, act: &Act) {
        if let Act::Reload = act {
            self.reload_task(is_zombie, place);
            return;
        }
        let Some(process) = (if is_zombie { self.zombie.as_mut() } else { Some(&mut self.main) }) else { return };
        if process.tasks[place].has_left {
            return;
        }
        let common = &mut self.common;
        match act {
            Act::Live(frames) => _ = process.live(place, *frames, common),
            Act::CatchUp => _ = process.catch_up(place, common),
            Act::Time => _ = process.time(place, common),
            Act::Woken => _ = process.woken(place, common),
            Act::Outcomes(outcomes) => {
                let in_flight = process.tasks[place].in_flight.len();
                let mut ended: Vec<(usize, How)> =
                    outcomes.iter().filter(|_| in_flight > 0).map(|(which, how)| (which % in_flight, *how)).collect();
                ended.sort_unstable_by_key(|(which, _)| *which);
                ended.dedup_by_key(|(which, _)| *which);
                if !ended.is_empty() {
                    process.attempts_ended(place, ended, common);
                }
            }
            Act::DeadLetters { which, is_refused } => _ = process.dead_letters(place, *which, *is_refused, common),
            Act::Save { commits, is_postponed } => _ = process.save(place, *commits, *is_postponed, common),
            Act::Tick { is_refused, is_dropped } => _ = process.tick(place, *is_refused, *is_dropped, common),
            Act::Oldest => _ = process.oldest(place, common),
            Act::Reload => {}
        }
    }

    /// What processes do by themselves.
    fn run(&mut self, append: &Append, time: u64, frames: usize, accepted: u64) {
        self.append(append);
        self.common.clock.now += time;
        for place in 0..self.main.tasks.len() {
            self.main.live(place, frames, &mut self.common);
            self.main.time(place, &mut self.common);
            self.main.woken(place, &mut self.common);
            self.main.catch_up(place, &mut self.common);
            self.main.tick(place, false, false, &mut self.common);
            let in_flight = self.main.tasks[place].in_flight.len().min(64);
            let ended: Vec<(usize, How)> =
                (0..in_flight).filter(|which| accepted >> which & 1 == 1).map(|which| (which, How::Accepted)).collect();
            if !ended.is_empty() {
                self.main.attempts_ended(place, ended, &mut self.common);
            }
        }
    }
}

impl Process {
    /// The registry was read again: each task gets it in its own time.
    fn read_again(&mut self, registry: &std::sync::Arc<pushline_model::Registry>, config: usize) {
        let webhooks = self.webhooks.reload(std::sync::Arc::clone(registry));
        webhooks.end_suspensions(&self.webhooks);
        self.webhooks = std::sync::Arc::new(webhooks);
        for task in &mut self.tasks {
            task.reload = Some((std::sync::Arc::clone(&self.webhooks), config));
        }
    }
}
