//! The names of this crate's metrics, each with its help text and unit, and the recorder of the whole process.

use std::sync::OnceLock;

use anyhow::Context;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Log lines that were dropped since standard error couldn't be written.
pub(crate) const LOG_LINES_DROPPED: &str = "pushline_log_lines_dropped_total";
/// Panics, wherever they happened.
pub(crate) const PANICS: &str = "pushline_panics_total";

/// What was built: always 1.
pub(crate) const BUILD_INFO: &str = "pushline_build_info";
/// What `/readyz` answers: 1 for 200.
pub(crate) const READY: &str = "pushline_ready";
/// 1 while the queue acknowledges nothing, or doesn't serve a partition.
pub(crate) const QUEUE_STALLED: &str = "pushline_queue_stalled";
/// `[backlog] max_age`.
pub(crate) const MAX_AGE_SECONDS: &str = "pushline_queue_max_age_seconds";
/// 1 for the hash of the webhooks and groups in effect.
pub(crate) const CONFIG_INFO: &str = "pushline_config_info";
/// 0 after a refused reload.
pub(crate) const CONFIG_RELOAD_SUCCESSFUL: &str = "pushline_config_last_reload_successful";
/// When the webhooks and groups in effect were read.
pub(crate) const CONFIG_RELOAD_TIMESTAMP: &str = "pushline_config_last_reload_timestamp_seconds";
/// Configured groups.
pub(crate) const CONFIG_GROUPS: &str = "pushline_config_groups";
/// Configured webhooks.
pub(crate) const CONFIG_WEBHOOKS: &str = "pushline_config_webhooks";
/// Configured devices.
pub(crate) const CONFIG_DEVICES: &str = "pushline_config_devices";
/// This machine's clock.
pub(crate) const CLOCK_TIMESTAMP: &str = "pushline_clock_timestamp_seconds";
/// How often the wall clock jumped.
pub(crate) const CLOCK_JUMPS: &str = "pushline_clock_jumps_total";
/// Threads of the runtime.
pub(crate) const RUNTIME_WORKERS: &str = "pushline_runtime_workers";
/// Time in which these threads were busy.
pub(crate) const RUNTIME_BUSY_SECONDS: &str = "pushline_runtime_busy_seconds_total";

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

/// Shows what was built, and in which role it runs.
pub(crate) fn show_build(role: &'static str) {
    let (version, revision) = (env!("CARGO_PKG_VERSION"), option_env!("PUSHLINE_REVISION").unwrap_or("unknown"));
    let features = if cfg!(feature = "kafka") { "kafka" } else { "" };
    gauge!(BUILD_INFO, "version" => version, "revision" => revision, "features" => features, "role" => role).set(1.0);
}

/// Registers help texts and units with the recorder. The counters are shown from the first moment: an alert on a rise needs a zero before it.
fn describe() {
    metrics_process::Collector::default().describe();
    describe_gauge!(BUILD_INFO, "Always 1: version, revision, features and role of this process");
    describe_gauge!(READY, "1 while /readyz answers 200");
    describe_gauge!(QUEUE_STALLED, "1 while the queue acknowledges nothing or doesn't serve a partition: /readyz has the reason");
    describe_gauge!(MAX_AGE_SECONDS, Unit::Seconds, "[backlog] max_age: older packets become dead letters expired");
    describe_gauge!(CONFIG_INFO, "1 for the hash of the webhooks and groups in effect, without secrets");
    describe_gauge!(CONFIG_RELOAD_SUCCESSFUL, "0 after a refused reload, 1 after the start and after a reload that took effect");
    describe_gauge!(CONFIG_RELOAD_TIMESTAMP, Unit::Seconds, "When the webhooks and groups in effect were read, since 1970");
    describe_gauge!(CONFIG_GROUPS, "Configured groups");
    describe_gauge!(CONFIG_WEBHOOKS, "Configured webhooks");
    describe_gauge!(CONFIG_DEVICES, "Configured devices");
    describe_gauge!(CLOCK_TIMESTAMP, Unit::Seconds, "This machine's clock at the scrape, since 1970");
    describe_counter!(CLOCK_JUMPS, "How often the wall clock moved by more than a second against the monotonic clock");
    describe_gauge!(RUNTIME_WORKERS, "Threads of the runtime: [runtime] threads");
    describe_counter!(RUNTIME_BUSY_SECONDS, Unit::Seconds, "Time in which threads of the runtime were busy, summed over them");
    counter!(CLOCK_JUMPS).absolute(0);
    describe_counter!(LOG_LINES_DROPPED, Unit::Count, "Log lines that were dropped since standard error couldn't be written");
    describe_counter!(PANICS, Unit::Count, "Panics, each a bug in Pushline");
    counter!(LOG_LINES_DROPPED).absolute(0);
    counter!(PANICS).absolute(0);
}
