//! Durations, sizes and counts as people write them, each with its range, for `#[serde(with = …)]`.
//!
//! A field stays a plain `Duration` or integer; its range stands once, beside it, and every reader (file, environment, API) refuses the same values.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected, Visitor},
};

/// In milliseconds, as the bounds of [`DurationIn`] are.
pub const SECOND: u64 = 1000;
/// In milliseconds.
pub const MINUTE: u64 = 60 * SECOND;
/// In milliseconds.
pub const HOUR: u64 = 60 * MINUTE;
/// In milliseconds.
pub const DAY: u64 = 24 * HOUR;

/// Reads `500ms`, `90s`, `5m`, `72h`, `14d`.
///
/// # Errors
/// What a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "a duration is a whole number with ms, s, m, h or d, such as \"90s\"";
    let (number, unit) = split(text).ok_or(EXPECTED)?;
    let millis = match unit {
        "ms" => 1,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        "d" => DAY,
        _ => return Err(EXPECTED),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or("this duration is too long")
}

/// Reads a number of bytes: `512`, `64KiB`, `16MiB`, `10GiB`.
///
/// # Errors
/// What a size looks like.
pub fn parse_size(text: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "a size is a whole number of bytes, or with KiB, MiB or GiB, such as \"10GiB\"";
    let (number, unit) = split(text).ok_or(EXPECTED)?;
    let bytes = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(EXPECTED),
    };
    number.checked_mul(bytes).ok_or("this size is too large")
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// The shortest text that [`parse_duration`] reads as this duration, rounded down to milliseconds.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND)];
    let whole = units.into_iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(u128::from(*unit)));
    whole.map_or(format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / u128::from(unit)))
}

/// The shortest text that [`parse_size`] reads as this number of bytes.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = units.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or(bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// A `Duration` from `MIN` to `MAX` milliseconds, written as text: `"90s"`.
#[derive(Debug)]
pub struct DurationIn<const MIN: u64, const MAX: u64>;

/// A `Vec<Duration>` with at least one entry, each from `MIN` to `MAX` milliseconds.
#[derive(Debug)]
pub struct DurationsIn<const MIN: u64, const MAX: u64>;

/// A number of bytes from `MIN` to `MAX` in any integer type, written as text (`"10GiB"`) or as a whole number.
#[derive(Debug)]
pub struct SizeIn<const MIN: u64, const MAX: u64>;

/// A whole number from `MIN` to `MAX` in any integer type.
#[derive(Debug)]
pub struct CountIn<const MIN: u64, const MAX: u64>;

/// A list of whole numbers in any integer type, each from `MIN` to `MAX`.
#[derive(Debug)]
pub struct CountsIn<const MIN: u64, const MAX: u64>;

#[expect(clippy::missing_errors_doc, reason = "serde calls these; the errors are the format's")]
impl<const MIN: u64, const MAX: u64> DurationIn<MIN, MAX> {
    /// Writes the shortest text.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&duration_text(*duration))
    }

    /// Reads a text and refuses what is out of range.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_str(Range { unit: Unit::Millisecond, min: MIN, max: MAX }).map(Duration::from_millis)
    }
}

#[expect(clippy::missing_errors_doc, reason = "serde calls these; the errors are the format's")]
impl<const MIN: u64, const MAX: u64> DurationsIn<MIN, MAX> {
    /// Writes a list of texts.
    pub fn serialize<S: Serializer>(durations: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(durations.iter().map(|duration| DurationItem::<MIN, MAX>(*duration)))
    }

    /// Reads a list that isn't empty. A refusal of an entry is placed at the entry.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        let items = Vec::<DurationItem<MIN, MAX>>::deserialize(deserializer)?;
        if items.is_empty() {
            return Err(D::Error::custom("it is empty, expected at least one duration such as \"1s\""));
        }
        Ok(items.into_iter().map(|item| item.0).collect())
    }
}

#[expect(clippy::missing_errors_doc, reason = "serde calls these; the errors are the format's")]
impl<const MIN: u64, const MAX: u64> SizeIn<MIN, MAX> {
    /// Writes the shortest text.
    pub fn serialize<S: Serializer, T: Copy + TryInto<u64>>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&size_text(widened(*bytes)?))
    }

    /// Reads a text or a number and refuses what is out of range.
    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
        narrowed(deserializer.deserialize_any(Range { unit: Unit::Byte, min: MIN, max: MAX })?)
    }
}

#[expect(clippy::missing_errors_doc, reason = "serde calls these; the errors are the format's")]
impl<const MIN: u64, const MAX: u64> CountIn<MIN, MAX> {
    /// Writes a number.
    pub fn serialize<S: Serializer, T: Copy + TryInto<u64>>(count: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(widened(*count)?)
    }

    /// Reads a number and refuses what is out of range.
    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
        narrowed(deserializer.deserialize_u64(Range { unit: Unit::One, min: MIN, max: MAX })?)
    }
}

#[expect(clippy::missing_errors_doc, reason = "serde calls these; the errors are the format's")]
impl<const MIN: u64, const MAX: u64> CountsIn<MIN, MAX> {
    /// Writes a list of numbers.
    pub fn serialize<S: Serializer, T: Serialize>(counts: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(counts)
    }

