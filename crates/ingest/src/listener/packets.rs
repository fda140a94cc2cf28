//! Decodes MQTT control packets in a connection's buffer, in place and without copies; `connect.rs` decodes the first one. Pure.

use crate::intake::{Publish, Qos};

use super::{
    DisconnectReason,
    connect::{self, Connect},
    fields::{self, Fields},
    properties::{Owner, Properties},
};

/// Bytes that a PUBLISH's topic and properties may take beside the payload.
const BESIDE_PAYLOAD: usize = 128 << 10;

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBREL: u8 = 6;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

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
    /// Packet id, and the QoS of each filter.
    Subscribe(u16, Vec<u8>),
    /// Packet id, and the number of filters.
    Unsubscribe(u16, usize),
    /// PUBREL (§3.6), with its packet id.
    Release(u16),
    Ping,
    Disconnect(Disconnect),
}

/// DISCONNECT of a client (§3.14).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disconnect {
    /// MQTT 5's reason code; 0 in MQTT 3.1.1.
    pub(crate) reason: u8,
    /// The Session Expiry Interval, in seconds, if it is another one than CONNECT's (§3.14.2.2.2).
    pub(crate) session_expiry: Option<u32>,
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
    let Some((length, header)) = fields::variable(rest)? else { return Ok(None) };
    if length > limit {
        return Err(DisconnectReason::PacketTooLarge);
    }
    let (start, end) = (1 + header, 1 + header + length);
    Ok(buffer.get(..end).map(|bytes| Raw { first, bytes, body: &bytes[start..] }))
}

/// The PUBLISH at the beginning of the buffer, which is longer than `limit` allows: its topic and packet id, with what has come of its payload, and the
/// length of the packet, fixed header included. `None` while a part of its topic and properties may be missing.
///
/// # Errors
/// It isn't a PUBLISH, or one that is wrong.
pub(crate) fn next_too_large(buffer: &[u8], version: Version) -> Result<Option<(Publish<'_>, usize)>, DisconnectReason> {
    let Some((&first, rest)) = buffer.split_first() else { return Ok(None) };
    let Some((length, header)) = fields::variable(rest)? else { return Ok(None) };
    if first >> 4 != PUBLISH {
        return Err(DisconnectReason::PacketTooLarge);
    }
    let body = &rest[header..rest.len().min(header + length)];
    if body.len() < length.min(BESIDE_PAYLOAD) {
        return Ok(None);
    }
    let publish = Raw { first, bytes: buffer, body }.publish(version)?;
    Ok(Some((publish, 1 + header + length)))
}

/// The length of the packet at the beginning of the buffer, as its fixed header has it, and the packet's topic if it is a PUBLISH: for a packet that is refused,
/// whether it is whole or not.
pub(crate) fn describe(buffer: &[u8]) -> (Option<usize>, Option<String>) {
    let Some((&first, rest)) = buffer.split_first() else { return (None, None) };
    let Ok(Some((length, header))) = fields::variable(rest) else { return (None, None) };
    let topic = Fields::new(&rest[header..]).binary().ok().filter(|_| first >> 4 == PUBLISH);
    (Some(length), topic.map(|topic| String::from_utf8_lossy(topic).into_owned()))
}

/// Whether the buffer can begin with a CONNECT. The listener closes a connection that begins otherwise at once.
pub(crate) fn begins_like_connect(buffer: &[u8]) -> bool {
    buffer.first().is_none_or(|first| *first == CONNECT << 4)
}

impl<'a> Raw<'a> {
    /// The packet's length in bytes, fixed header included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it is a PUBLISH that the client has sent before (§3.3.1.1).
    pub(crate) fn is_resent(&self) -> bool {
        self.first >> 4 == PUBLISH && self.first & DUP != 0
    }

