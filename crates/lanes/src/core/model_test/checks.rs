//! What must hold of what is sent, at each attempt and dead letter, and of the cores' state after each step.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use pushline_model::{Cause, DeadLetter, MessageId, Offset};

use super::{
    super::{
        DeadLetterBatch, DeadLetterKey, StartAttempt,
        lane::Lane,
        message::{Message, State},
    },
    driver::{Process, Task},
    schedule::{How, What},
    world::{Common, Sent, World, offset_in},
};
use crate::{checkpoint::Checkpoint, webhooks::WebhookHandle};

impl Process {
    pub(super) fn check_attempts(&mut self, place: usize, attempts: &[StartAttempt], common: &mut Common) {
        for attempt in attempts {
            common.tell(|| format!("  partition {place} sends {:?} to {}", Sent::of(&attempt.body), attempt.handle.webhook.name));
            let is_new = self.tasks[place].check_attempt(attempt, common);
            self.check_pace(attempt, common);
            if attempt.handle.is_unresponsive() {
                let count = |is_its| self.tasks.iter().map(|task| task.count_messages(&attempt.handle, is_its)).sum::<usize>();
                assert_eq!(count(is_in_flight), 1, "messages in flight of an unresponsive webhook");
                assert!(
                    !is_new || count(is_pausing) == 0,
                    "an unresponsive webhook begins a message while another is between two attempts"
                );
            }
        }
    }

    /// Nothing starts while its webhook is suspended, or sooner than its rate allows: a task that was woken late may start it 10 ms too early.
    fn check_pace(&mut self, attempt: &StartAttempt, common: &Common) {
        let (name, now) = (&attempt.handle.webhook.name, common.clock.instant());
        let until = self.suspended.get(name);
        assert!(until.is_none_or(|until| now >= *until), "an attempt of {name} starts while its webhook is suspended");
        let last = self.started_at.insert(name.clone(), now);
        let is_early = last.is_some_and(|last| now < last + Duration::from_millis(90));
        assert!(!(common.setup.has_rate && is_early), "attempts of {name} start faster than its rate allows");
    }

    pub(super) fn check_dead_letters(&mut self, place: usize, batches: &[DeadLetterBatch], common: &mut Common) {
        for DeadLetterBatch { key, letters } in batches {
            common.tell(|| format!("  partition {place} dead-letters {key:?} {:?}", letters.iter().map(offsets_of).collect::<Vec<_>>()));
            letters.iter().for_each(|letter| self.tasks[place].check_dead_letter(*key, letter, common));
        }
    }

    fn check(&self, common: &Common) {
        let now = common.clock.now();
        self.tasks.iter().filter(|task| !task.has_left).for_each(|task| task.check(common, now));
        self.check_leases(common);
        self.check_unresponsive(common);
        self.check_suspended(common);
    }

    /// Leases add up to what lanes hold, per webhook and in all.
    fn check_leases(&self, common: &Common) {
        let mut in_all = 0;
        for handle in self.webhooks.handles() {
            let share = &handle.budgets.memory;
            let leases = self.tasks.iter().flat_map(|task| task.core.lanes.iter()).flat_map(|(_, lane)| lane.leases());
            let its: usize = leases
                .filter(|(lease, _)| lease.is_of(share))
                .map(|(lease, held)| {
                    assert_eq!(lease.bytes(), held, "a lease isn't what its body holds");
                    held
                })
                .sum();
            let held = usize::try_from(share.held()).expect("leases of a webhook add up to nothing less than 0");
            assert_eq!(held, its, "leases of {}", handle.webhook.name);
            in_all += its;
        }
        assert_eq!(self.budgets.free(), signed(common.setup.memory) - signed(in_all), "leases don't add up");
    }

    /// An unresponsive webhook holds what is active and one message more at most. What expires is rebuilt whatever it holds.
    fn check_unresponsive(&self, common: &Common) {
        let expires = |task: &Task| common.truths[task.partition].has_unsent;
        if self.tasks.iter().any(|task| expires(task) || task.woken.is_some()) {
            return;
        }
        let mut held: HashMap<&str, usize> = HashMap::new();
        for (_, lane) in self.tasks.iter().flat_map(|task| task.core.lanes.iter()) {
            if let Some(handle) = lane.intake.handle().filter(|handle| handle.is_unresponsive()) {
                let waiting = lane.messages.iter().filter(|message| matches!(message.state, State::Waiting(_))).count();
                *held.entry(&handle.webhook.name).or_default() += waiting + usize::from(lane.is_filling());
            }
        }
        assert!(held.values().all(|messages| *messages <= 1), "unresponsive webhooks hold {held:?} messages that aren't active");
    }

