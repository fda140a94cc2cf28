//! Decodes the properties of the packets that clients send (MQTT 5 §2.2.2). Pure.

use super::{DisconnectReason, fields::Fields};

/// The packet, or the part of it, that properties stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Connect,
    Will,
    Publish,
    Subscribe,
    Unsubscribe,
    /// PUBREL.
    Release,
    Disconnect,
}

/// The properties that the listener uses. The others are checked and passed over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Properties {
    /// The largest packet that the client takes, in bytes (§3.1.2.11.4).
    pub(crate) max_packet: Option<u32>,
    /// In seconds (§3.1.3.2.2).
    pub(crate) will_delay: u32,
    /// Whether the client wants enhanced authentication (§4.12).
    pub(crate) has_authentication_method: bool,
    /// In seconds (§3.1.2.11.2, §3.14.2.2.2).
    pub(crate) session_expiry: Option<u32>,
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
const SESSION_EXPIRY_INTERVAL: u8 = 17;
const AUTHENTICATION_METHOD: u8 = 21;
const AUTHENTICATION_DATA: u8 = 22;
const WILL_DELAY_INTERVAL: u8 = 24;
const TOPIC_ALIAS: u8 = 35;
const USER_PROPERTY: u8 = 38;
const MAXIMUM_PACKET_SIZE: u8 = 39;

