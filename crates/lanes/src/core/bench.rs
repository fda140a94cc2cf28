//! A core on a bench, for tests: a log in memory, both clocks, and a driver that does what the core wants at once.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use pushline_model::{Attempt, Cause, DeadLetter, Iccid, Offset, Outcome, Packet, Registry, RegistryBuilder, Timestamp, Webhook};
use pushline_queue::{Frame, FrameBuilder, Horizon, Kind, Record, Replay};

use super::*;
use crate::checkpoint::{Checkpoint, LaneCheckpoint, OpenWindow};

pub(super) const GROUP: &str = "o/a";
/// The wall clock and the log's time at the start.
pub(super) const BEGIN: Timestamp = Timestamp(1 << 50);

pub(super) struct Bench {
    pub(super) core: Core,
    pub(super) budgets: Arc<Budgets>,
    pub(super) effects: Effects,
    pub(super) now: Now,
    pub(super) frames: Vec<Frame>,
    /// Seconds since `BEGIN` in the log; `None`: the log has no horizon, and wants ticks.
    pub(super) horizon: Option<Timestamp>,
    /// What was asked for, and not done yet.
    pub(super) in_flight: VecDeque<StartAttempt>,
    pub(super) dead_letters: VecDeque<DeadLetterBatch>,
    pub(super) block: Option<ReadBlock>,
    /// Of all catch-up blocks.
    pub(super) bytes_read: usize,
    pub(super) save: Option<Save>,
    pub(super) look_at: Option<Offset>,
    pub(super) ticks: usize,
    pub(super) notices: Vec<Notice>,
    pub(super) delivered: u64,
    pub(super) left: bool,
}

pub(super) fn webhook() -> Webhook {
    Webhook::new("w", "http://a.example/".parse().unwrap())
}

/// One group, with a webhook or without.
pub(super) fn registry(webhook: Webhook, knows: bool) -> Arc<Registry> {
    let mut builder = RegistryBuilder::default();
    let name = webhook.name.clone();
    builder.webhook(webhook).unwrap();
    builder.group(GROUP.parse().unwrap(), knows.then_some(name.as_str()), false).unwrap();
    Arc::new(builder.build())
}

