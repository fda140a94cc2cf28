//! The log of one partition as a backend keeps it, and the truth about it: what has really settled.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pushline_model::{Iccid, MessageId, Offset, Packet, Timestamp};
use pushline_queue::{Frame, FrameBuilder, Horizon, Kind, Record, Replay};

use super::{
    super::{LogState, Now},
    schedule::What,
};

/// The groups' keys. A record without group has none of them.
pub(super) const GROUPS: [&str; 4] = ["o/a", "o/b", "o/c", "o/d"];

/// A frame holds at most this many records.
const FRAME: usize = 3;

/// No window is longer, in milliseconds.
pub(super) const LONGEST_WINDOW: u64 = 1500;

/// A segment holds this many offsets.
pub(super) const SEGMENT: Offset = 4;

/// One record. Times are milliseconds since the world began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rec {
    pub(super) offset: Offset,
    pub(super) group: usize,
    pub(super) what: What,
    /// `received_at`.
    pub(super) at: Timestamp,
    pub(super) log_time: u64,
    pub(super) size: usize,
}

/// A checkpoint that became durable, and the watermark that goes with it.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) checkpoint: Bytes,
    pub(super) watermark: Offset,
    pub(super) epoch: u64,
    /// The count of ids that it belongs to.
    pub(super) track: i64,
    /// The configuration under which it was made.
    pub(super) config: usize,
}

/// One partition's log.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// How often it was recreated.
    pub(super) epoch: u64,
    pub(super) records: BTreeMap<Offset, Rec>,
    /// Those that were deleted too.
    pub(super) ever: BTreeMap<Offset, Rec>,
    /// Stamped, and not visible yet.
    pub(super) pending: VecDeque<Rec>,
    pub(super) start: Offset,
    pub(super) end: Offset,
    /// The next offset.
    tail: Offset,
    frames: BTreeMap<Offset, Frame>,
    pub(super) unsettled: BTreeSet<Offset>,
    pub(super) committed: Option<Offset>,
    /// The checkpoint that a restart finds.
    pub(super) latest: Option<Rc<Saved>>,
    pub(super) history: Vec<Rc<Saved>>,
    /// A restart found an older one than the committed watermark belongs to.
    pub(super) has_older: bool,
    /// What is saved speaks of the log before.
    pub(super) is_stale: bool,
    /// Below it lie the oldest records, which the log has no space for.
    pub(super) overflow: Option<Offset>,
}

/// The clocks of the world, in milliseconds.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) is_kafka: bool,
    began: Instant,
    pub(super) now: u64,
    /// How far the wall clock was set.
    pub(super) wall: i64,
    /// How far the broker's clock was set.
    pub(super) broker: i64,
    /// The embedded queue's log time at `since`.
    base: u64,
    since: u64,
}

// === impl Rec ===

impl Rec {
    pub(super) fn is_tick(&self) -> bool {
        matches!(self.what, What::Tick)
    }

    /// The key of its group: empty for a foreign record and a tick.
    pub(super) fn key(&self) -> &'static str {
        if matches!(self.what, What::Tick | What::Foreign) { "" } else { GROUPS[self.group] }
    }

    pub(super) fn packets(&self) -> usize {
        match self.what {
            What::Packet | What::Foreign => 1,
            What::Replay { packets, .. } => packets,
            What::Tick => 0,
        }
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        format!("{} {}", self.offset, "x".repeat(self.size)).into_bytes()
    }

    pub(super) fn packet<'a>(&self, payload: &'a [u8]) -> Packet<'a> {
        let iccid = Iccid::from_bytes(b"897612653856781234").expect("it is one");
        Packet { iccid, topic: "o/897612653856781234", received_at: self.at, payload }
    }

    /// The id that a replay brings back.
    pub(super) fn replayed_id(&self) -> MessageId {
        let mut id = [7; 16];
        id[..8].copy_from_slice(&self.offset.to_be_bytes());
        id[8..].copy_from_slice(&self.at.0.to_be_bytes());
        MessageId(id)
    }

    fn push(&self, builder: &mut FrameBuilder) {
        let (group, payload) = (self.key(), self.payload());
        let packet = self.packet(&payload);
        match self.what {
            What::Packet => builder.push(&Record::packet(group, &packet)),
            What::Foreign => {
                builder.push(&Record { group, at: self.at, kind: Kind::Foreign { why: "no header" }, payload: &payload });
            }
            What::Tick => builder.push(&Record { group, at: self.at, kind: Kind::Tick, payload: &[] }),
            What::Replay { packets, array } => {
                // What is replayed is older than its record.
                let packet = Packet { received_at: self.at.minus(Duration::from_hours(1)), ..packet };
                let replay =
                    Replay { message_id: self.replayed_id(), array: array || packets > 1, packets: vec![packet.into(); packets] }.encode();
                builder.push(&Record { group, at: self.at, kind: Kind::Replay, payload: &replay });
            }
        }
    }
}

// === impl Log ===

impl Log {
    pub(super) fn append(&mut self, rec: Rec, is_gap_before: bool) {
        let offset = self.tail + Offset::from(is_gap_before);
        self.pending.push_back(Rec { offset, ..rec });
        self.tail = offset + 1;
    }

