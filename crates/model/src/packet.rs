//! A packet, and the message that packets become.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Iccid, Invalid, Timestamp};

/// A place in a partition's log. Offsets rise; there can be gaps.
pub type Offset = u64;

/// What a device published, as it lies in a frame of the log: borrowed, never altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The device.
    pub iccid: Iccid,
    /// The MQTT topic as published (UTF-8, MQTT 5 §1.5.4).
    pub topic: &'a str,
    /// When the PUBLISH was read.
    pub received_at: Timestamp,
    /// The bytes, any bytes.
    pub payload: &'a [u8],
}

/// `webhook-id`: the same id means the same packets in the same shape (docs/document.md, webhook-id).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MessageId(pub [u8; 16]);

impl MessageId {
    /// Length of the text.
    pub const TEXT_LEN: usize = 26;

    /// `msg_` and 22 characters of base64url (RFC 4648 §5, without padding).
    #[must_use]
    pub fn text(&self) -> [u8; Self::TEXT_LEN] {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = *b"msg_0000000000000000000000";
        let wide = u128::from_be_bytes(self.0);
        for (place, symbol) in text[4..].iter_mut().enumerate() {
            // 22 times six bits from the top; the last symbol holds the two bits that are left.
            let bits = if place < 21 { wide >> (122 - 6 * place) } else { wide << 4 };
            *symbol = ALPHABET[usize::try_from(bits & 63).expect("six bits")];
        }
        text
    }

    /// Reads the text of an id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let symbols = text.strip_prefix("msg_")?.as_bytes();
        if symbols.len() != 22 {
            return None;
        }
        let mut wide: u128 = 0;
        for (place, symbol) in symbols.iter().enumerate() {
            let value = match symbol {
                b'A'..=b'Z' => symbol - b'A',
                b'a'..=b'z' => symbol - b'a' + 26,
                b'0'..=b'9' => symbol - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            wide |= if place < 21 { u128::from(value) << (122 - 6 * place) } else { u128::from(value >> 4) };
        }
        let id = Self(wide.to_be_bytes());
        (id.text()[..] == *text.as_bytes()).then_some(id)
    }
}

impl FromStr for MessageId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text).ok_or_else(|| Invalid::MessageId(text.to_owned()))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.text()).expect("base64url is ASCII"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_base64url_of_sixteen_bytes() {
        assert_eq!(MessageId([0; 16]).to_string(), "msg_AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(MessageId([255; 16]).to_string(), "msg______________________w");
    }

    proptest! {
        #[test]
        fn an_id_is_its_text_again(bytes: [u8; 16]) {
            prop_assert_eq!(MessageId::parse(&MessageId(bytes).to_string()), Some(MessageId(bytes)));
        }
    }
}
