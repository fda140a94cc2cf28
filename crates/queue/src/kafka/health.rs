//! What Kafka is slow with and what it refuses: counted, logged once per change, reported by `/readyz`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use crate::{QueueError, Stalled};

/// An append that Kafka takes longer for than this is a stall.
const STALLED_AFTER: Duration = Duration::from_secs(5);

const STALLED: &str = "Kafka doesn't make records durable: they are not acknowledged until it does";

/// A refusal is over after this time without another one: the sender of the refused records has given up.
const REFUSED_FOR: Duration = Duration::from_mins(5);

/// An error of live reading is over after this time without another one, if no record is read meanwhile.
const TROUBLE_FOR: Duration = Duration::from_mins(1);

/// Seen by every client of a queue.
#[derive(Debug)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Batches that aren't durable yet: how many, by the moment at which they were handed to the producer.
    pending: BTreeMap<Instant, u64>,
    /// A stall was logged.
    stalled: bool,
    /// What Kafka refuses, by topic; it was logged.
    refused: BTreeMap<String, Refusal>,
    /// Why a caller that waits gets no answer, by the caller's number.
    unread: BTreeMap<u64, String>,
    /// Partitions that aren't served since another version wrote a record of theirs, by number of the report.
    unserved: BTreeMap<u64, String>,
    /// How many numbers were given.
    numbers: u64,
    /// The last error of live reading.
    trouble: Option<(String, Instant)>,
}

/// A partition that isn't served. Dropping it takes the report back.
#[derive(Debug)]
pub(super) struct Unserved {
    health: Arc<Health>,
    number: u64,
}

/// A caller that asks Kafka until it answers. Dropped when Kafka has answered, or when the caller has given up.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    health: &'a Health,
    id: u64,
}

#[derive(Debug)]
struct Refusal {
    why: String,
    /// Bytes of the smallest value that was refused for its size, else 0: Kafka accepts smaller ones all the same.
    from: usize,
    last: Instant,
}

impl Health {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// A batch was handed to the producer.
    pub(super) fn appending(&self, began: Instant) {
        self.change(|state| *state.pending.entry(began).or_default() += 1);
    }

    /// A batch is durable. Its largest value has `largest` bytes.
    pub(super) fn appended(&self, began: Instant, topic: &str, largest: usize) {
        self.change(|state| {
            state.is_over(began);
            if state.refused.get(topic).is_some_and(|refusal| largest >= refusal.from) {
                state.refused.remove(topic);
                info!(topic, "Kafka accepts records again");
            }
        });
    }

    /// A batch isn't durable and never will be. `from`: the bytes of the value that was refused for its size, else 0.
    pub(super) fn refused(&self, began: Instant, topic: &str, from: usize, why: &str) {
        self.change(|state| {
            state.is_over(began);
            match state.refused.get_mut(topic).filter(|refusal| refusal.why == why) {
                Some(refusal) => (refusal.from, refusal.last) = (refusal.from.min(from), Instant::now()),
                None => {
                    error!(
                        topic,
                        why, "Kafka refuses records: they are not acknowledged; check the topic, its limits and the rights on it"
                    );
                    state.refused.insert(topic.to_owned(), Refusal { why: why.to_owned(), from, last: Instant::now() });
                }
            }
        });
    }

    /// The queue was closed before a batch was durable.
    pub(super) fn taken_back(&self, began: Instant) {
        self.change(|state| state.is_over(began));
    }

