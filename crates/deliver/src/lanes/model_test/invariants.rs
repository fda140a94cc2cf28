//! What holds after each step, and at the end.

use super::*;

impl World {
    /// A suspect webhook has one message under way, over all its groups.
    pub(super) fn check_alone(&self, sending: &Sending) {
        let share = &sending.outlet.share;
        let its = |lane: &&Lane| lane.outlet.as_ref().is_some_and(|outlet| Arc::ptr_eq(&outlet.share, share));
        let flies = |message: &&Message| matches!(message.state, State::InFlight { .. } | State::Pausing { .. });
        let lanes = self.task.lanes.lanes.iter().map(|(_, lane)| lane).filter(its);
        let under_way: usize = lanes.map(|lane| lane.messages().filter(flies).count()).sum();
        // All that a webhook begins before it is found suspect may be under way; nothing is added to it.
        assert!(!share.is_suspect() || under_way == 1, "a suspect webhook has {under_way} under way");
    }

    pub(super) fn check(&self) {
        let lowest = self.unsettled.first().copied().unwrap_or(self.end());
        self.check_checkpoint();
        self.check_suspects();
        assert!(self.task.lanes.watermark() <= lowest, "watermark {} above unsettled {lowest}", self.task.lanes.watermark());
        assert!(self.committed <= lowest);
        let held: i64 = self.task.outlets.shares().map(|share| share.held()).sum();
        assert!(self.task.outlets.shares().all(|share| share.held() >= 0));
        assert_eq!(self.task.room.free(), i64::try_from(self.room_bytes).unwrap() - held, "leases don't add up");
        let passed = self.unsettled.iter().filter(|offset| **offset < self.task.lanes.head()).count() as u64;
        assert!(self.task.lanes.unsettled() >= passed, "unsettled {} of {passed}", self.task.lanes.unsettled());
        for (key, lane) in &self.task.lanes.lanes {
            assert_eq!(self.task.lanes.by_group.get(lane.group.key()), Some(&key));
            assert_eq!(self.task.lanes.behind.contains(&key), !lane.is_live());
            let head = self.task.lanes.head();
            let reads_from = lane.watermark(head)..=head;
            assert!(reads_from.contains(&lane.taken(head)), "would read again what has settled: {reads_from:?}, {}", self.describe());
            let rebuilds = |message: &Message| matches!(message.state, State::Rebuilding(..));
            assert!(lane.is_at_hand() || !lane.messages().any(rebuilds), "what it rebuilds isn't at hand: {}", self.describe());
        }
    }

    /// Checkpoint calls nothing settled that isn't.
    pub(super) fn check_checkpoint(&self) {
        let Some(checkpoint) = self.task.lanes.checkpoint() else { return };
        for offset in self.unsettled.range(..checkpoint.head) {
            let group = GROUPS[self.log[usize::try_from(*offset).unwrap()].group].0;
            let lane = checkpoint.lanes.iter().find(|lane| lane.group == group);
            let is_told = lane.is_some_and(|lane| {
                *offset >= lane.next || lane.messages.iter().any(|message| (message.first..=message.last).contains(offset))
            });
            assert!(is_told, "checkpoint says that {offset} is settled: {checkpoint:?}");
        }
    }

    /// A suspect webhook holds what is under way and at most one message more.
    pub(super) fn check_suspects(&self) {
        if self.task.has_expired {
            return; // what expires is rebuilt whether there is room or not
        }
        let mut loose: HashMap<&str, usize> = HashMap::new();
        for (_, lane) in &self.task.lanes.lanes {
            let Some(outlet) = lane.outlet.as_ref().filter(|outlet| outlet.share.is_suspect()) else { continue };
            let waits = |message: &&Message| matches!(message.state, State::Waiting(_));
            *loose.entry(&outlet.webhook.name).or_default() += lane.messages().filter(waits).count() + usize::from(lane.is_at_hand());
        }
        assert!(loose.values().all(|messages| *messages <= 1), "a suspect webhook hoards: {loose:?}, {}", self.describe());
    }

    pub(super) fn describe(&self) -> String {
        let head = self.task.lanes.head();
        let state = |message: &Message| format!("{:?}", message.state).split(['(', ' ']).next().unwrap_or_default().to_owned();
        let lane = |lane: &Lane| {
            let states: Vec<String> = lane.messages().map(state).collect();
            format!(
                "{:?} taken {} burying {:?} in line {} {states:?}",
                lane.checkpoint(head),
                lane.taken(head),
                lane.burying(),
                lane.in_line
            )
        };
        let lanes: Vec<String> = self.task.lanes.lanes.iter().map(|(_, found)| lane(found)).collect();
        let lines: Vec<String> = self.task.lanes.lines.iter().map(|(name, line)| format!("{name} {line:?}")).collect();
        format!("head {head}, {lanes:#?}, {lines:#?}, {:?}", self.task.lanes.pauses)
    }

    pub(super) fn drain(&mut self, dead: &str) {
        self.zombie = None;
        self.expire(None);
        self.reload(0);
        let stuck = |group: usize| GROUPS[group].1 == dead;
        let owed: Vec<Offset> =
            self.unsettled.iter().copied().filter(|offset| !stuck(self.log[usize::try_from(*offset).unwrap()].group)).collect();
        let rounds = 60 + 6 * self.unsettled.len();
        for _ in 0..rounds {
            self.round(Some(dead));
        }
        let starved: Vec<&Offset> = owed.iter().filter(|offset| self.unsettled.contains(*offset)).collect();
        assert!(starved.is_empty(), "starved beside a dead customer: {starved:?}, head {}, {}", self.task.lanes.head(), self.describe());
        for _ in 0..rounds {
            self.round(None);
        }
        assert!(self.unsettled.is_empty(), "never settled: {:?}", self.unsettled);
        assert_eq!(self.task.lanes.lanes.len(), 0, "lanes left: {}", self.describe());
        assert_eq!((self.task.lanes.watermark(), self.task.lanes.unsettled(), self.task.lanes.unwritten), (self.end(), 0, 0));
        assert_eq!(self.task.room.free(), i64::try_from(self.room_bytes).unwrap());
    }
}
