//! Lanes under random schedules (LANES.md, *What follows, and is tested*): the Rust against the rules that `model/lanes.py` plays.
//!
//! A schedule appends, reads, sweeps, sends, answers, lets time pass, saves, crashes with the latest, an older, a zombie's or no progress. After each
//! step the invariants hold; at the end one customer stays dead while the others answer, then everybody answers, and nothing is left. Without a
//! crash, an expiry or a reload the messages are the naive cutter's, whatever was refused or let go.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use proptest::prelude::*;
use pushline_model::{
    Attempt, GroupId, Iccid, MessageId, NoResponse, Offset, Order, Outcome, Packet, Registry, RegistryBuilder, Timestamp, Webhook,
};
use pushline_queue::{Frame, FrameBuilder, Kind, Listed, Progress, Record, Replay, Restart, Saved};
use tokio::sync::Notify;

use super::{sweeps::Sweep, *};
use crate::{
    Egress, Network,
    lane::{Message, State},
    room::Room,
};

/// With their webhooks; the last is that of foreign records, which belong to none.
const GROUPS: [(&str, &str); 5] = [("o/a", "P"), ("o/b", "P"), ("o/c", "Q"), ("o/d", "R"), ("", "")];
const FRAME: usize = 3;
const NEAR_HERE: Offset = 12;

#[derive(Debug, Clone)]
enum Step {
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
        progress: usize,
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
enum How {
    Accepted,
    Error,
    Timeout,
    Reset,
}

/// A record of the log, and the truth about it.
#[derive(Debug, Clone)]
struct Rec {
    group: usize,
    at: Timestamp,
    size: usize,
    replay: usize,
}

impl Rec {
    fn payload(&self, place: usize) -> Vec<u8> {
        format!("{place} {}", "x".repeat(self.size)).into_bytes()
    }

    fn packet<'a>(&self, payload: &'a [u8]) -> Packet<'a> {
        let iccid = Iccid::from_bytes(b"897612653856781234").unwrap();
        Packet { iccid, topic: "o/897612653856781234", received_at: self.at, payload }
    }
}

struct World {
    registries: [Arc<Registry>; 3],
    registry: Arc<Registry>,
    room_bytes: usize,
    log: Vec<Rec>,
    /// What lies below was deleted.
    start: Offset,
    unsettled: BTreeSet<Offset>,
    by_id: HashMap<MessageId, (Vec<Offset>, bool)>,
    /// What was sent: first offset to packets and shape.
    sent: BTreeMap<Offset, (Vec<Offset>, bool)>,
    history: Vec<Progress>,
    /// So many of them speak of a log that isn't there any more.
    foreign: usize,
    committed: Offset,
    began: Instant,
    now: u64,
    task: Process,
    /// The process before, where it lives on: what it sends arrives, what it saves may be believed.
    zombie: Option<Process>,
}

/// One process: a partition task with its room.
struct Process {
    room: Arc<Room>,
    outlets: Arc<Outlets>,
    lanes: Lanes,
    flying: Vec<Sending>,
    dying: Vec<(BurialKey, Vec<Offset>)>,
    expired_in_flight: HashSet<Offset>,
    started: BTreeMap<usize, Offset>,
    in_message: HashMap<Offset, MessageId>,
    claimed: HashSet<Offset>,
    /// Packets were made dead letters by a sweep, which needs no room.
    has_expired: bool,
    /// The watermark that it started with: nothing below is sent.
    floor: Offset,
    /// As in the driver: what wakes it, and whether somebody may want a turn.
    woken: Arc<Notify>,
    wanted: bool,
}

impl Process {
    fn new(registry: &Arc<Registry>, room: usize, restart: Restart, now: Instant) -> Self {
        static NETWORK: LazyLock<Arc<Network>> = LazyLock::new(|| Network::new(Egress::default()).unwrap());
        let room = Room::new(room);
        let outlets = Arc::new(Outlets::new(Arc::clone(registry), &room, &NETWORK).unwrap());
        let (floor, woken) = (restart.watermark, room.join());
        let mut lanes = Lanes::new(0, Arc::clone(&outlets), restart, now);
        lanes.near = NEAR_HERE;
        Self {
            floor,
            woken,
            wanted: true,
            room,
            outlets,
            lanes,
            flying: Vec::new(),
            dying: Vec::new(),
            expired_in_flight: HashSet::new(),
            started: BTreeMap::new(),
            in_message: HashMap::new(),
            claimed: HashSet::new(),
            has_expired: false,
        }
    }
}

