//! Decodes MQTT control packets in a connection's buffer. PUBLISH is decoded in place, without copies; the other packets are rare and go
//! through the codec. Pure.

use bytes::BytesMut;
use rmqtt_codec::{error::DecodeError, v3, v5, version::ProtocolVersion, version::VersionCodec};
use tokio_util::codec::Decoder;

use crate::{DisconnectReason, intake::Publish};

/// Bytes that a PUBLISH's topic and properties may take beside the payload.
const BESIDE_PAYLOAD: usize = 128 << 10;

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// The place of CONNECT's flags, behind the protocol's name and level (MQTT 5 §3.1.2.3), and the flag for a new session.
const CONNECT_FLAGS: usize = 7;
const CLEAN_START: u8 = 2;

/// The flag of a PUBLISH that is sent again.
const DUP: u8 = 8;

/// The MQTT version that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1 and 3.1.1.
    V3,
    V5,
}

/// One whole control packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raw<'a> {
    first: u8,
    /// The whole packet, fixed header included.
    bytes: &'a [u8],
    /// The bytes after the fixed header.
    body: &'a [u8],
}

/// A packet that a connected client may send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// MQTT 5 §3.3.
    Publish(Publish<'a>),
    /// Packet id and number of filters.
    Subscribe(u16, usize),
    Unsubscribe(u16, usize),
    Ping,
    Disconnect,
}

/// The parts of a CONNECT that the listener uses. It has no users and no stored sessions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) will_qos2: bool,
}

/// The largest control packet that the listener reads, in bytes, for a limit of the payload.
pub(crate) fn packet_limit(max_payload: usize) -> usize {
    max_payload + BESIDE_PAYLOAD
}

/// The packet at the beginning of the buffer, or `None` if it isn't whole yet.
///
/// # Errors
/// The length is malformed, or larger than `limit`.
pub(crate) fn next(buffer: &[u8], limit: usize) -> Result<Option<Raw<'_>>, DisconnectReason> {
    let Some((&first, rest)) = buffer.split_first() else { return Ok(None) };
    let Some((length, header)) = remaining_length(rest)? else { return Ok(None) };
    if length > limit {
        return Err(DisconnectReason::PacketTooLarge);
    }
    let (start, end) = (1 + header, 1 + header + length);
    Ok(buffer.get(..end).map(|bytes| Raw { first, bytes, body: &bytes[start..] }))
}

/// Whether the buffer can begin with a CONNECT. The listener closes a connection that begins otherwise at once.
pub(crate) fn begins_like_connect(buffer: &[u8]) -> bool {
    buffer.first().is_none_or(|first| *first == CONNECT << 4)
}

/// Decodes a variable byte integer (MQTT 5 §1.5.5): seven bits a byte, four bytes at most. Returns the value and the number of its bytes.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, DisconnectReason> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((value, place + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(DisconnectReason::MalformedPacket) }
}

