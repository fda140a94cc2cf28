//! The settings of librdkafka's clients: those that the promise needs are fixed, the others are the operator's.

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

/// Properties that the promise rests on: an operator can't set them.
const OURS: [&str; 28] = [
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
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.max.bytes",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "receive.message.max.bytes",
    "request.required.acks",
    "retries",
    "statistics.interval.ms",
    "transactional.id",
];

/// Bytes of the largest checkpoint. It lists the messages that haven't settled, with a few dozen bytes each.
pub(super) const CHECKPOINT_BYTES: usize = 16 << 20;

/// Bytes of the largest record of a session: three for each packet id that it holds.
pub(super) const SESSION_BYTES: usize = 256 << 10;

/// Bytes of the largest answer to a fetch, without its first batch: librdkafka's own number, and some for the frame of the answer.
const FETCHED: usize = 64 << 20;

/// Bytes of a record besides its key, header and value, at the most.
pub(super) const OVERHEAD: usize = 1024;

/// Checks one property, before any client exists.
///
/// # Errors
/// Why the property can't have this value.
pub fn check_property(name: &str, value: &str) -> Result<(), String> {
    if OURS.contains(&name) {
        return Err("Pushline sets this property itself, since its promise rests on it: remove it".to_owned());
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

/// The producer: idempotent, so it keeps the order and stores no record twice; without a time-out, so that Kafka decides; without a limit of its own,
/// since the caller that appends holds a lease on memory.
pub(super) fn producer(options: &Options) -> ClientConfig {
    // Of the largest record; a checkpoint is one too.
    let largest = (options.largest_record.max(CHECKPOINT_BYTES) + OVERHEAD).to_string();
    let fixed = [
        ("enable.idempotence", "true"),
        ("message.timeout.ms", "0"),
        ("message.max.bytes", &largest),
        ("queue.buffering.max.messages", "0"),
        ("queue.buffering.max.kbytes", "2147483647"),
        // The partitioner of Kafka's own clients: other producers choose the same partition for a key.
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

/// How long the group waits for a member that sends no heartbeat.
///
/// # Errors
/// A property can't be given as it is.
pub(super) fn session(options: &Options) -> Result<Duration, QueueError> {
    let read = || group(options).create_native_config()?.get("session.timeout.ms");
    let milliseconds = read().map_err(|error| QueueError::kafka("set up a consumer", &error))?;
    Ok(Duration::from_millis(milliseconds.parse().expect("librdkafka writes its numbers in decimal")))
}

/// The consumer for reading at a place of its own: catch-up reads, checkpoints, dead letters. It has the name of a group and is no member.
pub(super) fn catch_up(options: &Options) -> ClientConfig {
    let id = format!("{}-catch-up", options.topic_prefix);
    // Records that were fetched ahead are lost when another partition gets its turn.
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
        // How long it pauses once it has fetched enough ahead. The default is a second, in which the task would run out of records.
        ("fetch.queue.backoff.ms", "10"),
    ];
    let defaults = [&own, defaults].concat();
    // A broker sends its first batch whole, however large.
    let answer = (FETCHED + options.largest_record.max(CHECKPOINT_BYTES) + OVERHEAD).to_string();
    let always = [
        ("receive.message.max.bytes", answer.as_str()),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "true"),
        // A foreign transaction that hangs must not hold up a partition. All consumers have the same level, so they see the same records.
        ("isolation.level", "read_uncommitted"),
    ];
    client(options, &defaults, &[&always, fixed].concat())
}

/// Whether Kafka doesn't have the offset that was to be read next.
pub(super) fn is_out_of_range(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error, KafkaError::MessageConsumption(Code::OffsetOutOfRange | Code::AutoOffsetReset))
}

/// The client for asking about topics and creating them.
pub(super) fn admin(options: &Options) -> ClientConfig {
    client(options, &[], &[])
}

/// librdkafka's own log goes to the debug level: Pushline reports the errors that matter itself.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    debug!(target: "librdkafka", ?level, facility, "{line}");
}

/// The context of a client without callbacks.
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

    /// What an operator may change.
    const DEFAULTS: [&str; 10] = [
        "check.crcs",
        "client.id",
        "fetch.error.backoff.ms",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "linger.ms",
        "queued.max.messages.kbytes",
        "reconnect.backoff.max.ms",
        "session.timeout.ms",
        "socket.keepalive.enable",
    ];

    #[test]
    fn what_the_promise_rests_on_cannot_be_given() {
        for name in ["acks", "group.id", "retries", "message.send.max.retries", "max.in.flight", "group.instance.id"] {
            assert!(check_property(name, "1").is_err(), "{name}");
        }
        // What a client has whatever the operator writes is refused: it would be ignored without a word.
        for config in [producer(&Options::new("a:1")), group(&Options::new("a:1")), catch_up(&Options::new("a:1"))] {
            let free: Vec<&str> = config.config_map().into_keys().filter(|name| !DEFAULTS.contains(name) && !OURS.contains(name)).collect();
            assert!(free.is_empty(), "{free:?}");
        }
        assert_eq!(check_property("security.protocol", "ssl"), Ok(()));
        assert_eq!(check_property("compression.type", "zstd"), Ok(()));
    }

    #[test]
    fn an_unknown_property_or_value_is_told() {
        assert!(check_property("linger.mss", "1").unwrap_err().contains("No such configuration property"));
        assert!(check_property("linger.ms", "soon").is_err());
    }
}
