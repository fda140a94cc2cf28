//! When to connect again. Pure, but for the jitter.

use std::time::Duration;

/// The first delay, and the longest.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(15);

/// A connection that lasted this long worked: the next one is made soon.
const WORKED: Duration = Duration::from_secs(30);

/// The delays between connections. They double, so that a broker that comes back isn't overrun, and one that refuses us isn't bothered.
#[derive(Debug)]
pub(super) struct ReconnectDelay(Duration);

impl Default for ReconnectDelay {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl ReconnectDelay {
    /// The delay after a connection that lasted this long: the half of it at least, the rest at random.
    pub(super) fn after(&mut self, lasted: Duration) -> Duration {
        if lasted >= WORKED {
            self.0 = FIRST;
        }
        let delay = self.0;
        self.0 = (2 * delay).min(LONGEST);
        delay.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_fifteen_seconds_and_begins_anew_after_a_connection_that_worked() {
        let mut delay = ReconnectDelay::default();
        for expected in [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000].map(Duration::from_millis) {
            let delay = delay.after(Duration::from_secs(1));
            assert!((expected / 2..=expected).contains(&delay), "{delay:?}, expected {expected:?}");
        }
        assert!(delay.after(WORKED) <= FIRST);
    }
}
