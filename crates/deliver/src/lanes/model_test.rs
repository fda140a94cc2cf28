//! Lanes under random schedules (LANES.md, *What follows, and is tested*): the Rust against the rules that `model/lanes.py` plays.
//!
//! A schedule appends, reads, sweeps, sends, answers, lets time pass, saves, crashes with the latest, an older or no progress. After each
//! step the invariants hold; at the end one customer stays dead while the others answer, then everybody answers, and nothing is left.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use pushline_model::{
    Attempt, GroupId, Iccid, MessageId, NoResponse, Offset, Order, Outcome, Packet, Registry, RegistryBuilder, Timestamp, Webhook,
};
use pushline_queue::{Frame, FrameBuilder, Kind, Progress, Record, Replay, Restart, Saved};

use super::*;
use crate::{Egress, Network, room::Room};

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

struct World {
    registries: [Arc<Registry>; 3],
    registry: Arc<Registry>,
    room_bytes: usize,
    log: Vec<Rec>,
    unsettled: BTreeSet<Offset>,
    by_id: HashMap<MessageId, (Vec<Offset>, bool)>,
    history: Vec<Progress>,
    committed: Offset,
    began: Instant,
    now: u64,
    // One process:
    room: Arc<Room>,
    outlets: Arc<Outlets>,
    lanes: Lanes,
    flying: Vec<Sending>,
    dying: Vec<(BurialKey, Vec<Offset>)>,
    expired_in_flight: HashSet<Offset>,
    started: BTreeMap<usize, Offset>,
    in_message: HashMap<Offset, MessageId>,
    claimed: HashSet<Offset>,
}

