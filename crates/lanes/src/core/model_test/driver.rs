//! Processes: each with its budgets and a task for each partition. A task delivers events to its core and executes the effects, as the driver
//! of `pushline-deliver` does: what takes a while is begun here, and ends when a schedule says so.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use pushline_model::{Attempt, LocalFailure, LocalFailureKind, MessageId, NoResponse, Offset, Outcome, ResponseHeaders, Timestamp};
use pushline_queue::Frame;

use super::{
    super::{
        AttemptEnded, Core, DeadLetterBatch, DeadLetterKey, Effects, Event, Leave, MessageKey, OldestRead, ReadBlock, Save, SaveEnded,
        Start, StartAttempt, TickRefused,
        lane::Lane,
        message::{Message, State},
    },
    log::{Log, Saved},
    schedule::How,
    world::{BUSY, Common},
};
use crate::{budgets::Budgets, wakeup::Wake, webhooks::Webhooks};

/// A process.
pub(super) struct Process {
    pub(super) budgets: Arc<Budgets>,
    pub(super) webhooks: Arc<Webhooks>,
    pub(super) tasks: Vec<Task>,
    /// Another one was started: its commits are refused.
    pub(super) is_zombie: bool,
    /// Until when each webhook's server asked to be left alone.
    pub(super) suspended: HashMap<String, Instant>,
    /// When an attempt of each webhook started last.
    pub(super) started_at: HashMap<String, Instant>,
}

/// A partition's task.
pub(super) struct Task {
    pub(super) partition: usize,
    pub(super) core: Core,
    effects: Effects,
    pub(super) woken: Option<Wake>,
    pub(super) in_flight: Vec<StartAttempt>,
    pub(super) writing: Vec<DeadLetterBatch>,
    reading: Option<ReadBlock>,
    pub(super) saving: Option<Saving>,
    /// A checkpoint that is durable, and not committed yet.
    durable: Option<Rc<Saved>>,
    ticking: Option<Ticking>,
    looking: Option<Offset>,
    pub(super) wake_at: Option<Instant>,
    pub(super) reload: Option<(Arc<Webhooks>, usize)>,
    is_owner: bool,
    pub(super) has_left: bool,
    /// How often time was noticed at this moment without an effect.
    idle: (Option<Instant>, u32),
    pub(super) seen: Seen,
}

/// A save that is being made.
pub(super) enum Saving {
    Begun(Rc<Saved>),
    /// The checkpoint is durable, the watermark isn't committed.
    Durable(Rc<Saved>),
}

/// A tick that is being appended.
#[derive(Debug, Clone, Copy)]
enum Ticking {
    Asked,
    /// Acknowledged with an offset at or above its own.
    Stored(Offset),
}

/// What the checks remember of a task.
pub(super) struct Seen {
    /// The count of ids that it belongs to.
    pub(super) track: i64,
    /// The configuration that its core has.
    pub(super) config: usize,
    /// The watermark that it started with: it sends nothing below.
    pub(super) floor: Offset,
    /// The process before may have read as far.
    pub(super) until: Offset,
    /// What its checkpoint says is settled, and is.
    pub(super) claimed: HashSet<Offset>,
    /// First records of the messages of each group that were started.
    pub(super) started: HashMap<&'static str, BTreeSet<Offset>>,
    /// Each record's message. `None`: it became a dead letter by itself.
    pub(super) in_message: HashMap<Offset, Option<MessageId>>,
    /// The latest that the wall clock has been.
    pub(super) latest_wall: Timestamp,
    /// Everything below lay in segments that the log had no space for.
    pub(super) overflow: Offset,
}

impl Process {
    /// Starts a process with the checkpoint that each partition finds.
    pub(super) fn start(common: &mut Common, found: Vec<Option<Rc<Saved>>>) -> Self {
        let budgets = Budgets::new(common.setup.memory);
        let webhooks = Arc::new(Webhooks::new(common.registry(), &budgets));
        let mut process =
            Self { budgets, webhooks, tasks: Vec::new(), is_zombie: false, suspended: HashMap::new(), started_at: HashMap::new() };
        for (partition, found) in found.into_iter().enumerate() {
            let task = process.task(partition, found.as_deref(), common);
            process.tasks.push(task);
        }
        (0..process.tasks.len()).for_each(|place| process.time_passed(place, common));
        process
    }

