//! The queue on Apache Kafka, for processes that share its partitions (docs/kafka-topics.md). The only place that knows librdkafka.
//!
//! | topic | records |
//! |---|---|
//! | `<prefix>.packets` | packets: key `organisation/group`, value the payload as published, the rest in one header (`header.rs`); replays; ticks |
//! | `<prefix>.checkpoints` | checkpoints of the owners of the partitions: compacted, as many partitions as packets |
//! | `<prefix>.sessions` | MQTT sessions: compacted, as many partitions as packets |
//! | `<prefix>.dead-letters`, `<prefix>.unrouted` | dead letters, one partition each |
//!
//! | part | file |
//! |---|---|
//! | the header (pure) | `header.rs` |
//! | live reading | `group.rs`; the hand-over to the tasks `live.rs` |
//! | rebalances | `rebalances.rs`, answered by `group.rs` |
//! | reading at a place of its own | `recent_reader.rs`: from memory (`recent.rs`), else `catch_up.rs` |
//! | appending | `append.rs` |
//! | a partition's checkpoint and watermark | `partition.rs`; their bytes `checkpoints.rs` (pure) |
//! | MQTT sessions | `sessions/mod.rs` |
//! | creating and checking topics | `topics.rs` |
//! | the settings of librdkafka that the promise fixes | `clients.rs` |
//! | whether the operator's settings fit together | `properties.rs` |
//! | stalls, refusals, partitions that aren't served | `health.rs` |

mod append;
mod catch_up;
mod checkpoints;
mod clients;
mod examine;
mod frames;
mod group;
mod header;
mod health;
mod live;
mod log;
mod partition;
mod properties;
mod rebalances;
mod recent;
mod recent_reader;
mod sessions;
#[cfg(test)]
mod tests;
mod topics;

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use metrics::gauge;
use rdkafka::error::KafkaError;
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, interval},
};

use self::{
    append::Appender,
    catch_up::{CatchUp, Holds, TopicPartition},
    group::Group,
    health::Health,
    live::Live,
    log::KafkaLog,
    partition::KafkaPartition,
    sessions::KafkaSessions,
    topics::Topics,
};
pub use self::{
    clients::check_property,
    examine::{Examined, ExaminedTopic, examine},
    properties::{InvalidProperties, check_properties},
};
use crate::{
    Append, Appended, DeadLetters, Partitions, Queue, QueueError, Record, Sessions, Stalled, blocking, failure::Failure, metrics as names,
    sessions::NoSessions,
};

/// How to keep the queue.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port`, several with commas.
    pub brokers: String,
    /// The names of the topics and groups begin with it.
    pub topic_prefix: String,
    /// How many partitions the packets topic has. It never changes: a group's packets would change their partition.
    pub partitions: u32,
    /// Further properties of librdkafka; the promise fixes some ([`check_property`]).
    pub properties: BTreeMap<String, String>,
    /// Whether this process takes its share of the partitions, to deliver their packets.
    pub serves_partitions: bool,
    /// Bytes of the largest record: a packet, a dead letter or a replay.
    pub largest_record: usize,
    /// How long packets may wait before they become dead letters. Kafka keeps them a day longer.
    pub max_age: Duration,
    /// How long dead letters are kept.
    pub keep_dead_letters: Duration,
    /// Bytes that dead letters may have. Unrouted packets may have a quarter of that.
    pub dead_letters_max_bytes: u64,
}

/// The queue.
pub struct Kafka {
    options: Options,
    appender: Arc<Appender>,
    topics: Topics,
    /// `None`: this process takes no packets in.
    sessions: Mutex<Option<KafkaSessions>>,
    group: Option<Arc<Group>>,
    /// The list of partitions of a process that serves none: empty.
    none: watch::Sender<Partitions>,
    dead_letters: DeadLetters,
    unrouted: DeadLetters,
    health: Arc<Health>,
    failure: Arc<Failure>,
    watching: Mutex<Option<JoinHandle<()>>>,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new(brokers: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            topic_prefix: "pushline".to_owned(),
            partitions: 16,
            properties: BTreeMap::new(),
            serves_partitions: true,
            largest_record: 2 << 20,
            max_age: Duration::from_hours(72),
            keep_dead_letters: Duration::from_hours(14 * 24),
            dead_letters_max_bytes: 5 << 30,
        }
    }
}

impl Kafka {
    /// Creates the topics that are missing, checks the others, and joins the group if this process serves partitions. Waits while Kafka is away.
    ///
    /// # Errors
    /// [`QueueError`]: the topics aren't as they must be, or a client can't be set up.
    pub async fn open(options: &Options) -> Result<Self, QueueError> {
        Topics::new(&options.topic_prefix).ensure(options).await?;
        Self::connect(options)
    }

