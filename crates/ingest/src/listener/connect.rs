//! Decodes CONNECT, the first packet of a connection (MQTT 5 §3.1, MQTT 3.1.1 §3.1). Pure.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    DisconnectReason,
    fields::Fields,
    packets::Version,
    properties::{Owner, Properties},
    will::Will,
};

/// The bits of CONNECT's flags (§3.1.2.3).
const RESERVED: u8 = 1;
const CLEAN_START: u8 = 1 << 1;
const WILL: u8 = 1 << 2;
const WILL_QOS: u8 = 3 << 3;
const WILL_RETAIN: u8 = 1 << 5;
const PASSWORD: u8 = 1 << 6;
const USER_NAME: u8 = 1 << 7;

/// A Mosquitto bridge sets this bit of the protocol level of MQTT 3.1 and 3.1.1, to ask a broker not to send back what the bridge published.
const BRIDGE: u8 = 0x80;

/// The parts of a CONNECT that the listener uses.
#[derive(PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    /// In seconds; 0: none.
    pub(crate) keep_alive: u16,
    pub(crate) will: Option<Arc<Will>>,
    /// The Session Expiry Interval, in seconds. `None`: MQTT 3.1.1, or a client that leaves it out.
    pub(crate) session_expiry: Option<u32>,
    /// The largest packet that the client takes, in bytes; `None`: any.
    pub(crate) max_packet: Option<u32>,
    pub(crate) has_authentication_method: bool,
    pub(crate) user_name: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
}

impl fmt::Debug for Connect {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("version", &self.version).field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

impl Connect {
    /// How long the session lives after its connection, by the client's wish and by what the listener allows (§3.1.2.11.2). A session of MQTT 3.1.1 that isn't
    /// clean has no end of its own (MQTT 3.1.1 §3.1.2.4).
    pub(crate) fn expiry(&self, max: Duration) -> Duration {
        let wanted = match self.version {
            Version::V3 if self.clean => Duration::ZERO,
            Version::V3 => max,
            Version::V5 => Duration::from_secs(self.session_expiry.unwrap_or(0).into()),
        };
        wanted.min(max)
    }

    /// The most bytes that an answer to this client may have.
    pub(crate) fn largest_answer(&self) -> usize {
        self.max_packet.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX))
    }
}

/// The protocol version. It is decoded apart, so that a refusal of the rest can be encoded in the client's version.
///
/// # Errors
/// Malformed: another protocol. Unsupported version: another version of MQTT.
pub(crate) fn version(body: &[u8]) -> Result<Version, DisconnectReason> {
    let mut fields = Fields::new(body);
    match (fields.binary()?, fields.u8()?) {
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQTT", level) if level & !BRIDGE == 4 => Ok(Version::V3),
        (b"MQIsdp", level) if level & !BRIDGE == 3 => Ok(Version::V3),
        (b"MQTT" | b"MQIsdp", _) => Err(DisconnectReason::UnsupportedProtocolVersion),
        _ => Err(DisconnectReason::MalformedPacket),
    }
}

/// Decodes a packet's bytes after the fixed header, of this version.
///
/// # Errors
/// Malformed, or a protocol error (§4.13).
pub(crate) fn read(version: Version, body: &[u8]) -> Result<Connect, DisconnectReason> {
    let mut fields = Fields::new(body);
    let (_name, _level) = (fields.binary()?, fields.u8()?);
    let flags = checked_flags(version, fields.u8()?)?;
    let keep_alive = fields.u16()?;
    let properties = properties(version, &mut fields, Owner::Connect)?;
    let client_id = fields.text()?.to_owned();
    let will = (flags & WILL != 0).then(|| will(version, flags, &mut fields)).transpose()?.map(Arc::new);
    let user_name = (flags & USER_NAME != 0).then(|| fields.text()).transpose()?.map(str::to_owned);
    let password = (flags & PASSWORD != 0).then(|| fields.binary()).transpose()?.map(<[u8]>::to_vec);
    if !fields.is_empty() {
        return Err(DisconnectReason::MalformedPacket);
    }
    Ok(Connect {
        version,
        client_id,
        clean: flags & CLEAN_START != 0,
        keep_alive,
        will,
        session_expiry: properties.session_expiry,
        max_packet: properties.max_packet,
        has_authentication_method: properties.has_authentication_method,
        user_name,
        password,
    })
}

/// Checks the flags by themselves: §3.1.2.3, §3.1.2.6, §3.1.2.7, and MQTT 3.1.1 §3.1.2.9.
fn checked_flags(version: Version, flags: u8) -> Result<u8, DisconnectReason> {
    let has_no_will = flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0;
    let has_password_alone = version == Version::V3 && flags & PASSWORD != 0 && flags & USER_NAME == 0;
    let is_malformed = flags & RESERVED != 0 || has_no_will || flags & WILL_QOS == WILL_QOS || has_password_alone;
    if is_malformed { Err(DisconnectReason::MalformedPacket) } else { Ok(flags) }
}