    fn task(&self, partition: usize, found: Option<&Saved>, common: &mut Common) -> Task {
        let restart = common.restart(partition, found);
        let claimed = common.claimed(partition, &restart);
        let (log, now) = (common.logs[partition].state(&common.clock), common.clock.now());
        let seen = Seen {
            track: common.truths[partition].track,
            config: common.configs.len() - 1,
            floor: restart.watermark,
            until: log.end,
            claimed,
            started: HashMap::new(),
            in_message: HashMap::new(),
            latest_wall: now.wall,
            overflow: 0,
        };
        let number = u32::try_from(partition).expect("there are two");
        let core = Core::new(number, Arc::clone(&self.webhooks), restart, common.tuning(), Start { log, now }, &self.budgets);
        Task {
            partition,
            core,
            effects: Effects::default(),
            woken: None,
            in_flight: Vec::new(),
            writing: Vec::new(),
            reading: None,
            saving: None,
            durable: None,
            ticking: None,
            looking: None,
            wake_at: None,
            reload: None,
            is_owner: true,
            has_left: false,
            idle: (None, 0),
            seen,
        }
    }

    /// Delivers an event and executes its effects.
    pub(super) fn on(&mut self, place: usize, event: Event<'_>, common: &mut Common) {
        let now = common.clock.now();
        let task = &mut self.tasks[place];
        if task.has_left {
            return; // the driver has ended
        }
        task.seen.latest_wall = task.seen.latest_wall.max(now.wall);
        let mut effects = std::mem::take(&mut task.effects);
        task.core.on(event, now, &self.budgets, &mut effects);
        self.execute(place, &mut effects, common);
        self.tasks[place].effects = effects;
    }

    fn execute(&mut self, place: usize, effects: &mut Effects, common: &mut Common) {
        self.check_attempts(place, &effects.attempts, common);
        self.check_dead_letters(place, &effects.dead_letters, common);
        let task = &mut self.tasks[place];
        common.truths[task.partition].has_unsent |= task.core.expiry.limit.is_some();
        task.note_idleness(effects, common.clock.instant());
        task.in_flight.append(&mut effects.attempts);
        task.writing.append(&mut effects.dead_letters);
        if !task.is_owner {
            task.writing.clear();
        }
        if let Some(read) = effects.read.take() {
            assert!(task.reading.replace(read).is_none(), "asks for a second block");
        }
        if let Some(save) = effects.save.take() {
            task.begin_save(save, common);
        }
        if effects.append_tick {
            assert!(task.ticking.replace(Ticking::Asked).is_none(), "asks for a second tick");
            common.count("ticks");
        }
        if let Some(from) = effects.look_at {
            assert!(task.looking.replace(from).is_none(), "asks for a second look");
        }
        task.wake_at = effects.wake_at;
        task.has_left |= effects.left;
        for notice in &effects.notices {
            common.tell(|| format!("  {notice:?}"));
        }
        if let Some(wake) = effects.wake_others {
            let others = self.tasks.iter_mut().enumerate().filter(|(other, _)| *other != place);
            others.for_each(|(_, task)| task.note_wake(wake));
        }
        if effects.abort_attempts {
            self.tasks[place].in_flight.clear();
            self.on_aborted(place, effects, common);
        }
    }

    /// As the driver does, aborting takes no time for the core.
    fn on_aborted(&mut self, place: usize, effects: &mut Effects, common: &mut Common) {
        let now = common.clock.now();
        self.tasks[place].core.on(Event::AttemptsAborted, now, &self.budgets, effects);
        self.execute(place, effects, common);
    }

    // --- what may happen to a task

    pub(super) fn live(&mut self, place: usize, frames: usize, common: &mut Common) -> bool {
        let mut has_read = false;
        for _ in 0..frames {
            let task = &self.tasks[place];
            let log = &common.logs[task.partition];
            if !task.core.reads_live() || task.core.live_offset >= log.end {
                break;
            }
            let frame = log.frame(task.core.live_offset, common.clock.is_kafka).expect("the log ends above");
            let log = log.state(&common.clock);
            self.on(place, Event::LiveFrame { frame: &frame, log }, common);
            has_read = true;
        }
        has_read
    }

