//! The world that cores live in: logs, clocks, customers, configurations, and the truth about what was sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use pushline_model::{MessageId, Offset, Order, Registry, RegistryBuilder, Webhook};

use super::{
    super::Tuning,
    driver::Process,
    log::{Clock, GROUPS, Log, Rec, stamp},
    schedule::{Change, Setup, What},
};

/// The status that is retried.
pub(super) const BUSY: u16 = 503;

/// The webhooks' names.
pub(super) const WEBHOOKS: [&str; 3] = ["P", "Q", "R"];

/// How messages may be cut.
pub(super) const RULES: [Rules; 3] = [
    Rules { window: 1000, max_packets: 3, max_body_bytes: 1024, always_array: false },
    Rules { window: 600, max_packets: 2, max_body_bytes: 1024, always_array: false },
    Rules { window: 1500, max_packets: 3, max_body_bytes: 1200, always_array: true },
];

#[derive(Debug)]
pub(super) struct Rules {
    /// Milliseconds.
    pub(super) window: u64,
    pub(super) max_packets: usize,
    pub(super) max_body_bytes: usize,
    pub(super) always_array: bool,
}

/// What is configured.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Each group's webhook.
    pub(super) route: [Option<usize>; GROUPS.len()],
    /// Each webhook's rules.
    rules: [usize; WEBHOOKS.len()],
    /// Stands in a description: a webhook that was defined anew without changing how messages are cut.
    version: usize,
    /// The rules that each group had last.
    last_rules: [Option<usize>; GROUPS.len()],
}

/// Everything but the processes.
pub(super) struct Common {
    pub(super) setup: Setup,
    pub(super) clock: Clock,
    pub(super) logs: Vec<Log>,
    pub(super) truths: Vec<Truth>,
    /// All that were in force, the one that is last.
    pub(super) configs: Vec<Config>,
    /// What happened, for people.
    pub(super) story: Option<Vec<String>>,
    /// How often things happened that a test of them needs.
    pub(super) stats: BTreeMap<&'static str, u64>,
    /// Counts of ids of zombies that cut by rules of their own.
    asides: i64,
}

/// What was sent of a partition.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// The count of ids of the process that serves it. An excuse begins a new one.
    pub(super) track: i64,
    /// Under which id a record was sent, in each count of each log.
    pub(super) ids: HashMap<(i64, u64, Offset), MessageId>,
    by_id: HashMap<MessageId, Sent>,
    /// What was sent, or became a dead letter with an id.
    pub(super) sent: BTreeSet<Sent>,
    /// Records became dead letters by catch-up reads, or were to expire: that takes no heed of what a webhook may hold.
    pub(super) has_unsent: bool,
    /// Cut rules or webhooks changed.
    pub(super) is_redefined: bool,
    pub(super) is_another_log: bool,
}

/// A message that was sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sent {
    /// Of its packets: a replay's packets have one.
    pub(super) offsets: Vec<Offset>,
    pub(super) array: bool,
}

pub(super) struct World {
    pub(super) common: Common,
    pub(super) main: Process,
    /// The process before, where it lives on.
    pub(super) zombie: Option<Process>,
}

// === impl Truth ===

impl Truth {
    /// A message is sent, or becomes a dead letter.
    pub(super) fn cut(&mut self, id: MessageId, message: Sent) {
        let same = self.by_id.entry(id).or_insert_with(|| message.clone());
        assert_eq!(*same, message, "the same id, other packets or another shape");
        self.sent.insert(message);
    }
}

// === impl Config ===

impl Config {
    fn new(setup: &Setup) -> Self {
        let mut route = [None; GROUPS.len()];
        route.iter_mut().zip(setup.homes).take(setup.groups).for_each(|(route, home)| *route = Some(home % setup.webhooks));
        let mut config = Self { route, rules: setup.rules, version: 0, last_rules: [None; GROUPS.len()] };
        config.note_rules();
        config
    }

    fn note_rules(&mut self) {
        for (last, route) in self.last_rules.iter_mut().zip(self.route) {
            *last = route.map(|webhook| self.rules[webhook]).or(*last);
        }
    }

    pub(super) fn has_webhook(&self, group: usize) -> bool {
        self.route[group].is_some()
    }

    /// A group's rules now, or the last ones that it had.
    pub(super) fn rules_of(&self, group: usize) -> Option<&'static Rules> {
        self.last_rules[group].map(|rules| &RULES[rules])
    }

    fn registry(&self, setup: &Setup) -> Arc<Registry> {
        let mut builder = RegistryBuilder::default();
        for (name, rules) in WEBHOOKS.iter().zip(self.rules) {
            let rules = &RULES[rules];
            let mut webhook = Webhook::new(name, "http://a.example/".parse().expect("it is one"));
            webhook.description = self.version.to_string();
            webhook.window = Duration::from_millis(rules.window);
            (webhook.max_packets, webhook.max_body_bytes, webhook.always_array) =
                (rules.max_packets, rules.max_body_bytes, rules.always_array);
            webhook.retry_delays = vec![Duration::from_millis(300)];
            webhook.retry_on_status = vec![BUSY];
            webhook.concurrency = setup.concurrency;
            webhook.rate = setup.has_rate.then(|| "10/s".parse().expect("it is one"));
            webhook.order = if setup.is_strict { Order::Strict } else { Order::Arrival };
            builder.webhook(webhook).expect("it is valid");
        }
        for (group, route) in GROUPS.iter().zip(self.route) {
            let webhook = route.map(|webhook| WEBHOOKS[webhook]);
            builder.group(group.parse().expect("it is one"), webhook, false).expect("each is added once");
        }
        Arc::new(builder.build())
    }
}

