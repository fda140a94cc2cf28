//! Clients that connect again and again without being refused: a store that begins with a packet that its library can't finish, two devices with one
//! client id. Nothing else would tell an operator.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

use super::refused_clients::shorten;

/// Connections are counted for this long, then anew.
const PERIOD: Duration = Duration::from_mins(1);

/// A client that connects this often in a period is in a loop.
const IN_A_LOOP: u32 = 5;

/// Clients that are counted in a period. A storm of clients has more, and each of them connects once.
const COUNTED: usize = 65_536;

/// Lines of the log in a period, for all clients together.
const LINES: u32 = 20;

/// The connections of the current period.
#[derive(Debug, Default)]
pub(crate) struct Reconnects(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    began: Option<Instant>,
    /// By the beginning of the client id.
    counts: HashMap<Box<str>, u32>,
    lines: u32,
}

impl Reconnects {
    /// A client was let in. Logs one that is in a loop, once a period.
    pub(crate) fn connected(&self, client_id: &str, user: Option<&str>, address: IpAddr, now: Instant) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).is_worth_a_line(client_id, now) {
            let client = shorten(client_id);
            warn!(
                client,
                user, %address, connections = IN_A_LOOP, "client connects again and again: look at its log, and whether another device has its client id"
            );
        }
    }
}

impl State {
    fn is_worth_a_line(&mut self, client_id: &str, now: Instant) -> bool {
        if self.began.is_none_or(|began| now.duration_since(began) >= PERIOD) {
            *self = Self { began: Some(now), ..Self::default() };
        }
        let key = shorten(client_id);
        if let Some(count) = self.counts.get_mut(key) {
            *count += 1;
            let is_due = *count == IN_A_LOOP && self.lines < LINES;
            self.lines += u32::from(is_due);
            return is_due;
        }
        if self.counts.len() < COUNTED {
            self.counts.insert(key.into(), 1);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_in_a_loop_is_worth_a_line_once_a_period() {
        let (mut state, began) = (State::default(), Instant::now());
        let mut lines = |client: &str, times: u32, at: Duration| (0..times).filter(|_| state.is_worth_a_line(client, began + at)).count();
        assert_eq!(lines("steady", 4, Duration::ZERO), 0);
        assert_eq!(lines("in a loop", 100, Duration::ZERO), 1);
        assert_eq!(lines("in a loop", 100, PERIOD), 1);
        assert_eq!(lines("steady", 1, PERIOD), 0, "it is counted anew");
    }

    #[test]
    fn a_storm_takes_neither_memory_nor_lines_without_end() {
        let (mut state, now) = (State::default(), Instant::now());
        let clients = 2 * COUNTED;
        assert!(!(0..clients).any(|client| state.is_worth_a_line(&client.to_string(), now)));
        assert_eq!(state.counts.len(), COUNTED);
        let lines = (0..10_000 * 4).filter(|number| state.is_worth_a_line(&(number % 10_000).to_string(), now)).count();
        assert_eq!(lines, LINES as usize);
    }
}
