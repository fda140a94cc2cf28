//! What becomes of the packets of one read: records and dead letters for the queue, PUBACKs that wait for them, and answers that don't. Pure.

use crate::intake::{Intake, Publish};

use super::{
    DisconnectReason, Subscriptions,
    access::Identity,
    encode::{self, PubackReason},
    packets::{self, Packet, Raw, Version},
};

/// What holds for every packet of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) version: Version,
    /// The most bytes that an answer may have.
    pub(crate) largest_answer: usize,
    pub(crate) identity: &'a Identity,
    /// The largest payload, in bytes.
    pub(crate) max_payload: usize,
    pub(crate) subscriptions: Subscriptions,
    /// Whether the budget has capacity for packets at QoS 0.
    pub(crate) has_capacity: bool,
}

/// The packets of one read.
pub(crate) struct OneRead<'a> {
    terms: Terms<'a>,
    pub(crate) intake: Intake<'a>,
    /// PUBACKs in the order of the PUBLISHes: they wait until the intake is durable.
    pub(crate) acks: Vec<u8>,
    /// All other answers.
    pub(crate) answers: Vec<u8>,
    /// How many bytes were handled.
    pub(crate) handled: usize,
    /// Packets that the client may not publish, and that were answered so: how many, and the last one's topic.
    pub(crate) unauthorised: u64,
    pub(crate) unauthorised_topic: Option<&'a str>,
}

/// Why the connection ends with this read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client has sent DISCONNECT.
    Left,
    Refused(Fault),
}

/// A packet at fault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: DisconnectReason,
    /// The packet's topic, where it has one that can be read.
    pub(crate) topic: Option<String>,
    /// The packet's length in bytes, as its fixed header has it.
    pub(crate) length: Option<usize>,
}

impl<'a> OneRead<'a> {
    pub(crate) fn new(terms: Terms<'a>, intake: Intake<'a>) -> Self {
        let (acks, answers) = (Vec::new(), Vec::new());
        Self { terms, intake, acks, answers, handled: 0, unauthorised: 0, unauthorised_topic: None }
    }

    /// Handles every whole packet of a buffer, up to one that ends the connection.
    pub(crate) fn handle(&mut self, buffer: &'a [u8]) -> Option<Ending> {
        loop {
            let rest = &buffer[self.handled..];
            let ending = match packets::next(rest, packets::packet_limit(self.terms.max_payload)) {
                Ok(None) => return None,
                Ok(Some(raw)) => {
                    self.handled += raw.len();
                    self.packet(&raw)
                }
                Err(reason) => Err(Some(reason)),
            };
            match ending {
                Ok(()) => {}
                Err(None) => return Some(Ending::Left),
                Err(Some(reason)) => {
                    let (length, topic) = packets::describe(rest);
                    return Some(Ending::Refused(Fault { reason, topic, length }));
                }
            }
        }
    }

    /// # Errors
    /// The connection ends; without a reason the client has left.
    fn packet(&mut self, raw: &Raw<'a>) -> Result<(), Option<DisconnectReason>> {
        let Terms { version, subscriptions, .. } = self.terms;
        match raw.read(version, self.terms.max_payload)? {
            Packet::Publish(publish) => self.publish(&publish)?,
            Packet::Ping => encode::pingresp(&mut self.answers),
            Packet::Subscribe(id, qos) => {
                self.check_answer(qos.len())?;
                encode::suback(version, id, &qos, subscriptions, &mut self.answers);
            }
            Packet::Unsubscribe(id, filters) => {
                self.check_answer(filters)?;
                encode::unsuback(version, id, filters, subscriptions, &mut self.answers);
            }
            Packet::Disconnect => return Err(None),
        }
        Ok(())
    }

    fn publish(&mut self, publish: &Publish<'a>) -> Result<(), DisconnectReason> {
        let Terms { version, identity, has_capacity, .. } = self.terms;
        let reason = if identity.may_publish(publish.topic) {
            let matched = self.intake.publish(publish, has_capacity);
            if matched { PubackReason::Success } else { PubackReason::NoMatchingSubscribers }
        } else if version == Version::V5 && publish.id.is_some() {
            // The client hears it, and goes on with its other packets.
            (self.unauthorised, self.unauthorised_topic) = (self.unauthorised + 1, Some(publish.topic));
            PubackReason::NotAuthorized
        } else {
            return Err(DisconnectReason::NotAuthorized);
        };
        publish.id.into_iter().for_each(|id| encode::puback(version, id, reason, &mut self.acks));
        Ok(())
    }

