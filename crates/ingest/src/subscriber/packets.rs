//! What becomes of the packets that a broker sends: most are routed, some are only acknowledged and counted. Pure, but for the counters and the log.

use metrics::counter;
use pushline_model::{Registry, Timestamp};
use tokio::time::Instant;
use tracing::warn;

use super::{
    BrokerOptions,
    client::{Ack, Published},
};
use crate::{
    commits::Commits,
    intake::{Intake, Publish, Qos},
    log_limit::LogLimit,
    metrics as names,
};

/// The packets that were read together.
pub(super) struct Packets<'a> {
    options: &'a BrokerOptions,
    intake: Intake<'a>,
    acks: Vec<Ack>,
    bytes: usize,
    /// How many packets weren't stored, by result.
    skipped: Vec<&'static str>,
    resent: u64,
    /// Of payloads that are too large.
    log: &'a mut LogLimit,
}

impl<'a> Packets<'a> {
    pub(super) fn new(registry: &'a Registry, options: &'a BrokerOptions, at: Timestamp, log: &'a mut LogLimit) -> Self {
        let intake = Intake::new(registry, &options.topics, at);
        Self { options, intake, acks: Vec::new(), bytes: 0, skipped: Vec::new(), resent: 0, log }
    }

    /// Takes a packet in. Each is acknowledged, also one that isn't stored: the broker would send it again for ever, and nothing behind it.
    pub(super) fn take(&mut self, published: &'a Published, has_capacity: bool) {
        self.acks.extend(published.ack);
        self.bytes += published.topic.len() + published.payload.len();
        self.resent += u64::from(published.is_resent);
        let topic = match std::str::from_utf8(&published.topic) {
            Ok(topic) => topic,
            Err(_) => return self.skip("malformed_topic"),
        };
        if topic.starts_with('$') {
            // The broker's own, not a device's: MQTT 5 §4.7.2. Each connect of a Mosquitto bridge leaves one.
            return self.skip("system_topic");
        }
        if published.is_retained {
            // It is older than the subscription, and comes again with each.
            return self.skip("retained");
        }
        // A packet at QoS 2 is one at QoS 1 here: the subscription asks for no more.
        let qos = published.ack.map_or(Qos::AtMostOnce, |ack| Qos::AtLeastOnce(ack.id));
        let publish = Publish { qos, topic, payload: &published.payload };
        let size = published.payload.len();
        if size <= self.options.max_payload_bytes {
            self.intake.publish(&publish, has_capacity);
            return;
        }
        let is_kept = size <= self.options.max_dead_letter_bytes;
        if let Some(held_back) = self.log.pass(Instant::now()) {
            let (broker, max) = (&self.options.name, self.options.max_payload_bytes);
            let what = if is_kept { "kept as an unrouted packet" } else { "dropped, since a dead letter can't hold it" };
            warn!(broker, topic, size, max, held_back, "payload too large: {what}; raise max_payload_bytes of [[mqtt.brokers]]");
        }
        if is_kept { self.intake.too_large(&publish) } else { self.skip("dropped_too_large") }
    }

    fn skip(&mut self, result: &'static str) {
        self.skipped.push(result);
    }

    /// Appends the packets. What was only acknowledged keeps its place among the acknowledgements.
    pub(super) fn append(self, commits: &mut Commits<Ack>) {
        self.skipped.iter().for_each(|result| commits.count(result, 1));
        if self.resent > 0 {
            counter!(names::RESENT_PACKETS).increment(self.resent);
        }
        commits.append(self.intake, self.acks, self.bytes);
    }
}
