//! Wall-clock time as the document writes it: UTC, in units of 100 ns, seven fractional digits.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// Units of 100 ns since 1970-01-01T00:00:00Z. Good until the year 9999 and beyond any device's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

const PER_SECOND: u64 = 10_000_000;

impl Timestamp {
    /// Length of the text that [`Timestamp::write`] makes.
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

    /// ISO 8601 with seven fractional digits: `2023-10-16T09:17:32.1233516Z`.
    #[must_use]
    pub fn text(self) -> [u8; Self::TEXT_LEN] {
        let (seconds, fraction) = (self.0 / PER_SECOND, self.0 % PER_SECOND);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.0000000Z";
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], second / 3600);
        digits(&mut text[14..16], second / 60 % 60);
        digits(&mut text[17..19], second % 60);
        digits(&mut text[20..27], fraction);
        text
    }

    /// Reads what [`Timestamp::text`] writes; a shorter fraction, or none, is accepted too. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (head, rest) = bytes.split_at_checked(19)?;
        for (at, separator) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
            if head[at] != separator {
                return None;
            }
        }
        let days = days_of(number(&head[0..4])?, number(&head[5..7])?, number(&head[8..10])?)?;
        let (hour, minute, second) = (number(&head[11..13])?, number(&head[14..16])?, number(&head[17..19])?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let fraction = match rest {
            [b'Z'] => 0,
            [b'.', digits @ .., b'Z'] if (1..=7).contains(&digits.len()) => (digits.len()..7).fold(number(digits)?, |value, _| value * 10),
            _ => return None,
        };
        Some(Self(((days * 24 + hour) * 3600 + minute * 60 + second) * PER_SECOND + fraction))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

fn units(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos() / 100).unwrap_or(u64::MAX)
}

fn duration(units: u64) -> Duration {
    Duration::new(units / PER_SECOND, u32::try_from(units % PER_SECOND * 100).unwrap_or_default())
}

fn digits(text: &mut [u8], mut value: u64) {
    for place in text.iter_mut().rev() {
        *place = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
    }
}

fn number(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0')))
}

/// The proleptic Gregorian date of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`, for days that aren't negative).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153; // March is 0
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// The inverse of [`civil`]; `None` where there is no such day.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year_from_march = year - u64::from(month <= 2);
    let (era, year_of_era) = (year_from_march / 400, year_from_march % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = days.checked_sub(719_468)?;
    (civil(days) == (year, month, day)).then_some(days)
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
    fn a_short_fraction_is_read_and_nonsense_is_not() {
        assert_eq!(Timestamp::parse("1970-01-01T00:00:01Z"), Some(Timestamp(10_000_000)));
        assert_eq!(Timestamp::parse("1970-01-01T00:00:00.5Z"), Some(Timestamp(5_000_000)));
        for wrong in
            ["", "1970-01-01", "2023-02-29T00:00:00Z", "1970-01-01T24:00:00Z", "1970-01-01T00:00:00.12345678Z", "1970-01-01T00:00:00"]
        {
            assert_eq!(Timestamp::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_timestamp_is_its_text_again(units in 0..253_402_300_800 * PER_SECOND) {
            prop_assert_eq!(Timestamp::parse(&Timestamp(units).to_string()), Some(Timestamp(units)));
        }
    }
}
