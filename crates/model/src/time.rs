//! Wall-clock time as the document writes it: UTC, in units of 100 ns, seven fractional digits.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::tz::Offset;
use serde::{Deserialize, Serialize};

/// Units of 100 ns since 1970-01-01T00:00:00Z. Good until the year 9999 and beyond any device's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

const PER_SECOND: u64 = 10_000_000;

impl Timestamp {
    /// Length of the text that [`Timestamp::text`] makes.
    pub const TEXT_LEN: usize = 28;

    /// The wall clock's time. A clock before 1970 counts as 1970.
    #[must_use]
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(units(since))
    }

    /// How far two times lie apart, whichever is the earlier.
    #[must_use]
    pub fn distance(self, other: Self) -> Duration {
        duration(self.0.abs_diff(other.0))
    }

    /// This much later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(units(by)))
    }

    /// This much earlier, at most back to 1970.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(units(by)))
    }

    /// ISO 8601 with seven fractional digits: `2023-10-16T09:17:32.1233516Z`. A time after the last that jiff knows (in the year 9999) is
    /// written as that one.
    #[must_use]
    pub fn text(self) -> [u8; Self::TEXT_LEN] {
        let calendar = Offset::UTC.to_datetime(self.into());
        let mut text = *b"0000-00-00T00:00:00.0000000Z";
        digits(&mut text[0..4], calendar.year().unsigned_abs().into());
        digits(&mut text[5..7], calendar.month().unsigned_abs().into());
        digits(&mut text[8..10], calendar.day().unsigned_abs().into());
        digits(&mut text[11..13], calendar.hour().unsigned_abs().into());
        digits(&mut text[14..16], calendar.minute().unsigned_abs().into());
        digits(&mut text[17..19], calendar.second().unsigned_abs().into());
        digits(&mut text[20..27], calendar.subsec_nanosecond().unsigned_abs() / 100);
        text
    }

    /// Reads a time of RFC 3339: [`Timestamp::text`], a shorter fraction or none, and an offset such as `+09:00` in place of `Z`. What a fraction
    /// has beyond 100 ns is dropped. `None` for anything else, and for a time before 1970.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let time: jiff::Timestamp = text.parse().ok()?;
        let (second, nanosecond) = (u64::try_from(time.as_second()).ok()?, u64::try_from(time.subsec_nanosecond()).ok()?);
        Some(Self(second * PER_SECOND + nanosecond / 100))
    }
}

impl From<Timestamp> for jiff::Timestamp {
    /// The same time, or the last one that jiff knows.
    fn from(time: Timestamp) -> Self {
        // A u64 holds 58,000 years: neither conversion below fails.
        let second = i64::try_from(time.0 / PER_SECOND).expect("a tenth of a millionth of a u64 fits in an i64");
        let nanosecond = i32::try_from(time.0 % PER_SECOND * 100).expect("less than a second in nanoseconds fits in an i32");
        Self::new(second, nanosecond).unwrap_or(Self::MAX)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.text()).expect("digits and punctuation are ASCII"))
    }
}

/// Units of 100 ns; a duration of more than 58,000 years counts as the longest that fits.
fn units(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos() / 100).unwrap_or(u64::MAX)
}

fn duration(units: u64) -> Duration {
    Duration::from_secs(units / PER_SECOND) + Duration::from_nanos(units % PER_SECOND * 100)
}

fn digits(text: &mut [u8], mut value: u32) {
    for place in text.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_documents_timestamp_is_written_as_it_stands_there() {
        let text = "2023-10-16T09:17:32.1233516Z";
        let time = Timestamp::parse(text).unwrap();
        assert_eq!(time, Timestamp(16_974_478_521_233_516));
        assert_eq!(time.to_string(), text);
    }

    #[test]
    fn a_short_fraction_and_an_offset_are_read_and_nonsense_is_not() {
        assert_eq!(Timestamp::parse("1970-01-01T00:00:01Z"), Some(Timestamp(10_000_000)));
        assert_eq!(Timestamp::parse("1970-01-01T00:00:00.5Z"), Some(Timestamp(5_000_000)));
        assert_eq!(Timestamp::parse("1970-01-01T00:00:00.12345678Z"), Some(Timestamp(1_234_567)));
        assert_eq!(Timestamp::parse("1970-01-01T09:00:01+09:00"), Some(Timestamp(10_000_000)));
        assert_eq!(Timestamp::parse("1969-12-31T19:30:01-04:30"), Some(Timestamp(10_000_000)));
        for wrong in ["", "1970-01-01", "2023-02-29T00:00:00Z", "1970-01-01T24:00:00Z", "1970-01-01T00:00:00", "1969-12-31T23:59:59Z"] {
            assert_eq!(Timestamp::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_is_written_as_its_last() {
        assert_eq!(Timestamp(u64::MAX).to_string(), "9999-12-30T22:00:00.9999999Z");
        assert_eq!(Timestamp(253_402_207_200 * PER_SECOND).to_string(), "9999-12-30T22:00:00.0000000Z");
    }

    proptest! {
        #[test]
        fn a_timestamp_is_its_text_again(units in 0..253_402_207_200 * PER_SECOND) {
            prop_assert_eq!(Timestamp::parse(&Timestamp(units).to_string()), Some(Timestamp(units)));
        }
    }
}