pub(super) fn at(seconds: u64) -> Timestamp {
    BEGIN.plus(Duration::from_secs(seconds))
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Packets of the group, received at these times, and stored at this log time.
pub(super) fn frame_of(base: Offset, log_time: Timestamp, received: &[Timestamp]) -> Frame {
    let mut builder = FrameBuilder::default();
    for &received_at in received {
        let iccid = Iccid::from_bytes(b"897612653856781234").unwrap();
        builder.push(&Record::packet(GROUP, &Packet { iccid, topic: "o/897612653856781234", received_at, payload: b"ABC" }));
    }
    builder.seal(base, base, log_time)
}

/// Packets of the group, received and stored at this time.
pub(super) fn frame(base: Offset, at: Timestamp, packets: usize) -> Frame {
    frame_of(base, at, &vec![at; packets])
}

pub(super) fn record_frame(base: Offset, log_time: Timestamp, record: &Record<'_>) -> Frame {
    let mut builder = FrameBuilder::default();
    builder.push(record);
    builder.seal(base, base, log_time)
}

pub(super) fn tick_frame(base: Offset, log_time: Timestamp) -> Frame {
    record_frame(base, log_time, &Record { group: "", at: log_time, kind: Kind::Tick, payload: b"" })
}

pub(super) fn replay_frame(base: Offset, log_time: Timestamp, replay: &Replay) -> Frame {
    record_frame(base, log_time, &Record { group: GROUP, at: log_time, kind: Kind::Replay, payload: &replay.encode() })
}

/// A checkpoint with one lane that stands at `batched_until`, below a live offset.
pub(super) fn checkpoint(live_offset: Offset, batched_until: Offset, window: Option<OpenWindow>) -> Checkpoint {
    let lane = LaneCheckpoint {
        group: GROUP.into(),
        batched_until,
        unsettled: live_offset - batched_until,
        window,
        messages: Vec::new(),
        rules_hash: Some(pushline_batch::CutRules::of(&webhook()).hash()),
        window_length: seconds(1),
        extensions: Vec::new(),
    };
    let last = Some(LastPassed { offset: live_offset - 1, at: BEGIN, log_time: BEGIN });
    Checkpoint { live_offset, last, lanes: vec![lane], extensions: Vec::new() }
}

pub(super) fn restart(checkpoint: Checkpoint) -> Restart {
    let end = checkpoint.live_offset;
    let first = |lane: &LaneCheckpoint| lane.messages.first().map_or(lane.batched_until, |message| message.first);
    let watermark = checkpoint.lanes.iter().map(first).min().unwrap_or(end);
    Restart::new(Some(watermark), Some(checkpoint), &(0..end), true)
}

impl Bench {
    pub(super) fn new(webhook: Webhook, knows: bool) -> Self {
        Self::with(registry(webhook, knows), Restart::default(), 1 << 20)
    }

    pub(super) fn with(registry: Arc<Registry>, restart: Restart, memory: usize) -> Self {
        let budgets = Budgets::new(memory);
        let webhooks = Arc::new(Webhooks::new(registry, &budgets));
        let now = Now { monotonic: Instant::now(), wall: BEGIN };
        let log = LogState { end: restart.live_offset, horizon: Some(Horizon { offset: 0, time: BEGIN }) };
        let core = Core::new(0, webhooks, restart, Tuning::new(Duration::from_hours(72)), Start { log, now }, &budgets);
        Self {
            core,
            budgets,
            effects: Effects::default(),
            now,
            frames: Vec::new(),
            horizon: Some(BEGIN),
            in_flight: VecDeque::new(),
            dead_letters: VecDeque::new(),
            block: None,
            bytes_read: 0,
            save: None,
            look_at: None,
            ticks: 0,
            notices: Vec::new(),
            delivered: 0,
            left: false,
        }
    }

    /// The same log without a horizon.
    pub(super) fn without_horizon(mut self) -> Self {
        self.horizon = None;
        let log = self.log_state();
        self.core.log_is(log, self.now);
        self
    }

    pub(super) fn end(&self) -> Offset {
        self.frames.last().map_or(self.core.log_end, Frame::end)
    }

    fn log_state(&self) -> LogState {
        LogState { end: self.end(), horizon: self.horizon.map(|time| Horizon { offset: self.end(), time }) }
    }

    pub(super) fn on(&mut self, event: Event<'_>) {
        self.core.on(event, self.now, &self.budgets, &mut self.effects);
        let effects = &mut self.effects;
        self.in_flight.extend(effects.attempts.drain(..));
        self.dead_letters.extend(effects.dead_letters.drain(..));
        self.block = effects.read.take().or(self.block);
        self.save = effects.save.take().or(self.save.take());
        self.look_at = effects.look_at.take().or(self.look_at);
        self.ticks += usize::from(effects.append_tick);
        self.notices.append(&mut effects.notices);
        self.delivered += effects.delivered;
        self.left |= effects.left;
    }

    /// A frame becomes visible, and is read live.
    pub(super) fn live(&mut self, frame: &Frame) {
        self.horizon = self.horizon.map(|horizon| horizon.max(frame.log_time()));
        self.frames.push(frame.clone());
        let log = self.log_state();
        self.on(Event::LiveFrame { frame, log });
    }

    /// Nothing happens for a while: time passes as often as the core wants, and the log's horizon with it.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now.monotonic + time;
        loop {
            let next = self.effects.wake_at.map_or(until, |at| at.clamp(self.now.monotonic, until));
            let by = next - self.now.monotonic;
            self.now = Now { monotonic: next, wall: self.now.wall.plus(by) };
            self.horizon = self.horizon.map(|horizon| horizon.plus(by));
            let log = self.log_state();
            self.on(Event::TimePassed { log, overflow: None });
            if next >= until {
                return;
            }
        }
    }

    /// Reads the catch-up block that was asked for. Returns where it begins; `None`: none was.
    pub(super) fn catch_up(&mut self) -> Option<Offset> {
        let block = self.block.take()?;
        let mut bytes = 0;
        let is_in = |frame: &&Frame| {
            let is_in = bytes < block.bytes && frame.base() < block.until;
            bytes += frame.bytes().len();
            is_in
        };
        let frames: Vec<Frame> = self.frames.iter().filter(|frame| frame.end() > block.from).take_while(is_in).cloned().collect();
        self.bytes_read += frames.iter().map(|frame| frame.bytes().len()).sum::<usize>();
        self.on(Event::CatchUpBlock { frames: &frames });
        Some(block.from)
    }

    pub(super) fn catch_up_all(&mut self) {
        while self.catch_up().is_some() {}
    }

    /// Packets, and whether it is an array, of each attempt in flight.
    pub(super) fn shapes(&self) -> Vec<(Offset, usize, bool)> {
        self.in_flight.iter().map(|start| (start.key.first, start.packets, start.body.starts_with(b"["))).collect()
    }

    pub(super) fn end_attempt(&mut self, outcome: Outcome) {
        let StartAttempt { key, permit, .. } = self.in_flight.pop_front().expect("an attempt is in flight");
        let attempt = Attempt { at: self.now.wall, took: Duration::ZERO, status: None, no_response: None };
        self.on(Event::AttemptsEnded(&mut vec![AttemptEnded { key, permit, outcome, attempt, jitter: 0.5 }]));
    }

    pub(super) fn accept_all(&mut self) {
        while !self.in_flight.is_empty() {
            self.end_attempt(Outcome::Accepted { status: 200 });
        }
    }

    /// The oldest dead letters become durable. Returns them.
    pub(super) fn write_dead_letters(&mut self) -> Vec<DeadLetter> {
        let Some(DeadLetterBatch { key, letters }) = self.dead_letters.pop_front() else { return Vec::new() };
        self.on(Event::DeadLettersDurable(key));
        letters
    }

    /// The causes of what became dead letters, all of them durable.
    pub(super) fn dead(&mut self) -> Vec<Cause> {
        let mut causes = Vec::new();
        while !self.dead_letters.is_empty() {
            causes.extend(self.write_dead_letters().iter().map(|letter| letter.cause));
            self.catch_up_all();
        }
        causes
    }

    /// From now on, what lies below this offset or was received before this time expires.
    pub(super) fn expire(&mut self, limit: Option<expiry::Limit>) {
        let now = self.now;
        self.effects.clear();
        self.core.expire(limit, now, &mut self.effects);
        self.dead_letters.extend(self.effects.dead_letters.drain(..));
        self.on(Event::Woken { for_catch_up: true });
    }

    pub(super) fn reload(&mut self, registry: Arc<Registry>) {
        let webhooks = Arc::new(self.core.webhooks.reload(registry));
        webhooks.end_suspensions(&self.core.webhooks);
        self.on(Event::Reloaded(webhooks));
    }

    pub(super) fn lanes(&self) -> (usize, usize) {
        (self.core.lanes.len() - self.core.behind.len(), self.core.behind.len())
    }

    pub(super) fn handle(&self) -> Arc<crate::webhooks::WebhookHandle> {
        Arc::clone(self.core.webhooks.handles().next().unwrap())
    }
}
