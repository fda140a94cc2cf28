//! What becomes of the packets of one read: records and dead letters for the queue, PUBACKs that wait for them, and answers that don't. Pure.

use crate::intake::{Intake, Publish};

use super::{
    DisconnectReason, Subscriptions, TooLarge,
    access::ClientIdentity,
    encode::{self, PubackReason},
    packets::{self, Packet, Raw, Version},
};

/// What holds for every packet of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) version: Version,
    /// The most bytes that an answer may have.
    pub(crate) largest_answer: usize,
    pub(crate) identity: &'a ClientIdentity,
    /// The largest payload, in bytes.
    pub(crate) max_payload: usize,
    pub(crate) too_large: TooLarge,
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
    /// How many packets they were.
    pub(crate) packets: u64,
    /// How many of the next bytes belong to a packet that is too large to be kept.
    pub(crate) discard: usize,
    /// The last packet that was too large and became a dead letter.
    pub(crate) too_large: Option<Fault>,
    /// How many packets were on topics that begin with `$`. They are acknowledged, and not stored.
    pub(crate) system_topics: u64,
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

impl Fault {
    /// The packet at the beginning of these bytes is at fault.
    fn of(reason: DisconnectReason, bytes: &[u8]) -> Self {
        let (length, topic) = packets::describe(bytes);
        Self { reason, topic, length }
    }
}

impl<'a> OneRead<'a> {
    pub(crate) fn new(terms: Terms<'a>, intake: Intake<'a>) -> Self {
        let (acks, answers) = (Vec::new(), Vec::new());
        Self {
            terms,
            intake,
            acks,
            answers,
            handled: 0,
            packets: 0,
            discard: 0,
            too_large: None,
            system_topics: 0,
            unauthorised: 0,
            unauthorised_topic: None,
        }
    }

    /// Handles every whole packet of a buffer, up to one that ends the connection.
    pub(crate) fn handle(&mut self, buffer: &'a [u8]) -> Option<Ending> {
        let limit = packets::packet_limit(self.terms.too_large.largest_read(self.terms.max_payload));
        loop {
            let rest = &buffer[self.handled..];
            let handled = match packets::next(rest, limit) {
                Ok(None) => return None,
                Ok(Some(raw)) => self.packet(&raw, rest).map(|()| true),
                Err(DisconnectReason::PacketTooLarge) => self.packet_beyond_limit(rest).map_err(Some),
                Err(reason) => Err(Some(reason)),
            };
            match handled {
                Ok(true) => {}
                Ok(false) => return None,
                Err(None) => return Some(Ending::Left),
                Err(Some(reason)) => return Some(Ending::Refused(Fault::of(reason, rest))),
            }
        }
    }

