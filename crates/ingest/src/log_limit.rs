//! A bound on log lines that many packets may cause. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How long a line is held back after one was logged.
const INTERVAL: Duration = Duration::from_secs(60);

/// Lets a line pass at once and then once a minute, and counts those in between.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    passed: Option<Instant>,
    held_back: u64,
}

impl LogLimit {
    /// `Some`: the line may be logged, and this many were held back since the last one.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.passed.is_some_and(|passed| now < passed + INTERVAL) {
            self.held_back += 1;
            return None;
        }
        self.passed = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_passes_at_once_and_then_once_a_minute_with_the_number_of_those_in_between() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        let passed: Vec<_> = [0, 1, 59, 60, 61, 200].into_iter().map(|second| limit.pass(start + Duration::from_secs(second))).collect();
        assert_eq!(passed, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
