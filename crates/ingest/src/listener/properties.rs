//! Decodes the properties of the packets that clients send (MQTT 5 §2.2.2). Pure.

use super::{DisconnectReason, fields::Fields};

/// The packet, or the part of it, that properties stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Connect,
    Will,
    Publish,
    Subscribe,
    Unsubscribe,
}

/// The properties that the listener uses. The others are checked and passed over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Properties {
    /// The largest packet that the client takes, in bytes (§3.1.2.11.4).
    pub(crate) max_packet: Option<u32>,
    /// Whether the client wants enhanced authentication (§4.12).
    pub(crate) has_authentication_method: bool,
}

/// The type of a property's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A byte that is 0 or 1.
    Flag,
    U16,
    /// Two bytes; 0 is a protocol error.
    NonZeroU16,
    U32,
    /// Four bytes; 0 is a protocol error.
    NonZeroU32,
    NonZeroVariable,
    Text,
    /// A text that names a topic: without wildcards.
    Topic,
    Binary,
    /// Two texts.
    Pair,
}

const SUBSCRIPTION_IDENTIFIER: u8 = 11;
const AUTHENTICATION_METHOD: u8 = 21;
const AUTHENTICATION_DATA: u8 = 22;
const TOPIC_ALIAS: u8 = 35;
const USER_PROPERTY: u8 = 38;
const MAXIMUM_PACKET_SIZE: u8 = 39;

/// The type of each property that this packet may have (MQTT 5 table 2-4).
fn kind(place: Place, identifier: u8) -> Option<Kind> {
    Some(match (place, identifier) {
        (Place::Will | Place::Publish, 1) => Kind::Flag,   // payload format indicator
        (Place::Will | Place::Publish, 2) => Kind::U32,    // message expiry interval: 0 too
        (Place::Will | Place::Publish, 3) => Kind::Text,   // content type
        (Place::Will | Place::Publish, 8) => Kind::Topic,  // response topic
        (Place::Will | Place::Publish, 9) => Kind::Binary, // correlation data
        (Place::Connect, 17) => Kind::U32,                 // session expiry interval
        (Place::Connect, AUTHENTICATION_METHOD) => Kind::Text,
        (Place::Connect, AUTHENTICATION_DATA) => Kind::Binary,
        (Place::Connect, 23 | 25) => Kind::Flag, // request problem information, request response information
        (Place::Will, 24) => Kind::U32,          // will delay interval
        (Place::Connect, 33) => Kind::NonZeroU16, // receive maximum
        (Place::Connect, 34) => Kind::U16,       // topic alias maximum
        (Place::Connect, MAXIMUM_PACKET_SIZE) => Kind::NonZeroU32,
        (Place::Publish, TOPIC_ALIAS) => Kind::U16,
        (Place::Publish | Place::Subscribe, SUBSCRIPTION_IDENTIFIER) => Kind::NonZeroVariable,
        (_, USER_PROPERTY) => Kind::Pair,
        _ => return None,
    })
}

impl Properties {
    /// Reads the length of the properties and the properties.
    ///
    /// # Errors
    /// Malformed: a property that this packet can't have, or a value that isn't of its type (§2.2.2.2). Protocol error: a property that stands twice, or
    /// that a client may not send here.
    pub(crate) fn read(fields: &mut Fields<'_>, place: Place) -> Result<Self, DisconnectReason> {
        let length = fields.variable()?;
        let mut fields = Fields::new(fields.take(length)?);
        let (mut properties, mut seen) = (Self::default(), 0_u64);
        while !fields.is_empty() {
            // Every identifier is below 64.
            let identifier = fields.u8()?;
            let kind = kind(place, identifier).ok_or(DisconnectReason::MalformedPacket)?;
            let value = number_or_skip(&mut fields, kind)?;
            if identifier != USER_PROPERTY && seen & 1 << identifier != 0 {
                return Err(DisconnectReason::ProtocolError);
            }
            seen |= 1 << identifier;
            match (place, identifier) {
                (Place::Publish, TOPIC_ALIAS) => return Err(DisconnectReason::TopicAliasInvalid), // CONNACK allowed none
                (Place::Publish, SUBSCRIPTION_IDENTIFIER) => return Err(DisconnectReason::ProtocolError), // only servers send it (§3.3.4)
                (_, MAXIMUM_PACKET_SIZE) => properties.max_packet = Some(value),
                (_, AUTHENTICATION_METHOD) => properties.has_authentication_method = true,
                _ => {}
            }
        }
        // §3.1.2.11.10
        let has_data = seen & 1 << AUTHENTICATION_DATA != 0;
        if has_data && !properties.has_authentication_method { Err(DisconnectReason::ProtocolError) } else { Ok(properties) }
    }
}

