//! Sorts the packets of one socket read: records for the queue, dead letters for unrouted packets, and one string of PUBACKs for all of them. Pure.

use pushline_model::{Cause, DeadLetter, DeadPacket, Iccid, Packet, Registry, Routed, Timestamp, TopicPattern, route};
use pushline_queue::Record;

use crate::listener::{
    encode,
    packets::{Publish, Version},
};

/// The packets of one read.
#[derive(Debug)]
pub(crate) struct Intake<'a> {
    registry: &'a Registry,
    patterns: &'a [TopicPattern],
    version: Version,
    /// The time of the read: the packets' `received_at`.
    at: Timestamp,
    pub(crate) records: Vec<Record<'a>>,
    pub(crate) unrouted: Vec<DeadLetter>,
    /// PUBACKs in the order of the PUBLISHes.
    pub(crate) acks: Vec<u8>,
    /// How many PUBLISHes at QoS 0 were dropped.
    pub(crate) dropped: u64,
}

impl<'a> Intake<'a> {
    pub(crate) fn new(registry: &'a Registry, patterns: &'a [TopicPattern], version: Version, at: Timestamp) -> Self {
        Self { registry, patterns, version, at, records: Vec::new(), unrouted: Vec::new(), acks: Vec::new(), dropped: 0 }
    }

    /// Routes a packet. `has_capacity`: whether the budget has capacity; without it, packets at QoS 0 are dropped and counted.
    pub(crate) fn publish(&mut self, publish: &Publish<'a>, has_capacity: bool) {
        if publish.id.is_none() && !has_capacity {
            self.dropped += 1;
            return;
        }
        let matched = match route(publish.topic, self.patterns, self.registry) {
            Routed::Group(group, iccid) => {
                let packet = Packet { iccid, topic: publish.topic, received_at: self.at, payload: publish.payload };
                self.records.push(Record::packet(group.id.key(), &packet));
                true
            }
            Routed::NoWebhook(group, iccid) => self.dead_letter(publish, Some(iccid), group.id.key().to_owned(), Cause::NoWebhook),
            Routed::Unwanted { org, iccid } => self.dead_letter(publish, Some(iccid), format!("{org}/"), Cause::Unrouted),
            Routed::Unnamed => self.dead_letter(publish, None, String::new(), Cause::Unrouted),
        };
        publish.id.into_iter().for_each(|id| encode::puback(self.version, id, matched, &mut self.acks));
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
    fn packets_are_routed_and_acknowledged_in_order() {
        let registry = registry();
        let patterns = ["{org}/{iccid}".parse().unwrap(), "g/{org}/{group}/{iccid}".parse().unwrap()];
        let mut intake = Intake::new(&registry, &patterns, Version::V5, Timestamp(7));
        for (topic, id) in [
            ("mti/1", Some(1)),
            ("mti/2", Some(2)),
            ("x/1", Some(3)),
            ("nonsense", Some(4)),
            ("mti/3", None),
            ("g/mti/line/2", Some(5)),
            ("g/mti/none/2", None),
        ] {
            intake.publish(&publish(topic, id), true);
        }
        let groups: Vec<&str> = intake.records.iter().map(|record| record.group).collect();
        assert_eq!(groups, ["mti/line", "mti/line", "mti/line"]);
        let unrouted: Vec<(&str, Cause, &str)> =
            intake.unrouted.iter().map(|letter| (letter.group.as_str(), letter.cause, letter.packets[0].iccid.as_str())).collect();
        assert_eq!(
            unrouted,
            [("mti/bare", Cause::NoWebhook, "2"), ("x/", Cause::Unrouted, "1"), ("", Cause::Unrouted, ""), ("mti/", Cause::Unrouted, "2")]
        );
        let acks: &[&[u8]] =
            &[b"\x40\x02\x00\x01", b"\x40\x03\x00\x02\x10", b"\x40\x03\x00\x03\x10", b"\x40\x03\x00\x04\x10", b"\x40\x02\x00\x05"];
        assert_eq!(intake.acks, acks.concat());
    }

    #[test]
    fn without_capacity_qos_0_is_dropped_and_counted_and_qos_1_is_not() {
        let registry = registry();
        let patterns = ["{org}/{iccid}".parse().unwrap()];
        let mut intake = Intake::new(&registry, &patterns, Version::V3, Timestamp(7));
        intake.publish(&publish("mti/1", None), false);
        intake.publish(&publish("mti/1", Some(1)), false);
        assert_eq!((intake.dropped, intake.records.len()), (1, 1));
    }
}