impl World {
    fn new(room_bytes: usize, order: Order, max_packets: usize) -> Self {
        Self::with(room_bytes, |webhook| {
            (webhook.max_packets, webhook.max_body_bytes, webhook.concurrency, webhook.order) = (max_packets, 1024, 2, order)
        })
    }

    fn with(room_bytes: usize, define: impl Fn(&mut Webhook)) -> Self {
        let registries = [0, 1, 2].map(|variant| Arc::new(registry(variant, &define)));
        let registry = Arc::clone(&registries[0]);
        let task = Process::new(&registry, room_bytes, Restart::new(Saved::default(), 0, false), Instant::now());
        Self {
            registries,
            registry,
            room_bytes,
            log: Vec::new(),
            start: 0,
            unsettled: BTreeSet::new(),
            by_id: HashMap::new(),
            sent: BTreeMap::new(),
            history: Vec::new(),
            foreign: 0,
            committed: 0,
            began: Instant::now(),
            now: 0,
            task,
            zombie: None,
        }
    }

    fn instant(&self) -> Instant {
        self.began + Duration::from_millis(self.now)
    }

    fn wall(&self) -> Timestamp {
        Timestamp(1 << 50).plus(Duration::from_millis(self.now))
    }

    fn end(&self) -> Offset {
        self.log.len() as Offset
    }

    /// The frame that holds an offset.
    fn frame(&self, offset: Offset) -> Frame {
        assert!(offset >= self.start, "reads what was deleted: {offset} below {}", self.start);
        let base = usize::try_from(offset).unwrap() / FRAME * FRAME;
        let mut builder = FrameBuilder::default();
        for (place, rec) in self.log.iter().enumerate().skip(base).take(FRAME) {
            let (group, payload) = (GROUPS[rec.group].0, rec.payload(place));
            let packet = rec.packet(&payload);
            if group.is_empty() {
                builder.push(&Record { group, at: rec.at, kind: Kind::Foreign { why: "no header" }, payload: &payload });
            } else if rec.replay > 0 {
                let replay = Replay { message_id: None, array: rec.replay > 1, packets: vec![packet.into(); rec.replay] }.encode();
                builder.push(&Record { group, at: rec.at, kind: Kind::Replay, payload: &replay });
            } else {
                builder.push(&Record::packet(group, &packet));
            }
        }
        builder.seal(base as Offset, base as Offset)
    }