    /// The block that was asked for is read. Nothing happens while there is no record to read.
    pub(super) fn catch_up(&mut self, place: usize, common: &mut Common) -> bool {
        let task = &mut self.tasks[place];
        let Some(read) = task.reading else { return false };
        let Some(frames) = block(&common.logs[task.partition], read, common.clock.is_kafka) else { return false };
        task.reading = None;
        common.count("catch-up blocks");
        self.on(place, Event::CatchUpBlock { frames: &frames }, common);
        true
    }

    /// Time is noticed if the core has asked for it.
    pub(super) fn time(&mut self, place: usize, common: &mut Common) -> bool {
        let is_due = self.tasks[place].wake_at.is_some_and(|at| at <= common.clock.instant());
        if is_due {
            self.time_passed(place, common);
        }
        is_due
    }

    fn time_passed(&mut self, place: usize, common: &mut Common) {
        let task = &mut self.tasks[place];
        let log = &common.logs[task.partition];
        let (log, overflow) = (log.state(&common.clock), log.overflow);
        task.seen.overflow = task.seen.overflow.max(overflow.unwrap_or(0));
        self.on(place, Event::TimePassed { log, overflow }, common);
    }

    pub(super) fn woken(&mut self, place: usize, common: &mut Common) -> bool {
        let Some(wake) = self.tasks[place].woken.take() else { return false };
        self.on(place, Event::Woken { for_catch_up: wake.for_catch_up }, common);
        true
    }

    /// Attempts end at the same time.
    pub(super) fn attempts_ended(&mut self, place: usize, mut ended: Vec<(usize, How)>, common: &mut Common) {
        let task = &mut self.tasks[place];
        ended.sort_unstable_by_key(|(which, _)| std::cmp::Reverse(*which));
        let at = common.clock.now().wall;
        let mut all = Vec::new();
        for (which, how) in ended {
            let StartAttempt { key, permit, body, handle, .. } = task.in_flight.remove(which);
            common.settle_attempt(task.partition, &body, how);
            let outcome = match how {
                How::Accepted => Outcome::Accepted { status: 200 },
                How::Error => error_response(500, None),
                How::Busy(seconds) => {
                    // The outcome of a message that was dead-lettered meanwhile is discarded.
                    if task.is_in_flight(key) {
                        let until = common.clock.instant() + Duration::from_secs(seconds.into());
                        let suspended = self.suspended.entry(handle.webhook.name.clone()).or_insert(until);
                        *suspended = until.max(*suspended);
                        common.count("suspensions");
                    }
                    error_response(BUSY, Some(seconds.to_string().into()))
                }
                How::Timeout => Outcome::NoResponse(NoResponse::Timeout),
                How::Reset => Outcome::NoResponse(NoResponse::ConnectionLost("reset".into())),
                How::LocalFailure => Outcome::LocalFailure(local_failure()),
            };
            let attempt = Attempt::new(at, Duration::ZERO, &outcome);
            all.push(AttemptEnded { key, permit, outcome, attempt, jitter: 0.5 });
        }
        all.reverse();
        self.on(place, Event::AttemptsEnded(&mut all), common);
        assert!(all.is_empty() || self.tasks[place].has_left, "the core takes them out");
    }

    /// Ownership is confirmed, which commits the watermark of the last durable checkpoint; then the dead letters are durable.
    pub(super) fn dead_letters(&mut self, place: usize, which: usize, is_refused: bool, common: &mut Common) -> bool {
        let is_zombie = self.is_zombie;
        let task = &mut self.tasks[place];
        if task.writing.is_empty() {
            return false;
        }
        task.confirm(is_zombie, common);
        if is_zombie && is_refused {
            task.is_owner = false;
            task.writing.clear();
            self.on(place, Event::OwnershipLost, common);
            return true;
        }
        let DeadLetterBatch { key, letters } = task.writing.remove(which % task.writing.len());
        common.settle_dead_letters(task.partition, &letters);
        if !matches!(key, DeadLetterKey::Message(_)) {
            common.truths[task.partition].has_unsent = true;
        }
        self.on(place, Event::DeadLettersDurable(key), common);
        true
    }

