//! Sorts the packets of one read: records for the queue, and dead letters for unrouted packets. Pure.

use pushline_model::{Cause, DeadLetter, DeadPacket, Iccid, Packet, Registry, Routed, Timestamp, TopicPattern, route};
use pushline_queue::{HeldId, Record, SessionId};

/// A packet that was published to a listener or a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) qos: Qos,
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
}

/// How a packet was published, with its packet id (MQTT 5 §4.3).
#[expect(clippy::enum_variant_names, reason = "MQTT's own names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    AtMostOnce,
    AtLeastOnce(u16),
    ExactlyOnce(u16),
}

/// The packets of one read.
#[derive(Debug)]
pub(crate) struct Intake<'a> {
    registry: &'a Registry,
    patterns: &'a [TopicPattern],
    /// The time of the read: the packets' `received_at`.
    at: Timestamp,
    /// The client's session, if it outlives the connection. It holds the ids of packets at QoS 2.
    session: Option<SessionId>,
    pub(crate) records: Vec<Record<'a>>,
    /// How many of the records are releases.
    pub(crate) releases: usize,
    pub(crate) unrouted: Vec<DeadLetter>,
    /// How many PUBLISHes at QoS 0 were dropped.
    pub(crate) dropped: u64,
}

impl<'a> Intake<'a> {
    pub(crate) fn new(registry: &'a Registry, patterns: &'a [TopicPattern], at: Timestamp) -> Self {
        Self { registry, patterns, at, session: None, records: Vec::new(), releases: 0, unrouted: Vec::new(), dropped: 0 }
    }

    /// The same for a client with a session.
    pub(crate) fn of_session(self, session: Option<SessionId>) -> Self {
        Self { session, ..self }
    }

    /// Whether there is nothing to store.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.unrouted.is_empty()
    }

    /// Routes a packet. `has_capacity`: whether the budget has capacity; without it, packets at QoS 0 are dropped and counted.
    ///
    /// Returns whether a group with a webhook wants the packet.
    pub(crate) fn publish(&mut self, publish: &Publish<'a>, has_capacity: bool) -> bool {
        if publish.qos == Qos::AtMostOnce && !has_capacity {
            self.dropped += 1;
            return false;
        }
        match route(publish.topic, self.patterns, self.registry) {
            Routed::Group(group, iccid) => {
                let packet = Packet { iccid, topic: publish.topic, received_at: self.at, payload: publish.payload };
                self.records.push(Record::held_packet(group.id.key(), &packet, self.held(publish.qos)));
                true
            }
            Routed::NoWebhook(group, iccid) => self.dead_letter(publish, Some(iccid), group.id.key().to_owned(), Cause::NoWebhook),
            Routed::Unwanted { org, iccid } => self.dead_letter(publish, Some(iccid), format!("{org}/"), Cause::Unrouted),
            Routed::Unnamed => self.dead_letter(publish, None, String::new(), Cause::Unrouted),
        }
    }

    fn held(&self, qos: Qos) -> Option<HeldId> {
        let Qos::ExactlyOnce(packet_id) = qos else { return None };
        self.session.map(|session| HeldId { session, packet_id })
    }

    /// Ends the session's hold on a packet id.
    pub(crate) fn release(&mut self, packet_id: u16) {
        if let Some(session) = self.session {
            self.records.push(Record::release(self.at, HeldId { session, packet_id }));
            self.releases += 1;
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
    use pushline_queue::Kind;

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
        Publish { qos: id.map_or(Qos::AtMostOnce, Qos::AtLeastOnce), topic, payload: b"ABC" }
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
    fn the_id_of_a_packet_at_qos_2_stands_in_its_record_where_the_session_outlives_the_connection() {
        let (registry, patterns) = (registry(), ["{org}/{iccid}".parse().unwrap()]);
        let of = |session| {
            let mut intake = Intake::new(&registry, &patterns, Timestamp(7)).of_session(session);
            for qos in [Qos::ExactlyOnce(7), Qos::AtLeastOnce(8), Qos::AtMostOnce] {
                assert!(intake.publish(&Publish { qos, ..publish("mti/1", None) }, true));
            }
            intake.publish(&Publish { qos: Qos::ExactlyOnce(9), ..publish("x/1", None) }, true);
            intake.release(7);
            let kinds: Vec<Kind<'_>> = intake.records.iter().map(|record| record.kind).collect();
            (kinds, intake.releases, intake.unrouted.len())
        };
        let packet = |held| Kind::Packet { iccid: "1".parse().unwrap(), topic: "mti/1", held };
        assert_eq!(of(None), (vec![packet(None); 3], 0, 1));
        let session = SessionId([9; 16]);
        let held = HeldId { session, packet_id: 7 };
        assert_eq!(of(Some(session)), (vec![packet(Some(held)), packet(None), packet(None), Kind::Release(held)], 1, 1));
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