/// Reads a value of this type. The result is 0 for one that isn't a number.
fn number_or_skip(fields: &mut Fields<'_>, kind: Kind) -> Result<u32, DisconnectReason> {
    let value = match kind {
        Kind::Flag => fields.u8()?.into(),
        Kind::U16 | Kind::NonZeroU16 => fields.u16()?.into(),
        Kind::U32 | Kind::NonZeroU32 => fields.u32()?,
        Kind::NonZeroVariable => u32::try_from(fields.variable()?).expect("four bytes of seven bits fit"),
        Kind::Binary => fields.binary().map(|_| 0)?,
        Kind::Text => fields.text().map(|_| 0)?,
        Kind::Topic if fields.text()?.contains(['+', '#']) => return Err(DisconnectReason::ProtocolError),
        Kind::Topic => 0,
        Kind::Pair => fields.text().and_then(|_| fields.text()).map(|_| 0)?,
    };
    let is_allowed = match kind {
        Kind::Flag => value <= 1,
        Kind::NonZeroU16 | Kind::NonZeroU32 | Kind::NonZeroVariable => value > 0,
        _ => true,
    };
    if is_allowed { Ok(value) } else { Err(DisconnectReason::ProtocolError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(place: Place, properties: &[u8]) -> Result<Properties, DisconnectReason> {
        let bytes = [&[u8::try_from(properties.len()).unwrap()], properties].concat();
        Properties::read(&mut Fields::new(&bytes), place)
    }

    #[test]
    fn each_property_is_taken_where_it_may_stand_and_is_malformed_elsewhere() {
        use Place::{Connect, Publish, Subscribe, Unsubscribe, Will};
        let all = [Connect, Will, Publish, Subscribe, Unsubscribe];
        let rows: &[(&[u8], &[Place])] = &[
            (b"\x01\x01", &[Will, Publish]),
            (b"\x02\0\0\0\0", &[Will, Publish]),
            (b"\x03\0\x01t", &[Will, Publish]),
            (b"\x08\0\x01t", &[Will, Publish]),
            (b"\x09\0\x01\xff", &[Will, Publish]),
            (b"\x11\0\0\0\x01", &[Connect]),
            (b"\x15\0\x01m", &[Connect]),
            (b"\x17\x01", &[Connect]),
            (b"\x18\0\0\0\0", &[Will]),
            (b"\x19\0", &[Connect]),
            (b"\x21\0\x01", &[Connect]),
            (b"\x22\0\0", &[Connect]),
            (b"\x27\0\0\0\x01", &[Connect]),
            (b"\x26\0\x01a\0\x01b\x26\0\x01a\0\x01b", &all),
            (b"\x0b\x01", &[Subscribe]),
            (b"\x12\0\x01a", &[]),
            (b"\x7f\0", &[]),
        ];
        for (bytes, places) in rows {
            for place in all {
                let is_client_only = place == Publish && bytes[0] == SUBSCRIPTION_IDENTIFIER;
                let refusal = if is_client_only { DisconnectReason::ProtocolError } else { DisconnectReason::MalformedPacket };
                let expected = if places.contains(&place) { None } else { Some(refusal) };
                assert_eq!(read(place, bytes).err(), expected, "{bytes:x?} {place:?}");
            }
        }
    }

    #[test]
    fn a_value_that_is_not_allowed_is_refused_with_its_reason() {
        use DisconnectReason::{MalformedPacket, ProtocolError, TopicAliasInvalid};
        for (place, bytes, reason) in [
            (Place::Publish, &b"\x01\x02"[..], ProtocolError),
            (Place::Publish, b"\x02\0\0\0", MalformedPacket),
            (Place::Publish, b"\x02\0\0\0\x01\x02\0\0\0\x01", ProtocolError),
            (Place::Publish, b"\x03\0\x01\0", MalformedPacket),
            (Place::Publish, b"\x08\0\x03a/+", ProtocolError),
            (Place::Publish, b"\x08\0\x01#", ProtocolError),
            (Place::Publish, b"\x23\0\x01", TopicAliasInvalid),
            (Place::Publish, b"\x26\0\x01a", MalformedPacket),
            (Place::Will, b"\x08\0\x01+", ProtocolError),
            (Place::Connect, b"\x16\0\x01d", ProtocolError),
            (Place::Connect, b"\x19\x02", ProtocolError),
            (Place::Connect, b"\x21\0\0", ProtocolError),
            (Place::Connect, b"\x27\0\0\0\0", ProtocolError),
            (Place::Connect, b"\x11\0\0\0\x01\x11\0\0\0\x01", ProtocolError),
            (Place::Subscribe, b"\x0b\0", ProtocolError),
        ] {
            assert_eq!(read(place, bytes), Err(reason), "{place:?} {bytes:x?}");
        }
        assert_eq!(Properties::read(&mut Fields::new(b"\x05\x01"), Place::Publish), Err(MalformedPacket));
    }

    #[test]
    fn what_the_listener_uses_is_read() {
        let properties = read(Place::Connect, b"\x27\0\0\x01\0\x15\0\x01m\x16\0\x01d").unwrap();
        assert_eq!(properties, Properties { max_packet: Some(256), has_authentication_method: true });
    }
}