    /// A save goes on: embedded it ends, over Kafka the checkpoint is durable first.
    pub(super) fn save(&mut self, place: usize, commits: bool, is_postponed: bool, common: &mut Common) -> bool {
        let task = &mut self.tasks[place];
        let Some(saving) = task.saving.take() else { return false };
        if is_postponed && matches!(saving, Saving::Begun(_)) {
            self.on(place, Event::SaveEnded(SaveEnded::Postponed { why: "full".into() }), common);
            return true;
        }
        let saved = task.land(saving, self.is_zombie, common);
        if !commits && common.clock.is_kafka {
            task.saving = Some(Saving::Durable(saved));
            return true;
        }
        task.confirm(self.is_zombie, common);
        self.on(place, Event::SaveEnded(SaveEnded::Durable), common);
        true
    }

    /// A tick is stored, then acknowledged; or refused, though it may have been stored.
    pub(super) fn tick(&mut self, place: usize, is_refused: bool, is_dropped: bool, common: &mut Common) -> bool {
        let task = &mut self.tasks[place];
        let Some(ticking) = task.ticking else { return false };
        match ticking {
            Ticking::Asked if is_refused => {
                task.ticking = None;
                if !is_dropped {
                    common.append_tick(task.partition);
                }
                self.on(place, Event::TickEnded(Err(TickRefused("no right to write".into()))), common);
            }
            Ticking::Asked => {
                common.append_tick(task.partition);
                let log = &common.logs[task.partition];
                let offset = log.pending.back().expect("it was just stored").offset;
                task.ticking = Some(Ticking::Stored(offset));
            }
            Ticking::Stored(offset) => {
                task.ticking = None;
                self.on(place, Event::TickEnded(Ok(offset)), common);
            }
        }
        true
    }

    pub(super) fn oldest(&mut self, place: usize, common: &mut Common) -> bool {
        let task = &mut self.tasks[place];
        let Some(from) = task.looking.take() else { return false };
        let log = &common.logs[task.partition];
        let (received_at, overflow) = (log.first_from(from).map(|rec| rec.at), log.overflow);
        task.seen.overflow = task.seen.overflow.max(overflow.unwrap_or(0));
        self.on(place, Event::OldestRead(OldestRead { from, received_at, overflow }), common);
        true
    }

    /// The registry that was read again arrives.
    pub(super) fn reload(&mut self, place: usize, common: &mut Common) -> bool {
        let Some((webhooks, config)) = self.tasks[place].reload.take() else { return false };
        common.count("reloads");
        self.tasks[place].seen.config = config;
        self.on(place, Event::Reloaded(webhooks), common);
        true
    }

    /// All tasks are told to leave.
    pub(super) fn leave(&mut self, common: &mut Common) {
        let now = common.clock.instant();
        let leave = Leave { attempts_until: now + Duration::from_secs(2), until: now + Duration::from_secs(4) };
        (0..self.tasks.len()).for_each(|place| self.on(place, Event::Leave(leave), common));
    }

    pub(super) fn has_left(&self) -> bool {
        self.tasks.iter().all(|task| task.has_left)
    }
}

impl Task {
    fn note_wake(&mut self, wake: Wake) {
        let for_catch_up = wake.for_catch_up || self.woken.is_some_and(|before| before.for_catch_up);
        self.woken = Some(Wake { for_catch_up });
    }

    /// A core that wants to be woken again and again at one moment burns a processor.
    fn note_idleness(&mut self, effects: &Effects, now: Instant) {
        let is_idle = effects.wake_at.is_some_and(|at| at <= now)
            && effects.attempts.is_empty()
            && effects.dead_letters.is_empty()
            && effects.read.is_none()
            && effects.save.is_none()
            && !effects.append_tick;
        let before = if self.idle.0 == Some(now) { self.idle.1 } else { 0 };
        self.idle = (Some(now), if is_idle { before + 1 } else { 0 });
        assert!(self.idle.1 < 50, "a busy loop: it wants to be woken at once, again and again");
    }