    /// A suspended webhook holds what is active.
    fn check_suspended(&self, common: &Common) {
        let expires = |task: &Task| common.truths[task.partition].has_unsent;
        if self.tasks.iter().any(|task| expires(task) || task.woken.is_some() || task.reload.is_some()) {
            return;
        }
        let now = common.clock.instant();
        for (_, lane) in self.tasks.iter().filter(|task| !task.has_left).flat_map(|task| task.core.lanes.iter()) {
            let Some(name) = lane.intake.handle().map(|handle| &handle.webhook.name) else { continue };
            let Some(until) = self.suspended.get(name).filter(|until| **until > now) else { continue };
            let is_waiting = lane.messages.iter().any(|message| matches!(message.state, State::Waiting(_)));
            assert!(!lane.is_filling() && !is_waiting, "{name} is suspended until {until:?} and holds messages: {lane:#?}");
        }
    }
}

impl Task {
    /// Returns whether the message is started for the first time.
    fn check_attempt(&mut self, attempt: &StartAttempt, common: &mut Common) -> bool {
        let (log, truth, id) = (&common.logs[self.partition], &mut common.truths[self.partition], attempt.id);
        let sent = Sent::of(&attempt.body);
        let first = sent.offsets[0];
        assert_eq!(attempt.packets, sent.offsets.len());
        assert!(!self.in_flight.iter().any(|other| other.id == id), "in flight twice: {sent:?}");
        assert!(first >= self.seen.floor, "sends {sent:?}, which lies below the watermark {}", self.seen.floor);
        assert!(!sent.offsets.iter().any(|offset| self.seen.claimed.contains(offset)), "sends what its checkpoint calls settled: {sent:?}");
        let group = log.ever[&first].key();
        assert!(sent.offsets.iter().all(|offset| log.ever[offset].key() == group), "mixes groups: {sent:?}");
        if let What::Replay { .. } = log.ever[&first].what {
            assert_eq!(id, log.ever[&first].replayed_id(), "another id than the replay brings back");
        }
        let started = self.seen.started.entry(group).or_default();
        let last = started.last().copied();
        // A local failure is no attempt: what follows starts the message for the first time again.
        let is_new = started.insert(first);
        assert!(!is_new || last.is_none_or(|last| last < first), "first started out of order: {sent:?} after {last:?}");
        assert!(attempt.is_first || !is_new, "no attempt was made before: {sent:?}");
        for &offset in &sent.offsets {
            let before = self.seen.in_message.insert(offset, Some(id));
            assert!(before.is_none_or(|before| before == Some(id)), "record {offset} in two messages of one process");
            // The check of all checks.
            let one = *truth.ids.entry((self.seen.track, log.epoch, offset)).or_insert(id);
            assert_eq!(one, id, "record {offset} of partition {} is sent under two ids", self.partition);
        }
        truth.cut(id, sent);
        common.count("attempts");
        is_new
    }

    fn check_dead_letter(&mut self, key: DeadLetterKey, letter: &DeadLetter, common: &mut Common) {
        let (log, truth) = (&common.logs[self.partition], &mut common.truths[self.partition]);
        let offsets = offsets_of(letter);
        let first = &log.ever[&offsets[0]];
        let id = letter.message_id.as_deref().and_then(MessageId::parse);
        if let DeadLetterKey::Records { .. } = key {
            for offset in &offsets {
                let before = self.seen.in_message.insert(*offset, None);
                let is_new = before.is_none() || before == Some(None) && offsets.len() > 1; // a replay's packets have one offset
                assert!(is_new, "record {offset} is dead-lettered by itself, and was in {before:?}");
            }
            let is_cut =
                id.is_none() && letter.cause == Cause::Expired && common.configs.iter().all(|config| config.has_webhook(first.group));
            assert!(!is_cut, "{first:?} expires by itself, though its group has a webhook");
        } else {
            let id = id.expect("a message has an id");
            for offset in &offsets {
                let before = self.seen.in_message.insert(*offset, Some(id));
                assert!(before.is_none_or(|before| before == Some(id)), "record {offset} in two messages of one process");
                // Its replay is sent under its id.
                let one = *truth.ids.entry((self.seen.track, log.epoch, *offset)).or_insert(id);
                assert_eq!(one, id, "record {offset} was sent under another id than its dead letter has");
            }
            truth.cut(id, Sent { offsets, array: letter.array });
        }
        if letter.cause == Cause::Expired && !matches!(key, DeadLetterKey::Records { .. }) {
            let is_old = first.at < self.seen.latest_wall.minus(common.tuning().max_age);
            assert!(is_old || first.offset < self.seen.overflow, "{first:?} expires too early");
        }
        let may_expire = common.setup.expires || common.setup.kinds.overflows;
        assert!(letter.cause != Cause::Expired || may_expire, "expires where nothing does");
        assert_eq!(letter.cause == Cause::Unreadable, first.key().is_empty(), "{letter:?}");
    }