impl World {
    fn new(room_bytes: usize, order: Order, max_packets: usize) -> Self {
        let registries = [0, 1, 2].map(|variant| Arc::new(registry(variant, order, max_packets)));
        let registry = Arc::clone(&registries[0]);
        let (room, outlets, lanes) = process(&registry, room_bytes, Restart::new(Saved::default(), 0, false), Instant::now());
        Self {
            registries,
            registry,
            room_bytes,
            log: Vec::new(),
            unsettled: BTreeSet::new(),
            by_id: HashMap::new(),
            history: Vec::new(),
            committed: 0,
            began: Instant::now(),
            now: 0,
            room,
            outlets,
            lanes,
            flying: Vec::new(),
            dying: Vec::new(),
            expired_in_flight: HashSet::new(),
            started: BTreeMap::new(),
            in_message: HashMap::new(),
            claimed: HashSet::new(),
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
        let base = usize::try_from(offset).unwrap() / FRAME * FRAME;
        let mut builder = FrameBuilder::default();
        for (place, rec) in self.log.iter().enumerate().skip(base).take(FRAME) {
            let payload = format!("{place} {}", "x".repeat(rec.size)).into_bytes();
            let iccid = Iccid::from_bytes(b"897612653856781234").unwrap();
            let packet = Packet { iccid, topic: "o/897612653856781234", received_at: rec.at, payload: &payload };
            let group = GROUPS[rec.group].0;
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
            Step::Append { group, after, size, replay } => {
                self.now += after;
                self.unsettled.insert(self.end());
                self.log.push(Rec { group, at: self.wall(), size, replay });
            }
            Step::Live(frames) => (0..frames).for_each(|_| self.live()),
            Step::Sweep(near) => self.sweep(if near { Sweep::Near } else { Sweep::Far }),
            Step::Send => self.send(),
            Step::Answer { which, how } if !self.flying.is_empty() => self.answer(which % self.flying.len(), how),
            Step::Bury(which) if !self.dying.is_empty() => self.bury(which % self.dying.len()),
            Step::Answer { .. } | Step::Bury(_) => {}
            Step::Time(millis) => {
                self.now += millis;
                self.lanes.tick(self.end(), self.instant());
            }
            Step::Save { commit } => self.save(commit),
            Step::Crash { progress } => self.crash(progress),
            Step::Expire(beyond) => self.expire(beyond),
            Step::Reload(variant) => self.reload(variant),
        }
        self.check();
    }

    fn live(&mut self) {
        if self.lanes.head() < self.end() {
            let frame = self.frame(self.lanes.head());
            self.lanes.live(&frame, self.end(), self.instant());
        }
    }

    fn sweep(&mut self, sweep: Sweep) {
        self.lanes.woken();
        if let Some(from) = self.lanes.sweep_from(sweep) {
            let mut frames = vec![self.frame(from)];
            if frames[0].end() < self.lanes.head() {
                frames.push(self.frame(frames[0].end()));
            }
            let burials = self.lanes.sweep(from, &frames, self.instant(), self.wall());
            burials.into_iter().for_each(|burial| self.dig(&burial));
        }
    }

    fn send(&mut self) {
        let mut sent = Vec::new();
        self.lanes.dispatch(|sending| sent.push(sending));
        for sending in sent {
            let offsets = offsets(&sending.body);
            let group = self.log[usize::try_from(offsets[0]).unwrap()].group;
            assert_eq!(offsets[0], sending.key.first);
            assert!(!self.flying.iter().any(|flying| flying.id == sending.id), "in flight twice: {offsets:?}");
            assert!(!offsets.iter().any(|offset| self.claimed.contains(offset)), "sent again though progress said settled: {offsets:?}");
            let shape = (offsets.clone(), sending.body.starts_with(b"["));
            assert_eq!(*self.by_id.entry(sending.id).or_insert_with(|| shape.clone()), shape, "same id, other packets or shape");
            for offset in &offsets {
                assert_eq!(*self.in_message.entry(*offset).or_insert(sending.id), sending.id, "record {offset} in two messages");
                assert_eq!(self.log[usize::try_from(*offset).unwrap()].group, group, "groups mixed");
            }
            let before = self.started.get(&group).copied();
            if before.is_none_or(|before| sending.key.first > before) {
                self.started.insert(group, sending.key.first);
            } else {
                assert!(self.attempted(&sending), "first started out of order: {offsets:?} after {before:?}");
            }
            self.flying.push(sending);
        }
    }

    /// Whether an earlier attempt was made in this process.
    fn attempted(&self, sending: &Sending) -> bool {
        self.lanes.lanes[sending.key.lane]
            .messages()
            .any(|message| message.listed.first == sending.key.first && !message.attempts.is_empty())
    }

    fn answer(&mut self, which: usize, how: How) {
        let sending = self.flying.remove(which);
        let outcome = match how {
            How::Accepted => Outcome::Accepted { status: 200 },
            How::Error => Outcome::ErrorResponse { status: 500, response: vec![] },
            How::Timeout => Outcome::NoResponse(NoResponse::Timeout),
            How::Reset => Outcome::NoResponse(NoResponse::ConnectionLost),
        };
        let attempt = Attempt { at: self.wall(), took: Duration::ZERO, status: None, no_response: None };
        let (consequence, _) = self.lanes.outcome(sending.key, outcome, attempt, 0.5, self.instant());
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
                assert!(self.expired_in_flight.remove(&sending.key.first), "an outcome that nobody waited for: {sending:?}")
            }
        }
    }

    fn expire(&mut self, beyond: Option<(u64, Offset)>) {
        let expiry = beyond.map(|(age, below)| Expiry { before: self.wall().minus(Duration::from_millis(age)), below });
        let burials = self.lanes.expire(expiry, self.wall());
        for burial in burials {
            if let BurialKey::Message(key) = burial.key {
                self.expired_in_flight.extend(self.flying.iter().filter(|sending| sending.key == key).map(|sending| sending.key.first));
            }
            self.dig(&burial);
        }
    }

    fn reload(&mut self, variant: usize) {
        self.registry = Arc::clone(&self.registries[variant]);
        self.outlets = Arc::new(self.outlets.read_again(Arc::clone(&self.registry)).unwrap());
        self.lanes.redirect(Arc::clone(&self.outlets), self.instant());
    }

    fn dig(&mut self, burial: &Burial) {
        let packets = burial.letters.iter().flat_map(|letter| &letter.packets);
        self.dying.push((burial.key, packets.map(|packet| offset(&packet.payload)).collect()));
    }

    fn bury(&mut self, which: usize) {
        let (key, offsets) = self.dying.remove(which);
        offsets.iter().for_each(|offset| _ = self.unsettled.remove(offset));
        assert_eq!(self.lanes.buried(key), offsets.len() as u64);
    }

    fn save(&mut self, commit: bool) {
        let Some(progress) = self.lanes.progress(self.end()) else { return };
        self.history.push(progress);
        if commit {
            self.committed = self.committed.max(self.lanes.watermark());
        }
    }

    fn crash(&mut self, which: usize) {
        // Mostly the latest, sometimes an older one, sometimes none.
        let progress = match which % 6 {
            5 => None,
            4 => self.history.get(which / 6 % self.history.len().max(1)).cloned(),
            _ => self.history.last().cloned(),
        };
        let believed = progress.clone();
        let restart = Restart::new(Saved { progress, watermark: Some(self.committed) }, 0, true);
        self.claimed = self.claimed(believed.as_ref(), &restart);
        (self.room, self.outlets, self.lanes) = process(&self.registry, self.room_bytes, restart, self.instant());
        self.flying.clear();
        self.dying.clear();
        self.expired_in_flight.clear();
        self.started.clear();
        self.in_message.clear();
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
        assert!(self.lanes.watermark() <= lowest, "watermark {} above unsettled {lowest}", self.lanes.watermark());
        assert!(self.committed <= lowest);
        let held: i64 = self.outlets.shares().map(|share| share.held()).sum();
        assert!(self.outlets.shares().all(|share| share.held() >= 0));
        assert_eq!(self.room.free(), i64::try_from(self.room_bytes).unwrap() - held, "leases don't add up");
        let passed = self.unsettled.iter().filter(|offset| **offset < self.lanes.head()).count() as u64;
        assert!(self.lanes.unsettled() >= passed, "unsettled {} of {passed}", self.lanes.unsettled());
        for (key, lane) in &self.lanes.lanes {
            assert_eq!(self.lanes.by_group.get(lane.group.key()), Some(&key));
            assert_eq!(self.lanes.behind.contains(&key), !lane.is_live());
            assert!(lane.taken(self.lanes.head()) <= self.lanes.head());
        }
    }

    /// One round of everything that a running process does by itself.
    fn round(&mut self, dead: Option<&str>) {
        (0..3).for_each(|_| self.live());
        self.sweep(Sweep::Near);
        self.sweep(Sweep::Far);
        self.send();
        self.now += 400;
        self.lanes.tick(self.end(), self.instant());
        while let Some(place) = self.flying.iter().position(|sending| Some(sending.outlet.webhook.name.as_str()) != dead) {
            self.answer(place, How::Accepted);
        }
        while !self.dying.is_empty() {
            self.bury(0);
        }
        self.check();
    }

    fn describe(&self) -> String {
        let head = self.lanes.head();
        let state = |message: &Message| format!("{:?}", message.state).split(['(', ' ']).next().unwrap_or_default().to_owned();
        let lane = |lane: &Lane| {
            let states: Vec<String> = lane.messages().map(state).collect();
            format!("{:?} taken {} burying {:?} in line {} {states:?}", lane.progress(head), lane.taken(head), lane.burying(), lane.in_line)
        };
        let lanes: Vec<String> = self.lanes.lanes.iter().map(|(_, found)| lane(found)).collect();
        let lines: Vec<String> = self.lanes.lines.iter().map(|(name, line)| format!("{name} {line:?}")).collect();
        format!("head {head}, {lanes:#?}, {lines:#?}, {:?}", self.lanes.pauses)
    }

    fn drain(&mut self, dead: &str) {
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
        assert!(starved.is_empty(), "starved beside a dead customer: {starved:?}, head {}, {}", self.lanes.head(), self.describe());
        for _ in 0..rounds {
            self.round(None);
        }
        assert!(self.unsettled.is_empty(), "never settled: {:?}", self.unsettled);
        assert_eq!(self.lanes.lanes.len(), 0, "lanes left: {}", self.describe());
        assert_eq!((self.lanes.watermark(), self.lanes.unsettled()), (self.end(), 0));
        assert_eq!(self.room.free(), i64::try_from(self.room_bytes).unwrap());
    }
}

