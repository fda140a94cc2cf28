//! What becomes of the packets of one read: records and dead letters for the queue, acknowledgements that wait for them, and answers that don't. Pure.

use crate::intake::{Intake, Publish, Qos};

use super::{
    DisconnectReason, Subscriptions, TooLarge,
    access::ClientIdentity,
    encode::{self, Ack, PublishReason},
    in_flight::InFlight,
    packets::{self, Disconnect, Packet, Raw, Version},
    will::Will,
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
    in_flight: &'a mut InFlight,
    pub(crate) intake: Intake<'a>,
    /// In the order of what they acknowledge (§4.6): they wait until the intake is durable.
    pub(crate) acks: Vec<Ack>,
    /// All other answers.
    pub(crate) answers: Vec<u8>,
    /// How many bytes were handled.
    pub(crate) handled: usize,
    /// How many of the next bytes belong to a packet that is too large to be kept.
    pub(crate) discard: usize,
    /// The last packet that was too large and became a dead letter.
    pub(crate) too_large: Option<Fault>,
    /// How many packets were on topics that begin with `$`. They are acknowledged, and not stored.
    pub(crate) system_topics: u64,
    /// How many packets the client has sent before. An earlier one may be stored, too: its acknowledgement didn't arrive.
    pub(crate) resent: u64,
    /// How many packets at QoS 2 came again. They are acknowledged, and not stored.
    pub(crate) repeated: u64,
    /// Packets that the client may not publish, and that were answered so: how many, and the last one's topic.
    pub(crate) unauthorised: u64,
    pub(crate) unauthorised_topic: Option<&'a str>,
}

/// What follows a packet.
enum Next {
    /// The next packet of the buffer.
    Packet,
    /// More has to be read first.
    Read,
    /// The client has sent DISCONNECT.
    End(Disconnect),
}

