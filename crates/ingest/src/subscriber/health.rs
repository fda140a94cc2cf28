//! Whether connections to brokers are up: for the log, the metrics and `/readyz`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Gauge, counter, gauge};
use tracing::{info, warn};

use super::connection::End;
use crate::metrics as names;

/// The connections to one broker or to several.
#[derive(Debug, Clone, Default)]
pub struct BrokerHealth(pub(super) Vec<Arc<ConnectionHealth>>);

/// One connection, over all its reconnections.
#[derive(Debug)]
pub(super) struct ConnectionHealth {
    broker: String,
    pub(super) client_id: String,
    state: Mutex<State>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It has never been up. The last reason, if an attempt has ended.
    AwayFromTheStart(Option<String>),
    Up,
    /// It was up before. The reason that was logged.
    Down(String),
}

impl BrokerHealth {
    /// Adds the connections of another broker.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Why the process isn't ready: a connection that has never been up since the start, and the reason.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.iter().find_map(|connection| connection.reason())
    }
}

impl ConnectionHealth {
    pub(super) fn new(broker: &str, client_id: String) -> Arc<Self> {
        let health = Self { broker: broker.to_owned(), client_id, state: Mutex::new(State::AwayFromTheStart(None)) };
        health.gauge().increment(0.0);
        Arc::new(health)
    }

    /// The broker has granted the subscriptions. `is_lost`: it had no session, though it was to keep one.
    pub(super) fn up(&self, session_present: bool, keeps_session: bool) {
        let before = std::mem::replace(&mut *self.lock(), State::Up);
        let Self { broker, client_id, .. } = self;
        match before {
            State::Up => return,
            State::Down(_) if keeps_session && !session_present => {
                warn!(
                    broker,
                    client_id,
                    "connected to the MQTT broker again, and it has lost the session: packets that it got meanwhile are lost; see docs/devices.md"
                );
            }
            State::AwayFromTheStart(_) | State::Down(_) => info!(broker, client_id, session_present, "connected to the MQTT broker"),
        }
        self.gauge().increment(1.0);
    }

    /// The connection has ended.
    pub(super) fn down(&self, end: &End) {
        let (label, reason) = (end.label(), end.to_string());
        let mut state = self.lock();
        let was_up = *state == State::Up;
        if was_up {
            self.gauge().decrement(1.0);
        }
        counter!(names::BROKER_DISCONNECTIONS, "broker" => self.broker.clone(), "reason" => label).increment(1);
        let is_logged = match &*state {
            State::Up => false,
            State::AwayFromTheStart(last) => last.as_ref() == Some(&reason),
            State::Down(last) => *last == reason,
        };
        let Self { broker, client_id, .. } = self;
        if *end != End::Stopped && !is_logged {
            let what = if was_up { "connection to the MQTT broker lost" } else { "can't connect to the MQTT broker" };
            warn!(broker, client_id, reason, "{what}; trying again");
        }
        *state = match &*state {
            State::AwayFromTheStart(_) => State::AwayFromTheStart(Some(reason)),
            State::Up | State::Down(_) => State::Down(reason),
        };
    }

    fn reason(&self) -> Option<String> {
        match &*self.lock() {
            State::AwayFromTheStart(last) => {
                let last = last.as_deref().unwrap_or("connecting");
                Some(format!("the MQTT broker {} has been away since the start (client id {}): {last}", self.broker, self.client_id))
            }
            State::Up | State::Down(_) => None,
        }
    }

    fn gauge(&self) -> Gauge {
        gauge!(names::BROKER_CONNECTIONS, "broker" => self.broker.clone())
    }

    /// A panic elsewhere leaves the state whole: each change is one assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_was_away_from_the_start_is_named_until_it_is_there_and_one_that_goes_later_is_not() {
        let connection = ConnectionHealth::new("mqtt://b:1883", "pushline-0".to_owned());
        let mut health = BrokerHealth::default();
        health.extend(BrokerHealth(vec![Arc::clone(&connection)]));
        assert!(health.reason().unwrap().ends_with("(client id pushline-0): connecting"));
        connection.down(&End::Lost("connection refused".to_owned()));
        let reason = health.reason().unwrap();
        assert!(reason.contains("mqtt://b:1883") && reason.ends_with("connection refused"), "{reason}");
        connection.up(false, true);
        assert_eq!(health.reason(), None);
        connection.down(&End::Silent);
        assert_eq!(health.reason(), None);
    }
}
