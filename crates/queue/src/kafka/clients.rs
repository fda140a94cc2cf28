//! How the clients of librdkafka are set up: what the promise needs is fixed, the rest is the operator's.

use std::time::Duration;

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use tracing::debug;

use super::Options;
use crate::QueueError;

/// Properties that the promise rests on: they can't be given.
const OURS: [&str; 19] = [
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "isolation.level",
    "message.max.bytes",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "transactional.id",
];

/// Checkpoint lists what hasn't settled: a few dozen bytes a message.
pub(super) const CHECKPOINT_BYTES: usize = 16 << 20;

/// What a fetch gives at the most, but for its first batch: librdkafka's own number, and room for the answer's frame.
const FETCHED: usize = 64 << 20;

/// What a record takes beside its key, header and value, at the most.
pub(super) const OVERHEAD: usize = 1024;

/// Says what is wrong with a property before anything is connected.
///
/// # Errors
/// Why it can't be given so.
pub fn check_property(name: &str, value: &str) -> Result<(), String> {
    if OURS.contains(&name) {
        return Err("Pushline sets it: the promise rests on it".to_owned());
    }
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, what, ..)) => Err(what),
        Err(other) => Err(other.to_string()),
    }
}

/// `defaults` may be overridden by the operator, `fixed` may not.
fn client(options: &Options, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", "pushline").set("socket.keepalive.enable", "true").set("reconnect.backoff.max.ms", "2000");
    defaults.iter().for_each(|(name, value)| _ = config.set(*name, *value));
    options.properties.iter().for_each(|(name, value)| _ = config.set(name, value));
    fixed.iter().for_each(|(name, value)| _ = config.set(*name, *value));
    config.set("bootstrap.servers", &options.brokers);
    config
}

/// The producer: idempotent, so in order and never twice; without a time-out, so that it is Kafka that decides; without a bound of its own,
/// since whoever appends holds a lease.
pub(super) fn producer(options: &Options) -> ClientConfig {
    // A batch is bounded by its own limit; this one is for records, checkpoint among them.
    let largest = (options.largest_record.max(CHECKPOINT_BYTES) + OVERHEAD).to_string();
    let fixed = [
        ("enable.idempotence", "true"),
        ("message.timeout.ms", "0"),
        ("message.max.bytes", &largest),
        ("queue.buffering.max.messages", "0"),
        ("queue.buffering.max.kbytes", "2147483647"),
        // That of Kafka's own clients: other producers agree about a key's partition.
        ("partitioner", "murmur2_random"),
    ];
    client(options, &[("linger.ms", "2")], &fixed)
}

/// Live reading: a member of the group that shares the partitions.
pub(super) fn group(options: &Options) -> ClientConfig {
    let id = format!("{}-deliver", options.topic_prefix);
    let fixed = [
        ("group.id", id.as_str()),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("statistics.interval.ms", "1000"),
        ("auto.offset.reset", "error"),
    ];
    consumer(options, &[("session.timeout.ms", "10000"), ("fetch.wait.max.ms", "100")], &fixed)
}

/// How long the group waits for a member of which it hears nothing.
///
/// # Errors
/// A property can't be given as it is.
pub(super) fn session(options: &Options) -> Result<Duration, QueueError> {
    let read = || group(options).create_native_config()?.get("session.timeout.ms");
    let milliseconds = read().map_err(|error| QueueError::kafka("set up a consumer", &error))?;
    Ok(Duration::from_millis(milliseconds.parse().expect("librdkafka writes its numbers in decimal")))
}

/// Everything that is read at a place of its own: sweeps, checkpoint, dead letters. It is in a group by name only.
pub(super) fn catch_up(options: &Options) -> ClientConfig {
    let id = format!("{}-catch-up", options.topic_prefix);
    // What is fetched ahead is lost when another partition has its turn.
    consumer(
        options,
        &[("fetch.wait.max.ms", "50"), ("queued.max.messages.kbytes", "1024")],
        &[("group.id", id.as_str()), ("auto.offset.reset", "error")],
    )
}

fn consumer(options: &Options, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
    let own = [
        ("check.crcs", "false"),
        ("queued.max.messages.kbytes", "16384"),
        ("fetch.error.backoff.ms", "100"),
        // Once it has fetched enough ahead it looks again after so long, else after a whole second: that is longer than what is ahead lasts.
        ("fetch.queue.backoff.ms", "10"),
    ];
    let defaults = [&own, defaults].concat();
    // A broker gives a batch whole, however large, beside what it was asked for.
    let answer = (FETCHED + options.largest_record.max(CHECKPOINT_BYTES) + OVERHEAD).to_string();
    let always = [
        ("receive.message.max.bytes", answer.as_str()),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "true"),
        // A foreign transaction that hangs must hold nobody up.
        ("isolation.level", "read_uncommitted"),
    ];
    client(options, &defaults, &[&always, fixed].concat())
}

/// Whether the log doesn't hold what was to be read next.
pub(super) fn is_out_of_range(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error, KafkaError::MessageConsumption(Code::OffsetOutOfRange | Code::AutoOffsetReset))
}

/// For asking and creating.
pub(super) fn admin(options: &Options) -> ClientConfig {
    client(options, &[], &[])
}

/// Where librdkafka's own log goes: what matters of it is said by whoever notices.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    debug!(target: "librdkafka", ?level, facility, "{line}");
}

/// A client that only asks.
#[derive(Debug)]
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Quiet {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_promise_rests_on_cannot_be_given() {
        assert!(check_property("acks", "1").is_err() && check_property("group.id", "mine").is_err());
        assert_eq!(check_property("security.protocol", "ssl"), Ok(()));
        assert_eq!(check_property("compression.type", "zstd"), Ok(()));
    }

    #[test]
    fn an_unknown_property_or_value_is_told() {
        assert!(check_property("linger.mss", "1").unwrap_err().contains("No such configuration property"));
        assert!(check_property("linger.ms", "soon").is_err());
    }
}