    /// Decodes the packet as one of a connected client.
    pub(crate) fn read(&self, version: Version) -> Result<Packet<'a>, DisconnectReason> {
        match (self.first >> 4, self.first & 0xf) {
            (PUBLISH, _) => self.publish(version).map(Packet::Publish),
            (PINGREQ, 0) if self.body.is_empty() => Ok(Packet::Ping),
            (PUBREL, 2) => self.release(version),
            // MQTT 3.1 §3.6: a client that sends it again sets DUP.
            (PUBREL, 10) if version == Version::V3 => self.release(version),
            (DISCONNECT, 0) => self.disconnect(version).map(Packet::Disconnect),
            (SUBSCRIBE, 2) => self.subscribe(version),
            (UNSUBSCRIBE, 2) => self.unsubscribe(version),
            // §2.1.3: all other flags of these are reserved.
            (0 | PUBREL | PINGREQ | DISCONNECT | SUBSCRIBE | UNSUBSCRIBE, _) => Err(DisconnectReason::MalformedPacket),
            // A second CONNECT, a packet that only servers send, or an acknowledgement of nothing.
            _ => Err(DisconnectReason::ProtocolError),
        }
    }

    fn publish(&self, version: Version) -> Result<Publish<'a>, DisconnectReason> {
        let mut fields = Fields::new(self.body);
        let topic = fields.text()?;
        let qos = match self.first >> 1 & 3 {
            // §3.3.1.1: a packet at QoS 0 is never sent again.
            0 if self.first & DUP != 0 => return Err(DisconnectReason::MalformedPacket),
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce(fields.packet_id()?),
            2 => Qos::ExactlyOnce(fields.packet_id()?),
            _ => return Err(DisconnectReason::MalformedPacket),
        };
        if version == Version::V5 {
            Properties::read(&mut fields, Owner::Publish)?;
        }
        if topic.is_empty() || topic.contains(['+', '#']) {
            return Err(DisconnectReason::TopicNameInvalid);
        }
        Ok(Publish { qos, topic, payload: fields.rest() })
    }

    /// PUBREL (§3.6). Its reason code changes nothing: either way the client is done with the id.
    fn release(&self, version: Version) -> Result<Packet<'a>, DisconnectReason> {
        let mut fields = Fields::new(self.body);
        let id = fields.packet_id()?;
        reason_and_properties(version, fields, Owner::Release)?;
        Ok(Packet::Release(id))
    }

    /// DISCONNECT (§3.14).
    fn disconnect(&self, version: Version) -> Result<Disconnect, DisconnectReason> {
        let (reason, properties) = reason_and_properties(version, Fields::new(self.body), Owner::Disconnect)?;
        Ok(Disconnect { reason, session_expiry: properties.session_expiry })
    }

    /// SUBSCRIBE (§3.8): each filter is followed by its options.
    fn subscribe(&self, version: Version) -> Result<Packet<'a>, DisconnectReason> {
        let (id, qos) = self.filters(version, Owner::Subscribe, |fields| match (version, fields.u8()?) {
            (Version::V3, qos @ 0..=2) => Ok(qos),
            (Version::V5, options) if options & 0xc0 == 0 && options & 3 < 3 && options >> 4 & 3 < 3 => Ok(options & 3),
            _ => Err(DisconnectReason::MalformedPacket),
        })?;
        Ok(Packet::Subscribe(id, qos))
    }

    /// UNSUBSCRIBE (§3.10).
    fn unsubscribe(&self, version: Version) -> Result<Packet<'a>, DisconnectReason> {
        let (id, filters) = self.filters(version, Owner::Unsubscribe, |_| Ok(()))?;
        Ok(Packet::Unsubscribe(id, filters.len()))
    }

    /// The packet id, and what `options` reads behind each filter.
    fn filters<T>(
        &self,
        version: Version,
        owner: Owner,
        options: impl Fn(&mut Fields<'a>) -> Result<T, DisconnectReason>,
    ) -> Result<(u16, Vec<T>), DisconnectReason> {
        let mut fields = Fields::new(self.body);
        let id = fields.packet_id()?;
        if version == Version::V5 {
            Properties::read(&mut fields, owner)?;
        }
        let mut filters = Vec::new();
        while !fields.is_empty() {
            if fields.text()?.is_empty() {
                return Err(DisconnectReason::MalformedPacket);
            }
            filters.push(options(&mut fields)?);
        }
        if filters.is_empty() { Err(DisconnectReason::ProtocolError) } else { Ok((id, filters)) }
    }

    /// The protocol version of a connection's first packet.
    pub(crate) fn version(&self) -> Result<Version, DisconnectReason> {
        match self.first >> 4 {
            CONNECT => connect::version(self.body),
            _ => Err(DisconnectReason::ProtocolError),
        }
    }

    /// Decodes the packet as a connection's first packet, of this version.
    pub(crate) fn connect(&self, version: Version) -> Result<Connect, DisconnectReason> {
        connect::read(version, self.body)
    }
}

