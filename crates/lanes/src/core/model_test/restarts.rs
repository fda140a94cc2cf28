//! Crashes, hand-overs and recreated logs: where the next process begins, and whether that excuses a second id.

use std::{collections::HashSet, ops::Range, rc::Rc};

use pushline_model::Offset;

use super::{
    driver::Process,
    log::{GROUPS, Log, Saved},
    schedule::{Append, Crash},
    world::{Common, World},
};
use crate::checkpoint::{Checkpoint, Restart};

impl Common {
    /// Where a partition's core begins. If the log isn't the one that the checkpoint speaks of, the watermark is set first, then an empty checkpoint is
    /// durable; embedded, both are in one file.
    pub(super) fn restart(&mut self, partition: usize, found: Option<&Saved>) -> Restart {
        let log = &self.logs[partition];
        let checkpoint = found.map(|saved| Checkpoint::decode(&saved.checkpoint).expect("it was encoded by this version"));
        let last = checkpoint.as_ref().and_then(|checkpoint| checkpoint.last);
        let is_named = last.is_some_and(|last| log.records.get(&last.offset).is_some_and(|rec| rec.at == last.at));
        let restart = Restart::new(log.committed, checkpoint, &(log.start..log.end), is_named);
        self.tell(|| format!("  starts with {restart:?}"));
        if restart.is_another_log {
            assert!(found.is_some_and(|found| found.epoch != self.logs[partition].epoch), "a false alarm");
            self.reset(partition, restart.watermark);
        }
        restart
    }

    fn reset(&mut self, partition: usize, start: Offset) {
        let (track, config) = (self.truths[partition].track, self.configs.len() - 1);
        let log = &mut self.logs[partition];
        (log.committed, log.is_stale) = (Some(start), false);
        let checkpoint = Checkpoint { live_offset: start, ..Checkpoint::default() }.encode();
        log.latest = Some(Rc::new(Saved { checkpoint, watermark: start, epoch: log.epoch, track, config }));
    }

    /// What a restart must not send again: what lies below its live offset, has settled, and is in no lane of it.
    pub(super) fn claimed(&self, partition: usize, restart: &Restart) -> HashSet<Offset> {
        let log = &self.logs[partition];
        let is_open = |offset: Offset| {
            let key = log.records[&offset].key();
            let its = restart.lanes.iter().filter(|lane| lane.group == key);
            its.flat_map(|lane| {
                lane.messages.iter().map(|span| span.first..span.last + 1).chain(std::iter::once(lane.batched_until..Offset::MAX))
            })
            .any(|range: Range<Offset>| range.contains(&offset))
        };
        let passed = log.records.range(..restart.live_offset).map(|(offset, _)| *offset);
        passed.filter(|offset| !log.unsettled.contains(offset) && !is_open(*offset)).collect()
    }

    /// Whether a group has no webhook now that had one, and its lane isn't in the checkpoint: then its last cut rules are forgotten.
    fn forgets_rules(&self, partition: usize, found: Option<&Saved>, since: usize) -> bool {
        let checkpoint = found.filter(|found| found.epoch == self.logs[partition].epoch);
        let lanes = checkpoint.map(|found| Checkpoint::decode(&found.checkpoint).expect("it was encoded by this version").lanes);
        let is_saved = |group: usize| lanes.iter().flatten().any(|lane| lane.group == GROUPS[group] && lane.rules_hash.is_some());
        let had_one = |group: usize| self.configs[since..].iter().any(|config| config.route[group].is_some());
        (0..GROUPS.len()).any(|group| self.config().route[group].is_none() && had_one(group) && !is_saved(group))
    }

    /// Whether a restart from a checkpoint excuses a second id.
    fn excuse_restart(&mut self, partition: usize, found: Option<&Rc<Saved>>) {
        let log = &self.logs[partition];
        let is_latest = match (found, &log.latest) {
            (None, None) => true,
            (Some(found), Some(latest)) => Rc::ptr_eq(found, latest),
            _ => false,
        };
        // Older checkpoints of the same log are no excuse, where their watermark is the committed one.
        let is_of_this = |found: &&Rc<Saved>| found.epoch == log.epoch && found.track == self.truths[partition].track;
        let is_harmless = is_latest || log.latest.is_some() && found.is_some_and(|found| is_of_this(&found));
        // The one that the commit names is never behind it.
        let may_be_behind = !is_latest || log.has_older;
        let is_behind = may_be_behind && found.is_some_and(|found| found.epoch == log.epoch && Some(found.watermark) < log.committed);
        let since = found.map_or(0, |found| found.config);
        let are_rules_others = self.differ_since(since) || self.forgets_rules(partition, found.map(|found| &**found), since);
        if is_behind || !is_harmless || are_rules_others {
            self.excuse(partition, if are_rules_others { "excuses: cut rules" } else { "excuses: checkpoint" });
            let log = &mut self.logs[partition];
            (log.latest, log.has_older) = (found.cloned(), log.has_older || !is_latest);
        }
    }
}

