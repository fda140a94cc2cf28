//! A rate as people write it: `50/s`, `1000/m`, `3600/h`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

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
}
