//! A partition of the packets topic, for the task that serves it. Its checkpoint is the last record of the same partition of the checkpoint topic; its
//! watermark is the group's committed offset, so that Kafka's own tools show what is unsettled.

use std::{
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::Offset;
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{task::spawn_blocking, time::sleep};

use super::{
    live::Live,
    log::KafkaLog,
    rebalances::{Rebalances, set_paused},
    recent_reader::RecentReader,
};
use crate::{AppendError, Checkpoint, Frame, Partition, QueueError, Read, Reader, Saved};

/// The first byte of saved checkpoint; the rest is postcard.
const VERSION: u8 = 1;

/// How long Kafka may take to answer a question before it is asked again.
const ANSWER: Duration = Duration::from_secs(5);

/// How often a commit is tried during a rebalance.
const COMMITS: usize = 4;

/// L11: what settles, checkpoint and commit of a partition that another process shall serve.
const PATIENCE: Duration = Duration::from_secs(2);

/// A partition that this process serves. It is given up when the last of its [`Arc`]s is dropped.
pub(super) struct KafkaPartition {
    live: Arc<Live>,
    log: KafkaLog,
    checkpoint: KafkaLog,
    consumer: Arc<BaseConsumer<Rebalances>>,
    /// How long the group waits for a process of which it hears nothing.
    session: Duration,
}

/// Live reading.
struct LiveReader {
    live: Arc<Live>,
    topic: Arc<str>,
    consumer: Arc<BaseConsumer<Rebalances>>,
}

impl KafkaPartition {
    pub(super) fn new(
        live: Arc<Live>,
        log: KafkaLog,
        checkpoint: KafkaLog,
        consumer: Arc<BaseConsumer<Rebalances>>,
        session: Duration,
    ) -> Self {
        Self { live, log, checkpoint, consumer, session }
    }

    fn list(&self, offset: KafkaOffset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.log.place.topic, self.log.place.partition, offset)?;
        Ok(list)
    }

    /// The committed offset; `None`: there is none.
    async fn committed(&self) -> Result<Option<Offset>, QueueError> {
        let mut wait = self.log.health.wait();
        loop {
            let (consumer, list) = (Arc::clone(&self.consumer), self.list(KafkaOffset::Invalid));
            let asked = spawn_blocking(move || consumer.committed_offsets(list?, ANSWER)).await.map_err(|_| QueueError::Closed)?;
            let committed = asked.and_then(|list| {
                list.elements().first().map_or(Ok(KafkaOffset::Invalid), |element| element.error().map(|()| element.offset()))
            });
            match committed {
                Ok(offset) => return Ok(offset.to_raw().and_then(|offset| Offset::try_from(offset).ok())),
                Err(error) => {
                    wait.because(&error.to_string());
                    sleep(ANSWER / 10).await;
                }
            }
        }
    }

    /// Commits once.
    async fn try_commit(&self, watermark: Offset) -> Result<Result<(), KafkaError>, QueueError> {
        let offset = KafkaOffset::Offset(i64::try_from(watermark).unwrap_or(i64::MAX));
        let (consumer, list) = (Arc::clone(&self.consumer), self.list(offset));
        spawn_blocking(move || consumer.commit(&list?, CommitMode::Sync)).await.map_err(|_| QueueError::Closed)
    }

    async fn commit(&self, watermark: Offset) -> Result<(), QueueError> {
        for _ in 0..COMMITS {
            match self.try_commit(watermark).await? {
                Ok(()) => return Ok(()),
                // Another process serves the partition: that it is refused is no error (L11).
                Err(_) if self.live.is_closed() => return Ok(()),
                Err(error) if !is_of_a_rebalance(&error) => return Err(QueueError::kafka("commit", &error)),
                Err(_) => sleep(ANSWER / 20).await,
            }
        }
        Err(QueueError::Unavailable { doing: "commit".into(), what: "the group is being rebalanced".into() })
    }
}

/// Whether a commit was refused since partitions move. Whether this one does is known soon.
fn is_of_a_rebalance(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::RebalanceInProgress | Code::IllegalGeneration | Code::UnknownMemberId | Code::AssignmentLost | Code::FencedInstanceId)
    )
}

