//! What Kafka keeps us waiting for, and what it refuses: counted, told once per change, shown by `/readyz`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use crate::Stalled;

/// An append that Kafka takes longer for than this is a stall.
const STALLED_AFTER: Duration = Duration::from_secs(5);

const STALLED: &str = "Kafka doesn't make records durable: they are not acknowledged until it does";

/// A refusal is over after so long without another: whoever sent what was refused has given up.
const REFUSED_FOR: Duration = Duration::from_mins(5);

/// So is what live reading has complained of, if it reads nothing meanwhile.
const TROUBLE_FOR: Duration = Duration::from_mins(1);

/// Seen by every client of a queue.
#[derive(Debug)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Batches that aren't durable yet: how many, by the moment at which they were handed to the producer.
    pending: BTreeMap<Instant, u64>,
    /// A stall was told.
    stalled: bool,
    /// What is refused, by topic, since it was told.
    refused: BTreeMap<String, Refusal>,
    /// Why those who wait can't read, by who waits.
    unread: BTreeMap<u64, String>,
    waits: u64,
    /// What live reading has complained of last.
    trouble: Option<(String, Instant)>,
}

/// Somebody who asks Kafka until it answers. Dropped when it has, or when nobody wants to know any more.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    health: &'a Health,
    id: u64,
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
        Self(Mutex::default())
    }

    /// A batch was handed to the producer.
    pub(super) fn appending(&self, began: Instant) {
        self.change(|state| *state.pending.entry(began).or_default() += 1);
    }

    /// A batch is durable, the largest value of which has so many bytes.
    pub(super) fn appended(&self, began: Instant, topic: &str, largest: usize) {
        self.change(|state| {
            state.is_over(began);
            if state.refused.get(topic).is_some_and(|refusal| largest >= refusal.from) {
                state.refused.remove(topic);
                info!(topic, "Kafka takes records again");
            }
        });
    }

    /// A batch isn't durable, and never will be. `from`: the bytes of what is refused for its size, else 0.
    pub(super) fn refused(&self, began: Instant, topic: &str, from: usize, why: &str) {
        self.change(|state| {
            state.is_over(began);
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
    pub(super) fn taken_back(&self, began: Instant) {
        self.change(|state| state.is_over(began));
    }

    /// Somebody asks Kafka.
    pub(super) fn wait(&self) -> Wait<'_> {
        let mut id = 0;
        self.change(|state| {
            state.waits += 1;
            id = state.waits;
        });
        Wait { health: self, id }
    }

    /// Live reading goes on, or the log has ended where it stands.
    pub(super) fn reads(&self) {
        self.change(|state| {
            if state.trouble.take().is_some() && state.unread.is_empty() {
                info!("Kafka can be read again");
            }
        });
    }

    /// Live reading complains. It goes on by itself, and on a quiet topic nothing tells when it does.
    pub(super) fn trouble(&self, why: &str) {
        self.change(|state| {
            if !state.says(why) {
                warn!(why, "Kafka can't be read for now");
            }
            state.trouble = Some((why.to_owned(), Instant::now()));
        });
    }

    /// Tells of a stall, once when it begins and once when it ends. Forgets refusals and troubles that are over.
    pub(super) fn look(&self) {
        self.change(|state| {
            state.refused.retain(|topic, refusal| {
                let is_recent = refusal.last.elapsed() < REFUSED_FOR;
                if !is_recent {
                    info!(topic, "Kafka has refused nothing more");
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
        refused.or_else(|| unread().map(|why| Stalled(format!("Kafka can't be read: {why}")))).or_else(stall)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl State {
    fn is_stalled(&self) -> bool {
        self.pending.first_key_value().is_some_and(|(oldest, _)| oldest.elapsed() > STALLED_AFTER)
    }

    /// A batch that was handed over then isn't pending any more.
    fn is_over(&mut self, began: Instant) {
        if let Entry::Occupied(mut batches) = self.pending.entry(began) {
            *batches.get_mut() -= 1;
            if *batches.get() == 0 {
                batches.remove();
            }
        }
    }

    fn says(&self, why: &str) -> bool {
        self.unread.values().chain(self.trouble.iter().map(|(why, _)| why)).any(|told| told == why)
    }
}

impl Wait<'_> {
    /// It hasn't answered yet.
    pub(super) fn because(&mut self, why: &str) {
        self.health.change(|state| {
            if !state.says(why) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn says(health: &Health) -> String {
        health.stalled().map_or_else(String::new, |Stalled(why)| why)
    }

    #[test]
    fn what_is_too_large_stays_refused_until_something_as_large_is_taken() {
        let health = Health::new();
        health.refused(Instant::now(), "t", 10_000, "too large");
        health.appended(Instant::now(), "t", 9_999);
        assert!(says(&health).contains("too large"));
        // Also something smaller is too large meanwhile.
        health.refused(Instant::now(), "t", 8_000, "too large");
        health.appended(Instant::now(), "t", 8_000);
        assert_eq!(says(&health), "");
    }

    #[test]
    fn what_is_refused_on_one_topic_is_not_over_with_a_record_on_another() {
        let health = Health::new();
        health.refused(Instant::now(), "letters", 0, "no rights");
        health.appended(Instant::now(), "checkpoint", 100);
        assert!(says(&health).contains("no rights"));
        health.appended(Instant::now(), "letters", 1);
        assert_eq!(says(&health), "");
    }

    #[test]
    fn who_waits_says_so_until_it_is_over_whatever_others_read() {
        let health = Health::new();
        let mut first = health.wait();
        first.because("no leader");
        {
            let mut second = health.wait();
            second.because("no rights");
        }
        assert!(says(&health).contains("no leader"));
        drop(first);
        assert_eq!(says(&health), "");
    }

    #[test]
    fn a_batch_that_waits_too_long_is_a_stall_though_others_become_durable() {
        let health = Health::new();
        let long_ago = Instant::now().checked_sub(2 * STALLED_AFTER).unwrap();
        health.appending(long_ago);
        let now = Instant::now();
        health.appending(now);
        health.appended(now, "t", 1);
        assert_eq!(says(&health), STALLED);
        health.appended(long_ago, "t", 1);
        assert_eq!(says(&health), "");
    }
}