    fn is_in_flight(&self, key: MessageKey) -> bool {
        let messages = self.core.lanes.get(key.lane).into_iter().flat_map(|lane| &lane.messages);
        messages.filter(|message| message.span.first == key.first).any(|message| matches!(message.state, State::InFlight { .. }))
    }

    fn begin_save(&mut self, save: Save, common: &mut Common) {
        assert!(self.saving.is_none(), "asks for a second save");
        let Save { checkpoint, watermark } = save;
        let epoch = common.logs[self.partition].epoch;
        common.check_checkpoint(self.partition, &checkpoint, watermark);
        let saved = Saved { checkpoint, watermark, epoch, track: self.seen.track, config: self.seen.config };
        self.saving = Some(Saving::Begun(Rc::new(saved)));
    }

    /// The checkpoint of a save becomes durable.
    pub(super) fn land(&mut self, saving: Saving, is_zombie: bool, common: &mut Common) -> Rc<Saved> {
        let saved = match saving {
            Saving::Durable(saved) => return saved,
            Saving::Begun(saved) => saved,
        };
        common.land(self.partition, &saved, !is_zombie);
        self.durable = Some(Rc::clone(&saved));
        saved
    }

    /// Commits the watermark of the last durable checkpoint. The commit names it.
    pub(super) fn confirm(&self, is_zombie: bool, common: &mut Common) {
        if let Some(saved) = &self.durable {
            common.name(self.partition, saved, !is_zombie);
        }
    }

    /// Where it stands, for people.
    pub(super) fn describe(&self) -> String {
        let core = &self.core;
        let flying: Vec<(&str, Offset)> = self.in_flight.iter().map(|attempt| (&*attempt.handle.webhook.name, attempt.key.first)).collect();
        let writing: Vec<DeadLetterKey> = self.writing.iter().map(|batch| batch.key).collect();
        let begun =
            format!("reading {:?} saving {} ticking {:?} looking {:?}", self.reading, self.saving.is_some(), self.ticking, self.looking);
        let lanes: Vec<String> = core.lanes.iter().map(|(_, lane)| describe_lane(lane)).collect();
        format!(
            "partition {}: in flight {flying:?} writing {writing:?} {begun} woken {:?} live offset {} of {} {:?} {:?} {:?}\n  {}",
            self.partition,
            self.woken,
            core.live_offset,
            core.log_end,
            core.windows,
            core.catch_up,
            core.expiry,
            lanes.join("\n  ")
        )
    }
}

fn describe_lane(lane: &Lane) -> String {
    let webhook = lane.intake.handle().map(|handle| handle.webhook.name.as_str());
    let state = |message: &Message| format!("{:?}", message.state).split(['(', ' ']).next().unwrap_or_default().to_owned();
    let messages: Vec<String> = lane.messages.iter().map(|message| format!("{:?} {}", message.span, state(message))).collect();
    let (window, open) = (lane.cutter.window(), lane.cutter.first());
    format!("{} to {webhook:?} {:?} {window:?} open {open:?} in line {} {messages:?}", lane.group, lane.reading, lane.in_line)
}

fn error_response(status: u16, retry_after: Option<Box<str>>) -> Outcome {
    Outcome::ErrorResponse { status, response: vec![], headers: ResponseHeaders { retry_after, location: None } }
}

fn local_failure() -> LocalFailure {
    LocalFailure { kind: LocalFailureKind::FileDescriptors, retry_after: Duration::from_millis(200) }
}

/// The frames of a block, as the driver's reader gives them. `None`: it still waits for a record.
fn block(log: &Log, read: ReadBlock, is_kafka: bool) -> Option<Vec<Frame>> {
    let (mut frames, mut at, mut bytes) = (Vec::new(), read.from, 0);
    while bytes < read.bytes && at < read.until {
        let frame = log.frame(at, is_kafka)?;
        at = frame.end();
        bytes += frame.bytes().len();
        frames.push(frame);
    }
    Some(frames)
}
