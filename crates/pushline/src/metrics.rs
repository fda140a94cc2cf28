//! The names of this crate's metrics, each with its help text and unit, and the recorder of the whole process.

use std::sync::OnceLock;

use anyhow::Context;
use metrics::{Unit, counter, describe_counter};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Log lines that were dropped since standard error couldn't be written.
pub(crate) const LOG_LINES_DROPPED: &str = "pushline_log_lines_dropped_total";
/// Panics, wherever they happened.
pub(crate) const PANICS: &str = "pushline_panics_total";

/// Buckets of durations in seconds, from a fast disk to the document's 90 s.
const SECONDS: [f64; 16] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 90.0];

/// Buckets of packets in a message.
const PACKETS: [f64; 6] = [1.0, 2.0, 5.0, 9.0, 10.0, 100.0];

/// Installs the recorder that all crates of the process write to, once. Returns what renders it.
///
/// # Errors
/// Another recorder is installed.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_message_packets".into()), &PACKETS)?;
    let handle = builder.install_recorder().context("can't install the metrics recorder")?;
    describe();
    pushline_queue::metrics::describe();
    pushline_ingest::metrics::describe();
    pushline_deliver::metrics::describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Tells the recorder what they are. Both counters are shown from the first moment: an alert on a rise needs a zero before it.
fn describe() {
    describe_counter!(LOG_LINES_DROPPED, Unit::Count, "Log lines that were dropped since standard error couldn't be written");
    describe_counter!(PANICS, Unit::Count, "Panics, each a bug in Pushline");
    counter!(LOG_LINES_DROPPED).absolute(0);
    counter!(PANICS).absolute(0);
}