    fn step(&mut self, step: &Step) {
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
            Step::Crash { progress } => self.crash(progress),
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
    fn zombie_step(&mut self, step: &Step) {
        let Some(zombie) = self.zombie.take() else { return };
        let (task, committed) = (std::mem::replace(&mut self.task, zombie), self.committed);
        self.step(step);
        self.committed = committed;
        self.zombie = Some(std::mem::replace(&mut self.task, task));
    }

    fn live(&mut self) {
        if self.task.lanes.head() < self.end() {
            let frame = self.frame(self.task.lanes.head());
            self.task.wanted |= self.task.lanes.live(&frame, self.log.len() as Offset, self.began + Duration::from_millis(self.now));
        }
    }

    fn sweep(&mut self, sweep: Sweep) {
        self.task.lanes.sweep_from(sweep).into_iter().for_each(|from| self.turn(from));
    }

    fn turn(&mut self, from: Offset) {
        let mut frames = vec![self.frame(from)];
        if frames[0].end() < self.task.lanes.head() {
            // It may begin before the end of the one before.
            frames.push(self.frame(frames[0].end() - from % 2));
        }
        let burials = self.task.lanes.sweep(from, &frames, self.instant(), self.wall());
        burials.into_iter().for_each(|burial| self.dig(&burial));
    }

    fn send(&mut self) {
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
                "sent again though progress said settled: {offsets:?}"
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

    /// A suspect webhook has one message under way, over all its groups.
    fn check_alone(&self, sending: &Sending) {
        let share = &sending.outlet.share;
        let its = |lane: &&Lane| lane.outlet.as_ref().is_some_and(|outlet| Arc::ptr_eq(&outlet.share, share));
        let flies = |message: &&Message| matches!(message.state, State::InFlight { .. } | State::Pausing { .. });
        let lanes = self.task.lanes.lanes.iter().map(|(_, lane)| lane).filter(its);
        let under_way: usize = lanes.map(|lane| lane.messages().filter(flies).count()).sum();
        // All that a webhook begins before it is found suspect may be under way; nothing is added to it.
        assert!(!share.is_suspect() || under_way == 1, "a suspect webhook has {under_way} under way");
    }

    fn listed(&self, sending: &Sending) -> Listed {
        let mut messages = self.task.lanes.lanes[sending.key.lane].messages();
        messages.find(|message| message.listed.first == sending.key.first).expect("what is sent is listed").listed
    }

    /// Whether an earlier attempt was made in this process.
    fn attempted(&self, sending: &Sending) -> bool {
        self.task.lanes.lanes[sending.key.lane]
            .messages()
            .any(|message| message.listed.first == sending.key.first && !message.attempts.is_empty())
    }

    fn answer(&mut self, which: usize, how: How) {
        let sending = self.task.flying.remove(which);
        let outcome = match how {
            How::Accepted => Outcome::Accepted { status: 200 },
            How::Error => Outcome::ErrorResponse { status: 500, response: vec![] },
            How::Timeout => Outcome::NoResponse(NoResponse::Timeout),
            How::Reset => Outcome::NoResponse(NoResponse::ConnectionLost),
        };
        let attempt = Attempt { at: self.wall(), took: Duration::ZERO, status: None, no_response: None };
        let (consequence, suspect) = self.task.lanes.outcome(sending.key, outcome, attempt, 0.5, self.instant());
        self.task.wanted |= suspect;
        match consequence {
            Consequence::Delivered(packets) => {
                let offsets = offsets(&sending.body);
                assert_eq!(packets, offsets.len() as u64);
                offsets.iter().for_each(|offset| _ = self.unsettled.remove(offset));
            }
            Consequence::Bury(burial) => {
                let offsets: Vec<Offset> = burial.letters[0].packets.iter().map(|packet| offset(&packet.payload)).collect();
                assert_eq!(self.by_id[&sending.id].0, offsets);
                self.dig(&burial);
            }
            Consequence::Again => {}
            Consequence::Discarded => {
                assert!(self.task.expired_in_flight.remove(&sending.key.first), "an outcome that nobody waited for: {sending:?}")
            }
        }
    }

    fn expire(&mut self, beyond: Option<(u64, Offset)>) {
        self.task.has_expired |= beyond.is_some();
        self.task.wanted |= beyond.is_some();
        let expiry = beyond.map(|(age, below)| Expiry { before: self.wall().minus(Duration::from_millis(age)), below });
        let burials = self.task.lanes.expire(expiry, self.wall());
        for burial in burials {
            if let BurialKey::Message(key) = burial.key {
                self.task
                    .expired_in_flight
                    .extend(self.task.flying.iter().filter(|sending| sending.key == key).map(|sending| sending.key.first));
            }
            self.dig(&burial);
        }
    }

    fn reload(&mut self, variant: usize) {
        self.registry = Arc::clone(&self.registries[variant]);
        self.task.outlets = Arc::new(self.task.outlets.read_again(Arc::clone(&self.registry)).unwrap());
        self.task.lanes.redirect(Arc::clone(&self.task.outlets), self.instant());
        self.task.wanted = true;
    }

    fn dig(&mut self, burial: &Burial) {
        let packets = burial.letters.iter().flat_map(|letter| &letter.packets);
        self.task.dying.push((burial.key, packets.map(|packet| offset(&packet.payload)).collect()));
    }

    fn bury(&mut self, which: usize) {
        let (key, offsets) = self.task.dying.remove(which);
        offsets.iter().for_each(|offset| _ = self.unsettled.remove(offset));
        assert_eq!(self.task.lanes.buried(key), offsets.len() as u64);
        self.task.wanted = true;
    }

    fn save(&mut self, commit: bool) {
        let Some(progress) = self.task.lanes.progress(self.end()) else { return };
        self.history.push(progress);
        if commit {
            self.committed = self.committed.max(self.task.lanes.watermark());
        }
    }

    fn crash(&mut self, which: usize) {
        // Mostly the latest, sometimes an older one, sometimes none.
        let place = match which % 6 {
            5 => None,
            4 => (which / 6).checked_rem(self.history.len()),
            _ => self.history.len().checked_sub(1),
        };
        let before = self.restart(place);
        self.zombie = [Some(before), None, self.zombie.take()].into_iter().nth(which / 7 % 3).flatten();
    }

    /// L10, from that progress. Returns the process before.
    fn restart(&mut self, place: Option<usize>) -> Process {
        let progress = place.map(|place| self.history[place].clone());
        let log = |offset: Offset| self.log.get(usize::try_from(offset).unwrap()).filter(|_| offset >= self.start);
        let named = progress.as_ref().is_some_and(|progress| log(progress.last.offset).is_some_and(|rec| rec.at == progress.last.at));
        let believed = progress.clone().filter(|_| named);
        let restart = Restart::new(Saved { progress, watermark: Some(self.committed) }, self.start, named);
        if restart.remade {
            assert!(place.is_some_and(|place| place < self.foreign), "a false alarm: the log is the one that it was");
            self.committed = restart.watermark;
        }
        let claimed = self.claimed(believed.as_ref(), &restart);
        let next = Process { claimed, ..Process::new(&self.registry, self.room_bytes, restart, self.instant()) };
        std::mem::replace(&mut self.task, next)
    }

    /// What was saved and committed speaks of other records now.
    fn remake(&mut self, records: usize) {
        self.now += 1;
        (self.foreign, self.start, self.zombie) = (self.history.len(), 0, None);
        self.log = (0..records).map(|number| Rec { group: number % GROUPS.len(), at: self.wall(), size: number, replay: 0 }).collect();
        self.unsettled = (0..self.end()).collect();
        self.sent.clear();
        self.restart(Some(self.history.len() - 1));
    }

    /// What the progress that is believed says is settled, and is.
    fn claimed(&self, progress: Option<&Progress>, restart: &Restart) -> HashSet<Offset> {
        let head = progress.map_or(restart.watermark, |progress| progress.head);
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

    fn check(&self) {
        let lowest = self.unsettled.first().copied().unwrap_or(self.end());
        self.check_progress();
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
            assert!(lane.taken(self.task.lanes.head()) <= self.task.lanes.head());
        }
    }

    /// Progress calls nothing settled that isn't.
    fn check_progress(&self) {
        let Some(progress) = self.task.lanes.progress(self.end()) else { return };
        for offset in self.unsettled.range(..progress.head) {
            let group = GROUPS[self.log[usize::try_from(*offset).unwrap()].group].0;
            let lane = progress.lanes.iter().find(|lane| lane.group == group);
            let is_told = lane.is_some_and(|lane| {
                *offset >= lane.next || lane.messages.iter().any(|message| (message.first..=message.last).contains(offset))
            });
            assert!(is_told, "progress says that {offset} is settled: {progress:?}");
        }
    }

    /// A suspect webhook holds what is under way and at most one message more.
    fn check_suspects(&self) {
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

    /// The messages that the records make by the document's rule, said naively: by group, window and size.
    fn naive(&self, webhook: &Webhook) -> BTreeMap<Offset, (Vec<Offset>, bool)> {
        let (mut naive, many) = (BTreeMap::new(), webhook.max_packets > 1);
        for group in (0..GROUPS.len()).filter(|group| !GROUPS[*group].0.is_empty()) {
            let (mut body, mut bytes, mut window) = (Vec::<Offset>::new(), 0, None::<(Timestamp, bool)>);
            let mut flush = |body: &mut Vec<Offset>, array: bool| {
                if let Some(first) = body.first().copied() {
                    naive.insert(first, (std::mem::take(body), array));
                }
            };
            for (place, rec) in self.log.iter().enumerate().filter(|(_, rec)| rec.group == group) {
                let is_over = window.is_some_and(|(opened, _)| rec.at.distance(opened) >= webhook.window);
                if is_over || rec.replay > 0 {
                    let array = body.len() > 1 || many && window.is_some_and(|(_, cut_from)| cut_from);
                    flush(&mut body, array);
                    window = None;
                }
                if rec.replay > 0 {
                    flush(&mut vec![place as Offset; rec.replay], rec.replay > 1);
                    continue;
                }
                let mut alone = pushline_batch::Body::default();
                alone.push(webhook, &rec.packet(&rec.payload(place)));
                let object = alone.seal(false).bytes().len();
                if !body.is_empty() && bytes + ",".len() + object + "[]".len() > webhook.max_body_bytes {
                    flush(&mut body, true);
                    window.iter_mut().for_each(|(_, cut_from)| *cut_from = true);
                }
                bytes = if body.is_empty() { object } else { bytes + ",".len() + object };
                window.get_or_insert((rec.at, false));
                body.push(place as Offset);
                if body.len() == webhook.max_packets {
                    flush(&mut body, many);
                    window.iter_mut().for_each(|(_, cut_from)| *cut_from = true);
                }
            }
            let array = body.len() > 1 || many && window.is_some_and(|(_, cut_from)| cut_from);
            flush(&mut body, array);
        }
        naive
    }

    /// As the driver does: not before it is due.
    fn tick(&mut self) {
        if self.task.lanes.next_tick(self.end()).is_some_and(|at| at <= self.instant()) {
            self.task.lanes.tick(self.end(), self.instant());
            self.task.wanted = true;
        }
    }

    /// Turns as the driver takes them: only while somebody may want one.
    fn turns(&mut self) {
        if self.task.woken.notified().now_or_never().is_some() {
            self.task.lanes.woken();
            self.task.wanted = true;
        }
        for _ in 0..2 {
            if !std::mem::take(&mut self.task.wanted) {
                return;
            }
            let now = self.instant();
            let Some(start) = self.task.lanes.next_turn(now) else { return };
            self.turn(start.from);
            self.task.wanted = true;
        }
    }

    /// One round of everything that a running process does by itself.
    fn round(&mut self, dead: Option<&str>) {
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

    fn describe(&self) -> String {
        let head = self.task.lanes.head();
        let state = |message: &Message| format!("{:?}", message.state).split(['(', ' ']).next().unwrap_or_default().to_owned();
        let lane = |lane: &Lane| {
            let states: Vec<String> = lane.messages().map(state).collect();
            format!("{:?} taken {} burying {:?} in line {} {states:?}", lane.progress(head), lane.taken(head), lane.burying(), lane.in_line)
        };
        let lanes: Vec<String> = self.task.lanes.lanes.iter().map(|(_, found)| lane(found)).collect();
        let lines: Vec<String> = self.task.lanes.lines.iter().map(|(name, line)| format!("{name} {line:?}")).collect();
        format!("head {head}, {lanes:#?}, {lines:#?}, {:?}", self.task.lanes.pauses)
    }

    fn drain(&mut self, dead: &str) {
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
        assert_eq!((self.task.lanes.watermark(), self.task.lanes.unsettled()), (self.end(), 0));
        assert_eq!(self.task.room.free(), i64::try_from(self.room_bytes).unwrap());
    }
}

fn registry(variant: usize, define: impl Fn(&mut Webhook)) -> Registry {
    let mut builder = RegistryBuilder::default();
    for name in ["P", "Q", "R"] {
        let mut webhook = Webhook::new(name, "http://a.example/".parse().unwrap());
        define(&mut webhook);
        webhook.description = if name == "Q" { format!("{}", variant % 2) } else { String::new() };
        builder.webhook(webhook).unwrap();
    }
    for (group, webhook) in GROUPS.into_iter().filter(|(group, _)| !group.is_empty() && (variant != 2 || *group != "o/c")) {
        builder.group(group.parse().unwrap(), Some(webhook), false).unwrap();
    }
    builder.build()
}

/// The packets' offsets, which stand at the beginning of their payloads.
fn offsets(body: &[u8]) -> Vec<Offset> {
    let text = std::str::from_utf8(body).unwrap();
    text.split("\"Payload\":\"").skip(1).map(|rest| offset(rest.as_bytes())).collect()
}

fn offset(payload: &[u8]) -> Offset {
    std::str::from_utf8(payload).unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn step() -> impl Strategy<Value = Step> {
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
        1 => any::<usize>().prop_map(|progress| Step::Crash { progress }),
        1 => prop_oneof![1 => Just(None), 2 => (100..9000u64, 0..30u64).prop_map(Some)].prop_map(Step::Expire),
        1 => (0..3usize).prop_map(Step::Reload),
    ]
}

/// Without what may change the cut: a crash, an expiry, a reload.
fn calm_step() -> impl Strategy<Value = Step> {
    step().prop_filter("calm", |step| !matches!(step, Step::Crash { .. } | Step::Expire(_) | Step::Reload(_)))
}

/// With late records, a log that is deleted below what is committed, and a process that lives on beside its successor.
fn wild_step() -> impl Strategy<Value = Step> {
    let late = prop_oneof![3 => Just(0), 1 => 0..2500u64];
    let wild = (step(), 0..3usize, late).prop_map(|(step, whose, late)| match step {
        Step::Append { group, after, size, replay, .. } => Step::Append { group, after, size, replay, late },
        Step::Crash { .. } | Step::Reload(_) => step,
        _ if whose == 0 => Step::Zombie(Box::new(step)),
        _ => step,
    });
    prop_oneof![50 => wild, 2 => Just(Step::Trim), 1 => (0..30usize).prop_map(Step::Remake)]
}

fn room() -> impl Strategy<Value = usize> {
    prop_oneof![Just(600usize), Just(6_000), Just(60_000), Just(1 << 20)]
}

fn max_packets() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), Just(3), Just(10)]
}

fn dead() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("P"), Just("Q"), Just("R")]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_and_nobody_waits_for_a_dead_customer(
        steps in prop::collection::vec(step(), 10..150),
        room in prop_oneof![Just(600usize), Just(6_000), Just(60_000), Just(1 << 20)],
        strict in any::<bool>(),
        max_packets in prop_oneof![Just(1usize), Just(3), Just(10)],
        dead in prop_oneof![Just("P"), Just("Q"), Just("R")],
    ) {
        let mut world = World::new(room, if strict { Order::Strict } else { Order::Arrival }, max_packets);
        for step in &steps {
            world.step(step);
        }
        world.drain(dead);
    }

    #[test]
    fn whatever_is_refused_or_let_go_the_messages_are_the_naive_cutters(
        steps in prop::collection::vec(calm_step(), 10..150),
        room in room(),
        max_packets in max_packets(),
        dead in dead(),
    ) {
        let mut world = World::new(room, Order::Arrival, max_packets);
        for step in &steps {
            world.step(step);
        }
        world.drain(dead);
        let webhook = Arc::clone(&world.task.outlets.of(&"o/a".parse().unwrap()).unwrap().webhook);
        prop_assert_eq!(&world.sent, &world.naive(&webhook));
    }

    #[test]
    fn a_process_that_lives_on_beside_its_successor_costs_re_sends_never_packets(
        steps in prop::collection::vec(wild_step(), 10..150),
        room in room(),
        max_packets in max_packets(),
        dead in dead(),
    ) {
        let mut world = World::new(room, Order::Arrival, max_packets);
        for step in &steps {
            world.step(step);
        }
        world.drain(dead);
    }
}

