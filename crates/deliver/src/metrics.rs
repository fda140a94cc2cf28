//! The names of this crate's metrics, each with its help text and unit, and the handles that a partition task keeps.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use pushline_model::{Cause, Outcome};
use pushline_queue::metrics::DEAD_LETTERED;

use crate::lanes::{Lanes, Sending};

/// Packets in a message.
pub const MESSAGE_PACKETS: &str = "pushline_batch_message_packets";
/// Attempts, by outcome.
pub const ATTEMPTS: &str = "pushline_deliver_attempts_total";
/// How long attempts took, by outcome.
pub const RESPONSE_SECONDS: &str = "pushline_deliver_response_seconds";
/// Responses, by status.
pub const RESPONSES: &str = "pushline_deliver_responses_total";
/// Messages in flight, by partition.
pub const IN_FLIGHT: &str = "pushline_deliver_in_flight";
/// Connections taken for an attempt, by protocol and whether they had been used before.
pub const CONNECTIONS: &str = "pushline_deliver_connections_total";
/// Lanes, by partition and state.
pub const LANES: &str = "pushline_lanes";
/// Suspect webhooks.
pub const SUSPECT: &str = "pushline_webhooks_suspect";
/// Packets that were accepted.
pub const DELIVERED: &str = "pushline_packets_delivered_total";
/// Records between the end of the log and the head, by partition.
pub const LAG: &str = "pushline_queue_lag_records";
/// Packets that haven't settled, by partition.
pub const UNSETTLED: &str = "pushline_queue_unsettled_packets";
/// The same when the process started.
pub const UNSETTLED_AT_START: &str = "pushline_queue_unsettled_packets_at_start";
/// Age of the oldest packet that hasn't settled, by partition.
pub const OLDEST_UNSETTLED: &str = "pushline_queue_oldest_unsettled_seconds";
/// Seconds since progress was saved, by partition.
pub const PROGRESS_AGE: &str = "pushline_progress_age_seconds";

/// How often progress was saved, by partition.
pub const PROGRESS_SAVES: &str = "pushline_progress_saves_total";

/// Offsets that were gone from the log before they had settled.
pub const LOST: &str = "pushline_queue_lost_offsets_total";

/// Tells the recorder what they are.
pub fn describe() {
    describe_counter!(LOST, "Offsets that were gone from the log before they had settled");
    counter!(LOST).increment(0);
    describe_histogram!(MESSAGE_PACKETS, "Packets in a message");
    describe_counter!(ATTEMPTS, "Attempts, by outcome");
    describe_histogram!(RESPONSE_SECONDS, Unit::Seconds, "How long attempts took, by outcome");
    describe_counter!(RESPONSES, "Responses, by status");
    describe_gauge!(IN_FLIGHT, "Messages in flight");
    describe_counter!(CONNECTIONS, "Connections taken for an attempt");
    describe_gauge!(LANES, "Lanes: groups with something unfinished");
    describe_gauge!(SUSPECT, "Webhooks that gave no response last");
    describe_counter!(DELIVERED, "Packets that were accepted");
    describe_gauge!(LAG, "Records between the end of the log and the head");
    describe_gauge!(UNSETTLED, "Packets that haven't settled");
    describe_gauge!(UNSETTLED_AT_START, "Packets that hadn't settled when the process started");
    describe_counter!(PROGRESS_SAVES, "How often progress was saved");
    describe_gauge!(OLDEST_UNSETTLED, Unit::Seconds, "Age of the oldest packet that hasn't settled");
    describe_gauge!(PROGRESS_AGE, Unit::Seconds, "Seconds since progress was saved");
}

/// A partition task's handles.
pub(crate) struct PartitionMetrics {
    message_packets: Histogram,
    attempts: [(Counter, Histogram); 4],
    in_flight: Gauge,
    delivered: Counter,
    lag: Gauge,
    unsettled: Gauge,
    live: Gauge,
    behind: Gauge,
    oldest: Gauge,
    progress_age: Gauge,
    progress_saves: Counter,
}

const OUTCOMES: [&str; 4] = ["accepted", "error_response", "no_response", "blocked_address"];

