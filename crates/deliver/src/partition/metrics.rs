//! What a partition's task counts, by the names of [`crate::metrics`].

use std::time::Duration;

use hashbrown::HashMap;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use pushline_lanes::{Excuse, Now, SaveEnded, StartAttempt, Status};
use pushline_model::{Cause, Outcome};
use pushline_queue::metrics::DEAD_LETTERED;

use crate::{
    metrics::{
        ATTEMPTS, CHECKPOINT_AGE, CHECKPOINT_SAVES, DELIVERED, EXCUSED, IN_FLIGHT, LAG, LANES, MESSAGE_PACKETS, MISSING, OLDEST_UNSETTLED,
        RESPONSE_SECONDS, RESPONSES, SUSPENDED, TICKS, UNRESPONSIVE, UNSETTLED, UNSETTLED_AT_START,
    },
    replay::REPLAY_WITHOUT_ID,
};

/// A partition task's handles.
pub(super) struct PartitionMetrics {
    message_packets: Histogram,
    attempts: [(Counter, Histogram); 4],
    /// By status.
    responses: HashMap<u16, Counter>,
    in_flight: Gauge,
    delivered: Counter,
    lag: Gauge,
    unsettled: Gauge,
    live: Gauge,
    behind: Gauge,
    oldest: Gauge,
    checkpoint_age: Gauge,
    checkpoint_saves: Counter,
}

const OUTCOMES: [&str; 4] = ["accepted", "error_response", "no_response", "blocked_address"];

impl PartitionMetrics {
    pub(super) fn new(partition: u32) -> Self {
        let partition = partition.to_string();
        let of = |name| gauge!(name, "partition" => partition.clone());
        let lanes = |state| gauge!(LANES, "partition" => partition.clone(), "state" => state);
        Self {
            message_packets: histogram!(MESSAGE_PACKETS),
            attempts: OUTCOMES
                .map(|outcome| (counter!(ATTEMPTS, "outcome" => outcome), histogram!(RESPONSE_SECONDS, "outcome" => outcome))),
            responses: HashMap::new(),
            in_flight: of(IN_FLIGHT),
            delivered: counter!(DELIVERED),
            lag: of(LAG),
            unsettled: of(UNSETTLED),
            live: lanes("live"),
            behind: lanes("behind"),
            oldest: of(OLDEST_UNSETTLED),
            checkpoint_age: of(CHECKPOINT_AGE),
            checkpoint_saves: counter!(CHECKPOINT_SAVES, "partition" => partition.clone()),
        }
    }

    pub(super) fn started(&self, partition: u32, unsettled: u64) {
        gauge!(UNSETTLED_AT_START, "partition" => partition.to_string()).set(approximately(unsettled));
        // So that each label can be read from the first scrape on.
        Cause::ALL.into_iter().for_each(|cause| counter!(DEAD_LETTERED, "cause" => cause.name()).increment(0));
        let reasons = Excuse::ALL.into_iter().map(Excuse::name).chain([REPLAY_WITHOUT_ID]);
        reasons.for_each(|reason| counter!(EXCUSED, "reason" => reason).increment(0));
        ["appended", "refused"].into_iter().for_each(|result| counter!(TICKS, "result" => result).increment(0));
    }

    /// Records that lay unread in the log at the start were counted by offsets. This many packets more there were.
    pub(super) fn more_at_start(&self, partition: u32, packets: i64) {
        if packets != 0 {
            let gauge = gauge!(UNSETTLED_AT_START, "partition" => partition.to_string());
            let by = approximately(packets.unsigned_abs());
            if packets > 0 { gauge.increment(by) } else { gauge.decrement(by) }
        }
    }

    /// Offsets that were gone from the log before their records had settled.
    pub(super) fn missing(offsets: u64) {
        counter!(MISSING).increment(offsets);
    }

    /// Another process owns the partition from now on, or none: what it holds is counted there.
    pub(super) fn left(&self) {
        for gauge in [&self.in_flight, &self.lag, &self.unsettled, &self.live, &self.behind, &self.oldest, &self.checkpoint_age] {
            gauge.set(0.0);
        }
    }

    pub(super) fn starts(&self, start: &StartAttempt) {
        self.in_flight.increment(1.0);
        if start.is_first {
            self.message_packets.record(approximately(start.packets as u64));
        }
    }

    pub(super) fn ended(&mut self, outcome: &Outcome, took: Duration) {
        self.in_flight.decrement(1.0);
        // A local failure is no attempt.
        if let Some(place) = OUTCOMES.iter().position(|name| *name == outcome.name()) {
            let (attempts, seconds) = &self.attempts[place];
            attempts.increment(1);
            seconds.record(took);
        }
        if let Some(status) = outcome.status() {
            self.responses.entry(status).or_insert_with(|| counter!(RESPONSES, "status" => status.to_string())).increment(1);
        }
    }

    pub(super) fn settled(&self, packets: u64) {
        self.delivered.increment(packets);
    }

    pub(super) fn dead_lettered(&self, cause: Cause, packets: u64) {
        counter!(DEAD_LETTERED, "cause" => cause.name()).increment(packets);
    }

    pub(super) fn excused(&self, reason: Excuse, messages: u64) {
        counter!(EXCUSED, "reason" => reason.name()).increment(messages);
    }

    pub(super) fn ticked(&self, is_appended: bool) {
        counter!(TICKS, "result" => if is_appended { "appended" } else { "refused" }).increment(1);
    }

    pub(super) fn saved(&self, ended: &SaveEnded) {
        self.checkpoint_saves.increment(u64::from(*ended == SaveEnded::Durable));
    }

    pub(super) fn report(&self, status: &Status, now: Now) {
        self.live.set(approximately(status.live_lanes as u64));
        self.behind.set(approximately(status.lanes_behind as u64));
        self.lag.set(approximately(status.lag));
        self.unsettled.set(approximately(status.unsettled));
        // The wall clock may have been set back since it was received.
        let age = status.oldest.filter(|oldest| *oldest < now.wall).map_or(Duration::ZERO, |oldest| now.wall.distance(oldest));
        self.oldest.set(age.as_secs_f64());
        self.checkpoint_age.set(status.checkpoint_age.as_secs_f64());
        gauge!(UNRESPONSIVE).set(approximately(status.unresponsive as u64));
        gauge!(SUSPENDED).set(approximately(status.suspended as u64));
    }
}

/// Metrics are floats.
#[expect(clippy::cast_precision_loss, reason = "counts of what one machine holds are far below 2^52")]
fn approximately(count: u64) -> f64 {
    count as f64
}