/// Two groups of one webhook under traffic as much as it can take; a burst of one is refused. The webhook never holds less than half of what it may while the
/// other group's messages go on beginning, so it has to refuse those too until it is woken (L2, L5).
#[test]
fn a_group_that_was_refused_is_not_starved_by_steady_traffic_of_its_webhooks_other_group() {
    const BURST_IN: usize = 10;
    let define = |webhook: &mut Webhook| (webhook.max_packets, webhook.concurrency) = (3, 1000);
    let append = |group| Step::Append { group, after: 0, size: 1, replay: 0, late: 0 };
    // What one message holds.
    let mut measured = World::with(1 << 20, define);
    (0..3).for_each(|_| measured.step(&append(1)));
    measured.step(&Step::Live(1));
    let message = (1 << 20) - usize::try_from(measured.task.room.free()).unwrap();

    let mut world = World::with(400 * message, define);
    let (mut flying, mut owed, mut refused) = (VecDeque::new(), Vec::new(), 0);
    for round in 0..200 {
        world.now += 1100;
        while flying.front().is_some_and(|(due, _)| *due == round) {
            let (_, id) = flying.pop_front().unwrap();
            let place = world.task.flying.iter().position(|sending| sending.id == id).unwrap();
            world.answer(place, How::Accepted);
        }
        (0..24).for_each(|_| world.step(&append(1)));
        if round == BURST_IN {
            owed.extend(world.end()..world.end() + 42);
            (0..42).for_each(|_| world.step(&append(0)));
        }
        while world.task.lanes.head() < world.end() {
            world.live();
        }
        refused += world.task.lanes.count().1;
        (0..8).for_each(|_| [Sweep::Near, Sweep::Far].into_iter().for_each(|sweep| world.sweep(sweep)));
        world.step(&Step::Time(0));
        let before = world.task.flying.len();
        world.send();
        flying.extend(world.task.flying[before..].iter().map(|sending| (round + 4, sending.id)));
        world.check();
        if round > BURST_IN && !owed.iter().any(|offset| world.unsettled.contains(offset)) {
            assert!(refused > 0, "nothing was refused: this shows nothing");
            return;
        }
    }
    panic!("starved: {}", world.describe());
}