/// The will (§3.1.3.2 to §3.1.3.4). Its flag Retain means nothing here, as that of a PUBLISH.
fn will(version: Version, flags: u8, fields: &mut Fields<'_>) -> Result<Will, DisconnectReason> {
    let properties = properties(version, fields, Owner::Will)?;
    let topic = fields.text()?;
    let payload = fields.binary()?.to_vec();
    if topic.is_empty() || topic.contains(['+', '#']) {
        return Err(DisconnectReason::TopicNameInvalid);
    }
    let delay = Duration::from_secs(properties.will_delay.into());
    Ok(Will { topic: topic.to_owned(), payload, is_qos_0: flags & WILL_QOS == 0, delay })
}

/// The properties, which only MQTT 5 has.
fn properties(version: Version, fields: &mut Fields<'_>, owner: Owner) -> Result<Properties, DisconnectReason> {
    if version == Version::V5 { Properties::read(fields, owner) } else { Ok(Properties::default()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &[u8]) -> Vec<u8> {
        [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
    }

    /// The body of a CONNECT with these flags, and with these bytes behind the keep-alive.
    fn body(name: &[u8], level: u8, flags: u8, rest: &[&[u8]]) -> Vec<u8> {
        [&text(name)[..], &[level, flags, 0, 60], &rest.concat()].concat()
    }

    fn read_any(body: &[u8]) -> Result<Connect, DisconnectReason> {
        version(body).and_then(|version| read(version, body))
    }

    #[test]
    fn every_part_is_read() {
        let id = text(b"d");
        let (will, user, password) = ([text(b"o/1"), text(b"bye")].concat(), text(b"u"), text(b"\xff"));
        let v3 = read_any(&body(b"MQTT", 4, 0b1111_0110, &[&id, &will, &user, &password])).unwrap();
        assert_eq!((v3.version, v3.client_id.as_str(), v3.keep_alive, v3.clean), (Version::V3, "d", 60, true));
        let expected = Will { topic: "o/1".into(), payload: b"bye".to_vec(), is_qos_0: false, delay: Duration::ZERO };
        assert_eq!(v3.will.as_deref(), Some(&expected));
        assert_eq!((v3.user_name.as_deref(), v3.password.as_deref()), (Some("u"), Some(&b"\xff"[..])));
        // A will that expires at once, and a password without a user name, are allowed.
        let expires = [b"\x0a\x02\0\0\0\0\x18\0\0\0\x07", &will[..]].concat();
        let v5 = read_any(&body(b"MQTT", 5, 0b0100_0100, &[b"\x05\x27\0\0\0\x40", &id, &expires, &password])).unwrap();
        assert_eq!(
            (v5.version, v5.clean, v5.max_packet, v5.user_name, v5.password),
            (Version::V5, false, Some(64), None, Some(vec![0xff]))
        );
        assert_eq!(v5.will.as_deref(), Some(&Will { is_qos_0: true, delay: Duration::from_secs(7), ..expected }));
    }

    #[test]
    fn a_session_lives_as_long_as_the_client_wants_and_the_listener_allows() {
        const MAX: Duration = Duration::from_secs(1000);
        let (id, clean, keep) = (text(b"d"), 2, 0);
        let expiry_of =
            |level, flags, properties: &[u8]| read_any(&body(b"MQTT", level, flags, &[properties, &id])).unwrap().expiry(MAX).as_secs();
        assert_eq!((expiry_of(4, clean, b""), expiry_of(4, keep, b"")), (0, 1000));
        for flags in [clean, keep] {
            assert_eq!((expiry_of(5, flags, b"\0"), expiry_of(5, flags, b"\x05\x11\0\0\0\x09")), (0, 9));
            assert_eq!(expiry_of(5, flags, b"\x05\x11\xff\xff\xff\xff"), 1000);
        }
    }

    #[test]
    fn a_bridge_is_served_in_each_of_its_versions() {
        for (name, level, expected) in [
            (&b"MQIsdp"[..], 3, Ok(Version::V3)),
            (b"MQIsdp", 0x83, Ok(Version::V3)),
            (b"MQTT", 4, Ok(Version::V3)),
            (b"MQTT", 0x84, Ok(Version::V3)),
            (b"MQTT", 5, Ok(Version::V5)),
            (b"MQTT", 0x85, Err(DisconnectReason::UnsupportedProtocolVersion)),
            (b"MQTT", 6, Err(DisconnectReason::UnsupportedProtocolVersion)),
            (b"MQIsdp", 4, Err(DisconnectReason::UnsupportedProtocolVersion)),
            (b"HTTP", 4, Err(DisconnectReason::MalformedPacket)),
        ] {
            assert_eq!(version(&body(name, level, 2, &[b"\0\x01d"])), expected, "{name:?} {level:#x}");
        }
        assert_eq!(version(b"\0\x04MQT"), Err(DisconnectReason::MalformedPacket));
    }

    #[test]
    fn a_connect_that_breaks_a_rule_is_refused_with_its_reason() {
        use DisconnectReason::{MalformedPacket, ProtocolError, TopicNameInvalid};
        let id = text(b"d");
        for (what, level, flags, rest, reason) in [
            ("bytes behind the end", 4, 2, [&id[..], b"x"].concat(), MalformedPacket),
            ("bytes behind the end", 5, 2, [b"\0", &id[..], b"x"].concat(), MalformedPacket),
            ("a user name without its flag", 4, 2, [id.clone(), text(b"u")].concat(), MalformedPacket),
            ("a user name without its flag", 5, 2, [b"\0", &id[..], &text(b"u")].concat(), MalformedPacket),
            ("a password without user name", 4, 0b0100_0010, [id.clone(), text(b"p")].concat(), MalformedPacket),
            ("NUL in the client id", 4, 2, text(b"a\0b"), MalformedPacket),
            ("NUL in the client id", 5, 2, [b"\0".to_vec(), text(b"a\0b")].concat(), MalformedPacket),
            ("a client id that isn't UTF-8", 4, 2, text(b"\xff"), MalformedPacket),
            ("the reserved flag", 4, 3, id.clone(), MalformedPacket),
            ("will QoS without a will", 4, 0b0000_1010, id.clone(), MalformedPacket),
            ("will retain without a will", 4, 0b0010_0010, id.clone(), MalformedPacket),
            ("will QoS 3", 4, 0b0001_1110, [id.clone(), text(b"o/1"), text(b"")].concat(), MalformedPacket),
            ("a will's topic with a wildcard", 4, 6, [id.clone(), text(b"o/+"), text(b"")].concat(), TopicNameInvalid),
            ("a will that ends early", 4, 6, [id.clone(), text(b"o/1")].concat(), MalformedPacket),
            ("authentication data without method", 5, 2, [b"\x04\x16\0\x01d", &id[..]].concat(), ProtocolError),
            ("receive maximum 0", 5, 2, [b"\x03\x21\0\0", &id[..]].concat(), ProtocolError),
            ("a will delay outside the will", 5, 2, [b"\x05\x18\0\0\0\0", &id[..]].concat(), MalformedPacket),
        ] {
            assert_eq!(read_any(&body(b"MQTT", level, flags, &[&rest])), Err(reason), "{what}, level {level}");
        }
    }

    proptest! {
        /// Whatever stands behind a true beginning: the decoder answers, and takes nothing that is longer than it says.
        #[test]
        fn a_connect_of_any_bytes_gets_an_answer(level in prop::sample::select(vec![3_u8, 4, 5, 0x83, 0x84]), flags in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..100)) {
            let name: &[u8] = if level & 0x7f == 3 { b"MQIsdp" } else { b"MQTT" };
            let body = body(name, level, flags, &[&rest]);
            if let Ok(connect) = read_any(&body) {
                prop_assert!(connect.client_id.len() <= rest.len());
                prop_assert!(read_any(&[&body[..], b"x"].concat()).is_err(), "a byte behind the end");
                for cut in 0..body.len() {
                    prop_assert!(read_any(&body[..cut]).is_err(), "cut at {}", cut);
                }
            }
        }

        /// A structured one, which mostly is right.
        #[test]
        fn a_whole_connect_is_read_back(id in "[a-z]{0,20}", will in any::<bool>(), user in prop::option::of("[a-z]{0,9}"), password in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), v5 in any::<bool>()) {
            let flags = 2 | u8::from(will) << 2 | u8::from(password.is_some()) << 6 | u8::from(user.is_some()) << 7;
            let none: &[u8] = if v5 { b"\0" } else { b"" };
            let will_bytes = if will { [none, &text(b"o/1"), &text(b"bye")].concat() } else { vec![] };
            let parts = [none.to_vec(), text(id.as_bytes()), will_bytes, user.iter().flat_map(|user| text(user.as_bytes())).collect(), password.iter().flat_map(|password| text(password)).collect()];
            let read = read_any(&body(b"MQTT", if v5 { 5 } else { 4 }, flags, &[&parts.concat()]));
            if !v5 && password.is_some() && user.is_none() {
                prop_assert_eq!(read, Err(DisconnectReason::MalformedPacket));
            } else {
                let connect = read.unwrap();
                prop_assert_eq!((connect.client_id, connect.user_name, connect.password), (id, user, password));
            }
        }
    }
}