// === impl Common ===

impl Common {
    pub(super) fn registry(&self) -> Arc<Registry> {
        self.config().registry(&self.setup)
    }

    pub(super) fn config(&self) -> &Config {
        self.configs.last().expect("there is always one")
    }

    pub(super) fn tuning(&self) -> Tuning {
        let max_age = if self.setup.expires { Duration::from_secs(4) } else { Duration::from_hours(10_000) };
        Tuning {
            near: 12,
            first_block: self.setup.block,
            slice: 4 * self.setup.block,
            dead_letter_bytes: 1100,
            unknown_for: Duration::from_secs(3),
            save_every: Duration::from_millis(self.setup.save_every),
            ..Tuning::new(max_age)
        }
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.stats.entry(what).or_default() += 1;
    }

    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let line = format!("{}: {}", self.clock.now, what());
            story.push(line);
        }
    }

    pub(super) fn reconfigure(&mut self, change: &Change) {
        let mut config = self.config().clone();
        match *change {
            Change::Route { group, webhook } => config.route[group % self.setup.groups] = webhook,
            Change::Rules { webhook, rules } => config.rules[webhook] = rules,
            Change::Version => config.version += 1,
        }
        config.note_rules();
        self.tell(|| format!("configuration {config:?}"));
        self.configs.push(config);
        self.truths.iter_mut().for_each(|truth| truth.is_redefined = true);
    }

    /// Whether any group's cut rules differ between two of the configurations from one on.
    pub(super) fn differ_since(&self, config: usize) -> bool {
        let since = &self.configs[config..];
        let differs = |group: usize| {
            let mut rules = since.iter().filter_map(|config| config.last_rules[group]);
            let first = rules.next();
            rules.any(|rules| Some(rules) != first)
        };
        (0..GROUPS.len()).any(differs)
    }

    /// The excuse begins a new count of ids.
    pub(super) fn excuse(&mut self, partition: usize, why: &'static str) -> i64 {
        self.count(why);
        self.truths[partition].track += 1;
        self.truths[partition].track
    }

    /// What a zombie cuts from now on is its own affair.
    pub(super) fn aside(&mut self) -> i64 {
        self.asides -= 1;
        self.asides
    }

    /// A record is stored and stamped; `rec` has no offset and no log time yet.
    pub(super) fn append(&mut self, partition: usize, rec: Rec, is_gap_before: bool) {
        let log_time = self.clock.log_time();
        self.logs[partition].append(Rec { log_time, ..rec }, is_gap_before);
    }

    pub(super) fn append_tick(&mut self, partition: usize) {
        let at = stamp(self.clock.now);
        self.append(partition, Rec { offset: 0, group: 0, what: What::Tick, at, log_time: 0, size: 0 }, false);
    }

    /// A checkpoint became durable. Embedded, the watermark is in the same file.
    pub(super) fn land(&mut self, partition: usize, saved: &Rc<super::log::Saved>, is_owner: bool) {
        self.logs[partition].history.push(Rc::clone(saved));
        if !self.clock.is_kafka {
            self.name(partition, saved, is_owner);
        }
    }

    /// The watermark is committed, and the commit names the checkpoint that goes with it. A zombie's commit is refused.
    pub(super) fn name(&mut self, partition: usize, saved: &Rc<super::log::Saved>, is_owner: bool) {
        let log = &mut self.logs[partition];
        if is_owner && saved.epoch == log.epoch {
            log.commit(saved.watermark);
            (log.latest, log.has_older, log.is_stale) = (Some(Rc::clone(saved)), false, false);
        }
    }
}

// === impl Sent ===

impl Sent {
    pub(super) fn of(body: &Bytes) -> Self {
        let text = std::str::from_utf8(body).expect("a body is JSON");
        let offsets = text.split("\"Payload\":\"").skip(1).map(|rest| offset_in(rest.as_bytes())).collect();
        Self { offsets, array: body.starts_with(b"[") }
    }
}

/// The offset at the beginning of a record's payload.
pub(super) fn offset_in(payload: &[u8]) -> Offset {
    let text = std::str::from_utf8(payload).expect("payloads are text");
    text.split(' ').next().and_then(|number| number.parse().ok()).expect("a payload begins with its record's offset")
}

// === impl World ===

impl World {
    pub(super) fn new(setup: &Setup) -> Self {
        let setup = setup.clone();
        let configs = vec![Config::new(&setup)];
        let clock = Clock::new(setup.is_kafka);
        let logs: Vec<Log> = (0..setup.partitions).map(|_| Log::default()).collect();
        let truths = (0..setup.partitions).map(|_| Truth::default()).collect();
        let mut common = Common { setup, clock, logs, truths, configs, story: None, stats: BTreeMap::new(), asides: 0 };
        let found = common.logs.iter().map(|_| None).collect();
        let main = Process::start(&mut common, found);
        Self { common, main, zombie: None }
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        std::iter::once(&self.main).chain(&self.zombie)
    }
}
