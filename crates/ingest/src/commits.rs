//! What makes packets durable and acknowledges them afterwards: shared by listener and subscriber. Each connection has its own [`Commits`];
//! it knows no socket and no MQTT version.
//!
//! A batch that was appended is a commit. Commits end in the order of appending, which is the order in which their packets arrived (MQTT 5 §4.6): a commit that is
//! durable waits for those before it. Only then its acknowledgements are handed out.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use metrics::{Histogram, counter, histogram};
use pushline_model::DeadLetter;
use pushline_queue::{AppendError, Appended, Record, Session, metrics::DEAD_LETTERED};
use tokio::time::Instant;

use crate::{Ingest, budget::Lease, intake::Intake, metrics as names};

/// The batches of one connection that aren't durable yet, in the order of appending. `A` is what acknowledges a packet.
pub(crate) struct Commits<A> {
    ingest: Arc<Ingest>,
    /// The client's session, if it outlives the connection: every batch goes through it, so that they keep their order.
    session: Option<Arc<dyn Session>>,
    /// The value of the metrics' label `source`.
    source: &'static str,
    waiting: VecDeque<Commit<A>>,
    /// What those that wait hold of the budget.
    bytes: usize,
    /// A commit failed behind others that were handed out before the failure is.
    failed: Option<AppendError>,
    ack_seconds: Histogram,
}

/// A batch on its way to the queue.
#[derive(Debug)]
struct Commit<A> {
    /// Of the log of packets, and of the log of unrouted ones.
    appended: VecDeque<Appended>,
    acks: Vec<A>,
    packets: u64,
    unrouted: Vec<DeadLetter>,
    read_at: Instant,
    lease: Lease,
}

/// Bytes that a packet takes beside its own until it is durable, at most: librdkafka's message, key and header.
const RECORD_OVERHEAD: usize = 512;

impl<A> Commits<A> {
    pub(crate) fn new(ingest: Arc<Ingest>, source: &'static str) -> Self {
        let ack_seconds = histogram!(names::ACK_SECONDS);
        Self { ingest, session: None, source, waiting: VecDeque::new(), bytes: 0, failed: None, ack_seconds }
    }

    /// Appends to a session from here on.
    pub(crate) fn set_session(&mut self, session: Option<Arc<dyn Session>>) {
        self.session = session;
    }

