//! Lanes under random schedules (LANES.md, *What follows, and is tested*): the Rust against the rules that `model/lanes.py` plays.
//!
//! A schedule appends, reads, sweeps, sends, answers, lets time pass, saves, crashes with the latest, an older, a zombie's or no checkpoint. After each
//! step the invariants hold; at the end one customer stays dead while the others answer, then everybody answers, and nothing is left. Without a
//! crash, an expiry or a reload the messages are the naive cutter's, whatever was refused or let go.
//!
//! The world is here: a log, the truth about it, and processes; beside it what they do, what must hold, and the schedules.

mod acts;
mod examples;
mod invariants;
mod naive;
mod properties;
mod restarts;
mod schedule;

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
use pushline_queue::{Frame, FrameBuilder, Kind, Record, Replay};

use self::schedule::{How, Step};
use super::{sweeps::Sweep, *};
use crate::{
    Egress, Network,
    checkpoint::{Checkpoint, Listed, Restart, Saved},
    lane::{Message, State},
    room::{Bell, Room},
};

/// With their webhooks; the last is that of foreign records, which belong to none.
const GROUPS: [(&str, &str); 5] = [("o/a", "P"), ("o/b", "P"), ("o/c", "Q"), ("o/d", "R"), ("", "")];
const FRAME: usize = 3;
const NEAR_HERE: Offset = 12;
/// Two dead letters or three.
const UNWRITTEN_HERE: usize = 1100;

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
    history: Vec<Checkpoint>,
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
    bell: Arc<Bell>,
    wanted: bool,
}

impl Process {
    fn new(registry: &Arc<Registry>, room: usize, restart: Restart, now: Instant) -> Self {
        static NETWORK: LazyLock<Arc<Network>> = LazyLock::new(|| Network::new(Egress::default()).unwrap());
        let room = Room::new(room);
        let outlets = Arc::new(Outlets::new(Arc::clone(registry), &room, &NETWORK).unwrap());
        let (floor, bell) = (restart.watermark, room.join());
        let mut lanes = Lanes::new(0, Arc::clone(&outlets), restart, now);
        (lanes.near, lanes.most_unwritten) = (NEAR_HERE, UNWRITTEN_HERE);
        Self {
            floor,
            bell,
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
        let task = Process::new(&registry, room_bytes, Restart::new(Saved::default(), &(0..0), false), Instant::now());
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
                // What is replayed is older than its record.
                let packet = Packet { received_at: rec.at.minus(Duration::from_hours(1)), ..packet };
                let replay = Replay { message_id: None, array: rec.replay > 1, packets: vec![packet.into(); rec.replay] }.encode();
                builder.push(&Record { group, at: rec.at, kind: Kind::Replay, payload: &replay });
            } else {
                builder.push(&Record::packet(group, &packet));
            }
        }
        builder.seal(base as Offset, base as Offset, self.wall())
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
