//! The names of this crate's metrics, each with its help text and unit.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};
use pushline_model::LocalFailureKind;

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
/// Connections used for attempts, by protocol and whether they had been used before.
pub const CONNECTIONS: &str = "pushline_deliver_connections_total";
/// Lanes, by partition and state.
pub const LANES: &str = "pushline_lanes";
/// Unresponsive webhooks.
pub const UNRESPONSIVE: &str = "pushline_webhooks_unresponsive";
/// Suspended webhooks.
pub const SUSPENDED: &str = "pushline_webhooks_suspended";
/// Packets that were accepted.
pub const DELIVERED: &str = "pushline_packets_delivered_total";
/// Records between live reading and the end of the log, by partition.
pub const LAG: &str = "pushline_queue_lag_records";
/// Packets that haven't settled, by partition.
pub const UNSETTLED: &str = "pushline_queue_unsettled_packets";
/// The same when the process started.
pub const UNSETTLED_AT_START: &str = "pushline_queue_unsettled_packets_at_start";
/// Age of the oldest packet that hasn't settled, by partition.
pub const OLDEST_UNSETTLED: &str = "pushline_queue_oldest_unsettled_seconds";
/// For how long changes haven't been saved in a checkpoint, by partition.
pub const CHECKPOINT_AGE: &str = "pushline_checkpoint_age_seconds";
/// Checkpoints that were saved, by partition.
pub const CHECKPOINT_SAVES: &str = "pushline_checkpoint_saves_total";

/// Offsets that were gone from the log before their records had settled.
pub const MISSING: &str = "pushline_queue_lost_offsets_total";
/// Ticks that were asked for, by result: `appended` or `refused`.
pub const TICKS: &str = "pushline_deliver_ticks_total";
/// Messages that may have been sent before under another id, by reason.
pub const EXCUSED: &str = "pushline_deliver_excused_cuts_total";

/// Webhooks whose last attempts failed.
pub const WEBHOOKS_FAILING: &str = "pushline_webhooks_failing";
/// Attempts of one webhook, by outcome; only with the option.
pub const WEBHOOK_ATTEMPTS: &str = "pushline_webhook_attempts_total";
/// Whether a webhook's last attempt failed; only with the option.
pub const WEBHOOK_FAILING: &str = "pushline_webhook_failing";
/// The time until the first certificate of a webhook's `tls` expires.
pub const CERTIFICATE_EXPIRY: &str = "pushline_deliver_certificate_expiry_seconds";
/// Attempts that this machine couldn't make, by reason.
pub const LOCAL_FAILURES: &str = "pushline_deliver_local_failures_total";

/// Tells the recorder what they are.
pub fn describe() {
    describe_counter!(MISSING, "Offsets that were gone from the log before their records had settled");
    counter!(MISSING).increment(0);
    describe_counter!(TICKS, "Ticks that deliver asked the log to append, by result");
    describe_counter!(EXCUSED, "Messages that may have been sent before under another id, by reason");
    describe_histogram!(MESSAGE_PACKETS, "Packets in a message");
    describe_counter!(ATTEMPTS, "Attempts, by outcome");
    describe_gauge!(WEBHOOKS_FAILING, "Webhooks that began to fail and haven't recovered");
    describe_counter!(WEBHOOK_ATTEMPTS, "Attempts by webhook and outcome, with [metrics] per_webhook");
    describe_gauge!(WEBHOOK_FAILING, "1 if a webhook's last attempt failed, with [metrics] per_webhook");
    describe_gauge!(CERTIFICATE_EXPIRY, Unit::Seconds, "Time until the first certificate of a webhook's tls expires");
    describe_counter!(LOCAL_FAILURES, "Attempts that this machine couldn't make, by reason; the message waits");
    LocalFailureKind::ALL.into_iter().for_each(|kind| counter!(LOCAL_FAILURES, "reason" => kind.name()).increment(0));
    describe_histogram!(RESPONSE_SECONDS, Unit::Seconds, "How long attempts took, by outcome");
    describe_counter!(RESPONSES, "Responses, by status");
    describe_gauge!(IN_FLIGHT, "Messages in flight");
    describe_counter!(CONNECTIONS, "Connections used for attempts");
    describe_gauge!(LANES, "Lanes: groups with something unfinished");
    describe_gauge!(UNRESPONSIVE, "Webhooks whose server gave no response: one message at a time probes each");
    describe_gauge!(SUSPENDED, "Webhooks whose server asked by Retry-After to be left alone");
    describe_counter!(DELIVERED, "Packets that were accepted");
    describe_gauge!(LAG, "Records between live reading and the end of the log");
    describe_gauge!(UNSETTLED, "Packets that haven't settled");
    describe_gauge!(UNSETTLED_AT_START, "Packets that hadn't settled when the process started");
    describe_counter!(CHECKPOINT_SAVES, "Checkpoints that were saved");
    describe_gauge!(OLDEST_UNSETTLED, Unit::Seconds, "Age of the oldest packet that hasn't settled");
    describe_gauge!(CHECKPOINT_AGE, Unit::Seconds, "For how long changes haven't been saved in a checkpoint");
}
