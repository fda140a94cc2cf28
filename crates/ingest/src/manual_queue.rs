//! A queue for tests, whose batches become durable one by one, as a test says.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use pushline_model::{Cause, RegistryBuilder, Webhook};
use pushline_queue::{
    Append, AppendError, Appended, DeadLetters, Filter, Partitions, Queue, QueueError, Record, Resolver, Sessions, Stalled, memory::Memory,
};
use tokio::{sync::watch, time::timeout};

use crate::Ingest;

/// How long a test waits for what must come.
pub(crate) const MUST_COME_WITHIN: Duration = Duration::from_secs(60);

/// Such a queue. Batches are counted from 0.
pub(crate) struct ManualQueue {
    kept: Arc<Memory>,
    batches: Mutex<Vec<Batch>>,
    count: watch::Sender<usize>,
    /// Whether batches are durable at once.
    automatic: bool,
}

struct Batch {
    payloads: Vec<Vec<u8>>,
    resolver: Option<Resolver>,
}

impl ManualQueue {
    pub(crate) fn new() -> Arc<Self> {
        Self::with(false)
    }

    /// One whose batches are durable at once.
    pub(crate) fn automatic() -> Arc<Self> {
        Self::with(true)
    }

    fn with(automatic: bool) -> Arc<Self> {
        Arc::new(Self { kept: Memory::new(), batches: Mutex::default(), count: watch::Sender::new(0), automatic })
    }

    /// What a process has around it. The group `mti/line` takes every packet of `mti`.
    pub(crate) fn ingest(self: &Arc<Self>, unacknowledged_bytes: usize) -> (Arc<Ingest>, watch::Sender<bool>) {
        let mut registry = RegistryBuilder::default();
        registry.webhook(Webhook::new("w", "http://a.example/".parse().unwrap())).unwrap();
        registry.group("mti/line".parse().unwrap(), Some("w"), true).unwrap();
        let (stop, stopped) = watch::channel(false);
        let queue = Arc::clone(self) as Arc<dyn Queue>;
        (Ingest::new(queue, Arc::new(ArcSwap::from_pointee(registry.build())), unacknowledged_bytes, stopped), stop)
    }

    pub(crate) fn resolve(&self, batch: usize, result: Result<(), AppendError>) {
        self.batches.lock().unwrap()[batch].resolver.take().expect("it is resolved once").resolve(result);
    }

    /// Makes every batch durable that isn't.
    pub(crate) fn resolve_all(&self) {
        self.batches.lock().unwrap().iter_mut().filter_map(|batch| batch.resolver.take()).for_each(|resolver| resolver.resolve(Ok(())));
    }

    /// The payloads that were appended, batch after batch.
    pub(crate) fn payloads(&self) -> Vec<Vec<u8>> {
        self.batches.lock().unwrap().iter().flat_map(|batch| batch.payloads.clone()).collect()
    }

    /// Group, cause and payload size of each unrouted packet.
    pub(crate) async fn unrouted_packets(&self) -> Vec<(String, Cause, usize)> {
        let page = self.kept.unrouted().list(&Filter::default(), 0, 1000).await.unwrap();
        let letters = page.found.into_iter().map(|found| found.dead_letter);
        letters.map(|letter| (letter.group, letter.cause, letter.packets[0].payload.len())).collect()
    }

    pub(crate) async fn until_batches(&self, count: usize) {
        timeout(MUST_COME_WITHIN, self.count.subscribe().wait_for(|batches| *batches >= count)).await.expect("packets arrive").unwrap();
    }

    pub(crate) async fn until_payloads(&self, count: usize) {
        let mut batches = self.count.subscribe();
        timeout(MUST_COME_WITHIN, batches.wait_for(|_| self.payloads().len() >= count)).await.expect("packets arrive").unwrap();
    }
}

impl Append for ManualQueue {
    fn append(&self, batch: &[Record<'_>]) -> Appended {
        let (resolver, appended) = Appended::pending();
        let payloads = batch.iter().map(|record| record.payload.to_vec()).collect();
        let mut batches = self.batches.lock().unwrap();
        if self.automatic {
            resolver.resolve(Ok(()));
            batches.push(Batch { payloads, resolver: None });
        } else {
            batches.push(Batch { payloads, resolver: Some(resolver) });
        }
        self.count.send_replace(batches.len());
        appended
    }
}

impl Queue for ManualQueue {
    fn partitions(&self) -> watch::Receiver<Partitions> {
        self.kept.partitions()
    }

    fn dead_letters(&self) -> DeadLetters {
        self.kept.dead_letters()
    }

    fn unrouted(&self) -> DeadLetters {
        self.kept.unrouted()
    }

    fn sessions(&self) -> Arc<dyn Sessions> {
        self.kept.sessions()
    }

    fn stalled(&self) -> Option<Stalled> {
        None
    }

    fn failed(&self) -> BoxFuture<'static, QueueError> {
        self.kept.failed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.kept.close()
    }
}
