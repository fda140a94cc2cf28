//! Which lookup gets a thread: each lookup takes one until the system's resolver gives up, and nothing can end it before.
//!
//! A name that answered last time never waits for names that may not answer (docs/network.md, Names).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many names are looked up at once at the most. The runtime needs as many threads that may block, and some for those that read logs and save
/// checkpoints.
pub const LOOKUP_THREADS: usize = 896;

/// The part of the threads for names that aren't known to answer, of seven: 768 threads.
const UNPROVEN: usize = 6;

/// The part of the threads for names that didn't answer last time, of seven: 512 threads. The rest of [`UNPROVEN`] is for first lookups.
const SILENT: usize = 4;

/// What is known of a name by its last lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameClass {
    /// A name server answered: with addresses, or that there are none.
    Answering,
    /// It wasn't looked up before.
    Unproven,
    /// No name server answered, or one answered that it failed.
    Silent,
}

/// The threads, as permits.
#[derive(Clone)]
pub(crate) struct LookupThreads {
    all: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    silent: Arc<Semaphore>,
}

/// The right to a thread, until it is dropped: after the thread has ended, not before.
pub(crate) struct LookupPermit {
    _permits: Vec<OwnedSemaphorePermit>,
}

impl LookupThreads {
    pub(crate) fn new(threads: usize) -> Self {
        let [all, unproven, silent] = [7, UNPROVEN, SILENT].map(|part| Arc::new(Semaphore::new((threads * part / 7).max(1))));
        Self { all, unproven, silent }
    }

    /// Waits for a thread, in the order of asking among names of one class.
    pub(crate) async fn acquire(&self, class: NameClass) -> LookupPermit {
        let mut permits = Vec::with_capacity(3);
        // The narrowest first: one that waits for it holds nothing that another class may use.
        for share in self.shares(class) {
            permits.push(Arc::clone(share).acquire_owned().await.expect("the semaphores are never closed"));
        }
        LookupPermit { _permits: permits }
    }

    fn shares(&self, class: NameClass) -> impl Iterator<Item = &Arc<Semaphore>> {
        let passed_over = match class {
            NameClass::Silent => 0,
            NameClass::Unproven => 1,
            NameClass::Answering => 2,
        };
        [&self.silent, &self.unproven, &self.all].into_iter().skip(passed_over)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{NameClass::*, *};

    fn all(threads: &LookupThreads, class: NameClass) -> Vec<LookupPermit> {
        std::iter::from_fn(|| threads.acquire(class).now_or_never()).collect()
    }

    #[test]
    fn each_class_leaves_threads_to_those_of_which_more_is_known() {
        for (threads, silent, unproven, answering) in [(LOOKUP_THREADS, 512, 256, 128), (104, 59, 30, 15), (7, 4, 2, 1)] {
            let threads = LookupThreads::new(threads);
            let permits = [Silent, Unproven, Answering].map(|class| all(&threads, class));
            assert_eq!(permits.map(|permits| permits.len()), [silent, unproven, answering]);
        }
        let threads = LookupThreads::new(LOOKUP_THREADS);
        let permits = [Unproven, Answering].map(|class| all(&threads, class));
        assert_eq!(permits.map(|permits| permits.len()), [768, 128]);
    }

    #[tokio::test]
    async fn a_thread_that_ends_goes_to_the_first_that_waits_whichever_class_it_has() {
        let threads = LookupThreads::new(7);
        let mut permits = all(&threads, Silent);
        permits.extend(all(&threads, Unproven));
        let waiting = [Silent, Unproven].map(|class| {
            let threads = threads.clone();
            tokio::spawn(async move { drop(threads.acquire(class).await) })
        });
        assert!(threads.acquire(Answering).now_or_never().is_some(), "they hold no thread while they wait");
        drop(permits);
        for waiting in waiting {
            waiting.await.unwrap();
        }
    }
}
