//! MQTT control packets as they lie in a connection's buffer. PUBLISH is read where it lies, without copies; the others are few and go
//! through the codec. Pure.

use bytes::BytesMut;
use rmqtt_codec::{error::DecodeError, v3, v5, version::ProtocolVersion, version::VersionCodec};
use tokio_util::codec::Decoder;

use crate::Refusal;

/// A PUBLISH's topic and properties may take so much beside the payload.
const BESIDE_PAYLOAD: usize = 128 << 10;

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// Where a CONNECT has its flags, behind the name and the level of the protocol (MQTT 5 §3.1.2.3), and the one for a new session.
const CONNECT_FLAGS: usize = 7;
const CLEAN_START: u8 = 2;

/// The flag of a PUBLISH that is sent again.
const DUP: u8 = 8;

/// Which MQTT a client speaks.
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
    /// All of it.
    bytes: &'a [u8],
    /// What follows the fixed header.
    body: &'a [u8],
}

/// What a client that is connected may send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Publish(Publish<'a>),
    /// Packet id and how many filters.
    Subscribe(u16, usize),
    Unsubscribe(u16, usize),
    Ping,
    Disconnect,
}

/// A PUBLISH (MQTT 5 §3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    /// `None`: QoS 0.
    pub(crate) id: Option<u16>,
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
}

/// A CONNECT, as far as a listener without users and sessions needs it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) will_qos2: bool,
}

/// The largest control packet that is read, for payloads of at most so many bytes.
pub(crate) fn packet_limit(max_payload: usize) -> usize {
    max_payload + BESIDE_PAYLOAD
}

/// The packet at the beginning of a buffer; `None`: it isn't whole yet.
pub(crate) fn next(buffer: &[u8], limit: usize) -> Result<Option<Raw<'_>>, Refusal> {
    let Some((&first, rest)) = buffer.split_first() else { return Ok(None) };
    let Some((length, header)) = remaining_length(rest)? else { return Ok(None) };
    if length > limit {
        return Err(Refusal::TooLarge);
    }
    let (start, end) = (1 + header, 1 + header + length);
    Ok(buffer.get(..end).map(|bytes| Raw { first, bytes, body: &bytes[start..] }))
}

/// Whether a first packet begins like a CONNECT. What doesn't isn't waited for.
pub(crate) fn begins_like_connect(buffer: &[u8]) -> bool {
    buffer.first().is_none_or(|first| *first == CONNECT << 4)
}

/// MQTT 5 §1.5.5: seven bits a byte, four bytes at most. Returns the value and how many bytes it took.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Refusal> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((value, place + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(Refusal::Malformed) }
}

