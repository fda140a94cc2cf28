//! A partition of the packets topic, for the task that serves it (docs/kafka-topics.md). Its checkpoint is a record of the same partition of the
//! checkpoints topic. Its watermark is the group's committed offset, so that Kafka's own tools show what is unsettled; the commit's metadata names
//! the checkpoint that belongs to it.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::{Offset, Timestamp};
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{task::spawn_blocking, time::sleep};

use super::{
    checkpoints::{self, Commit, Decoded},
    frames::to_kafka,
    live::Live,
    log::KafkaLog,
    rebalances::{Rebalances, set_paused},
    recent_reader::RecentReader,
};
use crate::{AppendError, Frame, Horizon, Partition, QueueError, Read, Reader, Saved, SavedCheckpoint, blocking};

/// How long Kafka may take to answer a question before it is asked again.
const ANSWER: Duration = Duration::from_secs(5);

/// How often a commit is tried during a rebalance.
const COMMITS: usize = 4;

/// How long settling, saving and committing may take once another process waits for the partition.
const REVOKE_DEADLINE: Duration = Duration::from_secs(2);

/// A partition that this process serves.
pub(super) struct KafkaPartition(Arc<Shared>);

/// What the partition and its unfinished commits share. The partition is given up when the last of its [`Arc`]s is dropped: a commit that is
/// still being sent holds one, since Kafka would accept it from any member of the group after another one has taken over.
pub(super) struct Shared {
    live: Arc<Live>,
    log: KafkaLog,
    checkpoints: KafkaLog,
    consumer: Arc<BaseConsumer<Rebalances>>,
    /// How long the group waits for a member that sends no heartbeat.
    session: Duration,
    /// The next commit: the last checkpoint that is durable with its watermark, else what was loaded.
    durable: Mutex<Option<Commit>>,
    /// Held while a commit is sent, so that an older one never follows a newer one.
    committing: Mutex<()>,
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
        checkpoints: KafkaLog,
        consumer: Arc<BaseConsumer<Rebalances>>,
        session: Duration,
    ) -> Self {
        let (durable, committing) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { live, log, checkpoints, consumer, session, durable, committing }))
    }

    /// The partition is given up once its last [`Arc`] is dropped.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Shared {
    fn list(&self, offset: KafkaOffset, metadata: &str) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        let mut element = list.add_partition(&self.log.place.topic, self.log.place.partition);
        element.set_offset(offset)?;
        element.set_metadata(metadata);
        Ok(list)
    }

    /// What was committed last. `None`: nothing was.
    async fn committed(self: &Arc<Self>) -> Result<Option<Commit>, QueueError> {
        let mut wait = self.log.health.wait();
        loop {
            let shared = Arc::clone(self);
            let ask = move || {
                let list = shared.consumer.committed_offsets(shared.list(KafkaOffset::Invalid, "")?, ANSWER)?;
                let element = list.elements().into_iter().next().ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition))?;
                element.error()?;
                let offset = element.offset().to_raw().and_then(|offset| Offset::try_from(offset).ok());
                Ok::<_, KafkaError>(offset.map(|watermark| Commit { watermark, metadata: element.metadata().to_owned() }))
            };
            match blocking::result(spawn_blocking(ask)).await? {
                Ok(committed) => return Ok(committed),
                Err(error) => {
                    wait.because(&error.to_string());
                    sleep(ANSWER / 10).await;
                }
            }
        }
    }

    /// Commits what is durable, once.
    async fn try_commit(self: &Arc<Self>) -> Result<Result<(), KafkaError>, QueueError> {
        if lock(&self.durable).is_none() {
            self.load().await?;
        }
        let shared = Arc::clone(self);
        let commit = move || {
            let _one_at_a_time = lock(&shared.committing);
            let Commit { watermark, metadata } = lock(&shared.durable).clone().expect("it was loaded before");
            shared.consumer.commit(&shared.list(KafkaOffset::Offset(to_kafka(watermark)), &metadata)?, CommitMode::Sync)
        };
        blocking::result(spawn_blocking(commit)).await
    }

    async fn commit(self: &Arc<Self>) -> Result<(), QueueError> {
        for _ in 0..COMMITS {
            match self.try_commit().await? {
                Ok(()) => return Ok(()),
                // Another process serves the partition: a refused commit is no error then.
                Err(_) if self.live.is_closed() => return Ok(()),
                Err(error) if !is_of_a_rebalance(&error) => return Err(QueueError::kafka("commit", &error)),
                Err(_) => sleep(ANSWER / 20).await,
            }
        }
        Err(QueueError::Unavailable { doing: "commit".into(), what: "the group is being rebalanced".into() })
    }

    async fn save(self: &Arc<Self>, checkpoint: &[u8], watermark: Offset) -> Result<(), QueueError> {
        let (key, value) = (self.live.index().to_string(), checkpoints::encode(checkpoint, watermark));
        let record = loop {
            match self.checkpoints.put(&key, &value).offset().await {
                Ok(Some(offset)) => break offset,
                // The commit has to name it, so another one is written.
                Ok(None) => {}
                Err(AppendError::Closed) => return Err(QueueError::Closed),
                Err(error) => return Err(QueueError::Unavailable { doing: "save a checkpoint".into(), what: error.to_string() }),
            }
        };
        *lock(&self.durable) = Some(Commit { watermark, metadata: checkpoints::metadata(Some(record)) });
        self.commit().await
    }

    async fn load(self: &Arc<Self>) -> Result<Saved, QueueError> {
        let Some(commit) = self.committed().await? else { return self.load_uncommitted().await };
        let checkpoint = match checkpoints::named(&commit.metadata) {
            Some(None) => SavedCheckpoint::None,
            Some(Some(offset)) => match self.checkpoints.value_at(offset).await? {
                Some(value) => self.read(&value).await?.map_or_else(missing, SavedCheckpoint::Named),
                None => self.last_checkpoint(&format!("the commit names the checkpoint at offset {offset}, and this one is gone")).await?,
            },
            None => self.last_checkpoint("the committed offset names no checkpoint: another program has set it").await?,
        };
        let watermark = Some(commit.watermark);
        *lock(&self.durable) = Some(commit);
        Ok(Saved { watermark, checkpoint })
    }

    /// Nothing was committed, or Kafka has dropped the offsets of a group that was away for long. The log's start settles no record: it is
    /// what confirms ownership before the first save.
    async fn load_uncommitted(self: &Arc<Self>) -> Result<Saved, QueueError> {
        let last = self.checkpoints.last_value().await?;
        let metadata = if last.is_some() { String::new() } else { checkpoints::metadata(None) };
        let watermark = self.log.ask_bounds().await?.start;
        *lock(&self.durable) = Some(Commit { watermark, metadata });
        let checkpoint = match last {
            None => SavedCheckpoint::None,
            Some(value) => self.read(&value).await?.map_or_else(missing, SavedCheckpoint::Unnamed),
        };
        Ok(Saved { watermark: None, checkpoint })
    }

    async fn last_checkpoint(self: &Arc<Self>, why: &str) -> Result<SavedCheckpoint, QueueError> {
        Ok(match self.checkpoints.last_value().await? {
            None => missing(format!("{why}, and {} holds none", self.checkpoints.place.topic)),
            Some(value) => self.read(&value).await?.map_or_else(missing, SavedCheckpoint::Unnamed),
        })
    }

    /// The checkpoint in a record, or why there is none. Waits for ever where a later version wrote it: this process doesn't serve the partition.
    async fn read(self: &Arc<Self>, value: &[u8]) -> Result<Result<Bytes, String>, QueueError> {
        match checkpoints::decode(value) {
            Decoded::Checkpoint(bytes) => Ok(Ok(bytes)),
            Decoded::Unreadable => Ok(Err(format!("the checkpoint in {} can't be read", self.checkpoints.place.topic))),
            Decoded::Version(found) => {
                let mut wait = self.log.health.wait();
                wait.because(&checkpoints::later_version(&self.checkpoints.place.topic, self.live.index(), found));
                while !self.live.is_closed() {
                    sleep(ANSWER / 10).await;
                }
                Err(QueueError::Closed)
            }
        }
    }
}