    /// The next pending records become visible.
    pub(super) fn show(&mut self, records: usize) {
        let shown: Vec<Rec> = self.pending.drain(..records.min(self.pending.len())).collect();
        for frame in shown.chunk_by(|one, next| one.log_time == next.log_time && one.offset + 1 == next.offset) {
            for records in frame.chunks(FRAME) {
                self.frames.insert(records[0].offset, seal(records));
            }
        }
        for rec in shown {
            self.end = rec.offset + 1;
            if !rec.is_tick() {
                self.unsettled.insert(rec.offset);
            }
            self.ever.insert(rec.offset, rec);
            self.records.insert(rec.offset, rec);
        }
    }

    /// The log is recreated under the same name. What is saved stays.
    pub(super) fn remake(&mut self) {
        let Self { epoch, committed, latest, history, .. } = std::mem::take(self);
        *self = Self { epoch: epoch + 1, committed, latest, history, is_stale: true, ..Self::default() };
    }

    pub(super) fn show_all(&mut self) {
        self.show(self.pending.len());
    }

    /// What isn't durable is lost with the process.
    pub(super) fn lose_pending(&mut self) {
        self.pending.clear();
        self.tail = self.end;
    }

    /// The frame that holds the first record at or above an offset. A consumer gets no record below the one that it asked for.
    pub(super) fn frame(&self, from: Offset, is_kafka: bool) -> Option<Frame> {
        assert!(from >= self.start, "reads what was deleted: {from} below {}", self.start);
        let holds = |frame: &&Frame| frame.end() > from;
        let before = self.frames.range(..=from).next_back().map(|(_, frame)| frame).filter(holds);
        let frame = before.or_else(|| self.frames.range(from..).next().map(|(_, frame)| frame))?;
        if !is_kafka || frame.base() >= from {
            return Some(frame.clone());
        }
        let records: Vec<Rec> = self.ever.range(from..frame.end()).map(|(_, rec)| *rec).collect();
        Some(seal(&records))
    }

    /// The first record at or above an offset, ticks aside.
    pub(super) fn first_from(&self, from: Offset) -> Option<&Rec> {
        self.records.range(from..).map(|(_, rec)| rec).find(|rec| !rec.is_tick())
    }

    /// The smallest offset that hasn't settled.
    pub(super) fn lowest(&self) -> Offset {
        self.unsettled.first().copied().unwrap_or(self.end)
    }

    pub(super) fn commit(&mut self, watermark: Offset) {
        assert!(watermark <= self.lowest(), "committed {watermark}, above the unsettled {}", self.lowest());
        self.committed = Some(watermark);
        if self.overflow.is_some_and(|below| below <= watermark) {
            let below = self.overflow.take().expect("it was just there");
            self.trim(below);
        }
    }

    pub(super) fn trim(&mut self, to: Offset) {
        self.start = self.start.max(to);
        self.records.retain(|offset, _| *offset >= to);
    }

    /// As the backend tells it at this moment.
    pub(super) fn state(&self, clock: &Clock) -> LogState {
        let held = self.pending.iter().map(|rec| rec.log_time).min();
        let horizon = (!clock.is_kafka).then(|| Horizon { offset: self.end, time: stamp(held.unwrap_or_else(|| clock.log_time())) });
        LogState { end: self.end, horizon }
    }

    /// The largest log time of what a restart finds.
    fn last_log_time(&self) -> u64 {
        self.ever.values().map(|rec| rec.log_time).max().unwrap_or(0)
    }
}

fn seal(records: &[Rec]) -> Frame {
    let mut builder = FrameBuilder::default();
    records.iter().for_each(|rec| rec.push(&mut builder));
    builder.seal(records[0].offset, records[0].offset, stamp(records[0].log_time))
}

// === impl Clock ===

impl Clock {
    pub(super) fn new(is_kafka: bool) -> Self {
        let now = 100_000;
        Self { is_kafka, began: Instant::now(), now, wall: 0, broker: 0, base: now, since: now }
    }

    pub(super) fn instant(&self) -> Instant {
        self.began + Duration::from_millis(self.now)
    }

    pub(super) fn now(&self) -> Now {
        Now { monotonic: self.instant(), wall: stamp(self.now.saturating_add_signed(self.wall)) }
    }

    /// Moves on to an instant, at least by a millisecond.
    pub(super) fn move_to(&mut self, instant: Instant) {
        let by = instant.saturating_duration_since(self.instant());
        self.now += u64::try_from(by.as_nanos().div_ceil(1_000_000)).expect("it is near").max(1);
    }

    /// The log time of a record that is stored now.
    pub(super) fn log_time(&self) -> u64 {
        if self.is_kafka { self.now.saturating_add_signed(self.broker) } else { self.base + self.now - self.since }
    }

    /// The embedded queue's log time begins above any window that was open, whatever the wall clock is.
    pub(super) fn restart_log_time(&mut self, logs: &[Log]) {
        let last = logs.iter().map(Log::last_log_time).max().unwrap_or(0);
        self.base = self.now.saturating_add_signed(self.wall).max(last + LONGEST_WINDOW);
        self.since = self.now;
    }
}

/// Milliseconds of the world as the log and the wall clock have them.
pub(super) fn stamp(millis: u64) -> Timestamp {
    Timestamp(1 << 50).plus(Duration::from_millis(millis))
}