fn registry(variant: usize, order: Order, max_packets: usize) -> Registry {
    let mut builder = RegistryBuilder::default();
    for name in ["P", "Q", "R"] {
        let mut webhook = Webhook::new(name, "http://a.example/".parse().unwrap());
        (webhook.max_packets, webhook.max_body_bytes, webhook.concurrency, webhook.order) = (max_packets, 1024, 2, order);
        webhook.description = if name == "Q" { format!("{}", variant % 2) } else { String::new() };
        builder.webhook(webhook).unwrap();
    }
    for (group, webhook) in GROUPS.into_iter().filter(|(group, _)| !group.is_empty() && (variant != 2 || *group != "o/c")) {
        builder.group(group.parse().unwrap(), Some(webhook), false).unwrap();
    }
    builder.build()
}

fn process(registry: &Arc<Registry>, room: usize, restart: Restart, now: Instant) -> (Arc<Room>, Arc<Outlets>, Lanes) {
    let room = Room::new(room);
    static NETWORK: LazyLock<Arc<Network>> = LazyLock::new(|| Network::new(Egress::default()).unwrap());
    let outlets = Arc::new(Outlets::new(Arc::clone(registry), &room, &NETWORK).unwrap());
    let mut lanes = Lanes::new(0, Arc::clone(&outlets), restart, now);
    lanes.near = NEAR_HERE;
    (room, outlets, lanes)
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
            .prop_map(|(group, after, size, replay)| Step::Append { group, after, size, replay }),
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
}

