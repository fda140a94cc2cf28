//! Serde for values whose text form is their only form: a topic pattern, a URL, an ICCID.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::de::{Error, Visitor};

/// Reads a text with [`FromStr`]. A refusal carries the text of the type's own error.
pub(crate) struct TextVisitor<T> {
    expected: &'static str,
    read: PhantomData<T>,
}

impl<T> TextVisitor<T> {
    /// `expected` names the type for a reader: "a topic pattern such as …".
    pub(crate) fn new(expected: &'static str) -> Self {
        Self { expected, read: PhantomData }
    }
}

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Implements `Serialize` by `Display` and `Deserialize` by `FromStr`.
macro_rules! serde_as_text {
    ($type:ty, $expected:literal) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($crate::text::TextVisitor::new($expected))
            }
        }
    };
}

pub(crate) use serde_as_text;