fn missing(reason: String) -> SavedCheckpoint {
    SavedCheckpoint::Missing { reason }
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
            let bounds = self.0.log.ask_bounds().await?;
            self.0.live.ends_at(bounds.end);
            Ok(bounds)
        }
        .boxed()
    }

    fn reader(&self, from: Offset) -> Box<dyn Reader> {
        Box::new(RecentReader::new(&self.0.live, self.0.log.clone(), from))
    }
}

impl Partition for KafkaPartition {
    fn index(&self) -> u32 {
        self.0.live.index()
    }

    fn end(&self) -> Offset {
        self.0.live.end()
    }

    fn live(&self, from: Offset) -> Box<dyn Reader> {
        self.0.live.begins_at(from);
        let (live, consumer, topic) = (Arc::clone(&self.0.live), Arc::clone(&self.0.consumer), Arc::clone(&self.0.log.place.topic));
        Box::new(LiveReader { live, topic, consumer })
    }

    fn revoke_deadline(&self) -> Option<Duration> {
        Some(REVOKE_DEADLINE)
    }

    /// Kafka keeps by age alone.
    fn overflow(&self) -> Option<Offset> {
        None
    }

    /// The brokers' clocks differ, so nothing is known of later records.
    fn horizon(&self) -> Option<Horizon> {
        None
    }