    /// # Errors
    /// The connection ends; without a reason the client has left.
    fn packet(&mut self, raw: &Raw<'a>, rest: &'a [u8]) -> Result<(), Option<DisconnectReason>> {
        let Terms { version, subscriptions, .. } = self.terms;
        self.handled += raw.len();
        self.packets += 1;
        match raw.read(version)? {
            Packet::Publish(publish) => self.publish(&publish, publish.payload.len(), rest)?,
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

    /// Handles a packet that is larger than any that is kept: its payload is passed over while it comes. `false`: more of its head has to come first.
    fn packet_beyond_limit(&mut self, rest: &'a [u8]) -> Result<bool, DisconnectReason> {
        if self.terms.too_large == TooLarge::Refuse {
            return Err(DisconnectReason::PacketTooLarge);
        }
        let Some((publish, length)) = packets::next_too_large(rest, self.terms.version)? else { return Ok(false) };
        let come = length.min(rest.len());
        (self.handled, self.discard) = (self.handled + come, length - come);
        self.packets += 1;
        self.publish(&Publish { payload: &[], ..publish }, usize::MAX, rest)?;
        Ok(self.discard == 0)
    }

    /// `size`: of the payload, in bytes.
    fn publish(&mut self, publish: &Publish<'a>, size: usize, rest: &[u8]) -> Result<(), DisconnectReason> {
        let Terms { version, identity, has_capacity, max_payload, too_large, .. } = self.terms;
        let reason = if publish.topic.starts_with('$') {
            // Topics of brokers about themselves (§4.7.2): a Mosquitto bridge sends its state on each connect.
            self.system_topics += 1;
            PubackReason::NoMatchingSubscribers
        } else if !identity.may_publish(publish.topic) {
            self.unauthorised(publish)?
        } else if size <= max_payload {
            let matched = self.intake.publish(publish, has_capacity);
            if matched { PubackReason::Success } else { PubackReason::NoMatchingSubscribers }
        } else if too_large == TooLarge::Refuse {
            return Err(DisconnectReason::PacketTooLarge);
        } else {
            self.intake.too_large(publish);
            self.too_large = Some(Fault::of(DisconnectReason::PacketTooLarge, rest));
            PubackReason::NoMatchingSubscribers
        };
        publish.id.into_iter().for_each(|id| encode::puback(version, id, reason, &mut self.acks));
        Ok(())
    }

    /// In MQTT 5 the client hears it, and goes on with its other packets.
    fn unauthorised(&mut self, publish: &Publish<'a>) -> Result<PubackReason, DisconnectReason> {
        if self.terms.version == Version::V3 || publish.id.is_none() {
            return Err(DisconnectReason::NotAuthorized);
        }
        (self.unauthorised, self.unauthorised_topic) = (self.unauthorised + 1, Some(publish.topic));
        Ok(PubackReason::NotAuthorized)
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

    fn terms(version: Version, identity: &ClientIdentity) -> Terms<'_> {
        let (largest_answer, max_payload) = (10, 1000);
        let (too_large, subscriptions) = (TooLarge::Refuse, Subscriptions::Accept);
        Terms { version, largest_answer, identity, max_payload, too_large, subscriptions, has_capacity: true }
    }

    #[test]
    fn what_stands_before_a_packet_at_fault_is_handled_and_the_fault_is_described() {
        let (registry, identity, patterns) = (registry(), ClientIdentity::default(), ["{org}/{iccid}".parse().unwrap()]);
        let mut read = OneRead::new(terms(Version::V3, &identity), Intake::new(&registry, &patterns, Timestamp(7)));
        let bytes = [&b"\x32\x0a\0\x05mti/1\0\x07A\xc0\0"[..], b"\x34\x0a\0\x05mti/2\0\x08A", b"\xc0\0"].concat();
        let fault = Fault { reason: DisconnectReason::QosNotSupported, topic: Some("mti/2".into()), length: Some(10) };
        assert_eq!(read.handle(&bytes), Some(Ending::Refused(fault)));
        assert_eq!((read.intake.records.len(), &read.acks[..], &read.answers[..]), (1, &b"\x40\x02\0\x07"[..], &b"\xd0\0"[..]));
    }

    #[test]
    fn a_packet_that_is_too_large_is_described_before_it_is_whole() {
        let (registry, identity) = (registry(), ClientIdentity::default());
        let mut read = OneRead::new(terms(Version::V5, &identity), Intake::new(&registry, &[], Timestamp(7)));
        let fault = Fault { reason: DisconnectReason::PacketTooLarge, topic: Some("mti/1".into()), length: Some(0x0fff_ffff) };
        assert_eq!(read.handle(b"\x32\xff\xff\xff\x7f\0\x05mti/1\0\x07"), Some(Ending::Refused(fault)));
    }

    #[test]
    fn a_bridges_state_is_acknowledged_and_not_stored() {
        let (registry, identity) = (registry(), ClientIdentity::default());
        let mut read = OneRead::new(terms(Version::V3, &identity), Intake::new(&registry, &[], Timestamp(7)));
        assert_eq!(read.handle(b"\x33\x0b\0\x06$SYS/a\0\x071"), None);
        assert_eq!((&read.acks[..], read.system_topics, read.intake.is_empty()), (&b"\x40\x02\0\x07"[..], 1, true));
    }

    /// A PUBLISH at QoS 1 to `mti/1`.
    fn publish(id: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0x32];
        let mut length = 9 + payload;
        while length > 0x7f {
            bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        bytes.push(u8::try_from(length).unwrap());
        [&bytes[..], b"\0\x05mti/1\0", &[id], &vec![b'x'; payload]].concat()
    }

    /// It is kept whole up to the limit, and without its payload beyond; the packet behind it goes on, however the bytes are cut.
    #[test]
    fn by_option_a_packet_that_is_too_large_is_kept_and_acknowledged_and_the_next_one_goes_on() {
        const KEPT: usize = 300_000;
        let (registry, identity, patterns) = (registry(), ClientIdentity::default(), ["{org}/{iccid}".parse().unwrap()]);
        let terms = Terms { too_large: TooLarge::DeadLetter(KEPT), ..terms(Version::V3, &identity) };
        for (payload, kept) in [(1000, None), (1001, Some(1001)), (KEPT, Some(KEPT)), (KEPT + 1_000_000, Some(0))] {
            let whole = [publish(7, payload), publish(8, 1)].concat();
            for cut in [whole.len(), 100_000, 1 << 17, 200_000] {
                let (mut buffer, mut discard, mut acks, mut kept_payloads, mut records) = (Vec::new(), 0, Vec::new(), Vec::new(), 0);
                for part in whole.chunks(cut) {
                    buffer.extend_from_slice(part);
                    let passed = discard.min(buffer.len());
                    buffer.drain(..passed);
                    discard -= passed;
                    let mut read = OneRead::new(terms, Intake::new(&registry, &patterns, Timestamp(7)));
                    assert_eq!(read.handle(&buffer), None);
                    acks.extend_from_slice(&read.acks);
                    kept_payloads.extend(read.intake.unrouted.iter().map(|letter| letter.packets[0].payload.len()));
                    records += read.intake.records.len();
                    let handled = read.handled;
                    discard += read.discard;
                    buffer.drain(..handled);
                }
                assert_eq!(acks, b"\x40\x02\0\x07\x40\x02\0\x08", "{payload} in parts of {cut}");
                assert_eq!(
                    (kept_payloads, records),
                    (kept.into_iter().collect(), 1 + usize::from(kept.is_none())),
                    "{payload} in parts of {cut}"
                );
            }
        }
    }

    #[test]
    fn an_answer_that_the_client_does_not_take_ends_the_connection() {
        let (registry, identity) = (registry(), ClientIdentity::default());
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
            let (registry, identity, patterns) = (registry(), ClientIdentity::default(), ["{org}/{iccid}".parse().unwrap()]);
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
