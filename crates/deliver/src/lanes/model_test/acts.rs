//! What a process does: it reads, sends, hears, buries, saves, and lets time pass.

use super::*;

impl World {
    pub(super) fn live(&mut self) {
        if self.task.lanes.head() < self.end() {
            let frame = self.frame(self.task.lanes.head());
            self.task.wanted |= self.task.lanes.live(&frame, self.log.len() as Offset, self.began + Duration::from_millis(self.now));
        }
    }

    pub(super) fn sweep(&mut self, sweep: Sweep) {
        self.task.lanes.sweep_from(sweep).into_iter().for_each(|from| self.turn(from));
    }

    pub(super) fn turn(&mut self, from: Offset) {
        let mut frames = vec![self.frame(from)];
        if frames[0].end() < self.task.lanes.head() {
            // It may begin before the end of the one before.
            frames.push(self.frame(frames[0].end() - from % 2));
        }
        let burials = self.task.lanes.sweep(from, &frames, self.instant(), self.wall());
        burials.into_iter().for_each(|burial| self.dig(&burial));
    }

    pub(super) fn send(&mut self) {
        let mut sent = Vec::new();
        self.task.lanes.dispatch(|sending| sent.push(sending));
        for sending in sent {
            let offsets = offsets(&sending.body);
            let group = self.log[usize::try_from(offsets[0]).unwrap()].group;
            assert!(offsets[0] >= self.task.floor, "sends {offsets:?}, which lies below the watermark {}", self.task.floor);
            self.check_alone(&sending);
            let listed = self.listed(&sending);
            let array = sending.body.starts_with(b"[");
            let as_listed = (listed.first, listed.last, listed.array) == (offsets[0], offsets[offsets.len() - 1], array);
            assert!(as_listed && listed.count as usize == offsets.len(), "{offsets:?} is listed as {listed:?}");
            assert!(!self.task.flying.iter().any(|flying| flying.id == sending.id), "in flight twice: {offsets:?}");
            assert!(
                !offsets.iter().any(|offset| self.task.claimed.contains(offset)),
                "sent again though checkpoint said settled: {offsets:?}"
            );
            let shape = (offsets.clone(), array);
            assert_eq!(*self.by_id.entry(sending.id).or_insert_with(|| shape.clone()), shape, "same id, other packets or shape");
            for offset in &offsets {
                assert_eq!(*self.task.in_message.entry(*offset).or_insert(sending.id), sending.id, "record {offset} in two messages");
                assert_eq!(self.log[usize::try_from(*offset).unwrap()].group, group, "groups mixed");
            }
            self.sent.insert(offsets[0], shape);
            let before = self.task.started.get(&group).copied();
            if before.is_none_or(|before| sending.key.first > before) {
                self.task.started.insert(group, sending.key.first);
            } else {
                assert!(self.attempted(&sending), "first started out of order: {offsets:?} after {before:?}");
            }
            self.task.flying.push(sending);
        }
    }

    pub(super) fn listed(&self, sending: &Sending) -> Listed {
        let mut messages = self.task.lanes.lanes[sending.key.lane].messages();
        messages.find(|message| message.listed.first == sending.key.first).expect("what is sent is listed").listed
    }

    /// Whether an earlier attempt was made in this process.
    pub(super) fn attempted(&self, sending: &Sending) -> bool {
        self.task.lanes.lanes[sending.key.lane]
            .messages()
            .any(|message| message.listed.first == sending.key.first && !message.attempts.is_empty())
    }

    pub(super) fn answer(&mut self, which: usize, how: How) {
        let Sending { key, slot, id, body, .. } = self.task.flying.remove(which);
        drop(slot);
        let outcome = match how {
            How::Accepted => Outcome::Accepted { status: 200 },
            How::Error => Outcome::ErrorResponse { status: 500, response: vec![] },
            How::Timeout => Outcome::NoResponse(NoResponse::Timeout),
            How::Reset => Outcome::NoResponse(NoResponse::ConnectionLost("reset".into())),
        };
        let attempt = Attempt { at: self.wall(), took: Duration::ZERO, status: None, no_response: None };
        let (consequence, suspect) = self.task.lanes.outcome(key, outcome, attempt, 0.5, self.instant());
        self.task.wanted |= suspect;
        match consequence {
            Consequence::Delivered(packets) => {
                let offsets = offsets(&body);
                assert_eq!(packets, offsets.len() as u64);
                offsets.iter().for_each(|offset| _ = self.unsettled.remove(offset));
            }
            Consequence::Bury(burial) => {
                let offsets: Vec<Offset> = burial.letters[0].packets.iter().map(|packet| offset(&packet.payload)).collect();
                assert_eq!(self.by_id[&id].0, offsets);
                self.dig(&burial);
            }
            Consequence::Again => {}
            Consequence::Discarded => {
                assert!(self.task.expired_in_flight.remove(&key.first), "an outcome that nobody waited for: {key:?}")
            }
        }
    }

