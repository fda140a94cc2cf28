//! Steps of a schedule, and how they are drawn.

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// `replay`: so many packets in one record; 0 for a packet.
    Append {
        group: usize,
        after: u64,
        size: usize,
        replay: usize,
        /// Its `received_at` lies so many milliseconds back.
        late: u64,
    },
    Live(usize),
    Sweep(bool),
    Send,
    Answer {
        which: usize,
        how: How,
    },
    Bury(usize),
    Time(u64),
    Save {
        commit: bool,
    },
    Crash {
        checkpoint: usize,
    },
    /// What is older than so many milliseconds, or among the first so many records, expires. None: nothing does any more.
    Expire(Option<(u64, Offset)>),
    /// 0: as at first; 1: webhook Q is defined anew; 2: group `o/c` is unknown.
    Reload(usize),
    /// The log is deleted below what is committed.
    Trim,
    /// The log is made anew under the same name, with so many records.
    Remake(usize),
    /// A step of the process before, which lives on though another was started.
    Zombie(Box<Step>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum How {
    Accepted,
    Error,
    Timeout,
    Reset,
}

impl World {
    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Append { group, after, size, replay, late } => {
                self.now += after;
                self.unsettled.insert(self.end());
                self.log.push(Rec { group, at: self.wall().minus(Duration::from_millis(late)), size, replay });
            }
            Step::Live(frames) => (0..frames).for_each(|_| self.live()),
            Step::Sweep(near) => {
                self.task.lanes.woken();
                self.sweep(if near { Sweep::Near } else { Sweep::Far });
                self.task.wanted = true;
            }
            Step::Send => self.send(),
            Step::Answer { which, how } if !self.task.flying.is_empty() => self.answer(which % self.task.flying.len(), how),
            Step::Bury(which) if !self.task.dying.is_empty() => self.bury(which % self.task.dying.len()),
            Step::Answer { .. } | Step::Bury(_) => {}
            Step::Time(millis) => {
                self.now += millis;
                self.tick();
            }
            Step::Save { commit } => self.save(commit),
            Step::Crash { checkpoint } => self.crash(checkpoint),
            Step::Expire(beyond) => self.expire(beyond),
            Step::Reload(variant) => self.reload(variant),
            Step::Trim if self.zombie.is_none() => self.start = self.start.max(self.committed / FRAME as Offset * FRAME as Offset),
            Step::Remake(records) if !self.history.is_empty() => self.remake(records),
            Step::Trim | Step::Remake(_) => {}
            Step::Zombie(ref step) => self.zombie_step(step),
        }
        self.check();
    }

    /// It reads, sends, hears and saves as before; what it commits is refused.
    pub(super) fn zombie_step(&mut self, step: &Step) {
        let Some(zombie) = self.zombie.take() else { return };
        let (task, committed) = (std::mem::replace(&mut self.task, zombie), self.committed);
        self.step(step);
        self.committed = committed;
        self.zombie = Some(std::mem::replace(&mut self.task, task));
    }
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![3 => Just(How::Accepted), 1 => Just(How::Error), 1 => Just(How::Timeout), 1 => Just(How::Reset)];
    prop_oneof![
        6 => (0..GROUPS.len(), prop_oneof![4 => 0..300u64, 1 => Just(1500)], prop_oneof![3 => 0..20usize, 1 => Just(400), 1 => Just(2000)], prop_oneof![9 => Just(0usize), 1 => 1..4usize])
            .prop_map(|(group, after, size, replay)| Step::Append { group, after, size, replay, late: 0 }),
        4 => (1..4usize).prop_map(Step::Live),
        3 => any::<bool>().prop_map(Step::Sweep),
        4 => Just(Step::Send),
        5 => (any::<usize>(), how).prop_map(|(which, how)| Step::Answer { which, how }),
        2 => any::<usize>().prop_map(Step::Bury),
        2 => prop_oneof![6 => 1..500u64, 2 => Just(7000), 1 => Just(400_000)].prop_map(Step::Time),
        1 => any::<bool>().prop_map(|commit| Step::Save { commit }),
        1 => any::<usize>().prop_map(|checkpoint| Step::Crash { checkpoint }),
        1 => prop_oneof![1 => Just(None), 2 => (100..9000u64, 0..30u64).prop_map(Some)].prop_map(Step::Expire),
        1 => (0..3usize).prop_map(Step::Reload),
    ]
}

/// Without what may change the cut: a crash, an expiry, a reload.
pub(super) fn calm_step() -> impl Strategy<Value = Step> {
    step().prop_filter("calm", |step| !matches!(step, Step::Crash { .. } | Step::Expire(_) | Step::Reload(_)))
}

/// With late records, a log that is deleted below what is committed, and a process that lives on beside its successor.
pub(super) fn wild_step() -> impl Strategy<Value = Step> {
    let late = prop_oneof![3 => Just(0), 1 => 0..2500u64];
    let wild = (step(), 0..3usize, late).prop_map(|(step, whose, late)| match step {
        Step::Append { group, after, size, replay, .. } => Step::Append { group, after, size, replay, late },
        Step::Crash { .. } | Step::Reload(_) => step,
        _ if whose == 0 => Step::Zombie(Box::new(step)),
        _ => step,
    });
    prop_oneof![50 => wild, 2 => Just(Step::Trim), 1 => (0..30usize).prop_map(Step::Remake)]
}

pub(super) fn room() -> impl Strategy<Value = usize> {
    prop_oneof![Just(600usize), Just(6_000), Just(60_000), Just(1 << 20)]
}

pub(super) fn max_packets() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), Just(3), Just(10)]
}

pub(super) fn dead() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("P"), Just("Q"), Just("R")]
}