/// The worked example of LANES.md, step by step.
#[test]
fn the_worked_example_goes_as_it_is_written() {
    let mut world = World::new(1 << 20, Order::Arrival, 2);
    // Offsets 0 to 9 for 10 to 19: A is o/c (webhook Q), B is o/d (webhook R).
    for group in [2, 3, 3, 2, 3, 3, 3, 2, 3, 2] {
        world.step(&Step::Append { group, after: 1, size: 1, replay: 0 });
    }
    let room = world.outlets.of(&"o/d".parse::<GroupId>().unwrap()).unwrap();
    world.step(&Step::Live(2));
    world.step(&Step::Send);
    assert_eq!(world.flying.len(), 3, "A{{0,3}}, B{{1,2}}, B{{4,5}}");
    // Room for two messages of B.
    let mut lease = room.share.lease();
    lease.resize(1 << 19);
    world.lanes.live(&world.frame(6), world.end(), world.instant());
    world.lanes.live(&world.frame(9), world.end(), world.instant());
    assert_eq!((world.lanes.head(), world.lanes.count()), (10, (1, 1)));
    drop(lease);
    world.step(&Step::Send);
    while let Some(a) = world.flying.iter().position(|sending| sending.outlet.webhook.name == "Q") {
        world.answer(a, How::Accepted);
    }
    assert_eq!(world.lanes.watermark(), 1);
    let progress = world.lanes.progress(10).unwrap();
    let b = progress.lanes.iter().find(|lane| lane.group == "o/d").unwrap();
    assert_eq!((b.next, b.messages.len(), b.window.unwrap().cut_from), (6, 2, true));
    let a = progress.lanes.iter().find(|lane| lane.group == "o/c").unwrap();
    assert_eq!((a.next, a.messages.len(), a.window.unwrap().cut_from), (10, 0, true));
    let ids: Vec<MessageId> = world.flying.iter().map(|sending| sending.id).collect();
    world.step(&Step::Save { commit: true });
    world.step(&Step::Crash { progress: 0 });
    assert_eq!((world.lanes.head(), world.lanes.count()), (10, (1, 1)));
    world.sweep(Sweep::Near);
    world.sweep(Sweep::Near);
    world.step(&Step::Send);
    assert_eq!(world.flying.iter().map(|sending| sending.id).collect::<Vec<_>>(), ids, "rebuilt with the same ids");
    // No answer: suspect. The first message keeps its place, the second is let go.
    world.answer(0, How::Timeout);
    world.answer(0, How::Timeout);
    world.step(&Step::Time(1));
    for _ in 0..2 {
        world.step(&Step::Send);
        assert_eq!(world.flying.len(), 1, "one connection");
        world.answer(0, How::Timeout);
        world.step(&Step::Time(1));
    }
    assert_eq!(world.dying.len(), 1);
    world.bury(0);
    assert_eq!(world.lanes.watermark(), 4);
    for _ in 0..3 {
        world.sweep(Sweep::Near);
        world.step(&Step::Send);
    }
    assert_eq!(offsets(&world.flying[0].body), [4, 5]);
    world.drain("none");
}
