//! What the listener says to clients, as bytes. Pure.

use bytes::BytesMut;
use rmqtt_codec::{types::QoS, v3, v5};
use tokio_util::codec::Encoder;

use crate::{
    Refusal,
    packets::{Connect, Version},
};

/// PUBACK (MQTT 5 §3.4). `matched`: somebody wants the packet; MQTT 5 is told where nobody does (0x10).
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

/// SUBACK (§3.9): every filter is refused, since nothing is ever sent to devices.
pub(crate) fn suback(version: Version, id: u16, filters: usize, into: &mut Vec<u8>) {
    const FAILURE: u8 = 0x80;
    const NOT_AUTHORIZED: u8 = 0x87;
    let code = if version == Version::V3 { FAILURE } else { NOT_AUTHORIZED };
    acknowledge(0x90, version, id, &vec![code; filters], into);
}

/// UNSUBACK (§3.11): there was no such subscription.
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
        into.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    into.push(u8::try_from(length).unwrap_or_default());
    into.extend_from_slice(&id.to_be_bytes());
    into.extend_from_slice(properties);
    into.extend_from_slice(codes);
}

/// CONNACK (§3.2) for a client that is let in. MQTT 5 is told what it can't have.
pub(crate) fn welcome(connect: &Connect, assigned: Option<&str>, max_packet: usize) -> Vec<u8> {
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

/// CONNACK for a client that isn't.
pub(crate) fn refuse_connect(version: Version, refusal: Refusal) -> Vec<u8> {
    match (version, refusal) {
        (Version::V3, Refusal::Version) => vec![0x20, 2, 0, v3::ConnectAckReason::UnacceptableProtocolVersion.into()],
        (Version::V3, Refusal::ClientId) => vec![0x20, 2, 0, v3::ConnectAckReason::IdentifierRejected.into()],
        (Version::V3, Refusal::Full) => vec![0x20, 2, 0, v3::ConnectAckReason::ServiceUnavailable.into()],
        (Version::V3, _) => vec![], // the connection is just closed
        (Version::V5, _) => encode_v5(v5::Packet::ConnectAck(Box::new(v5::ConnectAck {
            reason_code: match refusal {
                Refusal::Version => v5::ConnectAckReason::UnsupportedProtocolVersion,
                Refusal::ClientId => v5::ConnectAckReason::ClientIdentifierNotValid,
                Refusal::Full => v5::ConnectAckReason::ServerUnavailable,
                Refusal::Qos2 => v5::ConnectAckReason::QosNotSupported,
                Refusal::TooLarge => v5::ConnectAckReason::PacketTooLarge,
                Refusal::Protocol => v5::ConnectAckReason::ProtocolError,
                _ => v5::ConnectAckReason::MalformedPacket,
            },
            ..v5::ConnectAck::default()
        }))),
    }
}

/// DISCONNECT (§3.14); MQTT 3 has none from a server.
pub(crate) fn disconnect(version: Version, refusal: Refusal) -> Vec<u8> {
    use v5::DisconnectReasonCode as Code;
    if version == Version::V3 {
        return vec![];
    }
    encode_v5(v5::Packet::Disconnect(v5::Disconnect::new(match refusal {
        Refusal::Malformed | Refusal::Version | Refusal::ClientId => Code::MalformedPacket,
        Refusal::Protocol | Refusal::NoConnect => Code::ProtocolError,
        Refusal::TooLarge => Code::PacketTooLarge,
        Refusal::Topic => Code::TopicNameInvalid,
        Refusal::TopicAlias => Code::TopicAliasInvalid,
        Refusal::Qos2 => Code::QosNotSupported,
        Refusal::TakenOver => Code::SessionTakenOver,
        Refusal::KeepAlive => Code::KeepAliveTimeout,
        Refusal::Full => Code::ServerBusy,
        Refusal::Storage => Code::UnspecifiedError,
        Refusal::ShuttingDown => Code::ServerShuttingDown,
    })))
}

fn encode_v5(packet: v5::Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    v5::Codec::default().encode(packet, &mut bytes).expect("a packet of a few short properties fits");
    bytes.to_vec()
}
