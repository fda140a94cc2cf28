//! What a partition's task counts, by the names of [`crate::metrics`].

use std::time::Duration;

use hashbrown::HashMap;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use pushline_model::{Cause, Outcome};
use pushline_queue::metrics::DEAD_LETTERED;

use crate::{
    lanes::{Lanes, Sending},
    metrics::{
        ATTEMPTS, CHECKPOINT_AGE, CHECKPOINT_SAVES, DELIVERED, IN_FLIGHT, LAG, LANES, LOST, MESSAGE_PACKETS, OLDEST_UNSETTLED,
        RESPONSE_SECONDS, RESPONSES, SUSPECT, UNSETTLED, UNSETTLED_AT_START,
    },
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
        // So that each cause can be read from the first scrape on.
        Cause::ALL.into_iter().for_each(|cause| counter!(DEAD_LETTERED, "cause" => cause.name()).increment(0));
    }

    /// There were more than was known at first.
    pub(super) fn more_at_start(&self, partition: u32, packets: u64) {
        gauge!(UNSETTLED_AT_START, "partition" => partition.to_string()).increment(approximately(packets));
    }

    /// Offsets that the log has lost.
    pub(super) fn lost(offsets: u64) {
        counter!(LOST).increment(offsets);
    }

    /// Another process serves the partition from now on, or none: what it holds is counted there.
    pub(super) fn ended_serving(&self) {
        for gauge in [&self.in_flight, &self.lag, &self.unsettled, &self.live, &self.behind, &self.oldest, &self.checkpoint_age] {
            gauge.set(0.0);
        }
    }

    pub(super) fn sending(&self, sending: &Sending) {
        self.in_flight.increment(1.0);
        if sending.is_first {
            self.message_packets.record(approximately(sending.packets as u64));
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

    pub(super) fn delivered(&self, packets: u64) {
        self.delivered.increment(packets);
    }

    pub(super) fn dead_lettered(&self, cause: Cause, packets: u64) {
        counter!(DEAD_LETTERED, "cause" => cause.name()).increment(packets);
    }

    /// `lag`: records between the end of the log and the head.
    pub(super) fn lanes(&self, lanes: &Lanes, lag: u64, suspect: usize) {
        let (live, behind) = lanes.count();
        self.live.set(approximately(live as u64));
        self.behind.set(approximately(behind as u64));
        self.lag.set(approximately(lag));
        self.unsettled.set(approximately(lanes.unsettled() + lag));
        gauge!(SUSPECT).set(approximately(suspect as u64));
    }

    pub(super) fn oldest_unsettled(&self, age: Duration) {
        self.oldest.set(age.as_secs_f64());
    }

    pub(super) fn saved(&self) {
        self.checkpoint_saves.increment(1);
    }

    /// `None`: everything is saved.
    pub(super) fn checkpoint_age(&self, age: Option<Duration>) {
        self.checkpoint_age.set(age.unwrap_or_default().as_secs_f64());
    }
}

/// Metrics are floats.
#[expect(clippy::cast_precision_loss, reason = "counts of what one machine holds are far below 2^52")]
fn approximately(count: u64) -> f64 {
    count as f64
}
