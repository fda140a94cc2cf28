//! Encodes the control packets that the listener sends. Pure.

use super::{DisconnectReason, connect::Connect, packets::Version};

/// A reason code of CONNACK (MQTT 5 §3.2.2.2), which DISCONNECT doesn't have.
const SERVER_UNAVAILABLE: u8 = 0x88;

/// PUBACK (MQTT 5 §3.4). `matched`: a group with a webhook wants the packet; else MQTT 5 clients get 0x10, "no matching subscribers".
pub(crate) fn puback(version: Version, id: u16, matched: bool, into: &mut Vec<u8>) {
    let [high, low] = id.to_be_bytes();
    match version {
        Version::V5 if !matched => into.extend_from_slice(&[0x40, 3, high, low, 0x10]),
        _ => into.extend_from_slice(&[0x40, 2, high, low]),
    }
}

/// PINGRESP (§3.13).
pub(crate) fn pingresp(into: &mut Vec<u8>) {
    into.extend_from_slice(&[0xd0, 0]);
}

/// SUBACK (§3.9): refuses every filter, since Pushline sends nothing to devices.
pub(crate) fn suback(version: Version, id: u16, filters: usize, into: &mut Vec<u8>) {
    const FAILURE: u8 = 0x80;
    const NOT_AUTHORIZED: u8 = 0x87;
    let code = if version == Version::V3 { FAILURE } else { NOT_AUTHORIZED };
    acknowledge(0x90, version, id, &vec![code; filters], into);
}

/// UNSUBACK (§3.11): no such subscription existed.
pub(crate) fn unsuback(version: Version, id: u16, filters: usize, into: &mut Vec<u8>) {
    const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    let codes = if version == Version::V3 { vec![] } else { vec![NO_SUBSCRIPTION_EXISTED; filters] };
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
pub(crate) fn connack_accepted(connect: &Connect, assigned: Option<&str>, max_packet: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    match connect.version {
        Version::V3 => packet(0x20, &[&[0, 0]], &mut bytes),
        Version::V5 => {
            let properties = properties_of_connack(assigned, max_packet);
            let length = u8::try_from(properties.len()).ok().filter(|length| *length < 0x80).expect("a few short properties");
            packet(0x20, &[&[0, 0, length], &properties], &mut bytes);
        }
    }
    bytes
}

/// Properties of CONNACK (§3.2.2.3).
fn properties_of_connack(assigned: Option<&str>, max_packet: usize) -> Vec<u8> {
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
    // No wildcards, no subscription identifiers, no shared subscriptions.
    properties.extend_from_slice(&[0x28, 0, 0x29, 0, 0x2a, 0]);
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
        let connect = super::super::connect::read(Version::V5, b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01d").unwrap();
        let lacks = b"\x28\x00\x29\x00\x2a\x00";
        let expected = [&b"\x20\x15\x00\x00\x12\x11\x00\x00\x00\x00\x24\x01\x27\x00\x00\x01\x00"[..], lacks].concat();
        assert_eq!(connack_accepted(&connect, None, 256), expected);
        let expected = [&b"\x20\x1a\x00\x00\x17\x11\x00\x00\x00\x00\x24\x01\x27\x00\x00\x01\x00\x12\x00\x02me"[..], lacks].concat();
        assert_eq!(connack_accepted(&connect, Some("me"), 256), expected);
    }

    #[test]
    fn an_answer_of_many_filters_has_a_length_of_several_bytes() {
        let mut answer = Vec::new();
        suback(Version::V3, 9, 300, &mut answer);
        assert_eq!((&answer[..5], answer.len()), (&[0x90, 0xae, 2, 0, 9][..], 305));
    }

    #[test]
    fn only_mqtt_5_tells_that_no_group_wants_a_packet() {
        let mut acks = Vec::new();
        for (version, matched) in [(Version::V3, true), (Version::V3, false), (Version::V5, true), (Version::V5, false)] {
            puback(version, 0x0102, matched, &mut acks);
        }
        assert_eq!(acks, b"\x40\x02\x01\x02\x40\x02\x01\x02\x40\x02\x01\x02\x40\x03\x01\x02\x10");
    }
}