impl PartitionMetrics {
    pub(crate) fn new(partition: u32) -> Self {
        let partition = partition.to_string();
        let of = |name| gauge!(name, "partition" => partition.clone());
        let lanes = |state| gauge!(LANES, "partition" => partition.clone(), "state" => state);
        Self {
            message_packets: histogram!(MESSAGE_PACKETS),
            attempts: OUTCOMES
                .map(|outcome| (counter!(ATTEMPTS, "outcome" => outcome), histogram!(RESPONSE_SECONDS, "outcome" => outcome))),
            in_flight: of(IN_FLIGHT),
            delivered: counter!(DELIVERED),
            lag: of(LAG),
            unsettled: of(UNSETTLED),
            live: lanes("live"),
            behind: lanes("behind"),
            oldest: of(OLDEST_UNSETTLED),
            progress_age: of(PROGRESS_AGE),
            progress_saves: counter!(PROGRESS_SAVES, "partition" => partition.clone()),
        }
    }

    pub(crate) fn started(&self, partition: u32, unsettled: u64) {
        gauge!(UNSETTLED_AT_START, "partition" => partition.to_string()).set(approximately(unsettled));
        // So that each cause can be read from the first scrape on.
        Cause::ALL.into_iter().for_each(|cause| counter!(DEAD_LETTERED, "cause" => cause.name()).increment(0));
    }

    /// There were more than was known at first.
    pub(crate) fn more_at_start(&self, partition: u32, packets: u64) {
        gauge!(UNSETTLED_AT_START, "partition" => partition.to_string()).increment(approximately(packets));
    }

    /// Offsets that the log has lost.
    pub(crate) fn lost(offsets: u64) {
        counter!(LOST).increment(offsets);
    }

    /// Another process serves the partition from now on, or none: what it holds is counted there.
    pub(crate) fn ended_serving(&self) {
        for gauge in [&self.in_flight, &self.lag, &self.unsettled, &self.live, &self.behind, &self.oldest, &self.progress_age] {
            gauge.set(0.0);
        }
    }

    pub(crate) fn sending(&self, sending: &Sending) {
        self.in_flight.increment(1.0);
        if sending.is_first {
            self.message_packets.record(approximately(sending.packets as u64));
        }
    }

    pub(crate) fn ended(&self, outcome: &Outcome, took: Duration) {
        let (place, status) = match outcome {
            Outcome::Accepted { status } => (0, Some(*status)),
            Outcome::ErrorResponse { status, .. } => (1, Some(*status)),
            Outcome::NoResponse(_) => (2, None),
            Outcome::BlockedAddress { .. } => (3, None),
        };
        self.in_flight.decrement(1.0);
        let (attempts, seconds) = &self.attempts[place];
        attempts.increment(1);
        seconds.record(took);
        status.into_iter().for_each(|status| counter!(RESPONSES, "status" => status.to_string()).increment(1));
    }

    pub(crate) fn delivered(&self, packets: u64) {
        self.delivered.increment(packets);
    }

    pub(crate) fn dead_lettered(&self, cause: Cause, packets: u64) {
        counter!(DEAD_LETTERED, "cause" => cause.name()).increment(packets);
    }

    /// `lag`: records between the end of the log and the head.
    pub(crate) fn lanes(&self, lanes: &Lanes, lag: u64, suspect: usize) {
        let (live, behind) = lanes.count();
        self.live.set(approximately(live as u64));
        self.behind.set(approximately(behind as u64));
        self.lag.set(approximately(lag));
        self.unsettled.set(approximately(lanes.unsettled() + lag));
        gauge!(SUSPECT).set(approximately(suspect as u64));
    }

    pub(crate) fn oldest_unsettled(&self, age: Duration) {
        self.oldest.set(age.as_secs_f64());
    }

    pub(crate) fn saved(&self) {
        self.progress_saves.increment(1);
    }

    /// `None`: everything is saved.
    pub(crate) fn progress_age(&self, age: Option<Duration>) {
        self.progress_age.set(age.unwrap_or_default().as_secs_f64());
    }
}

/// Metrics are floats.
#[expect(clippy::cast_precision_loss, reason = "counts of what one machine holds are far below 2^52")]
fn approximately(count: u64) -> f64 {
    count as f64
}