impl<'a> Raw<'a> {
    /// The packet's length in bytes, fixed header included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Decodes the packet as one of a connected client.
    pub(crate) fn read(&self, version: Version, max_payload: usize) -> Result<Packet<'a>, DisconnectReason> {
        match self.first >> 4 {
            PUBLISH => self.publish(version, max_payload).map(Packet::Publish),
            // MQTT 5 §2.1.3: these flags are reserved. (The codec checks the flags of the other packets.)
            PINGREQ | DISCONNECT if self.first & 0xf != 0 => Err(DisconnectReason::MalformedPacket),
            PINGREQ if self.body.is_empty() => Ok(Packet::Ping),
            DISCONNECT => Ok(Packet::Disconnect),
            SUBSCRIBE | UNSUBSCRIBE => self.filters(version),
            PINGREQ | 0 => Err(DisconnectReason::MalformedPacket),
            // A second CONNECT, a packet that only servers send, or an acknowledgement of nothing.
            _ => Err(DisconnectReason::ProtocolError),
        }
    }

    fn publish(&self, version: Version, max_payload: usize) -> Result<Publish<'a>, DisconnectReason> {
        let qos = self.first >> 1 & 3;
        let (topic, rest) = self.topic()?;
        let (id, rest) = match qos {
            // §3.3.1.1: a packet at QoS 0 is never sent again.
            0 if self.first & DUP != 0 => return Err(DisconnectReason::MalformedPacket),
            0 => (None, rest),
            1 => split_u16(rest).filter(|(id, _)| *id > 0).map(|(id, rest)| (Some(id), rest)).ok_or(DisconnectReason::MalformedPacket)?,
            2 => return Err(DisconnectReason::QosNotSupported),
            _ => return Err(DisconnectReason::MalformedPacket),
        };
        let payload = if version == Version::V5 { self.after_properties(rest)? } else { rest };
        if topic.is_empty() || topic.contains(['+', '#', '\0']) {
            return Err(DisconnectReason::TopicNameInvalid);
        }
        if payload.len() > max_payload {
            return Err(DisconnectReason::PacketTooLarge);
        }
        Ok(Publish { id, topic, payload })
    }

    fn topic(&self) -> Result<(&'a str, &'a [u8]), DisconnectReason> {
        let (length, rest) = split_u16(self.body).ok_or(DisconnectReason::MalformedPacket)?;
        let (topic, rest) = rest.split_at_checked(usize::from(length)).ok_or(DisconnectReason::MalformedPacket)?;
        Ok((std::str::from_utf8(topic).map_err(|_| DisconnectReason::MalformedPacket)?, rest))
    }

    /// Skips the properties. Most clients send none; the codec checks those that are there.
    fn after_properties(&self, rest: &'a [u8]) -> Result<&'a [u8], DisconnectReason> {
        let (length, header) = remaining_length(rest)?.ok_or(DisconnectReason::MalformedPacket)?;
        let payload = rest.get(header + length..).ok_or(DisconnectReason::MalformedPacket)?;
        if length > 0 {
            let publish = match self.decode_v5()? {
                v5::Packet::Publish(publish) => publish,
                _ => return Err(DisconnectReason::MalformedPacket),
            };
            if publish.properties.is_some_and(|properties| properties.topic_alias.is_some()) {
                return Err(DisconnectReason::TopicAliasInvalid); // CONNACK allowed none
            }
        }
        Ok(payload)
    }

    fn filters(&self, version: Version) -> Result<Packet<'a>, DisconnectReason> {
        match version {
            Version::V3 => match self.decode_v3()? {
                v3::Packet::Subscribe { packet_id, topic_filters } => Ok(Packet::Subscribe(packet_id.get(), topic_filters.len())),
                v3::Packet::Unsubscribe { packet_id, topic_filters } => Ok(Packet::Unsubscribe(packet_id.get(), topic_filters.len())),
                _ => Err(DisconnectReason::MalformedPacket),
            },
            Version::V5 => match self.decode_v5()? {
                v5::Packet::Subscribe(subscribe) => Ok(Packet::Subscribe(subscribe.packet_id.get(), subscribe.topic_filters.len())),
                v5::Packet::Unsubscribe(unsubscribe) => {
                    Ok(Packet::Unsubscribe(unsubscribe.packet_id.get(), unsubscribe.topic_filters.len()))
                }
                _ => Err(DisconnectReason::MalformedPacket),
            },
        }
    }

    /// The protocol version of a connection's first packet. It is decoded apart, so that a refusal of the rest can be encoded in the client's version.
    pub(crate) fn version(&self) -> Result<Version, DisconnectReason> {
        if self.first >> 4 != CONNECT {
            return Err(DisconnectReason::ProtocolError);
        }
        match VersionCodec.decode(&mut BytesMut::from(self.bytes)) {
            Ok(Some(ProtocolVersion::MQTT3)) => Ok(Version::V3),
            Ok(Some(ProtocolVersion::MQTT5)) => Ok(Version::V5),
            // A version other than 3.1, 3.1.1 and 5 has an answer of its own.
            Err(_) if self.body.get(2..6) == Some(b"MQTT") => Err(DisconnectReason::UnsupportedProtocolVersion),
            Ok(None) | Err(_) => Err(DisconnectReason::MalformedPacket),
        }
    }

    /// Decodes the packet as a connection's first packet, of this version.
    pub(crate) fn connect(&self, version: Version) -> Result<Connect, DisconnectReason> {
        match version {
            Version::V3 => match self.decode_v3()? {
                v3::Packet::Connect(connect) => Ok(Connect {
                    version,
                    client_id: connect.client_id.to_string(),
                    clean: connect.clean_session,
                    keep_alive: connect.keep_alive,
                    will_qos2: false,
                }),
                _ => Err(DisconnectReason::MalformedPacket),
            },
            Version::V5 => match decode_v5(self.with_clean_start())? {
                v5::Packet::Connect(connect) => Ok(Connect {
                    version,
                    client_id: connect.client_id.to_string(),
                    clean: self.body.get(CONNECT_FLAGS).is_some_and(|flags| flags & CLEAN_START != 0),
                    keep_alive: connect.keep_alive,
                    will_qos2: connect.last_will.is_some_and(|will| u8::from(will.qos) == 2),
                }),
                _ => Err(DisconnectReason::MalformedPacket),
            },
        }
    }

    /// The codec refuses an empty client id without Clean Start, as MQTT 3.1.1 does; MQTT 5 §3.1.3.1 lets such a client in.
    fn with_clean_start(&self) -> BytesMut {
        let mut bytes = BytesMut::from(self.bytes);
        let flags = bytes.len() - self.body.len() + CONNECT_FLAGS;
        bytes.get_mut(flags).into_iter().for_each(|flags| *flags |= CLEAN_START);
        bytes
    }

    fn decode_v3(&self) -> Result<v3::Packet, DisconnectReason> {
        let decoded = v3::Codec::default().decode(&mut BytesMut::from(self.bytes));
        decoded.map_err(|error| reason_of(&error))?.map(|(packet, _)| packet).ok_or(DisconnectReason::MalformedPacket)
    }

    fn decode_v5(&self) -> Result<v5::Packet, DisconnectReason> {
        decode_v5(BytesMut::from(self.bytes))
    }
}

