//! Crashes, and where the next process begins (LANES.md L10).

use super::*;

impl World {
    pub(super) fn crash(&mut self, which: usize) {
        // Mostly the latest, sometimes an older one, sometimes none.
        let place = match which % 6 {
            5 => None,
            4 => (which / 6).checked_rem(self.history.len()),
            _ => self.history.len().checked_sub(1),
        };
        let before = self.restart(place);
        self.zombie = [Some(before), None, self.zombie.take()].into_iter().nth(which / 7 % 3).flatten();
    }

    /// L10, from that checkpoint. Returns the process before.
    pub(super) fn restart(&mut self, place: Option<usize>) -> Process {
        let checkpoint = place.map(|place| self.history[place].clone());
        let log = |offset: Offset| self.log.get(usize::try_from(offset).unwrap()).filter(|_| offset >= self.start);
        let named =
            checkpoint.as_ref().is_some_and(|checkpoint| log(checkpoint.last.offset).is_some_and(|rec| rec.at == checkpoint.last.at));
        let believed = checkpoint.clone().filter(|_| named);
        let restart = Restart::new(Saved { checkpoint, watermark: Some(self.committed) }, &(self.start..self.end()), named);
        if restart.remade {
            assert!(place.is_some_and(|place| place < self.foreign), "a false alarm: the log is the one that it was");
            self.committed = restart.watermark;
        }
        let claimed = self.claimed(believed.as_ref(), &restart);
        let next = Process { claimed, ..Process::new(&self.registry, self.room_bytes, restart, self.instant()) };
        std::mem::replace(&mut self.task, next)
    }

    /// What was saved and committed speaks of other records now.
    pub(super) fn remake(&mut self, records: usize) {
        self.now += 1;
        (self.foreign, self.start, self.zombie) = (self.history.len(), 0, None);
        self.log = (0..records).map(|number| Rec { group: number % GROUPS.len(), at: self.wall(), size: number, replay: 0 }).collect();
        self.unsettled = (0..self.end()).collect();
        self.sent.clear();
        self.restart(Some(self.history.len() - 1));
    }

    /// What the checkpoint that is believed says is settled, and is.
    pub(super) fn claimed(&self, checkpoint: Option<&Checkpoint>, restart: &Restart) -> HashSet<Offset> {
        let head = checkpoint.map_or(restart.watermark, |checkpoint| checkpoint.head);
        let listed = |offset: Offset| {
            let group = GROUPS[self.log[usize::try_from(offset).unwrap()].group].0;
            restart
                .lanes
                .iter()
                .filter(|lane| lane.group == group)
                .any(|lane| offset >= lane.next || lane.messages.iter().any(|message| (message.first..=message.last).contains(&offset)))
        };
        (0..head.min(self.end())).filter(|offset| !self.unsettled.contains(offset) && !listed(*offset)).collect()
    }
}
