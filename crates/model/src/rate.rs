//! Rates as people write them: `50/s`, `1000/m`, `3600/h`, and of bytes `1MiB/s`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::units::{parse_size, size_text};

/// The largest number of a rate.
const MOST: u32 = 1_000_000;

/// What a rate looks like, for people.
const EXPECTED: &str = "a rate is a whole number from 1 to 1000000 and /s, /m or /h, such as \"50/s\"";

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Rate {
    /// The time from one to the next where they are spread evenly.
    #[must_use]
    pub fn interval(self) -> Duration {
        self.per.length() / self.count
    }
}

impl Unit {
    const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    fn name(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "m",
            Self::Hour => "h",
        }
    }

    fn length(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::Minute => Duration::from_mins(1),
            Self::Hour => Duration::from_hours(1),
        }
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (count, per) = text.split_once('/').ok_or(EXPECTED)?;
        let per = Unit::ALL.into_iter().find(|unit| unit.name() == per).ok_or(EXPECTED)?;
        // A sign is no digit, though `parse` reads one.
        let digits = Some(count).filter(|count| count.bytes().all(|byte| byte.is_ascii_digit()));
        let count = digits.and_then(|digits| digits.parse().ok()).filter(|count| (1..=MOST).contains(count)).ok_or(EXPECTED)?;
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per.name())
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|expected| D::Error::custom(format_args!("{text:?}: {expected}")))
    }
}

/// How many bytes may come in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate(u64);

/// What a rate of bytes looks like, for people.
const EXPECTED_BYTES: &str = "a rate of bytes is a size from 1KiB to 1GiB and /s, such as \"1MiB/s\"";

impl ByteRate {
    /// Bytes, at least 1,024.
    #[must_use]
    pub fn per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteRate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let bytes = text.strip_suffix("/s").and_then(|size| parse_size(size).ok());
        bytes.filter(|bytes| (1 << 10..=1 << 30).contains(bytes)).map(Self).ok_or(EXPECTED_BYTES)
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", size_text(self.0))
    }
}

impl Serialize for ByteRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|expected| D::Error::custom(format_args!("{text:?}: {expected}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_it_is_written_and_spreads_evenly() {
        for (text, micros) in [("50/s", 20_000), ("1/s", 1_000_000), ("1000000/s", 1), ("600/m", 100_000), ("3600/h", 1_000_000)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.to_string().as_str(), rate.interval()), (text, Duration::from_micros(micros)));
        }
        for wrong in ["", "50", "50/", "/s", "0/s", "-1/s", "+1/s", "1.5/s", "50/d", "50 /s", "1000001/s", "99999999999/s"] {
            assert_eq!(wrong.parse::<Rate>(), Err(EXPECTED), "{wrong}");
        }
    }

    #[test]
    fn a_rate_of_bytes_is_read_as_it_is_written() {
        for (text, bytes) in [("1KiB/s", 1 << 10), ("1500/s", 1500), ("1MiB/s", 1 << 20), ("1GiB/s", 1 << 30)] {
            let rate: ByteRate = text.parse().unwrap();
            assert_eq!((rate.to_string().as_str(), rate.per_second()), (text, bytes));
        }
        for wrong in ["", "1MiB", "/s", "1023/s", "2GiB/s", "1MB/s", "1MiB/m", "-1/s"] {
            assert_eq!(wrong.parse::<ByteRate>(), Err(EXPECTED_BYTES), "{wrong}");
        }
    }
}
