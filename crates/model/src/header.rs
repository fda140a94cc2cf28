//! Custom headers: what a customer may add to each push, in the case they wrote it.

use std::{fmt, str::FromStr};

use serde::{
    Deserializer, Serializer,
    de::{DeserializeSeed, Error, MapAccess, Visitor},
};

use crate::{Invalid, Secret, text::serde_as_text};

/// A header's name as it was written, checked to be a token (RFC 9110 §5.6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderName(String);

impl HeaderName {
    /// # Errors
    /// [`Invalid::HeaderName`] when it isn't a token.
    pub fn new(name: &str) -> Result<Self, Invalid> {
        match http::HeaderName::from_bytes(name.as_bytes()) {
            Ok(_) => Ok(Self(name.to_owned())),
            Err(_) => Err(Invalid::HeaderName { name: name.to_owned(), reason: "a name is letters, digits or any of !#$%&'*+-.^_`|~" }),
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether two names name one header (RFC 9110 §5.1: without regard to case).
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        self.0.eq_ignore_ascii_case(other)
    }
}

impl FromStr for HeaderName {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        Self::new(name)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(HeaderName, "a header's name such as \"X-API-Key\"");

/// A header that the customer adds: any but those that Pushline sets itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomHeader {
    name: HeaderName,
    value: String,
}

/// The headers that belong to one connection (RFC 9110 §7.6.1), and that which makes a client wait before its body (§10.1.1). HTTP/2 refuses most of
/// them (RFC 9113 §8.2.2).
const OF_THE_CONNECTION: [&str; 7] = ["upgrade", "keep-alive", "te", "trailer", "proxy-connection", "http2-settings", "expect"];

/// The headers that Pushline sets itself (docs/document.md, Request).
const RESERVED: [&str; 5] = ["host", "content-length", "content-type", "transfer-encoding", "connection"];

impl CustomHeader {
    /// # Errors
    /// [`Invalid::HeaderName`] for a name that is no token or is Pushline's own; [`Invalid::HeaderValue`] for a value with CR, LF, NUL
    /// or another control character, or with white space at its ends, which a server would cut off (RFC 9110 §5.5).
    pub fn new(name: &str, value: &str) -> Result<Self, Invalid> {
        let name = HeaderName::new(name)?;
        let reason = if RESERVED.iter().any(|reserved| name.is(reserved)) {
            Some("Pushline sets it itself")
        } else if OF_THE_CONNECTION.iter().any(|own| name.is(own)) {
            Some("it is about the connection, which Pushline manages itself")
        } else if name.as_str().get(..8).is_some_and(|start| start.eq_ignore_ascii_case("webhook-")) {
            Some("webhook-* headers are Pushline's own (Standard Webhooks)")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(Invalid::HeaderName { name: name.0, reason });
        }
        if !is_value(value) {
            return Err(Invalid::HeaderValue { name: name.0 });
        }
        Ok(Self { name, value: value.to_owned() })
    }

    /// The name, as it was written.
    #[must_use]
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The same header with `***` as its value.
    pub(crate) fn redacted(&self) -> Self {
        Self { name: self.name.clone(), value: Secret::HIDDEN.to_owned() }
    }
}

/// Custom headers as a table of names and values, for `#[serde(with = …)]`.
pub(crate) struct HeaderTable;

impl HeaderTable {
    pub(crate) fn serialize<S: Serializer>(headers: &[CustomHeader], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(headers.iter().map(|header| (header.name().as_str(), header.value())))
    }

    /// Checks each header where its value is read, so that a refusal is placed there.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CustomHeader>, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for HeaderTable {
    type Value = Vec<CustomHeader>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of headers: { name = \"value\" }")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Vec<CustomHeader>, A::Error> {
        let mut headers = Vec::new();
        while let Some(name) = table.next_key::<String>()? {
            headers.push(table.next_value_seed(ValueOf(name))?);
        }
        Ok(headers)
    }
}

/// Reads the value of the header of this name.
struct ValueOf(String);

impl<'de> DeserializeSeed<'de> for ValueOf {
    type Value = CustomHeader;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<CustomHeader, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for ValueOf {
    type Value = CustomHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<CustomHeader, E> {
        CustomHeader::new(&self.0, value).map_err(E::custom)
    }
}

/// RFC 9110 §5.5 field-value, without the obsolete line folding.
pub(crate) fn is_value(value: &str) -> bool {
    http::HeaderValue::from_bytes(value.as_bytes()).is_ok() && value.trim_matches([' ', '\t']) == value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_header_is_one() {
        let header = CustomHeader::new("1_Area", "Tokyo").unwrap();
        assert_eq!((header.name().as_str(), header.value()), ("1_Area", "Tokyo"));
        assert!(CustomHeader::new("X-Empty", "").is_ok());
        assert!(CustomHeader::new("X-Stadt", "Köln").is_ok());
    }

    #[test]
    fn what_pushline_sets_itself_is_refused_whatever_its_case() {
        for name in [
            "Host",
            "content-LENGTH",
            "Content-Type",
            "transfer-encoding",
            "Connection",
            "Upgrade",
            "Keep-Alive",
            "TE",
            "Expect",
            "Proxy-Connection",
            "Trailer",
            "Webhook-Id",
            "webhook-anything",
        ] {
            assert!(matches!(CustomHeader::new(name, "x"), Err(Invalid::HeaderName { .. })), "{name}");
        }
    }

    #[test]
    fn nothing_can_be_smuggled_into_a_header() {
        for value in ["a\r\nX: y", "a\nb", "a\0b", "a\u{1b}", " a", "a\t"] {
            assert!(matches!(CustomHeader::new("X-A", value), Err(Invalid::HeaderValue { .. })), "{value:?}");
        }
        for name in ["", "a b", "a:b", "a\r\n", "é"] {
            assert!(matches!(CustomHeader::new(name, "x"), Err(Invalid::HeaderName { .. })), "{name:?}");
        }
    }
}