    fn check_answer(&self, filters: usize) -> Result<(), DisconnectReason> {
        if encode::suback_len(filters) <= self.terms.largest_answer { Ok(()) } else { Err(DisconnectReason::AnswerTooLarge) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pushline_model::{Registry, RegistryBuilder, Timestamp, Webhook};

    use super::*;

    fn registry() -> Registry {
        let mut builder = RegistryBuilder::default();
        builder.webhook(Webhook::new("w", "http://a.example/".parse().unwrap())).unwrap();
        builder.group("mti/line".parse().unwrap(), Some("w"), true).unwrap();
        builder.build()
    }

    fn terms(version: Version, identity: &Identity) -> Terms<'_> {
        let (largest_answer, max_payload) = (10, 1000);
        Terms { version, largest_answer, identity, max_payload, subscriptions: Subscriptions::Accept, has_capacity: true }
    }

    #[test]
    fn what_stands_before_a_packet_at_fault_is_handled_and_the_fault_is_described() {
        let (registry, identity, patterns) = (registry(), Identity::default(), ["{org}/{iccid}".parse().unwrap()]);
        let mut read = OneRead::new(terms(Version::V3, &identity), Intake::new(&registry, &patterns, Timestamp(7)));
        let bytes = [&b"\x32\x0a\0\x05mti/1\0\x07A\xc0\0"[..], b"\x34\x0a\0\x05mti/2\0\x08A", b"\xc0\0"].concat();
        let fault = Fault { reason: DisconnectReason::QosNotSupported, topic: Some("mti/2".into()), length: Some(10) };
        assert_eq!(read.handle(&bytes), Some(Ending::Refused(fault)));
        assert_eq!((read.intake.records.len(), &read.acks[..], &read.answers[..]), (1, &b"\x40\x02\0\x07"[..], &b"\xd0\0"[..]));
    }

    #[test]
    fn a_packet_that_is_too_large_is_described_before_it_is_whole() {
        let (registry, identity) = (registry(), Identity::default());
        let mut read = OneRead::new(terms(Version::V5, &identity), Intake::new(&registry, &[], Timestamp(7)));
        let fault = Fault { reason: DisconnectReason::PacketTooLarge, topic: Some("mti/1".into()), length: Some(0x0fff_ffff) };
        assert_eq!(read.handle(b"\x32\xff\xff\xff\x7f\0\x05mti/1\0\x07"), Some(Ending::Refused(fault)));
    }

    #[test]
    fn an_answer_that_the_client_does_not_take_ends_the_connection() {
        let (registry, identity) = (registry(), Identity::default());
        let mut read = OneRead::new(terms(Version::V5, &identity), Intake::new(&registry, &[], Timestamp(7)));
        let two = b"\x82\x0b\0\x09\0\0\x01a\0\0\x01b\0";
        assert_eq!(read.handle(two), None);
        assert_eq!(read.answers, b"\x90\x05\0\x09\0\0\0");
        let three = b"\x82\x0f\0\x09\0\0\x01a\0\0\x01b\0\0\x01c\0";
        let mut read = OneRead::new(terms(Version::V5, &identity), Intake::new(&registry, &[], Timestamp(7)));
        let Some(Ending::Refused(fault)) = read.handle(three) else { panic!("the answer has eleven bytes, as foreseen") };
        assert_eq!(fault.reason, DisconnectReason::AnswerTooLarge);
    }

    proptest! {
        /// Whatever bytes come, cut anywhere: they are handled, waited for, or refused.
        #[test]
        fn any_bytes_get_an_answer(
            packets in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..5),
            rest in prop::collection::vec(any::<u8>(), 0..10),
            is_v5 in any::<bool>(),
        ) {
            let (registry, identity, patterns) = (registry(), Identity::default(), ["{org}/{iccid}".parse().unwrap()]);
            let mut bytes = Vec::new();
            for (first, body) in packets {
                bytes.extend([first, u8::try_from(body.len()).unwrap()]);
                bytes.extend(body);
            }
            bytes.extend(rest);
            let version = if is_v5 { Version::V5 } else { Version::V3 };
            let mut read = OneRead::new(terms(version, &identity), Intake::new(&registry, &patterns, Timestamp(7)));
            let ending = read.handle(&bytes);
            prop_assert!(read.handled <= bytes.len());
            if ending.is_none() {
                prop_assert!(packets::next(&bytes[read.handled..], 1_000_000).is_ok_and(|next| next.is_none()));
            }
        }
    }
}
