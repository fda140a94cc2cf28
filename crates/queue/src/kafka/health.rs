//! What Kafka keeps us waiting for, and what it refuses: counted, told once per change, shown by `/readyz`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use crate::Stalled;

/// Appends that Kafka takes longer for than this are a stall.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// A refusal is over after so long without another: whoever sent what was refused has given up.
const REFUSED_FOR: Duration = Duration::from_mins(5);

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
    /// What is refused, by topic, since it was told.
    refused: BTreeMap<String, Refusal>,
    /// Why nothing can be read, since it was told.
    unread: Option<String>,
}

#[derive(Debug)]
struct Refusal {
    why: String,
    /// Bytes of the smallest value that was refused for its size, else 0: smaller ones are taken all the same.
    from: usize,
    last: Instant,
}

impl Health {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { pending: 0, moved: Instant::now(), stalled: false, refused: BTreeMap::new(), unread: None }))
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

    /// A batch is durable, the largest value of which has so many bytes.
    pub(super) fn appended(&self, topic: &str, largest: usize) {
        self.change(|state| {
            (state.pending, state.moved) = (state.pending.saturating_sub(1), Instant::now());
            if state.refused.get(topic).is_some_and(|refusal| largest >= refusal.from) {
                state.refused.remove(topic);
                info!(topic, "Kafka takes records again");
            }
        });
    }

    /// A batch isn't durable, and never will be. `from`: the bytes of what is refused for its size, else 0.
    pub(super) fn refused(&self, topic: &str, from: usize, why: &str) {
        self.change(|state| {
            (state.pending, state.moved) = (state.pending.saturating_sub(1), Instant::now());
            match state.refused.get_mut(topic).filter(|refusal| refusal.why == why) {
                Some(refusal) => (refusal.from, refusal.last) = (refusal.from.min(from), Instant::now()),
                None => {
                    error!(
                        why,
                        "Kafka refuses records: what they hold is not acknowledged; see to the topic, its limits and the rights on it"
                    );
                    state.refused.insert(topic.to_owned(), Refusal { why: why.to_owned(), from, last: Instant::now() });
                }
            }
        });
    }

    /// The queue was closed before a batch was durable.
    pub(super) fn taken_back(&self) {
        self.change(|state| state.pending = state.pending.saturating_sub(1));
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

    /// Tells of a stall, once when it begins and once when it ends. Forgets refusals that are over.
    pub(super) fn look(&self) {
        self.change(|state| {
            state.refused.retain(|topic, refusal| {
                let is_recent = refusal.last.elapsed() < REFUSED_FOR;
                if !is_recent {
                    info!(topic, "Kafka has refused nothing more");
                }
                is_recent
            });
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
        let refused = state.refused.values().next().map(|refusal| Stalled(format!("Kafka refuses records: {}", refusal.why)));
        let told = |what: &str, why: &Option<String>| why.as_ref().map(|why| Stalled(format!("{what}: {why}")));
        let stall = || state.is_stalled().then(|| Stalled("Kafka makes nothing durable: nothing is acknowledged until it does".to_owned()));
        refused.or_else(|| told("Kafka can't be read", &state.unread)).or_else(stall)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn says(health: &Health) -> String {
        health.stalled().map_or_else(String::new, |Stalled(why)| why)
    }

    #[test]
    fn what_is_too_large_stays_refused_until_something_as_large_is_taken() {
        let health = Health::new();
        health.refused("t", 10_000, "too large");
        health.appended("t", 9_999);
        assert!(says(&health).contains("too large"));
        // Also something smaller is too large meanwhile.
        health.refused("t", 8_000, "too large");
        health.appended("t", 8_000);
        assert_eq!(says(&health), "");
    }

    #[test]
    fn what_is_refused_on_one_topic_is_not_over_with_a_record_on_another() {
        let health = Health::new();
        health.refused("letters", 0, "no rights");
        health.appended("progress", 100);
        assert!(says(&health).contains("no rights"));
        health.appended("letters", 1);
        assert_eq!(says(&health), "");
    }
}
