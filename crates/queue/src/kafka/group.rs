//! Live reading: a member of the group that shares the partitions. One thread polls one consumer all the time. It hands the records over to the
//! partitions' tasks within bounds. A partition whose task is slow is paused, the others aren't.
//!
//! The thread answers a rebalance outside its callback, and librdkafka reads nothing until it is answered. An assignment is answered at once; the task of
//! each partition finds where to begin, and then the partition is read from there. Revoked partitions leave the list of partitions and are given up when
//! their tasks, and the commits that are still being sent, have ended.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use metrics::{counter, gauge};
use pushline_model::Offset;
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    Options, clients,
    frames::{Frames, to_kafka},
    health::{Health, Unserved},
    live::Live,
    partition::{KafkaPartition, Shared},
    rebalances::{Event, Rebalances, set_paused},
};
use crate::{Partition, Partitions, QueueError, failure::Failure, metrics as names};

/// Under load, records are handed over after this many, or this many bytes.
const HAND_OVER_AFTER: u64 = 1024;
const HAND_OVER_BYTES: usize = 4 << 20;

/// Bytes that wait for the tasks of all partitions, and bytes that are kept once the tasks have taken them.
const HANDED_OVER: usize = 32 << 20;
const KEPT: usize = 32 << 20;

/// How often the thread looks for rebalances when no record arrives.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long the thread waits for slow tasks before it pauses their partitions: for all of them together, and in at most a tenth of its time.
const MOMENT: Duration = Duration::from_millis(50);
const BETWEEN_MOMENTS: Duration = Duration::from_millis(450);

/// The group's member in this process.
pub(super) struct Group {
    pub(super) partitions: watch::Sender<Partitions>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The polling thread.
struct Poller {
    consumer: Arc<BaseConsumer<Rebalances>>,
    topic: Arc<str>,
    /// Makes a partition that was assigned.
    make: Box<dyn Fn(Arc<Live>) -> Arc<KafkaPartition> + Send>,
    partitions: watch::Sender<Partitions>,
    /// By partition.
    reading: BTreeMap<i32, Reading>,
    /// Assigned partitions whose tasks don't know yet where to begin.
    starting: Vec<Arc<Live>>,
    revoked: Vec<Revoked>,
    /// Bytes that may wait for one partition's task, and bytes that are kept for it.
    most: usize,
    kept: usize,
    /// When the thread waited last for slow tasks.
    waited: Instant,
    health: Arc<Health>,
    failure: Arc<Failure>,
}

/// A partition that is assigned, or will be.
struct Reading {
    live: Arc<Live>,
    partition: Weak<Shared>,
    /// Records that were polled and not handed over yet.
    frames: Frames,
    /// Another version of Pushline wrote the next record: the partition isn't served. Dropping it clears the report.
    stopped: Option<Unserved>,
}

/// Partitions that were revoked together, and are given up together.
struct Revoked {
    partitions: Vec<Weak<Shared>>,
    /// Those that were read: only they are part of the assignment. The rebalance is answered even where there are none.
    read: Vec<i32>,
}

// === impl Group ===

impl Group {
    /// Joins the group.
    pub(super) fn start(
        options: &Options,
        topic: &Arc<str>,
        health: &Arc<Health>,
        failure: &Arc<Failure>,
        make: impl Fn(Arc<Live>, &Arc<BaseConsumer<Rebalances>>) -> Arc<KafkaPartition> + Send + 'static,
    ) -> Result<Self, QueueError> {
        let consumer: BaseConsumer<Rebalances> = clients::group(options)
            .create_with_context(Rebalances::default())
            .map_err(|error| QueueError::kafka("set up a consumer", &error))?;
        consumer.subscribe(&[topic]).map_err(|error| QueueError::kafka("subscribe", &error))?;
        let (consumer, partitions, stop) = (Arc::new(consumer), watch::Sender::new(Vec::new()), Arc::new(AtomicBool::new(false)));
        let made_by = Arc::clone(&consumer);
        let poller = Poller {
            consumer: Arc::clone(&consumer),
            topic: Arc::clone(topic),
            make: Box::new(move |live| make(live, &made_by)),
            partitions: partitions.clone(),
            reading: BTreeMap::new(),
            starting: Vec::new(),
            revoked: Vec::new(),
            most: HANDED_OVER / options.partitions.clamp(4, 128) as usize,
            kept: KEPT / options.partitions.max(4) as usize,
            waited: Instant::now(),
            health: Arc::clone(health),
            failure: Arc::clone(failure),
        };
        let ends = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("kafka-poll".into()).spawn(move || poller.run(&ends));
        let thread = Mutex::new(Some(thread.map_err(|error| QueueError::thread(&error))?));
        Ok(Self { partitions, stop, thread })
    }

