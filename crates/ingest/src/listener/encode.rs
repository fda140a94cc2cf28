//! Encodes the control packets that the listener sends. Pure.

use super::{DisconnectReason, Subscriptions, packets::Version};

/// A reason code of CONNACK (MQTT 5 §3.2.2.2), which DISCONNECT doesn't have.
const SERVER_UNAVAILABLE: u8 = 0x88;

/// The result of a PUBLISH (MQTT 5 §3.4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PubackReason {
    /// A group with a webhook wants the packet.
    Success,
    /// The packet is kept, and no webhook wants it.
    NoMatchingSubscribers,
    /// The client may not publish to the topic.
    NotAuthorized,
}

/// PUBACK (§3.4). MQTT 3.1.1 knows no reasons.
pub(crate) fn puback(version: Version, id: u16, reason: PubackReason, into: &mut Vec<u8>) {
    let [high, low] = id.to_be_bytes();
    match (version, reason) {
        (Version::V3, _) | (_, PubackReason::Success) => into.extend_from_slice(&[0x40, 2, high, low]),
        (Version::V5, PubackReason::NoMatchingSubscribers) => into.extend_from_slice(&[0x40, 3, high, low, 0x10]),
        (Version::V5, PubackReason::NotAuthorized) => into.extend_from_slice(&[0x40, 3, high, low, 0x87]),
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

/// CONNACK (§3.2) for an accepted client. MQTT 5 clients learn which features the listener lacks.
///
/// `assigned`: the client id that the listener chose for a client without one.
pub(crate) fn connack_accepted(version: Version, assigned: Option<&str>, max_packet: usize, subscriptions: Subscriptions) -> Vec<u8> {
    let mut bytes = Vec::new();
    match version {
        Version::V3 => packet(0x20, &[&[0, 0]], &mut bytes),
        Version::V5 => {
            let properties = properties_of_connack(assigned, max_packet, subscriptions);
            let length = u8::try_from(properties.len()).ok().filter(|length| *length < 0x80).expect("a few short properties");
            packet(0x20, &[&[0, 0, length], &properties], &mut bytes);
        }
    }
    bytes
}

/// Properties of CONNACK (§3.2.2.3).
fn properties_of_connack(assigned: Option<&str>, max_packet: usize, subscriptions: Subscriptions) -> Vec<u8> {
    // The session expiry interval is 0, the maximum QoS is 1.
    let mut properties = vec![0x11, 0, 0, 0, 0, 0x24, 1];
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
        let begin = b"\x11\x00\x00\x00\x00\x24\x01\x27\x00\x00\x01\x00";
        for (assigned, subscriptions, head, rest) in [
            (None, Subscriptions::Accept, &b"\x20\x0f\x00\x00\x0c"[..], &b""[..]),
            (None, Subscriptions::Refuse, b"\x20\x15\x00\x00\x12", b"\x28\x00\x29\x00\x2a\x00"),
            (Some("me"), Subscriptions::Accept, b"\x20\x14\x00\x00\x11", b"\x12\x00\x02me"),
        ] {
            assert_eq!(connack_accepted(Version::V5, assigned, 256, subscriptions), [head, begin, rest].concat());
        }
        assert_eq!(connack_accepted(Version::V3, None, 256, Subscriptions::Accept), b"\x20\x02\x00\x00");
    }

    #[test]
    fn only_mqtt_5_tells_that_no_group_wants_a_packet() {
        let mut acks = Vec::new();
        for version in [Version::V3, Version::V5] {
            for reason in [PubackReason::Success, PubackReason::NoMatchingSubscribers, PubackReason::NotAuthorized] {
                puback(version, 0x0102, reason, &mut acks);
            }
        }
        let v5 = b"\x40\x02\x01\x02\x40\x03\x01\x02\x10\x40\x03\x01\x02\x87";
        assert_eq!(acks, [&b"\x40\x02\x01\x02".repeat(3)[..], v5].concat());
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