    /// Reads a list of numbers, which may be empty. A refusal of an entry is placed at the entry.
    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<Vec<T>, D::Error> {
        let items = Vec::<CountItem<MIN, MAX>>::deserialize(deserializer)?;
        items.into_iter().map(|item| narrowed(item.0)).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct DurationItem<const MIN: u64, const MAX: u64>(#[serde(with = "DurationIn::<MIN, MAX>")] Duration);

#[derive(Deserialize)]
#[serde(transparent)]
struct CountItem<const MIN: u64, const MAX: u64>(#[serde(with = "CountIn::<MIN, MAX>")] u64);

fn widened<E: serde::ser::Error, T: TryInto<u64>>(value: T) -> Result<u64, E> {
    value.try_into().map_err(|_| E::custom("a negative number can't be written"))
}

fn narrowed<E: Error, T: TryFrom<u64>>(value: u64) -> Result<T, E> {
    T::try_from(value).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &"a smaller number"))
}

/// Reads one number in its unit and checks its bounds.
struct Range {
    unit: Unit,
    min: u64,
    max: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Millisecond,
    Byte,
    One,
}

impl Range {
    fn checked<E: Error>(&self, value: u64) -> Result<u64, E> {
        if (self.min..=self.max).contains(&value) { Ok(value) } else { Err(E::custom(self.refusal(&self.unit.text(value)))) }
    }

    fn refusal(&self, given: &str) -> String {
        let (min, max) = (self.unit.text(self.min), self.unit.text(self.max));
        if self.max == u64::MAX {
            format!("{given} is too small, expected at least {min}")
        } else {
            format!("{given} is out of range, expected {min} to {max}")
        }
    }
}

impl Unit {
    fn text(self, value: u64) -> String {
        match self {
            Self::Millisecond => duration_text(Duration::from_millis(value)),
            Self::Byte => size_text(value),
            Self::One => value.to_string(),
        }
    }
}

impl Visitor<'_> for Range {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.unit {
            Unit::Millisecond => "a duration such as \"90s\"",
            Unit::Byte => "a size such as \"10GiB\"",
            Unit::One => "a whole number",
        })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        let read = match self.unit {
            // What a `Duration` of at most u64::MAX milliseconds holds.
            Unit::Millisecond => {
                parse_duration(text).and_then(|read| u64::try_from(read.as_millis()).map_err(|_| "this duration is too long"))
            }
            Unit::Byte => parse_size(text),
            Unit::One => return Err(E::invalid_type(Unexpected::Str(text), &self)),
        };
        self.checked(read.map_err(|problem| E::custom(format_args!("{text:?}: {problem}")))?)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        if self.unit == Unit::Millisecond { Err(E::invalid_type(Unexpected::Unsigned(value), &self)) } else { self.checked(value) }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) if self.unit == Unit::Millisecond => Err(E::invalid_type(Unexpected::Signed(value), &self)),
            Err(_) => Err(E::custom(self.refusal(&value.to_string()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_and_written_the_same() {
        for text in ["500ms", "90s", "5m", "72h", "14d", "0ms"] {
            let read = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&duration_text(read)), Ok(read), "{text}");
        }
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(duration_text(Duration::from_hours(72)), "3d");
        for text in ["0", "512", "64KiB", "16MiB", "10GiB", "1 MiB"] {
            let read = parse_size(text).unwrap();
            assert_eq!(parse_size(&size_text(read)), Ok(read), "{text}");
        }
        for wrong in ["", "s", "1.5h", "-1s", "1w", "1S", "99999999999999999d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "1GB", "1k", "10 000", "99999999999GiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "read, not used")]
        struct Fields {
            #[serde(default, with = "DurationIn::<SECOND, MINUTE>")]
            time: Duration,
            #[serde(default, with = "SizeIn::<1024, { u64::MAX }>")]
            size: u64,
            #[serde(default, with = "CountIn::<1, 10>")]
            count: u8,
            #[serde(default, with = "CountsIn::<300, 599>")]
            counts: Vec<u16>,
            #[serde(default, with = "DurationsIn::<0, MINUTE>")]
            times: Vec<Duration>,
        }
        for (json, says) in [
            (r#"{"time":"1ms"}"#, "1ms is out of range, expected 1s to 1m"),
            (r#"{"time":"2h"}"#, "2h is out of range, expected 1s to 1m"),
            (r#"{"time":5}"#, "invalid type: integer `5`, expected a duration such as \"90s\""),
            (r#"{"time":"5"}"#, "\"5\": a duration is a whole number with ms, s, m, h or d"),
            (r#"{"size":"1"}"#, "1 is too small, expected at least 1KiB"),
            (r#"{"size":-1}"#, "-1 is too small, expected at least 1KiB"),
            (r#"{"count":11}"#, "11 is out of range, expected 1 to 10"),
            (r#"{"count":-1}"#, "-1 is out of range, expected 1 to 10"),
            (r#"{"count":"1"}"#, "invalid type: string \"1\", expected a whole number"),
            (r#"{"counts":[300,200]}"#, "200 is out of range, expected 300 to 599"),
            (r#"{"times":[]}"#, "it is empty, expected at least one duration"),
        ] {
            let error = serde_json::from_str::<Fields>(json).unwrap_err().to_string();
            assert!(error.starts_with(says), "{json}: {error}");
        }
        assert!(serde_json::from_str::<Fields>(r#"{"time":"1m","size":1024,"count":10,"counts":[599],"times":["1m"]}"#).is_ok());
    }
}