    /// A caller begins to ask Kafka.
    pub(super) fn wait(&self) -> Wait<'_> {
        let mut id = 0;
        self.change(|state| {
            id = state.number();
        });
        Wait { health: self, id }
    }

    /// Reports a partition that isn't served, until what is returned is dropped.
    pub(super) fn unserved(self: &Arc<Self>, why: &QueueError) -> Unserved {
        error!(%why, "a partition isn't served");
        let mut number = 0;
        self.change(|state| {
            number = state.number();
            state.unserved.insert(number, why.to_string());
        });
        Unserved { health: Arc::clone(self), number }
    }

    /// Live reading goes on, or stands at the end of the log.
    pub(super) fn reads(&self) {
        self.change(|state| {
            if state.trouble.take().is_some() && state.unread.is_empty() {
                info!("Kafka can be read again");
            }
        });
    }

    /// Live reading got an error. librdkafka tries again by itself, and on a quiet topic nothing tells that it has succeeded.
    pub(super) fn trouble(&self, why: &str) {
        self.change(|state| {
            if !state.reports(why) {
                warn!(why, "Kafka can't be read for now");
            }
            state.trouble = Some((why.to_owned(), Instant::now()));
        });
    }

    /// Logs a stall once when it begins and once when it ends. Drops refusals and errors that are over.
    pub(super) fn look(&self) {
        self.change(|state| {
            state.refused.retain(|topic, refusal| {
                let is_recent = refusal.last.elapsed() < REFUSED_FOR;
                if !is_recent {
                    info!(topic, "Kafka accepts records again");
                }
                is_recent
            });
            state.trouble.take_if(|(_, last)| last.elapsed() > TROUBLE_FOR);
            let stalled = state.is_stalled();
            if stalled != std::mem::replace(&mut state.stalled, stalled) {
                match stalled {
                    true => warn!("{STALLED}"),
                    false => info!("Kafka makes records durable again"),
                }
            }
        });
    }

    pub(super) fn stalled(&self) -> Option<Stalled> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = state.refused.values().next().map(|refusal| Stalled(format!("Kafka refuses records: {}", refusal.why)));
        let unread = || state.unread.values().chain(state.trouble.iter().map(|(why, _)| why)).next();
        let stall = || state.is_stalled().then(|| Stalled(STALLED.to_owned()));
        let unserved = state.unserved.values().next().map(|why| Stalled(why.clone()));
        refused.or(unserved).or_else(|| unread().map(|why| Stalled(format!("Kafka can't be read: {why}")))).or_else(stall)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl State {
    fn is_stalled(&self) -> bool {
        self.pending.first_key_value().is_some_and(|(oldest, _)| oldest.elapsed() > STALLED_AFTER)
    }

    /// A number for a report.
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A batch that was handed over at that moment isn't pending any more.
    fn is_over(&mut self, began: Instant) {
        if let Entry::Occupied(mut batches) = self.pending.entry(began) {
            *batches.get_mut() -= 1;
            if *batches.get() == 0 {
                batches.remove();
            }
        }
    }

    fn reports(&self, why: &str) -> bool {
        self.unread.values().chain(self.trouble.iter().map(|(why, _)| why)).any(|reported| reported == why)
    }
}

impl Wait<'_> {
    /// Kafka hasn't answered yet.
    pub(super) fn because(&mut self, why: &str) {
        self.health.change(|state| {
            if !state.reports(why) {
                warn!(why, "Kafka can't be read for now");
            }
            state.unread.insert(self.id, why.to_owned());
        });
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.health.change(|state| {
            if state.unread.remove(&self.id).is_some() && state.unread.is_empty() && state.trouble.is_none() {
                info!("Kafka can be read again");
            }
        });
    }
}

impl Drop for Unserved {
    fn drop(&mut self) {
        self.health.change(|state| _ = state.unserved.remove(&self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(health: &Health) -> String {
        health.stalled().map_or_else(String::new, |Stalled(why)| why)
    }

    #[test]
    fn what_is_too_large_stays_refused_until_something_as_large_is_taken() {
        let health = Health::new();
        health.refused(Instant::now(), "t", 10_000, "too large");
        health.appended(Instant::now(), "t", 9_999);
        assert!(report(&health).contains("too large"));
        // Also something smaller is too large meanwhile.
        health.refused(Instant::now(), "t", 8_000, "too large");
        health.appended(Instant::now(), "t", 8_000);
        assert_eq!(report(&health), "");
    }

    #[test]
    fn what_is_refused_on_one_topic_is_not_over_with_a_record_on_another() {
        let health = Health::new();
        health.refused(Instant::now(), "dead-letters", 0, "no rights");
        health.appended(Instant::now(), "checkpoint", 100);
        assert!(report(&health).contains("no rights"));
        health.appended(Instant::now(), "dead-letters", 1);
        assert_eq!(report(&health), "");
    }

    #[test]
    fn a_caller_that_waits_is_reported_until_it_has_its_answer_whatever_others_read() {
        let health = Health::new();
        let mut first = health.wait();
        first.because("no leader");
        {
            let mut second = health.wait();
            second.because("no rights");
        }
        assert!(report(&health).contains("no leader"));
        drop(first);
        assert_eq!(report(&health), "");
    }

    #[test]
    fn a_batch_that_waits_too_long_is_a_stall_though_others_become_durable() {
        let health = Health::new();
        let long_ago = Instant::now().checked_sub(2 * STALLED_AFTER).unwrap();
        health.appending(long_ago);
        let now = Instant::now();
        health.appending(now);
        health.appended(now, "t", 1);
        assert_eq!(report(&health), STALLED);
        health.appended(long_ago, "t", 1);
        assert_eq!(report(&health), "");
    }
}
