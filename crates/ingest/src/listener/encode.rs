//! Encodes the control packets that the listener sends. Pure.

use std::time::Duration;

use super::{DisconnectReason, Subscriptions, packets::Version};

/// A reason code of CONNACK (MQTT 5 §3.2.2.2), which DISCONNECT doesn't have.
const SERVER_UNAVAILABLE: u8 = 0x88;

/// An acknowledgement, with its packet id. It leaves when what it acknowledges is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// §3.4.
    Puback(u16, PublishReason),
    /// §3.5.
    Pubrec(u16, PublishReason),
    /// §3.7, with whether the id was held.
    Pubcomp(u16, bool),
}

/// The result of a PUBLISH (MQTT 5 §3.4.2.1, §3.5.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishReason {
    /// A group with a webhook wants the packet.
    Success,
    /// The packet is kept, and no webhook wants it.
    NoMatchingSubscribers,
    /// The client may not publish to the topic.
    NotAuthorized,
}

impl Ack {
    /// Whether the client may use the id for another packet.
    pub(crate) fn ends_packet(self) -> bool {
        match self {
            Self::Puback(..) | Self::Pubcomp(_, true) => true,
            Self::Pubrec(_, reason) => reason == PublishReason::NotAuthorized,
            Self::Pubcomp(_, false) => false,
        }
    }
}

/// PUBACK, PUBREC and PUBCOMP. MQTT 3.1.1 knows no reasons.
pub(crate) fn acks(version: Version, acks: &[Ack]) -> Vec<u8> {
    const NOT_FOUND: u8 = 0x92;
    let mut bytes = Vec::with_capacity(5 * acks.len());
    for ack in acks {
        let (first, id, code) = match *ack {
            Ack::Puback(id, reason) => (0x40, id, reason.code()),
            Ack::Pubrec(id, reason) => (0x50, id, reason.code()),
            Ack::Pubcomp(id, is_known) => (0x70, id, if is_known { 0 } else { NOT_FOUND }),
        };
        let [high, low] = id.to_be_bytes();
        match (version, code) {
            (Version::V3, _) | (_, 0) => bytes.extend_from_slice(&[first, 2, high, low]),
            (Version::V5, code) => bytes.extend_from_slice(&[first, 3, high, low, code]),
        }
    }
    bytes
}

impl PublishReason {
    fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::NoMatchingSubscribers => 0x10,
            Self::NotAuthorized => 0x87,
        }
    }
}

/// PINGRESP (§3.13).
pub(crate) fn pingresp(into: &mut Vec<u8>) {
    into.extend_from_slice(&[0xd0, 0]);
}

/// SUBACK (§3.9) for filters with these QoS. A granted subscription stays silent, since Pushline sends nothing to devices.
pub(crate) fn suback(version: Version, id: u16, qos: &[u8], subscriptions: Subscriptions, into: &mut Vec<u8>) {
    const FAILURE: u8 = 0x80;
    const NOT_AUTHORIZED: u8 = 0x87;
    let code = |qos: &u8| match (subscriptions, version) {
        (Subscriptions::Accept, _) => (*qos).min(1),
        (Subscriptions::Refuse, Version::V3) => FAILURE,
        (Subscriptions::Refuse, Version::V5) => NOT_AUTHORIZED,
    };
    acknowledge(0x90, version, id, &qos.iter().map(code).collect::<Vec<u8>>(), into);
}

/// UNSUBACK (§3.11).
pub(crate) fn unsuback(version: Version, id: u16, filters: usize, subscriptions: Subscriptions, into: &mut Vec<u8>) {
    const SUCCESS: u8 = 0;
    const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    let code = if subscriptions == Subscriptions::Accept { SUCCESS } else { NO_SUBSCRIPTION_EXISTED };
    let codes = if version == Version::V3 { vec![] } else { vec![code; filters] };
    acknowledge(0xb0, version, id, &codes, into);
}

