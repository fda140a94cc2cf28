//! What Kafka keeps us waiting for, and what it refuses: counted, told once per change, shown by `/readyz`.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use crate::Stalled;

/// Appends that Kafka takes longer for than this are a stall.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// Seen by every client of a queue.
#[derive(Debug)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Batches that aren't durable yet.
    pending: u64,
    /// When Kafka last made progress with them.
    moved: Instant,
    /// A stall was told.
    stalled: bool,
    /// Why records are refused, since it was told.
    refused: Option<String>,
    /// Why nothing can be read, since it was told.
    unread: Option<String>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { pending: 0, moved: Instant::now(), stalled: false, refused: None, unread: None }))
    }

    /// A batch was handed to the producer.
    pub(super) fn appending(&self) {
        self.change(|state| {
            if state.pending == 0 {
                state.moved = Instant::now();
            }
            state.pending += 1;
        });
    }

    /// A batch is durable.
    pub(super) fn appended(&self) {
        self.change(|state| {
            (state.pending, state.moved) = (state.pending.saturating_sub(1), Instant::now());
            if state.refused.take().is_some() {
                info!("Kafka takes records again");
            }
        });
    }

    /// A batch isn't durable, and never will be.
    pub(super) fn refused(&self, why: &str) {
        self.change(|state| {
            (state.pending, state.moved) = (state.pending.saturating_sub(1), Instant::now());
            if state.refused.as_deref() != Some(why) {
                error!(why, "Kafka refuses records: what they hold is not acknowledged; see to the topic, its limits and the rights on it");
                state.refused = Some(why.to_owned());
            }
        });
    }

    /// Nothing can be read for now.
    pub(super) fn unread(&self, why: &str) {
        self.change(|state| {
            if state.unread.as_deref() != Some(why) {
                warn!(why, "Kafka can't be read for now");
                state.unread = Some(why.to_owned());
            }
        });
    }

    /// Something was read.
    pub(super) fn read(&self) {
        self.change(|state| {
            if state.unread.take().is_some() {
                info!("Kafka can be read again");
            }
        });
    }

    /// Tells of a stall, once when it begins and once when it ends.
    pub(super) fn look(&self) {
        self.change(|state| {
            let stalled = state.is_stalled();
            if stalled != std::mem::replace(&mut state.stalled, stalled) {
                match stalled {
                    true => warn!(batches = state.pending, "Kafka makes nothing durable: nothing is acknowledged until it does"),
                    false => info!("Kafka makes records durable again"),
                }
            }
        });
    }

    pub(super) fn stalled(&self) -> Option<Stalled> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |what: &str, why: &Option<String>| why.as_ref().map(|why| Stalled(format!("{what}: {why}")));
        let stall = || state.is_stalled().then(|| Stalled("Kafka makes nothing durable: nothing is acknowledged until it does".to_owned()));
        told("Kafka refuses records", &state.refused).or_else(|| told("Kafka can't be read", &state.unread)).or_else(stall)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl State {
    fn is_stalled(&self) -> bool {
        self.pending > 0 && self.moved.elapsed() > STALLED_AFTER
    }
}