/// The end of an MQTT 5 packet: a reason code and properties, either of which may be left out (§3.4.2.1, §3.14.2.1). MQTT 3.1.1 has none.
fn reason_and_properties(version: Version, mut fields: Fields<'_>, owner: Owner) -> Result<(u8, Properties), DisconnectReason> {
    if version == Version::V3 || fields.is_empty() {
        return if fields.is_empty() { Ok(<_>::default()) } else { Err(DisconnectReason::MalformedPacket) };
    }
    let reason = fields.u8()?;
    let properties = if fields.is_empty() { Properties::default() } else { Properties::read(&mut fields, owner)? };
    if fields.is_empty() { Ok((reason, properties)) } else { Err(DisconnectReason::MalformedPacket) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1000;

    fn read(bytes: &[u8], version: Version) -> Result<Packet<'_>, DisconnectReason> {
        next(bytes, packet_limit(LIMIT)).unwrap().expect("it is whole").read(version)
    }

    fn connect(bytes: &[u8]) -> Result<Connect, DisconnectReason> {
        let raw = next(bytes, LIMIT).unwrap().expect("it is whole");
        raw.version().and_then(|version| raw.connect(version))
    }

    #[test]
    fn a_publish_is_decoded_in_place() {
        let publish = |qos| Packet::Publish(Publish { qos, topic: "o/1", payload: b"ABC" });
        let (at_most_once, at_least_once, exactly_once) = (Qos::AtMostOnce, Qos::AtLeastOnce(7), Qos::ExactlyOnce(7));
        assert_eq!(read(b"\x30\x08\x00\x03o/1ABC", Version::V3), Ok(publish(at_most_once)));
        assert_eq!(read(b"\x32\x0a\x00\x03o/1\x00\x07ABC", Version::V3), Ok(publish(at_least_once)));
        assert_eq!(read(b"\x3b\x0b\x00\x03o/1\x00\x07\x00ABC", Version::V5), Ok(publish(at_least_once)));
        assert_eq!(read(b"\x34\x0a\x00\x03o/1\x00\x07ABC", Version::V3), Ok(publish(exactly_once)));
        assert_eq!(read(b"\x3c\x0b\x00\x03o/1\x00\x07\x00ABC", Version::V5), Ok(publish(exactly_once)));
        // Payload format indicator.
        assert_eq!(read(b"\x32\x0d\x00\x03o/1\x00\x07\x02\x01\x01ABC", Version::V5), Ok(publish(at_least_once)));
        // Message expiry interval 0.
        assert_eq!(read(b"\x32\x10\x00\x03o/1\x00\x07\x05\x02\x00\x00\x00\x00ABC", Version::V5), Ok(publish(at_least_once)));
    }

    #[test]
    fn a_wrong_packet_is_refused_with_its_reason() {
        for (bytes, reason) in [
            (&b"\x34\x08\x00\x03o/1\x00\x00\x00"[..], DisconnectReason::MalformedPacket),
            (b"\x36\x08\x00\x03o/1\x00\x07A", DisconnectReason::MalformedPacket),
            (b"\x32\x07\x00\x03o/1\x00\x00", DisconnectReason::MalformedPacket),
            (b"\x30\x05\x00\x03o/\xff", DisconnectReason::MalformedPacket),
            (b"\x30\x05\x00\x09o/1", DisconnectReason::MalformedPacket),
            (b"\x30\x06\x00\x03o/\0\x00", DisconnectReason::MalformedPacket),
            (b"\x30\x06\x00\x03o/+\x00", DisconnectReason::TopicNameInvalid),
            (b"\x30\x03\x00\x00\x00", DisconnectReason::TopicNameInvalid),
            (b"\x30\x07\x00\x03o/1\x05\x01", DisconnectReason::MalformedPacket),
            (b"\x30\x09\x00\x03o/1\x03\x23\x00\x01", DisconnectReason::TopicAliasInvalid),
            (b"\x30\x08\x00\x03o/1\x02\x0b\x01", DisconnectReason::ProtocolError),
            (b"\x30\x0a\x00\x03o/1\x04\x08\x00\x01+", DisconnectReason::ProtocolError),
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
    }

    #[test]
    fn a_release_and_a_disconnect_are_decoded_whatever_they_leave_out() {
        let disconnect = |reason, session_expiry| Ok(Packet::Disconnect(Disconnect { reason, session_expiry }));
        for (bytes, version, expected) in [
            (&b"\x62\x02\x00\x07"[..], Version::V3, Ok(Packet::Release(7))),
            (b"\x62\x02\x00\x07", Version::V5, Ok(Packet::Release(7))),
            (b"\x62\x03\x00\x07\x92", Version::V5, Ok(Packet::Release(7))),
            (b"\x6a\x02\x00\x07", Version::V3, Ok(Packet::Release(7))),
            (b"\x6a\x02\x00\x07", Version::V5, Err(DisconnectReason::MalformedPacket)),
            (b"\x62\x08\x00\x07\x00\x04\x1f\x00\x01r", Version::V5, Ok(Packet::Release(7))),
            (b"\x62\x03\x00\x07\x00", Version::V3, Err(DisconnectReason::MalformedPacket)),
            (b"\x62\x02\x00\x00", Version::V3, Err(DisconnectReason::MalformedPacket)),
            (b"\x62\x05\x00\x07\x00\x00\x00", Version::V5, Err(DisconnectReason::MalformedPacket)),
            (b"\x60\x02\x00\x07", Version::V3, Err(DisconnectReason::MalformedPacket)),
            (b"\x50\x02\x00\x07", Version::V3, Err(DisconnectReason::ProtocolError)),
            (b"\x70\x02\x00\x07", Version::V3, Err(DisconnectReason::ProtocolError)),
            (b"\xe0\x00", Version::V3, disconnect(0, None)),
            (b"\xe0\x00", Version::V5, disconnect(0, None)),
            (b"\xe0\x01\x04", Version::V5, disconnect(4, None)),
            (b"\xe0\x07\x00\x05\x11\x00\x00\x01\x00", Version::V5, disconnect(0, Some(256))),
            (b"\xe0\x01\x00", Version::V3, Err(DisconnectReason::MalformedPacket)),
            (b"\xe0\x03\x00\x02\x11", Version::V5, Err(DisconnectReason::MalformedPacket)),
        ] {
            assert_eq!(read(bytes, version), expected, "{bytes:x?} {version:?}");
        }
    }

    #[test]
    fn the_first_packet_must_be_a_connect() {
        let connect = connect(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01d").unwrap();
        assert_eq!((connect.version, connect.client_id.as_str(), connect.keep_alive, connect.clean), (Version::V3, "d", 60, true));
        assert_eq!(self::connect(b"\xc0\x00"), Err(DisconnectReason::ProtocolError));
        assert_eq!(self::connect(b"\x10\x04GET "), Err(DisconnectReason::MalformedPacket));
    }

    #[test]
    fn filters_are_counted_and_their_options_checked() {
        assert_eq!(read(b"\x82\x0a\x00\x09\x00\x01a\x00\x00\x01b\x01", Version::V3), Ok(Packet::Subscribe(9, vec![0, 1])));
        assert_eq!(read(b"\x82\x09\x00\x09\x02\x0b\x01\x00\x01a\x2e", Version::V5), Ok(Packet::Subscribe(9, vec![2])));
        assert_eq!(read(b"\xa2\x05\x00\x09\x00\x01a", Version::V3), Ok(Packet::Unsubscribe(9, 1)));
        for (bytes, version, reason) in [
            (&b"\x80\x06\x00\x09\x00\x01a\x00"[..], Version::V3, DisconnectReason::MalformedPacket),
            (b"\x82\x06\x00\x00\x00\x01a\x00", Version::V3, DisconnectReason::MalformedPacket),
            (b"\x82\x06\x00\x09\x00\x01a\x03", Version::V3, DisconnectReason::MalformedPacket),
            (b"\x82\x07\x00\x09\x00\x00\x01a\x30", Version::V5, DisconnectReason::MalformedPacket),
            (b"\x82\x05\x00\x09\x00\x00\x00", Version::V3, DisconnectReason::MalformedPacket),
            (b"\x82\x02\x00\x09", Version::V3, DisconnectReason::ProtocolError),
            (b"\xa2\x02\x00\x09", Version::V3, DisconnectReason::ProtocolError),
        ] {
            assert_eq!(read(bytes, version), Err(reason), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..16) {
            let bytes = [&[kind << 4 | 2, u8::try_from(bytes.len().min(127)).unwrap()], &bytes[..bytes.len().min(127)]].concat();
            if let Ok(Some(raw)) = next(&bytes, LIMIT) {
                let _ = (raw.read(Version::V3), raw.read(Version::V5), raw.version(), raw.connect(Version::V3), raw.connect(Version::V5));
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