fn decode_v5(mut bytes: BytesMut) -> Result<v5::Packet, DisconnectReason> {
    let decoded = v5::Codec::default().decode(&mut bytes);
    decoded.map_err(|error| reason_of(&error))?.map(|(packet, _)| packet).ok_or(DisconnectReason::MalformedPacket)
}

fn reason_of(error: &DecodeError) -> DisconnectReason {
    // MQTT 3.1.1 §3.1.3.1: an empty client id that asks for a session.
    if matches!(error, DecodeError::InvalidClientId) {
        DisconnectReason::ClientIdentifierNotValid
    } else {
        DisconnectReason::MalformedPacket
    }
}

fn split_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (two, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*two), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1000;

    fn read(bytes: &[u8], version: Version) -> Result<Packet<'_>, DisconnectReason> {
        next(bytes, packet_limit(LIMIT)).unwrap().expect("it is whole").read(version, LIMIT)
    }

    fn connect(bytes: &[u8]) -> Result<Connect, DisconnectReason> {
        let raw = next(bytes, LIMIT).unwrap().expect("it is whole");
        raw.version().and_then(|version| raw.connect(version))
    }

    #[test]
    fn a_publish_is_decoded_in_place() {
        let publish = |id| Packet::Publish(Publish { id, topic: "o/1", payload: b"ABC" });
        assert_eq!(read(b"\x30\x08\x00\x03o/1ABC", Version::V3), Ok(publish(None)));
        assert_eq!(read(b"\x32\x0a\x00\x03o/1\x00\x07ABC", Version::V3), Ok(publish(Some(7))));
        assert_eq!(read(b"\x3b\x0b\x00\x03o/1\x00\x07\x00ABC", Version::V5), Ok(publish(Some(7))));
        // Payload format indicator.
        assert_eq!(read(b"\x32\x0d\x00\x03o/1\x00\x07\x02\x01\x01ABC", Version::V5), Ok(publish(Some(7))));
    }

    #[test]
    fn a_wrong_packet_is_refused_with_its_reason() {
        for (bytes, reason) in [
            (&b"\x34\x08\x00\x03o/1\x00\x07A"[..], DisconnectReason::QosNotSupported),
            (b"\x36\x08\x00\x03o/1\x00\x07A", DisconnectReason::MalformedPacket),
            (b"\x32\x07\x00\x03o/1\x00\x00", DisconnectReason::MalformedPacket),
            (b"\x30\x05\x00\x03o/\xff", DisconnectReason::MalformedPacket),
            (b"\x30\x05\x00\x09o/1", DisconnectReason::MalformedPacket),
            (b"\x30\x06\x00\x03o/+\x00", DisconnectReason::TopicNameInvalid),
            (b"\x30\x03\x00\x00\x00", DisconnectReason::TopicNameInvalid),
            (b"\x30\x07\x00\x03o/1\x05\x01", DisconnectReason::MalformedPacket),
            (b"\x30\x09\x00\x03o/1\x03\x23\x00\x01", DisconnectReason::TopicAliasInvalid),
            (b"\x10\x00", DisconnectReason::ProtocolError),
            (b"\x20\x00", DisconnectReason::ProtocolError),
            (b"\x40\x02\x00\x01", DisconnectReason::ProtocolError),
            (b"\x00\x00", DisconnectReason::MalformedPacket),
            (b"\xc0\x01\x00", DisconnectReason::MalformedPacket),
            (b"\xc1\x00", DisconnectReason::MalformedPacket),
            (b"\xe1\x00", DisconnectReason::MalformedPacket),
            (b"\x38\x06\x00\x03o/1\x00", DisconnectReason::MalformedPacket),
        ] {
            assert_eq!(read(bytes, Version::V5), Err(reason), "{bytes:x?}");
        }
        assert_eq!(next(b"\x30\xff\xff\xff\xff", LIMIT), Err(DisconnectReason::MalformedPacket));
        assert_eq!(next(b"\x30\xff\xff\xff\x7f", LIMIT), Err(DisconnectReason::PacketTooLarge));
        let large = [b"\x30\xee\x07\x00\x03o/1".as_slice(), &[b'x'; 1001]].concat();
        assert_eq!(read(&large, Version::V3), Err(DisconnectReason::PacketTooLarge));
    }

    #[test]
    fn a_connect_tells_the_version_and_the_client() {
        let v3 = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01d";
        let connect = connect(v3).unwrap();
        assert_eq!((connect.version, connect.client_id.as_str(), connect.keep_alive, connect.clean), (Version::V3, "d", 60, true));
        let v5 = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01d";
        assert_eq!(self::connect(v5).map(|connect| (connect.version, connect.clean)), Ok((Version::V5, true)));
        let v6 = b"\x10\x0e\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01d";
        assert_eq!(self::connect(v6), Err(DisconnectReason::UnsupportedProtocolVersion));
        assert_eq!(self::connect(b"\xc0\x00"), Err(DisconnectReason::ProtocolError));
        assert_eq!(self::connect(b"\x10\x04GET "), Err(DisconnectReason::MalformedPacket));
    }

    #[test]
    fn an_empty_client_id_may_want_a_session_in_mqtt_5_only() {
        let v5 = connect(b"\x10\x0d\x00\x04MQTT\x05\x00\x00\x3c\x00\x00\x00").unwrap();
        assert_eq!((v5.version, v5.client_id.as_str(), v5.clean), (Version::V5, "", false));
        assert_eq!(connect(b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00"), Err(DisconnectReason::ClientIdentifierNotValid));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..16) {
            let bytes = [&[kind << 4 | 2, u8::try_from(bytes.len().min(127)).unwrap()], &bytes[..bytes.len().min(127)]].concat();
            if let Ok(Some(raw)) = next(&bytes, LIMIT) {
                let _ = (raw.read(Version::V3, LIMIT), raw.read(Version::V5, LIMIT), raw.version(), raw.connect(Version::V3), raw.connect(Version::V5));
            }
        }

        #[test]
        fn a_packet_that_is_not_whole_is_waited_for(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let length = u16::try_from(payload.len() + 5).unwrap();
            let [low, high] = (length << 1).to_le_bytes();
            let mut whole = vec![0x30, low >> 1 | 0x80, high];
            whole.extend(b"\x00\x03o/1");
            whole.extend(&payload);
            for cut in 0..whole.len() {
                prop_assert_eq!(next(&whole[..cut], LIMIT), Ok(None));
            }
            prop_assert_eq!(next(&whole, LIMIT).unwrap().unwrap().len(), whole.len());
        }
    }
}