    /// Leaves the group. Blocks until it has.
    pub(super) fn close(&self) {
        self.partitions.send_replace(Vec::new());
        self.stop.store(true, Ordering::Release);
        let thread = lock(&self.thread).take();
        if let Some(Err(panic)) = thread.map(JoinHandle::join) {
            tracing::error!(?panic, "the polling thread panicked");
        }
    }
}

// === impl Poller ===

impl Poller {
    fn run(mut self, stop: &AtomicBool) {
        let (mut wait, mut polled, mut bytes) = (Duration::ZERO, 0, 0);
        while !stop.load(Ordering::Acquire) {
            let consumer = Arc::clone(&self.consumer);
            match consumer.poll(wait) {
                Some(Ok(message)) => {
                    (wait, polled, bytes) = (Duration::ZERO, polled + 1, bytes + message.payload_len());
                    if let Some(reading) = self.reading.get_mut(&message.partition())
                        && let Err(error) = reading.push(&message)
                    {
                        reading.stopped = Some(self.health.unserved(&error));
                        set_paused(&consumer, &self.topic, message.partition(), true);
                    }
                    if polled == HAND_OVER_AFTER || bytes > HAND_OVER_BYTES {
                        self.hand_over();
                        (polled, bytes) = (0, 0);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.hand_over_from(Some(partition));
                    // A partition that isn't served has records left, whatever was polled of them.
                    if let Some(reading) = self.reading.get(&partition).filter(|reading| reading.stopped.is_none()) {
                        reading.live.is_at_end();
                        self.health.reads();
                    }
                }
                Some(Err(error)) => self.trouble(&error),
                None => {
                    // No more records have arrived: those that have are handed over before the thread waits.
                    self.hand_over();
                    wait = LOOK_EVERY;
                }
            }
        }
        self.leave();
    }

    /// Hands over the records that were polled, then looks for rebalances.
    fn hand_over(&mut self) {
        if self.hand_over_from(None) > 0 {
            self.health.reads();
        }
        self.look();
    }

    /// Hands over the records of one partition, or of all. Waits a moment for the tasks that have too many now, and pauses the partitions of those that
    /// still have. Returns how many partitions had records.
    fn hand_over_from(&mut self, one: Option<i32>) -> usize {
        let its = self.reading.values_mut().filter(|reading| one.is_none_or(|one| reading.live.kafka_index() == one));
        let handed_over: Vec<(Arc<Live>, bool)> =
            its.filter_map(|reading| reading.hand_over().map(|is_full| (Arc::clone(&reading.live), is_full))).collect();
        if handed_over.iter().any(|(_, is_full)| *is_full) {
            let moment = if self.waited.elapsed() >= BETWEEN_MOMENTS { MOMENT } else { Duration::ZERO };
            let until = Instant::now() + moment;
            for (live, _) in handed_over.iter().filter(|(_, is_full)| *is_full) {
                live.pause_unless_taken(until, || set_paused(&self.consumer, &self.topic, live.kafka_index(), true));
            }
            if !moment.is_zero() {
                self.waited = Instant::now();
            }
        }
        handed_over.len()
    }

    /// Leaves the group, so that the others needn't wait for the session to end.
    fn leave(self) {
        /// Brokers that are away don't answer.
        const AT_MOST: Duration = Duration::from_secs(5);
        let until = Instant::now() + AT_MOST;
        self.consumer.context().closing.store(true, Ordering::Release);
        self.reading.values().for_each(|reading| reading.live.close());
        match self.consumer.close_queue() {
            Ok(()) => {
                while !self.consumer.closed() && Instant::now() < until {
                    drop(self.consumer.poll(LOOK_EVERY));
                }
            }
            Err(error) => warn!(%error, "can't leave the group: the other members take over after session.timeout.ms"),
        }
    }

    /// Handles rebalances, tasks that have begun or ended, and statistics.
    fn look(&mut self) {
        let (events, ends) = (self.consumer.context().take_events(), self.consumer.context().take_ends());
        for event in events {
            match event {
                Event::Assigned(partitions) => self.assigned(&partitions),
                Event::Revoked(partitions) => self.revoked(&partitions),
            }
        }
        for (partition, end) in ends {
            self.reading.get(&partition).into_iter().for_each(|reading| reading.live.ends_at(end));
        }
        let begins: Vec<(i32, Offset)> = self.starting.iter().filter_map(|live| Some((live.kafka_index(), live.begin()?))).collect();
        if !begins.is_empty() {
            self.starting.retain(|live| begins.iter().all(|(index, _)| *index != live.kafka_index()));
            self.read(&begins);
        }
        let is_free = |revoked: &mut Revoked| revoked.partitions.iter().all(|partition| partition.strong_count() == 0);
        let free = self.revoked.extract_if(.., is_free).collect::<Vec<_>>();
        free.iter().for_each(|revoked| self.unassign(revoked));
    }

    fn assigned(&mut self, partitions: &[i32]) {
        counter!(names::REBALANCES).increment(1);
        self.read(&[]);
        for &index in partitions {
            let live = Arc::new(Live::new(index, self.most, self.kept));
            let partition = (self.make)(Arc::clone(&live));
            let held = Arc::downgrade(partition.shared());
            let reading = Reading { live: Arc::clone(&live), partition: held, frames: Frames::default(), stopped: None };
            self.reading.insert(index, reading);
            self.partitions.send_modify(|all| all.push(partition as Arc<dyn Partition>));
            self.starting.push(live);
        }
        self.log("assigned", partitions);
    }

    /// The tasks learn it from the list of partitions.
    fn revoked(&mut self, partitions: &[i32]) {
        counter!(names::REBALANCES).increment(1);
        let is_revoked = |index: u32| partitions.iter().any(|revoked| u32::try_from(*revoked) == Ok(index));
        self.partitions.send_modify(|all| all.retain(|partition| !is_revoked(partition.index())));
        let starts = |index: &i32| self.starting.iter().any(|live| live.kafka_index() == *index);
        let read = partitions.iter().copied().filter(|index| self.reading.contains_key(index) && !starts(index)).collect();
        let revoked = partitions.iter().filter_map(|index| self.reading.remove(index)).map(|reading| {
            reading.live.close();
            reading.partition
        });
        self.revoked.push(Revoked { partitions: revoked.collect(), read });
        self.starting.retain(|live| !is_revoked(live.index()));
        self.log("revoked", partitions);
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of partitions is far below 2^52")]
    fn log(&self, what: &str, partitions: &[i32]) {
        let now = self.partitions.borrow().len();
        gauge!(names::ASSIGNED).set(now as f64);
        info!(?partitions, now, "partitions were {what}");
    }

    /// Reads these partitions too from now on, each from an offset. This answers an assignment, also where there is none to read yet.
    fn read(&self, begins: &[(i32, Offset)]) {
        let mut list = TopicPartitionList::with_capacity(begins.len());
        for (index, offset) in begins {
            let added = list.add_partition_offset(&self.topic, *index, KafkaOffset::Offset(to_kafka(*offset)));
            if let Err(error) = added {
                self.failure.note(&QueueError::kafka("name a partition", &error));
            }
        }
        // A pause outlives the assignment that it was made under.
        let assigned = self.consumer.incremental_assign(&list).and_then(|()| self.consumer.resume(&list));
        if let Err(error) = assigned {
            self.failure.note(&QueueError::kafka("assign partitions", &error));
        }
    }

    fn unassign(&self, revoked: &Revoked) {
        let mut list = TopicPartitionList::with_capacity(revoked.read.len());
        revoked.read.iter().for_each(|index| _ = list.add_partition(&self.topic, *index));
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            self.failure.note(&QueueError::kafka("give partitions up", &error));
        }
    }

    fn trouble(&self, error: &KafkaError) {
        match error {
            KafkaError::MessageConsumptionFatal(code) => {
                self.failure.note(&QueueError::Fatal { doing: "go on reading".into(), what: code.to_string() });
            }
            out_of_range if clients::is_out_of_range(out_of_range) => self.failure.note(&QueueError::cut()),
            // Brokers come and go: that is reported where something waits for them.
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::OperationTimedOut,
            ) => {}
            other => self.health.trouble(&other.to_string()),
        }
    }
}

impl Reading {
    /// Takes a record that was polled. After one of another version, no further one is taken.
    fn push(&mut self, message: &BorrowedMessage<'_>) -> Result<(), QueueError> {
        if self.stopped.is_some() { Ok(()) } else { self.frames.push(message) }
    }

    /// Hands over the records that were polled. Returns whether the task has too many now; `None`: there were none.
    fn hand_over(&mut self) -> Option<bool> {
        let frames = Some(self.frames.take()).filter(|frames| !frames.is_empty())?;
        Some(self.live.hand_over(frames))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