    /// Whether every batch was handed out.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.failed.is_none()
    }

    /// How many bytes of the budget the batches hold.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the packets of one read as one batch. It holds a lease on the budget until it is durable. A batch without packets is durable at once, in its turn.
    ///
    /// `bytes`: what was read for it. `acks`: what is handed out afterwards, in the order of the packets.
    pub(crate) fn append(&mut self, intake: Intake<'_>, acks: Vec<A>, bytes: usize) {
        self.count("dropped", intake.dropped);
        if intake.is_empty() && acks.is_empty() {
            return;
        }
        let mut appended = VecDeque::new();
        if !intake.records.is_empty() {
            appended.push_back(self.append_records(&intake.records));
        }
        if !intake.unrouted.is_empty() {
            appended.push_back(self.ingest.unrouted.append_all(&intake.unrouted));
        }
        let lease = self.ingest.budget.lease(bytes + RECORD_OVERHEAD * (intake.records.len() + intake.unrouted.len()));
        let (packets, unrouted) = ((intake.records.len() - intake.releases) as u64, intake.unrouted);
        self.bytes += lease.bytes();
        self.waiting.push_back(Commit { appended, acks, packets, unrouted, read_at: Instant::now(), lease });
    }

    fn append_records(&self, records: &[Record<'_>]) -> Appended {
        match &self.session {
            Some(session) => session.append(records),
            None => self.ingest.queue.append(records),
        }
    }

    /// Waits until the first commit is durable, and hands out its acknowledgements with those of the durable commits behind it. Cancel safe.
    ///
    /// # Errors
    /// The queue couldn't store a batch. Its packets must not be acknowledged; the batches behind it can still become durable.
    pub(crate) async fn durable(&mut self) -> Result<Vec<A>, AppendError> {
        std::future::poll_fn(|cx| self.poll_durable(cx)).await
    }

    fn poll_durable(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<A>, AppendError>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let mut durable: Option<Vec<A>> = None;
        while let Some(commit) = self.waiting.front_mut()
            && let Poll::Ready(result) = commit.poll(cx)
        {
            let mut commit = self.waiting.pop_front().expect("it was polled");
            self.bytes -= commit.lease.bytes();
            match (result, &mut durable) {
                (Ok(()), acks) => {
                    self.record(&commit);
                    match acks {
                        Some(acks) => acks.append(&mut commit.acks),
                        None => durable = Some(commit.acks),
                    }
                }
                (Err(error), None) => return Poll::Ready(Err(error)),
                (Err(error), Some(_)) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        durable.map_or(Poll::Pending, |acks| Poll::Ready(Ok(acks)))
    }

    fn record(&self, commit: &Commit<A>) {
        self.ack_seconds.record(commit.read_at.elapsed());
        self.count("appended", commit.packets);
        for letter in &commit.unrouted {
            self.count(letter.cause.name(), 1);
            counter!(DEAD_LETTERED, "cause" => letter.cause.name()).increment(1);
        }
    }

    /// Counts packets, or connections that were refused, by result.
    pub(crate) fn count(&self, result: &'static str, count: u64) {
        counter!(names::PACKETS, "source" => self.source, "result" => result).increment(count);
    }
}

impl<A: Send + 'static> Commits<A> {
    /// Counts what becomes durable after its connection has ended. Nothing acknowledges it: it will be sent again.
    pub(crate) fn count_later(mut self) {
        if !self.is_empty() {
            tokio::spawn(async move {
                while !self.is_empty() {
                    drop(self.durable().await);
                }
            });
        }
    }
}

impl<A> Commit<A> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AppendError>> {
        while let Some(appended) = self.appended.front_mut() {
            let result = ready!(Pin::new(appended).poll(cx));
            self.appended.pop_front();
            result?;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use pushline_model::{Packet, Timestamp};
    use pushline_queue::Record;

    use super::*;
    use crate::manual_queue::ManualQueue;

    /// Commits of three batches with one packet each, whose acknowledgements are 1, 2 and 3.
    fn three_batches() -> (Arc<ManualQueue>, Commits<u8>, Arc<Ingest>) {
        let queue = ManualQueue::new();
        let (ingest, _) = queue.ingest(1000);
        let mut commits = Commits::new(Arc::clone(&ingest), "listener");
        let registry = ingest.registry.load();
        for ack in 1..=3 {
            let mut intake = Intake::new(&registry, &[], Timestamp(7));
            let packet = Packet { iccid: "1".parse().unwrap(), topic: "mti/1", received_at: Timestamp(7), payload: b"ABC" };
            intake.records.push(Record::packet("mti/line", &packet));
            commits.append(intake, vec![ack], 100);
        }
        drop(registry);
        (queue, commits, ingest)
    }

    #[test]
    fn acknowledgements_keep_the_order_of_arrival_when_a_later_batch_is_durable_first() {
        let (queue, mut commits, ingest) = three_batches();
        queue.resolve(1, Ok(()));
        assert_eq!(commits.durable().now_or_never(), None);
        assert!(!ingest.budget.has_capacity(), "what isn't durable holds its lease");
        queue.resolve(0, Ok(()));
        assert_eq!(commits.durable().now_or_never(), Some(Ok(vec![1, 2])));
        assert!(ingest.budget.has_capacity());
        queue.resolve(2, Ok(()));
        assert_eq!(commits.durable().now_or_never(), Some(Ok(vec![3])));
        assert!(commits.is_empty());
    }

    #[test]
    fn a_batch_that_could_not_be_stored_is_reported_after_those_before_it_and_never_acknowledged() {
        let (queue, mut commits, _) = three_batches();
        queue.resolve(1, Err(AppendError::Closed));
        queue.resolve(0, Ok(()));
        queue.resolve(2, Ok(()));
        assert_eq!(commits.durable().now_or_never(), Some(Ok(vec![1])));
        assert!(!commits.is_empty());
        assert_eq!(commits.durable().now_or_never(), Some(Err(AppendError::Closed)));
        assert_eq!(commits.durable().now_or_never(), Some(Ok(vec![3])));
        assert!(commits.is_empty());
    }

    #[test]
    fn a_batch_with_nothing_to_store_is_acknowledged_in_its_turn() {
        let (queue, mut commits, ingest) = three_batches();
        commits.append(Intake::new(&ingest.registry.load(), &[], Timestamp(7)), vec![4], 0);
        assert_eq!(commits.durable().now_or_never(), None);
        (0..3).for_each(|batch| queue.resolve(batch, Ok(())));
        assert_eq!(commits.durable().now_or_never(), Some(Ok(vec![1, 2, 3, 4])));
    }
}
