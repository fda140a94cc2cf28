//! What happens at an even rate: connections that are accepted, and what is read of one client. Pure.

use std::time::{Duration, Instant};

use pushline_model::{ByteRate, Rate};

/// How much of a client's rate that was left over can be used at once.
const CLIENT_CAUGHT_UP: Duration = Duration::from_secs(1);

/// A number of events in a period, evenly, with what was left over at once.
#[derive(Debug)]
pub(crate) struct EvenRate {
    period: Duration,
    count: u64,
    /// How much of what was left over counts.
    caught_up: Duration,
    due: Instant,
}

/// How much is read of one client. What has come in one read counts whole, so the next read waits the longer.
#[derive(Debug)]
pub(crate) struct ReadRate {
    packets: Option<EvenRate>,
    bytes: Option<EvenRate>,
}

impl EvenRate {
    pub(crate) fn new(rate: Rate, caught_up: Duration, now: Instant) -> Self {
        Self { period: rate.interval(), count: 1, caught_up, due: now }
    }

    fn of_bytes(rate: ByteRate, caught_up: Duration, now: Instant) -> Self {
        Self { period: Duration::from_secs(1), count: rate.per_second(), caught_up, due: now }
    }

    /// When the next one may happen.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// This many have happened.
    pub(crate) fn happened(&mut self, times: u64, now: Instant) {
        let nanos = self.period.as_nanos() * u128::from(times) / u128::from(self.count);
        let lasts = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.due = self.due.max(now.checked_sub(self.caught_up).unwrap_or(now)) + lasts;
    }
}

impl ReadRate {
    pub(crate) fn new(packets: Option<Rate>, bytes: Option<ByteRate>, now: Instant) -> Self {
        let began = now.checked_sub(CLIENT_CAUGHT_UP).unwrap_or(now);
        Self {
            packets: packets.map(|rate| EvenRate::new(rate, CLIENT_CAUGHT_UP, began)),
            bytes: bytes.map(|rate| EvenRate::of_bytes(rate, CLIENT_CAUGHT_UP, began)),
        }
    }

    /// This was read.
    pub(crate) fn read(&mut self, packets: u64, bytes: u64, now: Instant) {
        self.packets.iter_mut().for_each(|rate| rate.happened(packets, now));
        self.bytes.iter_mut().for_each(|rate| rate.happened(bytes, now));
    }

    /// When the client may be read again; `None`: now.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        self.packets.iter().chain(&self.bytes).map(EvenRate::due).max().filter(|due| *due > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_accepted_at_an_even_rate() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut rate = EvenRate::new("10/s".parse().unwrap(), Duration::from_millis(100), began);
        rate.happened(1, at(0));
        assert_eq!(rate.due(), at(100));
        rate.happened(1, at(100));
        assert_eq!(rate.due(), at(200));
        rate.happened(1, at(1000));
        assert_eq!(rate.due(), at(1000), "one was missed, and may come at once");
        rate.happened(1, at(1000));
        assert_eq!(rate.due(), at(1100));
    }

    #[test]
    fn a_client_is_read_again_when_both_its_packets_and_its_bytes_are_due() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut rate = ReadRate::new(Some("10/s".parse().unwrap()), Some("1KiB/s".parse().unwrap()), began);
        assert_eq!(rate.due(began), None);
        rate.read(10, 128, at(0));
        assert_eq!(rate.due(at(0)), None, "what a second allows may come at once");
        rate.read(1, 128, at(0));
        assert_eq!(rate.due(at(0)), Some(at(100)), "the packets");
        rate.read(0, 2048, at(100));
        assert_eq!(rate.due(at(100)), Some(at(1250)), "the bytes: 2,304 at 1,024 a second, from a second before the first");
        assert_eq!(rate.due(at(1250)), None);
        let mut unlimited = ReadRate::new(None, None, began);
        unlimited.read(1_000_000, u64::MAX, began);
        assert_eq!(unlimited.due(began), None);
    }
}