    pub(super) fn expire(&mut self, beyond: Option<(u64, Offset)>) {
        self.task.has_expired |= beyond.is_some();
        self.task.wanted |= beyond.is_some();
        let expiry = beyond.map(|(age, below)| Expiry { before: self.wall().minus(Duration::from_millis(age)), below });
        let burials = self.task.lanes.expire(expiry, self.wall());
        for burial in burials {
            let first = offset(&burial.letters[0].packets[0].payload);
            let at = self.log[usize::try_from(first).unwrap()].at;
            let is_due = expiry.is_some_and(|Expiry { before, below }| at < before || first < below);
            assert!(is_due, "{first} has expired too early");
            if let BurialKey::Unsent { message: key, .. } = burial.key {
                self.task
                    .expired_in_flight
                    .extend(self.task.flying.iter().filter(|sending| sending.key == key).map(|sending| sending.key.first));
            }
            self.dig(&burial);
        }
    }

    pub(super) fn reload(&mut self, variant: usize) {
        self.registry = Arc::clone(&self.registries[variant]);
        self.task.outlets = Arc::new(self.task.outlets.read_again(Arc::clone(&self.registry)).unwrap());
        self.task.lanes.redirect(Arc::clone(&self.task.outlets), self.instant());
        self.task.wanted = true;
    }

    pub(super) fn dig(&mut self, burial: &Burial) {
        let packets = burial.letters.iter().flat_map(|letter| &letter.packets);
        self.task.dying.push((burial.key, packets.map(|packet| offset(&packet.payload)).collect()));
    }

    pub(super) fn bury(&mut self, which: usize) {
        let (key, offsets) = self.task.dying.remove(which);
        offsets.iter().for_each(|offset| _ = self.unsettled.remove(offset));
        assert_eq!(self.task.lanes.buried(key), offsets.len() as u64);
        self.task.wanted |= !matches!(key, BurialKey::Message(_));
    }

    pub(super) fn save(&mut self, commit: bool) {
        let Some(checkpoint) = self.task.lanes.checkpoint(self.end()) else { return };
        self.history.push(checkpoint);
        if commit {
            self.committed = self.committed.max(self.task.lanes.watermark());
        }
    }

    /// As the driver does: not before it is due.
    pub(super) fn tick(&mut self) {
        if self.task.lanes.next_tick(self.end()).is_some_and(|at| at <= self.instant()) {
            self.task.wanted |= self.task.lanes.tick(self.end(), self.instant());
        }
    }

    /// Turns as the driver takes them: only while somebody may want one.
    pub(super) fn turns(&mut self) {
        if let Some(for_sweeps) = self.task.bell.rung().now_or_never() {
            self.task.wanted |= self.task.lanes.woken() || for_sweeps;
        }
        for _ in 0..2 {
            if !std::mem::take(&mut self.task.wanted) {
                return;
            }
            let now = self.instant();
            let Some(from) = self.task.lanes.next_turn(now) else { return };
            self.turn(from);
            self.task.wanted = true;
        }
    }

    /// One round of everything that a running process does by itself.
    pub(super) fn round(&mut self, dead: Option<&str>) {
        (0..3).for_each(|_| self.live());
        self.turns();
        self.send();
        self.now += 400;
        self.tick();
        while let Some(place) = self.task.flying.iter().position(|sending| Some(sending.outlet.webhook.name.as_str()) != dead) {
            self.answer(place, How::Accepted);
        }
        while !self.task.dying.is_empty() {
            self.bury(0);
        }
        self.check();
    }
}