/// The type of each property that this packet may have (MQTT 5 table 2-4).
fn kind(owner: Owner, identifier: u8) -> Option<Kind> {
    Some(match (owner, identifier) {
        (Owner::Will | Owner::Publish, 1) => Kind::Flag,   // payload format indicator
        (Owner::Will | Owner::Publish, 2) => Kind::U32,    // message expiry interval: 0 too
        (Owner::Will | Owner::Publish, 3) => Kind::Text,   // content type
        (Owner::Will | Owner::Publish, 8) => Kind::Topic,  // response topic
        (Owner::Will | Owner::Publish, 9) => Kind::Binary, // correlation data
        (Owner::Connect | Owner::Disconnect, SESSION_EXPIRY_INTERVAL) => Kind::U32,
        (Owner::Release | Owner::Disconnect, 31) => Kind::Text, // reason string
        (Owner::Connect, AUTHENTICATION_METHOD) => Kind::Text,
        (Owner::Connect, AUTHENTICATION_DATA) => Kind::Binary,
        (Owner::Connect, 23 | 25) => Kind::Flag, // request problem information, request response information
        (Owner::Will, WILL_DELAY_INTERVAL) => Kind::U32,
        (Owner::Connect, 33) => Kind::NonZeroU16, // receive maximum
        (Owner::Connect, 34) => Kind::U16,        // topic alias maximum
        (Owner::Connect, MAXIMUM_PACKET_SIZE) => Kind::NonZeroU32,
        (Owner::Publish, TOPIC_ALIAS) => Kind::U16,
        (Owner::Publish | Owner::Subscribe, SUBSCRIPTION_IDENTIFIER) => Kind::NonZeroVariable,
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
    pub(crate) fn read(fields: &mut Fields<'_>, owner: Owner) -> Result<Self, DisconnectReason> {
        let length = fields.variable()?;
        let mut fields = Fields::new(fields.take(length)?);
        let (mut properties, mut seen) = (Self::default(), 0_u64);
        while !fields.is_empty() {
            // Every identifier is below 64.
            let identifier = fields.u8()?;
            let kind = kind(owner, identifier).ok_or(DisconnectReason::MalformedPacket)?;
            let value = number_or_skip(&mut fields, kind)?;
            if identifier != USER_PROPERTY && seen & 1 << identifier != 0 {
                return Err(DisconnectReason::ProtocolError);
            }
            seen |= 1 << identifier;
            match (owner, identifier) {
                (Owner::Publish, TOPIC_ALIAS) => return Err(DisconnectReason::TopicAliasInvalid), // CONNACK allowed none
                (Owner::Publish, SUBSCRIPTION_IDENTIFIER) => return Err(DisconnectReason::ProtocolError), // only servers send it (§3.3.4)
                (_, SESSION_EXPIRY_INTERVAL) => properties.session_expiry = Some(value),
                (_, MAXIMUM_PACKET_SIZE) => properties.max_packet = Some(value),
                (_, WILL_DELAY_INTERVAL) => properties.will_delay = value,
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

    fn read(owner: Owner, properties: &[u8]) -> Result<Properties, DisconnectReason> {
        let bytes = [&[u8::try_from(properties.len()).unwrap()], properties].concat();
        Properties::read(&mut Fields::new(&bytes), owner)
    }

    #[test]
    fn each_property_is_taken_where_it_may_stand_and_is_malformed_elsewhere() {
        use Owner::{Connect, Disconnect, Publish, Release, Subscribe, Unsubscribe, Will};
        let all = [Connect, Will, Publish, Subscribe, Unsubscribe, Release, Disconnect];
        let rows: &[(&[u8], &[Owner])] = &[
            (b"\x01\x01", &[Will, Publish]),
            (b"\x02\0\0\0\0", &[Will, Publish]),
            (b"\x03\0\x01t", &[Will, Publish]),
            (b"\x08\0\x01t", &[Will, Publish]),
            (b"\x09\0\x01\xff", &[Will, Publish]),
            (b"\x11\0\0\0\x01", &[Connect, Disconnect]),
            (b"\x1f\0\x01r", &[Release, Disconnect]),
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
        for (bytes, owners) in rows {
            for owner in all {
                let is_client_only = owner == Publish && bytes[0] == SUBSCRIPTION_IDENTIFIER;
                let refusal = if is_client_only { DisconnectReason::ProtocolError } else { DisconnectReason::MalformedPacket };
                let expected = if owners.contains(&owner) { None } else { Some(refusal) };
                assert_eq!(read(owner, bytes).err(), expected, "{bytes:x?} {owner:?}");
            }
        }
    }

    #[test]
    fn a_value_that_is_not_allowed_is_refused_with_its_reason() {
        use DisconnectReason::{MalformedPacket, ProtocolError, TopicAliasInvalid};
        for (owner, bytes, reason) in [
            (Owner::Publish, &b"\x01\x02"[..], ProtocolError),
            (Owner::Publish, b"\x02\0\0\0", MalformedPacket),
            (Owner::Publish, b"\x02\0\0\0\x01\x02\0\0\0\x01", ProtocolError),
            (Owner::Publish, b"\x03\0\x01\0", MalformedPacket),
            (Owner::Publish, b"\x08\0\x03a/+", ProtocolError),
            (Owner::Publish, b"\x08\0\x01#", ProtocolError),
            (Owner::Publish, b"\x23\0\x01", TopicAliasInvalid),
            (Owner::Publish, b"\x26\0\x01a", MalformedPacket),
            (Owner::Will, b"\x08\0\x01+", ProtocolError),
            (Owner::Connect, b"\x16\0\x01d", ProtocolError),
            (Owner::Connect, b"\x19\x02", ProtocolError),
            (Owner::Connect, b"\x21\0\0", ProtocolError),
            (Owner::Connect, b"\x27\0\0\0\0", ProtocolError),
            (Owner::Connect, b"\x11\0\0\0\x01\x11\0\0\0\x01", ProtocolError),
            (Owner::Subscribe, b"\x0b\0", ProtocolError),
        ] {
            assert_eq!(read(owner, bytes), Err(reason), "{owner:?} {bytes:x?}");
        }
        assert_eq!(Properties::read(&mut Fields::new(b"\x05\x01"), Owner::Publish), Err(MalformedPacket));
    }

    #[test]
    fn what_the_listener_uses_is_read() {
        let properties = read(Owner::Connect, b"\x27\0\0\x01\0\x15\0\x01m\x16\0\x01d\x11\0\0\0\x09").unwrap();
        let expected = Properties { max_packet: Some(256), has_authentication_method: true, session_expiry: Some(9), will_delay: 0 };
        assert_eq!(properties, expected);
    }
}