/// The most bytes that the answer to this many filters has.
pub(crate) fn suback_len(filters: usize) -> usize {
    const BESIDE_CODES: usize = 8;
    filters + BESIDE_CODES
}

fn acknowledge(first: u8, version: Version, id: u16, codes: &[u8], into: &mut Vec<u8>) {
    let properties: &[u8] = if version == Version::V3 { &[] } else { &[0] };
    packet(first, &[&id.to_be_bytes(), properties, codes], into);
}

/// A packet of this first byte, and of these parts behind its length (§2.1.4).
fn packet(first: u8, parts: &[&[u8]], into: &mut Vec<u8>) {
    into.push(first);
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    while length > 0x7f {
        into.push(seven_bits(length) | 0x80);
        length >>= 7;
    }
    into.push(seven_bits(length));
    parts.iter().for_each(|part| into.extend_from_slice(part));
}

fn seven_bits(length: usize) -> u8 {
    u8::try_from(length & 0x7f).expect("seven bits fit a byte")
}

/// What CONNACK (§3.2) tells an accepted client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connack<'a> {
    /// Whether the session goes on.
    pub(crate) is_present: bool,
    /// How long the session lives after its connection.
    pub(crate) session_expiry: Duration,
    /// The client id that the listener chose for a client without one.
    pub(crate) assigned: Option<&'a str>,
    /// The largest packet that the listener reads, in bytes.
    pub(crate) max_packet: usize,
    pub(crate) receive_maximum: u16,
    pub(crate) subscriptions: Subscriptions,
}

/// CONNACK (§3.2) for an accepted client. MQTT 5 clients learn which features the listener lacks.
pub(crate) fn connack_accepted(version: Version, connack: &Connack<'_>) -> Vec<u8> {
    let (mut bytes, flags) = (Vec::new(), u8::from(connack.is_present));
    match version {
        Version::V3 => packet(0x20, &[&[flags, 0]], &mut bytes),
        Version::V5 => {
            let properties = properties_of_connack(connack);
            let length = u8::try_from(properties.len()).ok().filter(|length| *length < 0x80).expect("a few short properties");
            packet(0x20, &[&[flags, 0, length], &properties], &mut bytes);
        }
    }
    bytes
}

/// Properties of CONNACK (§3.2.2.3).
fn properties_of_connack(connack: &Connack<'_>) -> Vec<u8> {
    let Connack { session_expiry, assigned, max_packet, receive_maximum, subscriptions, .. } = *connack;
    let mut properties = vec![0x11];
    properties.extend_from_slice(&u32::try_from(session_expiry.as_secs()).unwrap_or(u32::MAX).to_be_bytes());
    if receive_maximum < u16::MAX {
        properties.push(0x21);
        properties.extend_from_slice(&receive_maximum.to_be_bytes());
    }
    if let Ok(max_packet) = u32::try_from(max_packet) {
        properties.push(0x27);
        properties.extend_from_slice(&max_packet.to_be_bytes());
    }
    if let Some(assigned) = assigned {
        properties.push(0x12);
        properties.extend_from_slice(&u16::try_from(assigned.len()).expect("an assigned client id is short").to_be_bytes());
        properties.extend_from_slice(assigned.as_bytes());
    }
    if subscriptions == Subscriptions::Refuse {
        // No wildcards, no subscription identifiers, no shared subscriptions.
        properties.extend_from_slice(&[0x28, 0, 0x29, 0, 0x2a, 0]);
    }
    properties
}

/// CONNACK for a refused client. Empty where MQTT 3.1.1 has no code for the reason: the connection is closed.
pub(crate) fn connack_refused(version: Version, reason: DisconnectReason) -> Vec<u8> {
    let (mut bytes, code) = (Vec::new(), if reason == DisconnectReason::ServerBusy { SERVER_UNAVAILABLE } else { reason.code() });
    match (version, reason.connack_v3()) {
        (Version::V3, None) => {}
        (Version::V3, Some(code)) => packet(0x20, &[&[0, code]], &mut bytes),
        (Version::V5, _) => packet(0x20, &[&[0, code, 0]], &mut bytes),
    }
    bytes
}