    /// The same without looking at the topics.
    fn connect(options: &Options) -> Result<Self, QueueError> {
        let topics = Topics::new(&options.topic_prefix);
        let (health, failure) = (Arc::new(Health::new()), Arc::new(Failure::default()));
        let appender = Arc::new(Appender::new(options, &health)?);
        let (writes, reads, reports) = (Arc::clone(&appender), CatchUp::start(options)?, Arc::clone(&health));
        let log = move |topic: &Arc<str>, partition, holds| {
            KafkaLog::new(TopicPartition { topic: Arc::clone(topic), partition, holds }, &writes, &reads, &reports)
        };
        let open = |topic| DeadLetters::new(Arc::new(log(topic, 0, Holds::WhatIsLeft)));
        let (dead_letters, unrouted) = (open(&topics.dead_letters), open(&topics.unrouted));
        let group = if options.serves_partitions {
            let (names, session) = (topics.clone(), clients::session(options)?);
            let make = move |live: Arc<Live>, consumer: &_| {
                let index = live.kafka_index();
                let (packets, checkpoint) = (log(&names.packets, index, Holds::Packets), log(&names.checkpoints, index, Holds::WhatIsLeft));
                Arc::new(KafkaPartition::new(live, packets, checkpoint, Arc::clone(consumer), session))
            };
            Some(Arc::new(Group::start(options, &topics.packets, &health, &failure, make)?))
        } else {
            None
        };
        let watching =
            tokio::spawn(watch_over(Arc::clone(&appender), Arc::clone(&health), Arc::clone(&failure), topics.clone(), options.partitions));
        let none = watch::Sender::new(Vec::new());
        let (options, sessions, watching) = (options.clone(), Mutex::default(), Mutex::new(Some(watching)));
        Ok(Self { options, appender, topics, sessions, group, none, dead_letters, unrouted, health, failure, watching })
    }
}

impl Append for Kafka {
    fn append(&self, batch: &[Record<'_>]) -> Appended {
        self.appender.append(&self.topics.packets, batch)
    }
}

impl Queue for Kafka {
    fn partitions(&self) -> watch::Receiver<Partitions> {
        self.group.as_ref().map_or(&self.none, |group| &group.partitions).subscribe()
    }

    fn dead_letters(&self) -> DeadLetters {
        self.dead_letters.clone()
    }

    fn unrouted(&self) -> DeadLetters {
        self.unrouted.clone()
    }

    fn sessions(&self) -> Arc<dyn Sessions> {
        let mut started = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sessions) = &*started {
            return Arc::new(sessions.clone());
        }
        match KafkaSessions::start(&self.options, &self.topics, &self.appender, &self.failure) {
            Ok(sessions) => Arc::new(started.insert(sessions).clone()),
            Err(error) => {
                self.failure.note(&error);
                Arc::new(NoSessions)
            }
        }
    }

    fn stalled(&self) -> Option<Stalled> {
        self.health.stalled()
    }

    fn failed(&self) -> BoxFuture<'static, QueueError> {
        self.failure.noted()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let (appender, group) = (Arc::clone(&self.appender), self.group.clone());
        self.stop_watching();
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(KafkaSessions::close);
        let close = move || {
            group.iter().for_each(|group| group.close());
            appender.close();
        };
        async move {
            if let Err(error) = spawn_blocking(close).await {
                tracing::error!(%error, "the queue couldn't be closed cleanly");
            }
        }
        .boxed()
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka").field("topics", &self.topics).field("appender", &self.appender).finish_non_exhaustive()
    }
}

impl Kafka {
    fn stop_watching(&self) {
        let watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner).take();
        watching.into_iter().for_each(|watching| watching.abort());
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.stop_watching();
        self.group.iter().for_each(|group| group.close());
    }
}

/// Reports stalls. Ends the queue when the producer can't append any more, and when an operator has changed the number of partitions: a group's packets
/// would change their partition.
async fn watch_over(appender: Arc<Appender>, health: Arc<Health>, failure: Arc<Failure>, topics: Topics, partitions: u32) {
    const LOOK_AT_TOPICS: Duration = Duration::from_mins(1);
    let mut looked = Instant::now();
    let mut seconds = interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        health.look();
        appender.failed().iter().for_each(|failed| failure.note(failed));
        gauge!(names::PRODUCING).set(approximately(appender.in_flight()));
        if looked.elapsed() < LOOK_AT_TOPICS {
            continue;
        }
        looked = Instant::now();
        let asking = Arc::clone(&appender);
        // Others report that Kafka is away.
        let call = spawn_blocking(move || topics::ask_metadata(asking.client()));
        let Ok(Ok(metadata)) = blocking::result(call).await else { continue };
        if let Some(count) = topics::partition_counts(&metadata).get(&*topics.packets).filter(|count| **count != partitions as usize) {
            failure.note(&QueueError::Misfit(format!(
                "topic {} has {count} partitions now, expected {partitions}: a group's packets would change their partition and lose their order; restore the number, or take another topic_prefix",
                topics.packets
            )));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of records in memory is far below 2^52")]
fn approximately(count: usize) -> f64 {
    count as f64
}

impl QueueError {
    fn kafka(doing: &str, error: &KafkaError) -> Self {
        Self::Unavailable { doing: doing.to_owned(), what: error.to_string() }
    }

    /// Kafka doesn't have the next offset. The next start finds out what was lost.
    fn cut() -> Self {
        let what = "Kafka doesn't have the next offset any more: its records were deleted, or the topic was created anew".to_owned();
        Self::Fatal { doing: "go on reading".into(), what }
    }

    fn thread(error: &io::Error) -> Self {
        Self::Fatal { doing: "start a thread".to_owned(), what: error.to_string() }
    }
}
