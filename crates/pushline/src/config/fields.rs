//! What a field of the configuration can be read as, for the sections that ask for it: each says what it expects, in the words of the refusal.
//!
//! A value from the environment is a text whatever is wanted; here it becomes that.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use super::{
    document::Value,
    units::{parse_duration, parse_size},
};

/// What a field can be read as.
pub(crate) trait Field: Sized {
    const EXPECTED: &'static str;
    fn text(text: &str) -> Result<Self, String>;
    fn integer(_: i64) -> Option<Self> {
        None
    }
    fn boolean(_: bool) -> Option<Self> {
        None
    }
}

/// Reads a value as what is wanted, or says what was expected.
pub(super) fn read<T: Field>(value: &Value) -> Result<T, String> {
    let wrong = || format!("it is {}, expected {}", value.kind(), T::EXPECTED);
    match value {
        Value::Text(text) => T::text(text),
        Value::Integer(integer) => T::integer(*integer).ok_or_else(wrong),
        Value::Bool(boolean) => T::boolean(*boolean).ok_or_else(wrong),
        Value::Variable(text) => {
            let typed = text.parse().ok().and_then(T::integer).or_else(|| text.parse().ok().and_then(T::boolean));
            typed.map_or_else(|| T::text(text), Ok)
        }
        Value::List(_) | Value::Table(_) | Value::Other(_) => Err(wrong()),
    }
}

impl Field for String {
    const EXPECTED: &'static str = "a text";
    fn text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Field for PathBuf {
    const EXPECTED: &'static str = "a path";
    fn text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a path can't be empty".into()) } else { Ok(text.into()) }
    }
}

impl Field for bool {
    const EXPECTED: &'static str = "true or false";
    fn text(_: &str) -> Result<Self, String> {
        Err("it is a text, expected true or false".into())
    }
    fn boolean(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl Field for u32 {
    const EXPECTED: &'static str = "a whole number";
    fn text(_: &str) -> Result<Self, String> {
        Err("it is a text, expected a whole number".into())
    }
    fn integer(value: i64) -> Option<Self> {
        value.try_into().ok()
    }
}

impl Field for Duration {
    const EXPECTED: &'static str = "a duration such as \"90s\"";
    fn text(text: &str) -> Result<Self, String> {
        parse_duration(text).map_err(|problem| format!("{text:?}: {problem}"))
    }
}

impl Field for SocketAddr {
    const EXPECTED: &'static str = "an address such as \"127.0.0.1:1883\"";
    fn text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is no address with a port, such as \"127.0.0.1:1883\" or \"[::]:1883\""))
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

impl Field for Size {
    const EXPECTED: &'static str = "a size such as \"10GiB\"";
    fn text(text: &str) -> Result<Self, String> {
        parse_size(text).map(Self).map_err(|problem| format!("{text:?}: {problem}"))
    }
    fn integer(value: i64) -> Option<Self> {
        value.try_into().ok().map(Self)
    }
}

/// Whatever a word of another crate reads from a text.
#[derive(Debug, Clone)]
pub(crate) struct Parsed<T>(pub(crate) T);

impl<T: FromStr<Err: fmt::Display>> Field for Parsed<T> {
    const EXPECTED: &'static str = "a text";
    fn text(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|problem: T::Err| problem.to_string())
    }
}

/// One of a few words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OneOf<T>(pub(crate) T);

/// The words that [`OneOf`] reads.
pub(crate) trait Words: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> Field for OneOf<T> {
    const EXPECTED: &'static str = "one of a few words";
    fn text(text: &str) -> Result<Self, String> {
        let found = T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| Self(*value));
        let words: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect();
        found.ok_or_else(|| format!("{text:?} isn't known here, expected {}", words.join(" or ")))
    }
}