/// DISCONNECT (§3.14). Empty for MQTT 3.1.1, whose servers send none.
pub(crate) fn disconnect(version: Version, reason: DisconnectReason) -> Vec<u8> {
    match version {
        Version::V3 => vec![],
        Version::V5 => vec![0xe0, 2, reason.code(), 0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_client_of_mqtt_5_learns_what_the_listener_lacks() {
        let plain = Connack {
            is_present: false,
            session_expiry: Duration::from_secs(300),
            assigned: None,
            max_packet: 256,
            receive_maximum: u16::MAX,
            subscriptions: Subscriptions::Accept,
        };
        let (expiry, max_packet) = (b"\x11\x00\x00\x01\x2c", b"\x27\x00\x00\x01\x00");
        for (connack, head, between, rest) in [
            (plain, &b"\x20\x0d\x00\x00\x0a"[..], &b""[..], &b""[..]),
            (Connack { is_present: true, ..plain }, b"\x20\x0d\x01\x00\x0a", b"", b""),
            (Connack { receive_maximum: 10, ..plain }, b"\x20\x10\x00\x00\x0d", b"\x21\x00\x0a", b""),
            (Connack { subscriptions: Subscriptions::Refuse, ..plain }, b"\x20\x13\x00\x00\x10", b"", b"\x28\x00\x29\x00\x2a\x00"),
            (Connack { assigned: Some("me"), ..plain }, b"\x20\x12\x00\x00\x0f", b"", b"\x12\x00\x02me"),
        ] {
            assert_eq!(connack_accepted(Version::V5, &connack), [head, expiry, between, max_packet, rest].concat());
            assert_eq!(connack_accepted(Version::V3, &connack), [b"\x20\x02", &head[2..4]].concat());
        }
    }

    #[test]
    fn only_mqtt_5_tells_the_reason_of_an_acknowledgement() {
        let reasons = [PublishReason::Success, PublishReason::NoMatchingSubscribers, PublishReason::NotAuthorized];
        let all = reasons.map(|reason| Ack::Puback(0x0102, reason));
        assert_eq!(acks(Version::V3, &all), b"\x40\x02\x01\x02".repeat(3));
        assert_eq!(acks(Version::V5, &all), b"\x40\x02\x01\x02\x40\x03\x01\x02\x10\x40\x03\x01\x02\x87");
        let of_qos_2 = [
            Ack::Pubrec(7, PublishReason::Success),
            Ack::Pubrec(7, PublishReason::NotAuthorized),
            Ack::Pubcomp(7, true),
            Ack::Pubcomp(7, false),
        ];
        assert_eq!(acks(Version::V3, &of_qos_2), b"\x50\x02\x00\x07\x50\x02\x00\x07\x70\x02\x00\x07\x70\x02\x00\x07");
        assert_eq!(acks(Version::V5, &of_qos_2), b"\x50\x02\x00\x07\x50\x03\x00\x07\x87\x70\x02\x00\x07\x70\x03\x00\x07\x92");
        assert_eq!(of_qos_2.map(Ack::ends_packet), [false, true, true, false]);
        assert_eq!(size_of::<Ack>(), 4);
    }

    #[test]
    fn an_answer_of_many_filters_has_a_length_of_several_bytes_and_fits_what_was_foreseen() {
        let mut answer = Vec::new();
        suback(Version::V3, 9, &[2; 300], Subscriptions::Accept, &mut answer);
        assert_eq!((&answer[..6], answer.len()), (&[0x90, 0xae, 2, 0, 9, 1][..], 305));
        for filters in [1, 127, 128, 20_000] {
            answer.clear();
            suback(Version::V5, 9, &vec![0; filters], Subscriptions::Refuse, &mut answer);
            assert!(answer.len() <= suback_len(filters), "{filters}");
        }
    }
}