/// Why the connection ends with this read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client has sent DISCONNECT.
    Left(Disconnect),
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
    pub(crate) fn new(terms: Terms<'a>, in_flight: &'a mut InFlight, intake: Intake<'a>) -> Self {
        let (acks, answers) = (Vec::new(), Vec::new());
        Self {
            terms,
            in_flight,
            intake,
            acks,
            answers,
            handled: 0,
            discard: 0,
            too_large: None,
            system_topics: 0,
            resent: 0,
            repeated: 0,
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
                Ok(Some(raw)) => self.packet(&raw, rest),
                Err(DisconnectReason::PacketTooLarge) => self.packet_beyond_limit(rest),
                Err(reason) => Err(reason),
            };
            match handled {
                Ok(Next::Packet) => {}
                Ok(Next::Read) => return None,
                Ok(Next::End(disconnect)) => return Some(Ending::Left(disconnect)),
                Err(reason) => return Some(Ending::Refused(Fault::of(reason, rest))),
            }
        }
    }

    /// # Errors
    /// The connection ends.
    fn packet(&mut self, raw: &Raw<'a>, rest: &'a [u8]) -> Result<Next, DisconnectReason> {
        let Terms { version, subscriptions, .. } = self.terms;
        self.handled += raw.len();
        match raw.read(version)? {
            Packet::Publish(publish) => {
                let repeated = self.repeated;
                self.publish(&publish, publish.payload.len(), rest)?;
                self.resent += u64::from(raw.is_resent() && self.repeated == repeated);
            }
            Packet::Ping => encode::pingresp(&mut self.answers),
            Packet::Subscribe(id, qos) => {
                self.check_answer(qos.len())?;
                encode::suback(version, id, &qos, subscriptions, &mut self.answers);
            }
            Packet::Unsubscribe(id, filters) => {
                self.check_answer(filters)?;
                encode::unsuback(version, id, filters, subscriptions, &mut self.answers);
            }
            Packet::Release(id) => self.release(id),
            Packet::Disconnect(disconnect) => return Ok(Next::End(disconnect)),
        }
        Ok(Next::Packet)
    }

    /// Handles a packet that is larger than any that is kept: its payload is passed over while it comes.
    fn packet_beyond_limit(&mut self, rest: &'a [u8]) -> Result<Next, DisconnectReason> {
        if self.terms.too_large == TooLarge::Refuse {
            return Err(DisconnectReason::PacketTooLarge);
        }
        let Some((publish, length)) = packets::next_too_large(rest, self.terms.version)? else { return Ok(Next::Read) };
        let come = length.min(rest.len());
        (self.handled, self.discard) = (self.handled + come, length - come);
        self.publish(&Publish { payload: &[], ..publish }, usize::MAX, rest)?;
        Ok(if self.discard == 0 { Next::Packet } else { Next::Read })
    }

    /// `size`: of the payload, in bytes.
    fn publish(&mut self, publish: &Publish<'a>, size: usize, rest: &[u8]) -> Result<(), DisconnectReason> {
        if let Qos::ExactlyOnce(id) = publish.qos
            && self.in_flight.holds(id)
        {
            // Its record is durable, or its PUBREC waits before this one (§4.3.3).
            self.repeated += 1;
            self.acks.push(Ack::Pubrec(id, PublishReason::Success));
            return Ok(());
        }
        if publish.qos != Qos::AtMostOnce {
            self.in_flight.publish()?;
        }
        let reason = self.store(publish, size, rest)?;
        match publish.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce(id) => self.acks.push(Ack::Puback(id, reason)),
            Qos::ExactlyOnce(id) => {
                if reason != PublishReason::NotAuthorized {
                    self.in_flight.hold(id);
                }
                self.acks.push(Ack::Pubrec(id, reason));
            }
        }
        Ok(())
    }

    /// Takes a packet in that didn't come before.
    fn store(&mut self, publish: &Publish<'a>, size: usize, rest: &[u8]) -> Result<PublishReason, DisconnectReason> {
        let Terms { identity, has_capacity, max_payload, too_large, .. } = self.terms;
        Ok(if publish.topic.starts_with('$') {
            // Topics of brokers about themselves (§4.7.2): a Mosquitto bridge sends its state on each connect.
            self.system_topics += 1;
            PublishReason::NoMatchingSubscribers
        } else if !identity.may_publish(publish.topic) {
            self.unauthorised(publish)?
        } else if size <= max_payload {
            let matched = self.intake.publish(publish, has_capacity);
            if matched { PublishReason::Success } else { PublishReason::NoMatchingSubscribers }
        } else if too_large == TooLarge::Refuse {
            return Err(DisconnectReason::PacketTooLarge);
        } else {
            self.intake.too_large(publish);
            self.too_large = Some(Fault::of(DisconnectReason::PacketTooLarge, rest));
            PublishReason::NoMatchingSubscribers
        })
    }

    /// PUBREL: the session holds the id no longer. Its PUBCOMP waits in its turn, also for an id that isn't held: an earlier PUBREL of it may not be durable.
    fn release(&mut self, id: u16) {
        let was_held = self.in_flight.release(id);
        if was_held {
            self.intake.release(id);
        }
        self.acks.push(Ack::Pubcomp(id, was_held));
    }

    /// In MQTT 5 the client hears it, and goes on with its other packets.
    fn unauthorised(&mut self, publish: &Publish<'a>) -> Result<PublishReason, DisconnectReason> {
        if self.terms.version == Version::V3 || publish.qos == Qos::AtMostOnce {
            return Err(DisconnectReason::NotAuthorized);
        }
        (self.unauthorised, self.unauthorised_topic) = (self.unauthorised + 1, Some(publish.topic));
        Ok(PublishReason::NotAuthorized)
    }

    /// Handles a will as a PUBLISH. What would be answered isn't: its client has left.
    pub(crate) fn will(&mut self, will: &'a Will) {
        // A packet that may not be published any more isn't stored.
        let _ = self.store(&will.publish(), will.payload.len(), &[]);
    }

    fn check_answer(&self, filters: usize) -> Result<(), DisconnectReason> {
        if encode::suback_len(filters) <= self.terms.largest_answer { Ok(()) } else { Err(DisconnectReason::AnswerTooLarge) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pushline_model::{Registry, RegistryBuilder, Timestamp, Webhook};
    use pushline_queue::{Kind, PacketIds, Record, SessionId};

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

    fn in_flight() -> InFlight {
        InFlight::new(PacketIds::default(), usize::MAX)
    }

    /// A PUBLISH at QoS 2. Its payload in MQTT 3.1.1 is no properties in MQTT 5.
    fn publish_2(dup: bool, topic: &str, id: u8) -> Vec<u8> {
        let length = u8::try_from(topic.len()).unwrap();
        [&[if dup { 0x3c } else { 0x34 }, length + 5, 0, length], topic.as_bytes(), &[0, id, 0]].concat()
    }

    fn pubrel(id: u8) -> Vec<u8> {
        vec![0x62, 2, 0, id]
    }

    /// Reads all of it at once, as a client of this session: the records' kinds, and the acknowledgements.
    fn read_2(
        bytes: &[Vec<u8>],
        version: Version,
        session: Option<SessionId>,
        in_flight: &mut InFlight,
    ) -> (Vec<&'static str>, Vec<Ack>, u64) {
        let (registry, identity, patterns) = (registry(), ClientIdentity::default(), ["{org}/{iccid}".parse().unwrap()]);
        let bytes = bytes.concat();
        let intake = Intake::new(&registry, &patterns, Timestamp(7)).of_session(session);
        let mut read = OneRead::new(terms(version, &identity), in_flight, intake);
        assert_eq!(read.handle(&bytes), None);
        let kind = |record: &Record<'_>| match record.kind {
            Kind::Packet { held: Some(_), .. } => "held",
            Kind::Packet { .. } => "packet",
            Kind::Release(_) => "release",
            _ => "other",
        };
        (read.intake.records.iter().map(kind).collect(), std::mem::take(&mut read.acks), read.repeated)
    }

    #[test]
    fn a_packet_at_qos_2_is_stored_once_until_it_is_released_whatever_its_dup_flag() {
        use Ack::{Pubcomp, Pubrec};
        use PublishReason::Success;
        let session = Some(SessionId([9; 16]));
        let mut in_flight = InFlight::new([5].into_iter().collect(), usize::MAX);
        let bytes = [publish_2(false, "mti/1", 5), publish_2(true, "mti/1", 6), publish_2(false, "mti/1", 6), publish_2(true, "mti/1", 5)];
        let all = read_2(&bytes, Version::V5, session, &mut in_flight);
        assert_eq!(all, (vec!["held"], vec![Pubrec(5, Success), Pubrec(6, Success), Pubrec(6, Success), Pubrec(5, Success)], 3));
        // A released id names another packet; a release of what isn't held changes nothing.
        let bytes = [pubrel(6), pubrel(6), publish_2(false, "mti/1", 6), pubrel(5), pubrel(100)];
        let all = read_2(&bytes, Version::V5, session, &mut in_flight);
        let acks = vec![Pubcomp(6, true), Pubcomp(6, false), Pubrec(6, Success), Pubcomp(5, true), Pubcomp(100, false)];
        assert_eq!(all, (vec!["release", "held", "release"], acks, 0));
    }

    #[test]
    fn a_session_that_ends_with_its_connection_leaves_no_id_in_the_log() {
        let mut in_flight = in_flight();
        let bytes = [publish_2(false, "mti/1", 6), publish_2(true, "mti/1", 6), pubrel(6)];
        let (records, acks, repeated) = read_2(&bytes, Version::V3, None, &mut in_flight);
        assert_eq!((records, acks.len(), repeated), (vec!["packet"], 3, 1));
    }

    /// What isn't stored among the packets is acknowledged to its end, too.
    #[test]
    fn unrouted_unauthorised_and_system_packets_at_qos_2_are_answered() {
        use PublishReason::{NoMatchingSubscribers, NotAuthorized};
        let mut in_flight = in_flight();
        let bytes =
            [publish_2(false, "nothing/1", 1), publish_2(false, "$SYS/a", 2), publish_2(true, "nothing/1", 1), pubrel(1), pubrel(2)];
        let (records, acks, repeated) = read_2(&bytes, Version::V5, None, &mut in_flight);
        let of_two = [Ack::Pubrec(1, NoMatchingSubscribers), Ack::Pubrec(2, NoMatchingSubscribers), Ack::Pubrec(1, PublishReason::Success)];
        assert_eq!((records.len(), &acks[..3], repeated), (0, &of_two[..], 1));
        assert_eq!(acks[3..], [Ack::Pubcomp(1, true), Ack::Pubcomp(2, true)]);
        // §4.3.3: with an error the client is done with the id.
        let (registry, identity) = (registry(), ClientIdentity::only(&["else/#"]));
        let mut read = OneRead::new(terms(Version::V5, &identity), &mut in_flight, Intake::new(&registry, &[], Timestamp(7)));
        let bytes = [publish_2(false, "mti/1", 3), publish_2(false, "mti/1", 3)].concat();
        assert_eq!(read.handle(&bytes), None);
        assert_eq!((&read.acks[..], read.unauthorised, in_flight.holds(3)), (&[Ack::Pubrec(3, NotAuthorized); 2][..], 2, false));
    }

    #[test]
    fn a_client_with_more_in_flight_than_it_may_is_refused() {
        let (registry, identity) = (registry(), ClientIdentity::default());
        let mut in_flight = InFlight::new(PacketIds::default(), 2);
        let mut read = OneRead::new(terms(Version::V3, &identity), &mut in_flight, Intake::new(&registry, &[], Timestamp(7)));
        // A packet that comes again isn't one more.
        let bytes = [publish(1, 1), publish_2(false, "mti/1", 2), publish_2(true, "mti/1", 2), publish(3, 1)].concat();
        let Some(Ending::Refused(fault)) = read.handle(&bytes) else { panic!("three are in flight") };
        assert_eq!((fault.reason, read.acks.len()), (DisconnectReason::ReceiveMaximumExceeded, 3));
    }

    #[test]
    fn what_stands_before_a_packet_at_fault_is_handled_and_the_fault_is_described() {
        let (registry, identity, patterns) = (registry(), ClientIdentity::default(), ["{org}/{iccid}".parse().unwrap()]);
        let mut in_flight = in_flight();
        let mut read = OneRead::new(terms(Version::V3, &identity), &mut in_flight, Intake::new(&registry, &patterns, Timestamp(7)));
        let bytes = [&b"\x32\x0a\0\x05mti/1\0\x07A\xc0\0"[..], b"\x32\x0a\0\x05mti/+\0\x08A", b"\xc0\0"].concat();
        let fault = Fault { reason: DisconnectReason::TopicNameInvalid, topic: Some("mti/+".into()), length: Some(10) };
        assert_eq!(read.handle(&bytes), Some(Ending::Refused(fault)));
        assert_eq!(
            (read.intake.records.len(), &read.acks[..], &read.answers[..]),
            (1, &[Ack::Puback(7, PublishReason::Success)][..], &b"\xd0\0"[..])
        );
    }

    #[test]
    fn a_packet_that_is_too_large_is_described_before_it_is_whole() {
        let (registry, identity, mut in_flight) = (registry(), ClientIdentity::default(), in_flight());
        let mut read = OneRead::new(terms(Version::V5, &identity), &mut in_flight, Intake::new(&registry, &[], Timestamp(7)));
        let fault = Fault { reason: DisconnectReason::PacketTooLarge, topic: Some("mti/1".into()), length: Some(0x0fff_ffff) };
        assert_eq!(read.handle(b"\x32\xff\xff\xff\x7f\0\x05mti/1\0\x07"), Some(Ending::Refused(fault)));
    }

    #[test]
    fn a_bridges_state_is_acknowledged_and_not_stored() {
        let (registry, identity, mut in_flight) = (registry(), ClientIdentity::default(), in_flight());
        let mut read = OneRead::new(terms(Version::V3, &identity), &mut in_flight, Intake::new(&registry, &[], Timestamp(7)));
        assert_eq!(read.handle(b"\x33\x0b\0\x06$SYS/a\0\x071"), None);
        assert_eq!(
            (&read.acks[..], read.system_topics, read.intake.is_empty()),
            (&[Ack::Puback(7, PublishReason::NoMatchingSubscribers)][..], 1, true)
        );
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
        let mut in_flight = in_flight();
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
                    let mut read = OneRead::new(terms, &mut in_flight, Intake::new(&registry, &patterns, Timestamp(7)));
                    assert_eq!(read.handle(&buffer), None);
                    acks.extend_from_slice(&read.acks);
                    kept_payloads.extend(read.intake.unrouted.iter().map(|letter| letter.packets[0].payload.len()));
                    records += read.intake.records.len();
                    let handled = read.handled;
                    discard += read.discard;
                    buffer.drain(..handled);
                }
                let reason = if kept.is_some() { PublishReason::NoMatchingSubscribers } else { PublishReason::Success };
                assert_eq!(acks, [Ack::Puback(7, reason), Ack::Puback(8, PublishReason::Success)], "{payload} in parts of {cut}");
                assert_eq!(
                    (kept_payloads, records),
                    (kept.into_iter().collect(), 1 + usize::from(kept.is_none())),
                    "{payload} in parts of {cut}"
                );
            }
        }
    }

    #[test]
    fn a_packet_at_qos_2_that_is_too_large_is_kept_once_by_option() {
        let (registry, identity, mut in_flight) = (registry(), ClientIdentity::default(), in_flight());
        let terms = Terms { too_large: TooLarge::DeadLetter(2000), ..terms(Version::V3, &identity) };
        for payload in [1001, 200_000] {
            // The first byte says QoS 2, and that it comes again.
            let mut bytes = publish(7, payload);
            bytes[0] = 0x3c;
            let mut read = OneRead::new(terms, &mut in_flight, Intake::new(&registry, &[], Timestamp(7)));
            let all = [&bytes[..], &bytes, &pubrel(7)].concat();
            assert_eq!(read.handle(&all), None);
            let acks =
                [Ack::Pubrec(7, PublishReason::NoMatchingSubscribers), Ack::Pubrec(7, PublishReason::Success), Ack::Pubcomp(7, true)];
            assert_eq!((&read.acks[..], read.intake.unrouted.len(), read.handled), (&acks[..], 1, all.len()), "{payload}");
        }
    }

    #[test]
    fn an_answer_that_the_client_does_not_take_ends_the_connection() {
        let (registry, identity, mut in_flight) = (registry(), ClientIdentity::default(), in_flight());
        let mut read = OneRead::new(terms(Version::V5, &identity), &mut in_flight, Intake::new(&registry, &[], Timestamp(7)));
        let two = b"\x82\x0b\0\x09\0\0\x01a\0\0\x01b\0";
        assert_eq!(read.handle(two), None);
        assert_eq!(read.answers, b"\x90\x05\0\x09\0\0\0");
        let three = b"\x82\x0f\0\x09\0\0\x01a\0\0\x01b\0\0\x01c\0";
        let mut read = OneRead::new(terms(Version::V5, &identity), &mut in_flight, Intake::new(&registry, &[], Timestamp(7)));
        let Some(Ending::Refused(fault)) = read.handle(three) else { panic!("the answer has eleven bytes, as foreseen") };
        assert_eq!(fault.reason, DisconnectReason::AnswerTooLarge);
    }

    #[test]
    fn a_packet_that_may_be_stored_twice_is_counted_and_one_that_is_held_is_not() {
        let (registry, identity) = (registry(), ClientIdentity::default());
        let mut in_flight = InFlight::new([5].into_iter().collect(), usize::MAX);
        let mut read = OneRead::new(terms(Version::V3, &identity), &mut in_flight, Intake::new(&registry, &[], Timestamp(7)));
        let bytes = [publish_2(true, "mti/1", 5), publish_2(true, "mti/1", 6), publish_2(false, "mti/1", 7), publish(8, 1)].concat();
        assert_eq!((read.handle(&bytes), read.repeated, read.resent), (None, 1, 1));
    }

    #[test]
    fn the_reason_code_of_a_disconnect_is_read() {
        let (registry, identity, mut in_flight) = (registry(), ClientIdentity::default(), in_flight());
        for (version, bytes, reason) in [
            (Version::V3, &b"\xe0\0"[..], 0),
            (Version::V5, b"\xe0\0", 0),
            (Version::V5, b"\xe0\x01\0", 0),
            (Version::V5, b"\xe0\x02\0\0", 0),
            (Version::V5, b"\xe0\x01\x04", 4),
            (Version::V5, b"\xe0\x02\x82\0", 0x82),
        ] {
            let mut read = OneRead::new(terms(version, &identity), &mut in_flight, Intake::new(&registry, &[], Timestamp(7)));
            assert_eq!(read.handle(bytes), Some(Ending::Left(Disconnect { reason, session_expiry: None })), "{bytes:x?}");
        }
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
        let mut in_flight = in_flight();
            let mut bytes = Vec::new();
            for (first, body) in packets {
                bytes.extend([first, u8::try_from(body.len()).unwrap()]);
                bytes.extend(body);
            }
            bytes.extend(rest);
            let version = if is_v5 { Version::V5 } else { Version::V3 };
            let mut read = OneRead::new(terms(version, &identity), &mut in_flight, Intake::new(&registry, &patterns, Timestamp(7)));
            let ending = read.handle(&bytes);
            prop_assert!(read.handled <= bytes.len());
            if ending.is_none() {
                prop_assert!(packets::next(&bytes[read.handled..], 1_000_000).is_ok_and(|next| next.is_none()));
            }
        }
    }
}
