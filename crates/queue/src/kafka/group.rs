//! Live reading: a member of the group that shares the partitions. One thread polls one consumer, always; what it reads is handed over to the
//! partitions' tasks within bounds, and a partition whose task is slow is paused, never the others.
//!
//! A rebalance is answered outside its callback (LANES.md L11), and librdkafka reads nothing until it is. Assigned: it is answered at once; the task of
//! each partition finds where to begin, then it is read from there. Revoked: they leave the list of partitions, and are given up when their tasks have
//! let go of them.

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
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    Options, clients,
    frames::Frames,
    health::Health,
    live::Live,
    partition::{KafkaPartition, Shared},
    rebalances::{Event, Rebalances, set_paused},
};
use crate::{Partition, Partitions, QueueError, failure::Failure, metrics as names};

/// Under load, records are handed over after so many, or so many bytes.
const HAND_OVER_AFTER: u64 = 1024;
const HAND_OVER_BYTES: usize = 4 << 20;

/// What the hand-over of all partitions may hold, and what is kept once it was passed.
const HANDED_OVER: usize = 32 << 20;
const KEPT: usize = 32 << 20;

/// How often the thread looks at what it was told when nothing arrives.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The consumer, and who it reads for.
pub(super) struct Group {
    pub(super) partitions: watch::Sender<Partitions>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the polling thread knows.
struct Poller {
    consumer: Arc<BaseConsumer<Rebalances>>,
    topic: Arc<str>,
    /// Makes the partitions that are assigned.
    make: Box<dyn Fn(Arc<Live>) -> Arc<KafkaPartition> + Send>,
    partitions: watch::Sender<Partitions>,
    /// By partition.
    reading: BTreeMap<i32, Reading>,
    /// They are assigned, and their tasks don't know yet where to begin.
    starting: Vec<Arc<Live>>,
    lost: Vec<Lost>,
    /// Bytes that may wait for one partition's task, and bytes that are kept for it.
    most: usize,
    kept: usize,
    health: Arc<Health>,
    failure: Arc<Failure>,
}

/// A partition that is assigned, or will be.
struct Reading {
    live: Arc<Live>,
    partition: Weak<Shared>,
    /// Polled, and not handed over yet.
    frames: Frames,
}

/// Partitions that were revoked together, and are given up together.
struct Lost {
    partitions: Vec<Weak<Shared>>,
    /// Those of them that were read: only they can be taken out of what is, but even for none of them it is answered.
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
            lost: Vec::new(),
            most: HANDED_OVER / usize::try_from(options.partitions.clamp(4, 128)).unwrap_or(1),
            kept: KEPT / usize::try_from(options.partitions.max(4)).unwrap_or(1),
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
                    if let Some(reading) = self.reading.get_mut(&message.partition()) {
                        reading.frames.push(&message);
                    }
                    if polled == HAND_OVER_AFTER || bytes > HAND_OVER_BYTES {
                        self.hand_over();
                        (polled, bytes) = (0, 0);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(reading) = self.reading.get_mut(&partition) {
                        reading.hand_over(&consumer, &self.topic);
                        reading.live.is_at_end();
                        self.health.reads();
                    }
                }
                Some(Err(error)) => self.trouble(&error),
                None => {
                    // Nothing more has arrived: what has is handed over, and only then it is waited.
                    self.hand_over();
                    wait = LOOK_EVERY;
                }
            }
        }
        self.leave();
    }

    /// Hands over what was polled, and looks up.
    fn hand_over(&mut self) {
        let handed_over = self.reading.values_mut().filter_map(|reading| reading.hand_over(&self.consumer, &self.topic)).count();
        if handed_over > 0 {
            self.health.reads();
        }
        self.look();
    }

    /// Says goodbye, so that the others needn't wait until it is missed.
    fn leave(self) {
        /// Brokers that are away can't be told.
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
            Err(error) => warn!(%error, "the group can't be left: the others notice after the session's time-out"),
        }
    }

    /// What was told meanwhile: by rebalances, by tasks, by statistics.
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
        let ready = self.starting.extract_if(.., |live| live.begin().is_some()).collect::<Vec<_>>();
        if !ready.is_empty() {
            self.read(&ready);
        }
        let is_free = |lost: &mut Lost| lost.partitions.iter().all(|partition| partition.strong_count() == 0);
        let free = self.lost.extract_if(.., is_free).collect::<Vec<_>>();
        free.iter().for_each(|lost| self.unassign(lost));
    }

    fn assigned(&mut self, partitions: &[i32]) {
        counter!(names::REBALANCES).increment(1);
        self.read(&[]);
        for &index in partitions {
            let live = Arc::new(Live::new(u32::try_from(index).unwrap_or_default(), self.most, self.kept));
            let partition = (self.make)(Arc::clone(&live));
            self.reading.insert(
                index,
                Reading { live: Arc::clone(&live), partition: Arc::downgrade(partition.shared()), frames: Frames::default() },
            );
            self.partitions.send_modify(|all| all.push(partition as Arc<dyn Partition>));
            self.starting.push(live);
        }
        self.told("assigned", partitions);
    }

    /// Their tasks hear of it by the list.
    fn revoked(&mut self, partitions: &[i32]) {
        counter!(names::REBALANCES).increment(1);
        let index = |partition: &Arc<dyn Partition>| i32::try_from(partition.index()).unwrap_or_default();
        self.partitions.send_modify(|all| all.retain(|partition| !partitions.contains(&index(partition))));
        let starts = |index: &i32| self.starting.iter().any(|live| i32::try_from(live.index()).is_ok_and(|own| own == *index));
        let read = partitions.iter().copied().filter(|index| self.reading.contains_key(index) && !starts(index)).collect();
        let lost = partitions.iter().filter_map(|index| self.reading.remove(index));
        let partitions_lost = lost.map(|reading| {
            reading.live.close();
            reading.partition
        });
        self.lost.push(Lost { partitions: partitions_lost.collect(), read });
        self.starting.retain(|live| !partitions.contains(&i32::try_from(live.index()).unwrap_or_default()));
        self.told("revoked", partitions);
    }

    fn told(&self, what: &str, partitions: &[i32]) {
        let now = self.partitions.borrow().len();
        gauge!(names::ASSIGNED).set(f64::from(u32::try_from(now).unwrap_or(u32::MAX)));
        info!(?partitions, now, "partitions were {what}");
    }

    /// Reads them too from now on. This answers an assignment, also when there is none to read yet.
    fn read(&self, lives: &[Arc<Live>]) {
        let mut list = TopicPartitionList::with_capacity(lives.len());
        for live in lives {
            let offset = KafkaOffset::Offset(i64::try_from(live.begin().unwrap_or_default()).unwrap_or(i64::MAX));
            let added = list.add_partition_offset(&self.topic, i32::try_from(live.index()).unwrap_or_default(), offset);
            added.map_err(|error| QueueError::kafka("name a partition", &error)).unwrap_or_else(|error| self.failure.note(&error));
        }
        // A pause outlives the assignment that it was made under.
        let assigned = self.consumer.incremental_assign(&list).and_then(|()| self.consumer.resume(&list));
        if let Err(error) = assigned {
            self.failure.note(&QueueError::kafka("assign partitions", &error));
        }
    }

    fn unassign(&self, lost: &Lost) {
        let mut list = TopicPartitionList::with_capacity(lost.read.len());
        lost.read.iter().for_each(|index| _ = list.add_partition(&self.topic, *index));
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
            // Brokers come and go: that is told where something waits for them.
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::OperationTimedOut,
            ) => {}
            other => self.health.trouble(&other.to_string()),
        }
    }
}

impl Reading {
    /// Hands over what was polled, if anything was.
    fn hand_over(&mut self, consumer: &BaseConsumer<Rebalances>, topic: &str) -> Option<()> {
        let frames = Some(self.frames.take()).filter(|frames| !frames.is_empty())?;
        let index = i32::try_from(self.live.index()).unwrap_or_default();
        self.live.hand_over(frames, || set_paused(consumer, topic, index, true));
        Some(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
