//! Durations and sizes as people write them.

use std::time::Duration;

/// `500ms`, `90s`, `5m`, `72h`, `14d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "a duration is a whole number with ms, s, m, h or d, such as \"90s\"";
    let (number, unit) = split(text).ok_or(EXPECTED)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(EXPECTED),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or("this duration is too long")
}

/// `512`, `64KiB`, `16MiB`, `10GiB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, &'static str> {
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

/// The shortest way to write a duration that [`parse_duration`] reads.
pub(crate) fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let whole = units.into_iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit));
    whole.map_or(format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

/// The shortest way to write a size that [`parse_size`] reads.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = units.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or(bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_and_written_the_same() {
        for text in ["500ms", "90s", "5m", "72h", "14d", "0ms"] {
            let read = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&duration(read)), Ok(read), "{text}");
        }
        assert_eq!(duration(Duration::from_secs(90)), "90s");
        assert_eq!(duration(Duration::from_hours(72)), "3d");
        for text in ["0", "512", "64KiB", "16MiB", "10GiB", "1 MiB"] {
            let read = parse_size(text).unwrap();
            assert_eq!(parse_size(&size(read)), Ok(read), "{text}");
        }
        for wrong in ["", "s", "1.5h", "-1s", "1w", "1S", "99999999999999999d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "1GB", "1k", "10 000", "99999999999GiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