impl Read for KafkaPartition {
    fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>> {
        async {
            let bounds = self.log.ask_bounds().await?;
            self.live.ends_at(bounds.end);
            Ok(bounds)
        }
        .boxed()
    }

    fn reader(&self, from: Offset) -> Box<dyn Reader> {
        Box::new(RecentReader::new(&self.live, self.log.clone(), from))
    }
}

impl Partition for KafkaPartition {
    fn index(&self) -> u32 {
        self.live.index()
    }

    fn end(&self) -> Offset {
        self.live.end()
    }

    fn live(&self, from: Offset) -> Box<dyn Reader> {
        self.live.begins_at(from);
        let (live, consumer, topic) = (Arc::clone(&self.live), Arc::clone(&self.consumer), Arc::clone(&self.log.place.topic));
        Box::new(LiveReader { live, topic, consumer })
    }

    fn revoke_deadline(&self) -> Option<Duration> {
        Some(PATIENCE)
    }

    /// Kafka keeps by age alone.
    fn overflow(&self) -> Option<Offset> {
        None
    }

    fn load(&self) -> BoxFuture<'_, Result<Saved, QueueError>> {
        async {
            let watermark = self.committed().await?;
            let checkpoint = self.checkpoint.last_value().await?.and_then(|bytes| decode(&bytes));
            Ok(Saved { checkpoint, watermark })
        }
        .boxed()
    }

    fn save<'a>(&'a self, checkpoint: &'a Checkpoint, watermark: Offset) -> BoxFuture<'a, Result<(), QueueError>> {
        async move {
            match self.checkpoint.put(&self.index().to_string(), &encode(checkpoint)).await {
                Ok(()) => self.commit(watermark).await,
                Err(AppendError::Closed) => Err(QueueError::Closed),
                Err(AppendError::Refused(what)) => Err(QueueError::Unavailable { doing: "save checkpoint".into(), what }),
            }
        }
        .boxed()
    }

    /// A commit that is taken says that nobody else serves it yet, though it may have been revoked. One is refused to whoever isn't in the group
    /// any more; it may also be refused while the group rebalances and the partition stays. Which of the two it is, the revoke tells.
    ///
    /// An answer that took as long as a session says nothing: it may be this process that was stopped, while another took over.
    fn confirm_ownership(&self, watermark: Offset) -> BoxFuture<'_, bool> {
        async move {
            loop {
                let asked = Instant::now();
                let committed = self.try_commit(watermark).await;
                if matches!(committed, Ok(Ok(()))) && asked.elapsed() < self.session {
                    return true;
                }
                if self.live.is_closed() || committed.is_err() {
                    return false;
                }
                sleep(ANSWER / 20).await;
            }
        }
        .boxed()
    }

    fn reset(&self, watermark: Offset) -> BoxFuture<'_, Result<(), QueueError>> {
        async move {
            let mut wait = self.log.health.wait();
            loop {
                match self.commit(watermark).await {
                    Err(error) if error.is_passing() => {
                        wait.because(&error.to_string());
                        sleep(ANSWER / 10).await;
                    }
                    done => return done,
                }
            }
        }
        .boxed()
    }
}

impl Reader for LiveReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
        let resume = || set_paused(&self.consumer, &self.topic, i32::try_from(self.live.index()).unwrap_or_default(), false);
        self.live.next(resume).map(Ok).boxed()
    }
}

impl fmt::Debug for KafkaPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaPartition").field("index", &self.index()).finish_non_exhaustive()
    }
}

fn encode(checkpoint: &Checkpoint) -> Vec<u8> {
    postcard::to_extend(checkpoint, vec![VERSION]).expect("checkpoint is plain data, and a Vec takes all of it")
}

/// `None`: another version wrote it, so the watermark decides alone.
fn decode(bytes: &[u8]) -> Option<Checkpoint> {
    let (&version, rest) = bytes.split_first()?;
    (version == VERSION).then(|| postcard::from_bytes(rest).ok()).flatten()
}