impl<'a> Raw<'a> {
    /// How long it is.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Reads it as what a connected client may send.
    pub(crate) fn read(&self, version: Version, max_payload: usize) -> Result<Packet<'a>, Refusal> {
        match self.first >> 4 {
            PUBLISH => self.publish(version, max_payload).map(Packet::Publish),
            // MQTT 5 §2.1.3: these flags are reserved. (The codec looks at those of the others.)
            PINGREQ | DISCONNECT if self.first & 0xf != 0 => Err(Refusal::Malformed),
            PINGREQ if self.body.is_empty() => Ok(Packet::Ping),
            DISCONNECT => Ok(Packet::Disconnect),
            SUBSCRIBE | UNSUBSCRIBE => self.filters(version),
            PINGREQ | 0 => Err(Refusal::Malformed),
            // A second CONNECT, what only a server sends, what nobody asked for.
            _ => Err(Refusal::Protocol),
        }
    }

    fn publish(&self, version: Version, max_payload: usize) -> Result<Publish<'a>, Refusal> {
        let qos = self.first >> 1 & 3;
        let (topic, rest) = self.topic()?;
        let (id, rest) = match qos {
            // §3.3.1.1: nothing at QoS 0 is sent again.
            0 if self.first & DUP != 0 => return Err(Refusal::Malformed),
            0 => (None, rest),
            1 => split_u16(rest).filter(|(id, _)| *id > 0).map(|(id, rest)| (Some(id), rest)).ok_or(Refusal::Malformed)?,
            2 => return Err(Refusal::Qos2),
            _ => return Err(Refusal::Malformed),
        };
        let payload = if version == Version::V5 { self.after_properties(rest)? } else { rest };
        if topic.is_empty() || topic.contains(['+', '#', '\0']) {
            return Err(Refusal::Topic);
        }
        if payload.len() > max_payload {
            return Err(Refusal::TooLarge);
        }
        Ok(Publish { id, topic, payload })
    }

    fn topic(&self) -> Result<(&'a str, &'a [u8]), Refusal> {
        let (length, rest) = split_u16(self.body).ok_or(Refusal::Malformed)?;
        let (topic, rest) = rest.split_at_checked(usize::from(length)).ok_or(Refusal::Malformed)?;
        Ok((std::str::from_utf8(topic).map_err(|_| Refusal::Malformed)?, rest))
    }

    /// Most clients send no properties; where there are some, the codec checks them.
    fn after_properties(&self, rest: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let (length, header) = remaining_length(rest)?.ok_or(Refusal::Malformed)?;
        let payload = rest.get(header + length..).ok_or(Refusal::Malformed)?;
        if length > 0 {
            let publish = match self.decode_v5()? {
                v5::Packet::Publish(publish) => publish,
                _ => return Err(Refusal::Malformed),
            };
            if publish.properties.is_some_and(|properties| properties.topic_alias.is_some()) {
                return Err(Refusal::TopicAlias); // CONNACK said that there are none
            }
        }
        Ok(payload)
    }

    fn filters(&self, version: Version) -> Result<Packet<'a>, Refusal> {
        match version {
            Version::V3 => match self.decode_v3()? {
                v3::Packet::Subscribe { packet_id, topic_filters } => Ok(Packet::Subscribe(packet_id.get(), topic_filters.len())),
                v3::Packet::Unsubscribe { packet_id, topic_filters } => Ok(Packet::Unsubscribe(packet_id.get(), topic_filters.len())),
                _ => Err(Refusal::Malformed),
            },
            Version::V5 => match self.decode_v5()? {
                v5::Packet::Subscribe(subscribe) => Ok(Packet::Subscribe(subscribe.packet_id.get(), subscribe.topic_filters.len())),
                v5::Packet::Unsubscribe(unsubscribe) => {
                    Ok(Packet::Unsubscribe(unsubscribe.packet_id.get(), unsubscribe.topic_filters.len()))
                }
                _ => Err(Refusal::Malformed),
            },
        }
    }

    /// Which MQTT the client speaks, as its first packet says. It stands in a place of its own, so that a refusal of the rest can be in the client's words.
    pub(crate) fn version(&self) -> Result<Version, Refusal> {
        if self.first >> 4 != CONNECT {
            return Err(Refusal::Protocol);
        }
        match VersionCodec.decode(&mut BytesMut::from(self.bytes)) {
            Ok(Some(ProtocolVersion::MQTT3)) => Ok(Version::V3),
            Ok(Some(ProtocolVersion::MQTT5)) => Ok(Version::V5),
            // Another one than 3.1, 3.1.1 and 5 gets its own answer.
            Err(_) if self.body.get(2..6) == Some(b"MQTT") => Err(Refusal::Version),
            Ok(None) | Err(_) => Err(Refusal::Malformed),
        }
    }

    /// Reads it as the first packet of a connection, of this version.
    pub(crate) fn connect(&self, version: Version) -> Result<Connect, Refusal> {
        match version {
            Version::V3 => match self.decode_v3()? {
                v3::Packet::Connect(connect) => Ok(Connect {
                    version,
                    client_id: connect.client_id.to_string(),
                    clean: connect.clean_session,
                    keep_alive: connect.keep_alive,
                    will_qos2: false,
                }),
                _ => Err(Refusal::Malformed),
            },
            Version::V5 => match decode_v5(self.with_clean_start())? {
                v5::Packet::Connect(connect) => Ok(Connect {
                    version,
                    client_id: connect.client_id.to_string(),
                    clean: self.body.get(CONNECT_FLAGS).is_some_and(|flags| flags & CLEAN_START != 0),
                    keep_alive: connect.keep_alive,
                    will_qos2: connect.last_will.is_some_and(|will| u8::from(will.qos) == 2),
                }),
                _ => Err(Refusal::Malformed),
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

    fn decode_v3(&self) -> Result<v3::Packet, Refusal> {
        let decoded = v3::Codec::default().decode(&mut BytesMut::from(self.bytes));
        decoded.map_err(|error| refusal(&error))?.map(|(packet, _)| packet).ok_or(Refusal::Malformed)
    }

    fn decode_v5(&self) -> Result<v5::Packet, Refusal> {
        decode_v5(BytesMut::from(self.bytes))
    }
}

fn decode_v5(mut bytes: BytesMut) -> Result<v5::Packet, Refusal> {
    let decoded = v5::Codec::default().decode(&mut bytes);
    decoded.map_err(|error| refusal(&error))?.map(|(packet, _)| packet).ok_or(Refusal::Malformed)
}

fn refusal(error: &DecodeError) -> Refusal {
    // MQTT 3.1.1 §3.1.3.1: an empty client id that asks for a session.
    if matches!(error, DecodeError::InvalidClientId) { Refusal::ClientId } else { Refusal::Malformed }
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

    fn read(bytes: &[u8], version: Version) -> Result<Packet<'_>, Refusal> {
        next(bytes, packet_limit(LIMIT)).unwrap().expect("it is whole").read(version, LIMIT)
    }

    fn connect(bytes: &[u8]) -> Result<Connect, Refusal> {
        let raw = next(bytes, LIMIT).unwrap().expect("it is whole");
        raw.version().and_then(|version| raw.connect(version))
    }

    #[test]
    fn a_publish_is_read_where_it_lies() {
        let publish = |id| Packet::Publish(Publish { id, topic: "o/1", payload: b"ABC" });
        assert_eq!(read(b"\x30\x08\x00\x03o/1ABC", Version::V3), Ok(publish(None)));
        assert_eq!(read(b"\x32\x0a\x00\x03o/1\x00\x07ABC", Version::V3), Ok(publish(Some(7))));
        assert_eq!(read(b"\x3b\x0b\x00\x03o/1\x00\x07\x00ABC", Version::V5), Ok(publish(Some(7))));
        // Payload format indicator.
        assert_eq!(read(b"\x32\x0d\x00\x03o/1\x00\x07\x02\x01\x01ABC", Version::V5), Ok(publish(Some(7))));
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_reason() {
        for (bytes, refusal) in [
            (&b"\x34\x08\x00\x03o/1\x00\x07A"[..], Refusal::Qos2),
            (b"\x36\x08\x00\x03o/1\x00\x07A", Refusal::Malformed),
            (b"\x32\x07\x00\x03o/1\x00\x00", Refusal::Malformed),
            (b"\x30\x05\x00\x03o/\xff", Refusal::Malformed),
            (b"\x30\x05\x00\x09o/1", Refusal::Malformed),
            (b"\x30\x06\x00\x03o/+\x00", Refusal::Topic),
            (b"\x30\x03\x00\x00\x00", Refusal::Topic),
            (b"\x30\x07\x00\x03o/1\x05\x01", Refusal::Malformed),
            (b"\x30\x09\x00\x03o/1\x03\x23\x00\x01", Refusal::TopicAlias),
            (b"\x10\x00", Refusal::Protocol),
            (b"\x20\x00", Refusal::Protocol),
            (b"\x40\x02\x00\x01", Refusal::Protocol),
            (b"\x00\x00", Refusal::Malformed),
            (b"\xc0\x01\x00", Refusal::Malformed),
            (b"\xc1\x00", Refusal::Malformed),
            (b"\xe1\x00", Refusal::Malformed),
            (b"\x38\x06\x00\x03o/1\x00", Refusal::Malformed),
        ] {
            assert_eq!(read(bytes, Version::V5), Err(refusal), "{bytes:x?}");
        }
        assert_eq!(next(b"\x30\xff\xff\xff\xff", LIMIT), Err(Refusal::Malformed));
        assert_eq!(next(b"\x30\xff\xff\xff\x7f", LIMIT), Err(Refusal::TooLarge));
        let large = [b"\x30\xee\x07\x00\x03o/1".as_slice(), &[b'x'; 1001]].concat();
        assert_eq!(read(&large, Version::V3), Err(Refusal::TooLarge));
    }

    #[test]
    fn a_connect_tells_the_version_and_the_client() {
        let v3 = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01d";
        let connect = connect(v3).unwrap();
        assert_eq!((connect.version, connect.client_id.as_str(), connect.keep_alive, connect.clean), (Version::V3, "d", 60, true));
        let v5 = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01d";
        assert_eq!(self::connect(v5).map(|connect| (connect.version, connect.clean)), Ok((Version::V5, true)));
        let v6 = b"\x10\x0e\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01d";
        assert_eq!(self::connect(v6), Err(Refusal::Version));
        assert_eq!(self::connect(b"\xc0\x00"), Err(Refusal::Protocol));
        assert_eq!(self::connect(b"\x10\x04GET "), Err(Refusal::Malformed));
    }

    #[test]
    fn an_empty_client_id_may_want_a_session_in_mqtt_5_only() {
        let v5 = connect(b"\x10\x0d\x00\x04MQTT\x05\x00\x00\x3c\x00\x00\x00").unwrap();
        assert_eq!((v5.version, v5.client_id.as_str(), v5.clean), (Version::V5, "", false));
        assert_eq!(connect(b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00"), Err(Refusal::ClientId));
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
