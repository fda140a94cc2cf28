//! The rate limit (docs/delivery.md, Rate limit): how often attempts of one webhook start, over all partitions of the process. They are spread evenly.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use pushline_model::Rate;

/// A task is woken this much too late, at times: what it missed starts at once.
const LATE: Duration = Duration::from_millis(10);

/// When the next attempt of a webhook may start.
#[derive(Debug, Default)]
pub(crate) struct RateLimit(Mutex<Option<Instant>>);

impl RateLimit {
    /// When the next attempt may start; `None`: now.
    pub(crate) fn due(&self, rate: Rate, now: Instant) -> Option<Instant> {
        let next = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The rate may have been raised since.
        next.map(|next| next.min(now + rate.interval())).filter(|next| *next > now)
    }

    /// An attempt starts, unless another one has just started.
    ///
    /// # Errors
    /// When it may start.
    pub(crate) fn take(&self, rate: Rate, now: Instant) -> Result<(), Instant> {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match next.map(|next| next.min(now + rate.interval())) {
            Some(due) if due > now => Err(due),
            due => {
                let earliest = now.checked_sub(LATE).unwrap_or(now);
                *next = Some(due.map_or(now, |due| due.max(earliest)) + rate.interval());
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_start_evenly_and_what_a_late_task_missed_starts_at_once() {
        let (limit, rate, began) = (RateLimit::default(), "200/s".parse().unwrap(), Instant::now());
        let at = |millis| began + Duration::from_millis(millis);
        assert_eq!((limit.due(rate, at(0)), limit.take(rate, at(0))), (None, Ok(())));
        assert_eq!((limit.due(rate, at(0)), limit.take(rate, at(4))), (Some(at(5)), Err(at(5))));
        assert_eq!((limit.take(rate, at(7)), limit.take(rate, at(7))), (Ok(()), Err(at(10))), "two milliseconds late");
        // After an hour's rest as many start at once as fit into 10 ms, and the one that is due.
        let later = at(3_600_000);
        assert_eq!((0..9).filter(|_| limit.take(rate, later).is_ok()).count(), 3);
    }

    #[test]
    fn a_rate_that_was_raised_counts_at_once() {
        let (limit, now) = (RateLimit::default(), Instant::now());
        assert_eq!(limit.take("1/h".parse().unwrap(), now), Ok(()));
        let rate: Rate = "1/s".parse().unwrap();
        assert_eq!(limit.due(rate, now), Some(now + Duration::from_secs(1)));
        assert_eq!(limit.take(rate, now), Err(now + Duration::from_secs(1)));
    }
}
