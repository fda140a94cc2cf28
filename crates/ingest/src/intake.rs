//! Sorts the packets of one read: records for the queue, and dead letters for unrouted packets. Pure.

use pushline_model::{Cause, DeadLetter, DeadPacket, Iccid, Packet, Registry, Routed, Timestamp, TopicPattern, route};
use pushline_queue::Record;

/// A packet that was published to a listener or a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    /// `None`: QoS 0.
    pub(crate) id: Option<u16>,
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
}

/// The packets of one read.
#[derive(Debug)]
pub(crate) struct Intake<'a> {
    registry: &'a Registry,
    patterns: &'a [TopicPattern],
    /// The time of the read: the packets' `received_at`.
    at: Timestamp,
    pub(crate) records: Vec<Record<'a>>,
    pub(crate) unrouted: Vec<DeadLetter>,
    /// How many PUBLISHes at QoS 0 were dropped.
    pub(crate) dropped: u64,
}

impl<'a> Intake<'a> {
    pub(crate) fn new(registry: &'a Registry, patterns: &'a [TopicPattern], at: Timestamp) -> Self {
        Self { registry, patterns, at, records: Vec::new(), unrouted: Vec::new(), dropped: 0 }
    }

    /// Whether there is nothing to store.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.unrouted.is_empty()
    }

    /// Routes a packet. `has_capacity`: whether the budget has capacity; without it, packets at QoS 0 are dropped and counted.
    ///
    /// Returns whether a group with a webhook wants the packet.
    pub(crate) fn publish(&mut self, publish: &Publish<'a>, has_capacity: bool) -> bool {
        if publish.id.is_none() && !has_capacity {
            self.dropped += 1;
            return false;
        }
        match route(publish.topic, self.patterns, self.registry) {
            Routed::Group(group, iccid) => {
                let packet = Packet { iccid, topic: publish.topic, received_at: self.at, payload: publish.payload };
                self.records.push(Record::packet(group.id.key(), &packet));
                true
            }
            Routed::NoWebhook(group, iccid) => self.dead_letter(publish, Some(iccid), group.id.key().to_owned(), Cause::NoWebhook),
            Routed::Unwanted { org, iccid } => self.dead_letter(publish, Some(iccid), format!("{org}/"), Cause::Unrouted),
            Routed::Unnamed => self.dead_letter(publish, None, String::new(), Cause::Unrouted),
        }
    }

    /// Keeps a packet whose payload is too large to be delivered.
    pub(crate) fn too_large(&mut self, publish: &Publish<'a>) {
        let (iccid, group) = match route(publish.topic, self.patterns, self.registry) {
            Routed::Group(group, iccid) | Routed::NoWebhook(group, iccid) => (Some(iccid), group.id.key().to_owned()),
            Routed::Unwanted { org, iccid } => (Some(iccid), format!("{org}/")),
            Routed::Unnamed => (None, String::new()),
        };
        self.dead_letter(publish, iccid, group, Cause::TooLarge);
    }

    /// Keeps a packet that no group or webhook wants. Ingest acknowledges it: a refused packet would only be sent again for ever.
    fn dead_letter(&mut self, publish: &Publish<'a>, iccid: Option<Iccid>, group: String, cause: Cause) -> bool {
        let packet = DeadPacket {
            received_at: self.at,
            topic: publish.topic.to_owned(),
            iccid: iccid.map_or(String::new(), |iccid| iccid.to_string()),
            payload: publish.payload.to_vec(),
        };
        self.unrouted.push(DeadLetter::unsent(self.at, group, cause, vec![packet]));
        false
    }
}

#[cfg(test)]
mod tests {
    use pushline_model::{RegistryBuilder, Webhook};

    use super::*;

    fn registry() -> Registry {
        let mut builder = RegistryBuilder::default();
        builder.webhook(Webhook::new("w", "http://a.example/".parse().unwrap())).unwrap();
        builder.group("mti/line".parse().unwrap(), Some("w"), true).unwrap();
        builder.group("mti/bare".parse().unwrap(), None, false).unwrap();
        builder.device(&"mti/bare".parse().unwrap(), "2".parse().unwrap()).unwrap();
        builder.build()
    }

    fn publish(topic: &str, id: Option<u16>) -> Publish<'_> {
        Publish { id, topic, payload: b"ABC" }
    }

    #[test]
    fn packets_are_routed_in_order() {
        let registry = registry();
        let patterns = ["{org}/{iccid}".parse().unwrap(), "g/{org}/{group}/{iccid}".parse().unwrap()];
        let mut intake = Intake::new(&registry, &patterns, Timestamp(7));
        for (topic, id, is_wanted) in [
            ("mti/1", Some(1), true),
            ("mti/2", Some(2), false),
            ("x/1", Some(3), false),
            ("nonsense", Some(4), false),
            ("mti/3", None, true),
            ("g/mti/line/2", Some(5), true),
            ("g/mti/none/2", None, false),
        ] {
            assert_eq!(intake.publish(&publish(topic, id), true), is_wanted, "{topic}");
        }
        let groups: Vec<&str> = intake.records.iter().map(|record| record.group).collect();
        assert_eq!(groups, ["mti/line", "mti/line", "mti/line"]);
        let unrouted: Vec<(&str, Cause, &str)> =
            intake.unrouted.iter().map(|letter| (letter.group.as_str(), letter.cause, letter.packets[0].iccid.as_str())).collect();
        assert_eq!(
            unrouted,
            [("mti/bare", Cause::NoWebhook, "2"), ("x/", Cause::Unrouted, "1"), ("", Cause::Unrouted, ""), ("mti/", Cause::Unrouted, "2")]
        );
    }

    #[test]
    fn without_capacity_qos_0_is_dropped_and_counted_and_qos_1_is_not() {
        let registry = registry();
        let patterns = ["{org}/{iccid}".parse().unwrap()];
        let mut intake = Intake::new(&registry, &patterns, Timestamp(7));
        intake.publish(&publish("mti/1", None), false);
        intake.publish(&publish("mti/1", Some(1)), false);
        assert_eq!((intake.dropped, intake.records.len()), (1, 1));
    }
}
