//! Encodes the control packets that the listener sends. Pure.

use bytes::BytesMut;
use rmqtt_codec::{types::QoS, v3, v5};
use tokio_util::codec::Encoder;

use crate::DisconnectReason;

use super::packets::{Connect, Version};

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

fn acknowledge(first: u8, version: Version, id: u16, codes: &[u8], into: &mut Vec<u8>) {
    let properties: &[u8] = if version == Version::V3 { &[] } else { &[0] };
    into.push(first);
    let mut length = 2 + properties.len() + codes.len();
    while length > 0x7f {
        into.push(seven_bits(length) | 0x80);
        length >>= 7;
    }
    into.push(seven_bits(length));
    into.extend_from_slice(&id.to_be_bytes());
    into.extend_from_slice(properties);
    into.extend_from_slice(codes);
}

fn seven_bits(length: usize) -> u8 {
    u8::try_from(length & 0x7f).expect("seven bits fit a byte")
}

/// CONNACK (§3.2) for an accepted client. MQTT 5 clients learn which features the listener lacks.
///
/// `assigned`: the client id that the listener chose for a client without one.
pub(crate) fn connack_accepted(connect: &Connect, assigned: Option<&str>, max_packet: usize) -> Vec<u8> {
    match connect.version {
        Version::V3 => vec![0x20, 2, 0, 0],
        Version::V5 => encode_v5(v5::Packet::ConnectAck(Box::new(v5::ConnectAck {
            max_qos: QoS::AtLeastOnce,
            max_packet_size: u32::try_from(max_packet).ok(),
            assigned_client_id: assigned.map(Into::into),
            session_expiry_interval_secs: Some(0),
            wildcard_subscription_available: false,
            subscription_identifiers_available: false,
            shared_subscription_available: false,
            ..v5::ConnectAck::default()
        }))),
    }
}

/// CONNACK for a refused client. Empty where MQTT 3.1.1 has no code for the reason: the connection is closed.
pub(crate) fn connack_refused(version: Version, reason: DisconnectReason) -> Vec<u8> {
    match (version, reason) {
        (Version::V3, DisconnectReason::UnsupportedProtocolVersion) => {
            vec![0x20, 2, 0, v3::ConnectAckReason::UnacceptableProtocolVersion.into()]
        }
        (Version::V3, DisconnectReason::ClientIdentifierNotValid) => vec![0x20, 2, 0, v3::ConnectAckReason::IdentifierRejected.into()],
        (Version::V3, DisconnectReason::ServerBusy) => vec![0x20, 2, 0, v3::ConnectAckReason::ServiceUnavailable.into()],
        (Version::V3, _) => vec![],
        (Version::V5, _) => encode_v5(v5::Packet::ConnectAck(Box::new(v5::ConnectAck {
            reason_code: match reason {
                DisconnectReason::UnsupportedProtocolVersion => v5::ConnectAckReason::UnsupportedProtocolVersion,
                DisconnectReason::ClientIdentifierNotValid => v5::ConnectAckReason::ClientIdentifierNotValid,
                DisconnectReason::ServerBusy => v5::ConnectAckReason::ServerUnavailable,
                DisconnectReason::QosNotSupported => v5::ConnectAckReason::QosNotSupported,
                DisconnectReason::PacketTooLarge => v5::ConnectAckReason::PacketTooLarge,
                DisconnectReason::ProtocolError => v5::ConnectAckReason::ProtocolError,
                _ => v5::ConnectAckReason::MalformedPacket,
            },
            ..v5::ConnectAck::default()
        }))),
    }
}

/// DISCONNECT (§3.14). Empty for MQTT 3.1.1, whose servers send none.
pub(crate) fn disconnect(version: Version, reason: DisconnectReason) -> Vec<u8> {
    use v5::DisconnectReasonCode as Code;
    if version == Version::V3 {
        return vec![];
    }
    encode_v5(v5::Packet::Disconnect(v5::Disconnect::new(match reason {
        DisconnectReason::MalformedPacket | DisconnectReason::UnsupportedProtocolVersion | DisconnectReason::ClientIdentifierNotValid => {
            Code::MalformedPacket
        }
        DisconnectReason::ProtocolError | DisconnectReason::ConnectTimeout => Code::ProtocolError,
        DisconnectReason::PacketTooLarge => Code::PacketTooLarge,
        DisconnectReason::TopicNameInvalid => Code::TopicNameInvalid,
        DisconnectReason::TopicAliasInvalid => Code::TopicAliasInvalid,
        DisconnectReason::QosNotSupported => Code::QosNotSupported,
        DisconnectReason::SessionTakenOver => Code::SessionTakenOver,
        DisconnectReason::KeepAliveTimeout => Code::KeepAliveTimeout,
        DisconnectReason::ServerBusy => Code::ServerBusy,
        DisconnectReason::StorageFailed => Code::UnspecifiedError,
        DisconnectReason::ServerShuttingDown => Code::ServerShuttingDown,
    })))
}

fn encode_v5(packet: v5::Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    v5::Codec::default().encode(packet, &mut bytes).expect("a packet of a few short properties fits");
    bytes.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mqtt_5_tells_that_no_group_wants_a_packet() {
        let mut acks = Vec::new();
        for (version, matched) in [(Version::V3, true), (Version::V3, false), (Version::V5, true), (Version::V5, false)] {
            puback(version, 0x0102, matched, &mut acks);
        }
        assert_eq!(acks, b"\x40\x02\x01\x02\x40\x02\x01\x02\x40\x02\x01\x02\x40\x03\x01\x02\x10");
    }
}