/// The worked example of LANES.md, step by step.
#[test]
fn the_worked_example_goes_as_it_is_written() {
    let mut world = World::new(1 << 20, Order::Arrival, 2);
    // Offsets 0 to 9 for 10 to 19: A is o/c (webhook Q), B is o/d (webhook R).
    for group in [2, 3, 3, 2, 3, 3, 3, 2, 3, 2] {
        world.step(&Step::Append { group, after: 1, size: 1, replay: 0, late: 0 });
    }
    let room = world.task.outlets.of(&"o/d".parse::<GroupId>().unwrap()).unwrap();
    world.step(&Step::Live(2));
    world.step(&Step::Send);
    assert_eq!(world.task.flying.len(), 3, "A{{0,3}}, B{{1,2}}, B{{4,5}}");
    // Room for two messages of B.
    let mut lease = room.share.lease();
    lease.resize(1 << 19);
    world.task.lanes.live(&world.frame(6), world.end(), world.instant());
    world.task.lanes.live(&world.frame(9), world.end(), world.instant());
    assert_eq!((world.task.lanes.head(), world.task.lanes.count()), (10, (1, 1)));
    drop(lease);
    world.step(&Step::Send);
    while let Some(a) = world.task.flying.iter().position(|sending| sending.outlet.webhook.name == "Q") {
        world.answer(a, How::Accepted);
    }
    assert_eq!(world.task.lanes.watermark(), 1);
    let progress = world.task.lanes.progress(10).unwrap();
    let b = progress.lanes.iter().find(|lane| lane.group == "o/d").unwrap();
    assert_eq!((b.next, b.messages.len(), b.window.unwrap().cut_from), (6, 2, true));
    let a = progress.lanes.iter().find(|lane| lane.group == "o/c").unwrap();
    assert_eq!((a.next, a.messages.len(), a.window.unwrap().cut_from), (10, 0, true));
    let ids: Vec<MessageId> = world.task.flying.iter().map(|sending| sending.id).collect();
    world.step(&Step::Save { commit: true });
    world.step(&Step::Crash { progress: 0 });
    assert_eq!((world.task.lanes.head(), world.task.lanes.count()), (10, (1, 1)));
    world.sweep(Sweep::Near);
    world.sweep(Sweep::Near);
    world.step(&Step::Send);
    assert_eq!(world.task.flying.iter().map(|sending| sending.id).collect::<Vec<_>>(), ids, "rebuilt with the same ids");
    // No answer: suspect. The first message keeps its place, the second is let go.
    world.answer(0, How::Timeout);
    world.answer(0, How::Timeout);
    world.step(&Step::Time(1));
    for _ in 0..2 {
        world.step(&Step::Send);
        assert_eq!(world.task.flying.len(), 1, "one connection");
        world.answer(0, How::Timeout);
        world.step(&Step::Time(1));
    }
    assert_eq!(world.task.dying.len(), 1);
    world.bury(0);
    assert_eq!(world.task.lanes.watermark(), 4);
    for _ in 0..3 {
        world.sweep(Sweep::Near);
        world.step(&Step::Send);
    }
    assert_eq!(offsets(&world.task.flying[0].body), [4, 5]);
    world.drain("none");
}

/// Whoever is always at the end of the log closes windows by the clock, whoever is always behind it by the log's time: neither keeps a window that is over.
#[test]
fn windows_that_are_over_leave_nothing_behind() {
    for behind in [false, true] {
        let mut world = World::new(1 << 20, Order::Arrival, 10);
        for _ in 0..1000 {
            world.step(&Step::Append { group: 0, after: 1100, size: 1, replay: 0, late: 0 });
            if behind {
                (0..2).for_each(|_| world.step(&Step::Append { group: 1, after: 1, size: 1, replay: 0, late: 0 }));
                let frame = world.frame(world.task.lanes.head());
                world.task.lanes.live(&frame, Offset::MAX, world.instant());
            } else {
                world.step(&Step::Live(1));
                world.step(&Step::Time(1000));
            }
            world.step(&Step::Send);
            while !world.task.flying.is_empty() {
                world.answer(0, How::Accepted);
            }
        }
        let kept = (world.task.lanes.closes_by_log.len(), world.task.lanes.closes_by_clock.len());
        assert!(kept.0 + kept.1 <= 256, "{kept:?} windows are kept, behind the end: {behind}");
    }
}