impl World {
    pub(super) fn crash(&mut self, crash: &Crash) {
        if crash.zombie_ends {
            self.end_zombie();
        }
        if crash.saves_land {
            self.land_saves();
        }
        if !self.common.clock.is_kafka {
            for log in &mut self.common.logs {
                log.show(crash.records);
                log.lose_pending();
            }
        }
        self.start_next(crash);
    }

    fn land_saves(&mut self) {
        for task in &mut self.main.tasks {
            if let Some(saving) = task.saving.take() {
                task.land(saving, false, &mut self.common);
            }
        }
    }

    /// The next process starts. Returns the one before.
    fn start_next(&mut self, crash: &Crash) -> Process {
        if let Some(change) = &crash.change {
            self.common.reconfigure(change);
        }
        if !self.common.clock.is_kafka {
            self.common.clock.restart_log_time(&self.common.logs);
        }
        let found: Vec<Option<Rc<Saved>>> = self.common.logs.iter().map(|log| find(log, crash)).collect();
        for (partition, found) in found.iter().enumerate() {
            self.common.excuse_restart(partition, found.as_ref());
        }
        self.common.count("restarts");
        let next = Process::start(&mut self.common, found);
        std::mem::replace(&mut self.main, next)
    }

    /// Another process takes over. The one before lives on until it has left.
    pub(super) fn hand_over(&mut self, in_order: bool, rounds: usize, crash: &Crash) {
        if crash.saves_land {
            self.land_saves();
        }
        let is_kafka = self.common.clock.is_kafka;
        if in_order || !is_kafka {
            self.main.leave(&mut self.common);
            let at_most = if is_kafka { rounds } else { usize::MAX };
            self.play_until_left(at_most);
        }
        if !is_kafka {
            self.common.logs.iter_mut().for_each(Log::show_all);
        }
        let mut before = self.start_next(crash);
        before.is_zombie = true;
        self.zombie = Some(before).filter(|before| is_kafka && !before.has_left());
    }

    /// What the zombie has sent, the one that serves the partition may have to cut again.
    pub(super) fn end_zombie(&mut self) {
        let Some(zombie) = self.zombie.take() else { return };
        for (task, before) in self.main.tasks.iter_mut().zip(&zombie.tasks) {
            task.seen.until = task.seen.until.max(before.core.live_offset);
        }
    }

    /// The log is recreated under the same name: what is saved speaks of other records.
    pub(super) fn remake(&mut self, partition: usize, appends: &[Append], crash: &Crash) {
        // A checkpoint that names no record can't tell another log: none was passed since the last alarm.
        let latest = self.common.logs[partition].latest.as_ref();
        let names_record = |saved: &Rc<Saved>| Checkpoint::decode(&saved.checkpoint).is_ok_and(|checkpoint| checkpoint.last.is_some());
        if !latest.is_some_and(names_record) {
            return;
        }
        self.zombie = None;
        self.common.clock.now += 1;
        self.common.logs[partition].remake();
        let truth = &mut self.common.truths[partition];
        (truth.is_another_log, truth.sent) = (true, Default::default());
        self.common.count("recreated logs");
        for append in appends {
            self.append(&Append { partition, ..append.clone() });
        }
        self.common.logs[partition].show_all();
        self.start_next(crash);
    }

    /// A task gets the registry that was read again.
    pub(super) fn reload_task(&mut self, is_zombie: bool, place: usize) -> bool {
        let Some(process) = (if is_zombie { self.zombie.as_mut() } else { Some(&mut self.main) }) else { return false };
        if process.tasks[place].reload.is_none() {
            return false;
        }
        if self.common.differ_since(process.tasks[place].seen.config) {
            let partition = process.tasks[place].partition;
            let zombie = if is_zombie { Some(process) } else { self.zombie.as_mut() };
            // What a zombie cuts under rules of its own is its own affair from here on.
            let read = zombie.map(|zombie| {
                zombie.tasks[place].seen.track = self.common.aside();
                zombie.tasks[place].core.live_offset
            });
            let task = &mut self.main.tasks[place];
            if !is_zombie && task.may_cut_again_below(task.seen.until.max(read.unwrap_or(0))) {
                task.seen.track = self.common.excuse(partition, "excuses: cut rules");
            }
        }
        let process = if is_zombie { self.zombie.as_mut().expect("it is there") } else { &mut self.main };
        process.reload(place, &mut self.common)
    }
}

/// The checkpoint that a restart finds.
fn find(log: &Log, crash: &Crash) -> Option<Rc<Saved>> {
    let older = || log.history.get(crash.which.checked_rem(log.history.len())?).cloned();
    let found = match crash.found {
        0..3 => log.latest.clone(),
        3..5 => older(),
        _ => None,
    };
    // A checkpoint that is missing while the log was recreated is left out.
    if log.is_stale && found.is_none() { log.history.last().cloned() } else { found }
}