    fn tick(&self) -> BoxFuture<'static, Result<Offset, AppendError>> {
        let shared = Arc::clone(&self.0);
        let tick = shared.log.tick(Timestamp::of(SystemTime::now()));
        async move {
            match tick.offset().await? {
                Some(offset) => Ok(offset),
                // It lies below the end.
                None => shared.log.ask_bounds().await.map(|bounds| bounds.end.saturating_sub(1)).map_err(|_| AppendError::Closed),
            }
        }
        .boxed()
    }

    fn load(&self) -> BoxFuture<'_, Result<Saved, QueueError>> {
        self.0.load().boxed()
    }

    fn save(&self, checkpoint: Bytes, watermark: Offset) -> BoxFuture<'static, Result<(), QueueError>> {
        let shared = Arc::clone(&self.0);
        async move { shared.save(&checkpoint, watermark).await }.boxed()
    }

    /// Kafka accepts a commit from a member of the group, and refuses it to a process that isn't a member any more. It may also refuse one while
    /// the group rebalances and the partition stays; a revoke tells the two apart.
    ///
    /// An answer that took as long as a session proves nothing: this process may have been stopped while another one took over.
    fn confirm_ownership(&self) -> BoxFuture<'_, bool> {
        async move {
            loop {
                let asked = Instant::now();
                let committed = self.0.try_commit().await;
                if matches!(committed, Ok(Ok(()))) && asked.elapsed() < self.0.session {
                    return true;
                }
                if self.0.live.is_closed() || committed.is_err() {
                    return false;
                }
                sleep(ANSWER / 20).await;
            }
        }
        .boxed()
    }

    fn reset(&self, checkpoint: Bytes, watermark: Offset) -> BoxFuture<'_, Result<(), QueueError>> {
        async move {
            // First the watermark: with the checkpoint first, a crash in between would leave a watermark inside the new log.
            *lock(&self.0.durable) = Some(Commit { watermark, metadata: checkpoints::metadata(None) });
            let mut wait = self.0.log.health.wait();
            let mut is_committed = false;
            loop {
                let done = match is_committed {
                    false => self.0.commit().await,
                    true => self.0.save(&checkpoint, watermark).await,
                };
                match done {
                    Err(error) if error.is_passing() => {
                        wait.because(&error.to_string());
                        sleep(ANSWER / 10).await;
                    }
                    Ok(()) if !is_committed => is_committed = true,
                    done => return done,
                }
            }
        }
        .boxed()
    }
}

impl Reader for LiveReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
        let resume = || set_paused(&self.consumer, &self.topic, self.live.kafka_index(), false);
        self.live.next(resume).map(Ok).boxed()
    }
}

impl fmt::Debug for KafkaPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaPartition").field("index", &self.index()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