    fn check(&self, common: &Common, now: super::super::Now) {
        let (core, log) = (&self.core, &common.logs[self.partition]);
        let (watermark, lowest) = (core.watermark(), log.lowest());
        assert!(watermark <= lowest, "watermark {watermark} above the unsettled {lowest}");
        assert!(log.committed.is_none_or(|committed| committed <= lowest), "{:?} is committed, above {lowest}", log.committed);
        let passed = log.unsettled.range(..core.live_offset).map(|offset| log.ever[offset].packets() as u64).sum::<u64>();
        let status = core.status(now);
        assert!(status.unsettled - status.lag >= passed, "counts {} unsettled packets of {passed}", status.unsettled - status.lag);
        assert_eq!(core.by_group.len(), core.lanes.len());
        for (key, lane) in &core.lanes {
            assert_eq!(core.by_group.get(lane.group.key()), Some(&key));
            assert_eq!(core.behind.contains(&key), !lane.is_live(), "{lane:?}");
            let reads_from = lane.watermark(core.live_offset)..=core.live_offset;
            assert!(reads_from.contains(&lane.read_until(core.live_offset)), "would read again what has settled: {reads_from:?} {lane:#?}");
            let rebuilds = lane.messages.iter().any(|message| matches!(message.state, State::Rebuilding(_)));
            assert!(!rebuilds || lane.is_filling(), "stands elsewhere than in the message that it rebuilds: {lane:#?}");
        }
    }

    /// How many messages of a webhook are in a state.
    fn count_messages(&self, handle: &WebhookHandle, is_it: fn(&State) -> bool) -> usize {
        let is_its = |other: &Arc<WebhookHandle>| Arc::ptr_eq(&other.budgets.breaker, &handle.budgets.breaker);
        let counts = |lane: &Lane, message: &Message| {
            let handle = if let State::InFlight { handle, .. } = &message.state { Some(handle) } else { lane.intake.handle() };
            is_it(&message.state) && handle.is_some_and(is_its)
        };
        let lanes = self.core.lanes.iter().map(|(_, lane)| lane);
        lanes.map(|lane| lane.messages.iter().filter(|message| counts(lane, message)).count()).sum()
    }

    /// Whether it may cut again what another process may have sent below an offset.
    pub(super) fn may_cut_again_below(&self, offset: Offset) -> bool {
        let live_offset = self.core.live_offset;
        let stands = |lane: &Lane| lane.read_until(live_offset).min(lane.cutter.first().unwrap_or(live_offset));
        live_offset < offset || self.core.lanes.iter().any(|(_, lane)| stands(lane) < offset)
    }
}

impl Common {
    /// A checkpoint calls nothing settled that isn't.
    pub(super) fn check_checkpoint(&self, partition: usize, encoded: &Bytes, watermark: Offset) {
        let log = &self.logs[partition];
        let checkpoint = Checkpoint::decode(encoded).expect("it was just encoded");
        assert!(watermark <= log.lowest(), "saves the watermark {watermark}, above the unsettled {}", log.lowest());
        for offset in log.unsettled.range(..checkpoint.live_offset) {
            let key = log.ever[offset].key();
            let is_told =
                checkpoint.lanes.iter().filter(|lane| lane.group == key).any(|lane| {
                    *offset >= lane.batched_until || lane.messages.iter().any(|span| (span.first..=span.last).contains(offset))
                });
            assert!(is_told, "a checkpoint calls {offset} settled: {checkpoint:?}");
        }
    }

    pub(super) fn settle_attempt(&mut self, partition: usize, body: &Bytes, how: How) {
        if how == How::Accepted {
            let log = &mut self.logs[partition];
            Sent::of(body).offsets.iter().for_each(|offset| _ = log.unsettled.remove(offset));
        }
    }

    pub(super) fn settle_dead_letters(&mut self, partition: usize, letters: &[DeadLetter]) {
        let log = &mut self.logs[partition];
        letters.iter().flat_map(offsets_of).for_each(|offset| _ = log.unsettled.remove(&offset));
        self.count("dead letters");
    }
}

impl World {
    /// After each step.
    pub(super) fn check(&self) {
        self.processes().for_each(|process| process.check(&self.common));
    }
}

fn is_in_flight(state: &State) -> bool {
    matches!(state, State::InFlight { .. })
}

fn is_pausing(state: &State) -> bool {
    matches!(state, State::Pausing { .. })
}

fn offsets_of(letter: &DeadLetter) -> Vec<Offset> {
    letter.packets.iter().map(|packet| offset_in(&packet.payload)).collect()
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).expect("it is small")
}
