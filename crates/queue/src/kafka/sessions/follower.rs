//! Reads the sessions topic from its start on, for as long as the queue is open, and makes the table of it. One thread, one consumer, which is assigned by
//! hand and never commits.
//!
//! Each process says every ten seconds that it is alive. The first of the living closes the sessions of those that are gone, and ends those that have expired.

use std::{
    collections::HashSet,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use pushline_model::Timestamp;
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::BorrowedMessage,
};

use super::{
    Phase, Shared, lock,
    record::{Key, Unreadable, VERSION, Value},
    table::{Change, Overdue, Read, SILENCE},
};
use crate::{
    QueueError,
    failure::Failure,
    kafka::{
        Options,
        clients::{self, Quiet},
        frames::{log_time_of, offset_of},
    },
};

/// How often a process says that it is alive.
const BEAT: Duration = Duration::from_secs(10);

/// How long a poll waits: the thread notices within this time that the queue is closed.
const POLL: Duration = Duration::from_millis(100);

/// How many sessions get a record at a beat, at most.
const OVERDUE: usize = 10_000;

struct Follower {
    consumer: BaseConsumer<Quiet>,
    shared: Weak<Shared>,
    /// The partitions that weren't read to their end yet.
    behind: HashSet<i32>,
    beat: Option<Instant>,
    /// A foreign record was logged.
    is_logged: bool,
}

/// Starts the thread. It ends with the queue.
pub(super) fn start(options: &Options, shared: &Arc<Shared>, failure: &Arc<Failure>) -> Result<(), QueueError> {
    let consumer: BaseConsumer<Quiet> =
        clients::catch_up(options).create_with_context(Quiet).map_err(|error| QueueError::kafka("set up a consumer", &error))?;
    let (mut list, mut behind) = (TopicPartitionList::new(), HashSet::new());
    for partition in 0..options.partitions {
        let partition = i32::try_from(partition).expect("Kafka has fewer partitions");
        behind.insert(partition);
        let added = list.add_partition_offset(&shared.topics.sessions, partition, KafkaOffset::Beginning);
        added.map_err(|error| QueueError::kafka("assign", &error))?;
    }
    consumer.assign(&list).map_err(|error| QueueError::kafka("assign", &error))?;
    let follower = Follower { consumer, shared: Arc::downgrade(shared), behind, beat: None, is_logged: false };
    let failure = Arc::clone(failure);
    let run = move || {
        if let Err(error) = follower.run() {
            failure.note(&error);
        }
    };
    std::thread::Builder::new().name("kafka-sessions".into()).spawn(run).map(drop).map_err(|error| QueueError::thread(&error))
}

impl Follower {
    fn run(mut self) -> Result<(), QueueError> {
        while let Some(shared) = self.shared.upgrade() {
            if *shared.phase.borrow() == Phase::Closed {
                lock(&shared.waiting).clear();
                return Ok(());
            }
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => Self::take(&shared, &message, &self.behind, &mut self.is_logged)?,
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(self.behind.remove(&partition)),
                Some(Err(error)) if clients::is_out_of_range(&error) => return Err(QueueError::cut()),
                // librdkafka tries again by itself. Openings wait meanwhile, and the producer reports that Kafka is away.
                Some(Err(error)) => tracing::debug!(%error, "the sessions topic can't be read"),
                None => {}
            }
            if self.behind.is_empty() && self.beat.is_none_or(|beat| beat.elapsed() >= BEAT) {
                self.beat = Some(Instant::now());
                drop(shared.put(Key::Process(shared.process), Some(&Value::Process { is_alive: true })));
            }
        }
        Ok(())
    }

    fn take(shared: &Arc<Shared>, message: &BorrowedMessage<'_>, behind: &HashSet<i32>, is_logged: &mut bool) -> Result<(), QueueError> {
        let is_live = !behind.contains(&message.partition());
        let Some((key, value)) = decode(message)? else {
            if !std::mem::replace(is_logged, true) {
                let (partition, offset) = (message.partition(), message.offset());
                tracing::warn!(
                    topic = message.topic(),
                    partition,
                    offset,
                    "a record of another program is ignored; let no other program write to the topic"
                );
            }
            return Ok(());
        };
        let at = log_time_of(message);
        let before = lock(&shared.table).last_heard(shared.process);
        let is_own_beat = key == Key::Process(shared.process) && value == Some(Value::Process { is_alive: true });
        let change = lock(&shared.table).take(Read { offset: offset_of(message), at, key, value, is_live });
        match change {
            Change::Opened(session, owner, opened) => shared.opened(session, owner, opened),
            Change::Stale(key) if is_live => drop(shared.put(key, None)),
            Change::Stale(_) | Change::Nothing => {}
        }
        if is_own_beat {
            if before.is_none_or(|before| before.plus(SILENCE) <= at) {
                // This process was stopped for long, and another one may have closed its sessions meanwhile.
                lock(&shared.owners).values().for_each(|owner| owner.put_state(shared));
            }
            lock(&shared.owners).retain(|_, owner| !owner.is_forgotten());
            shared.look_after_others(at, before.is_some_and(|before| before.plus(BEAT * 3) > at));
            shared.phase.send_if_modified(|phase| {
                *phase == Phase::Loading && {
                    *phase = Phase::Following;
                    true
                }
            });
        }
        Ok(())
    }
}

impl Shared {
    /// Appends the records that no owner will append, if this process is the one to do so.
    fn look_after_others(&self, now: Timestamp, is_steady: bool) {
        let overdue = {
            let table = lock(&self.table);
            if table.looks_after_others(self.process, now) { table.overdue(now, is_steady, OVERDUE) } else { vec![] }
        };
        for overdue in overdue {
            let put = match overdue {
                Overdue::Expired(session, owner) => self.put(Key::Owner(session, owner), None),
                Overdue::Abandoned(session, owner, state) => self.put(Key::Owner(session, owner), Some(&Value::State(state))),
                Overdue::Process(process) => self.put(Key::Process(process), None),
            };
            drop(put);
        }
    }
}

/// `None`: another program wrote it.
fn decode(message: &BorrowedMessage<'_>) -> Result<Option<(Key, Option<Value>)>, QueueError> {
    let Some(key) = message.key().and_then(Key::decode) else { return Ok(None) };
    match message.payload().map(Value::decode).transpose() {
        Ok(value) => Ok(Some((key, value))),
        Err(Unreadable::Foreign) => Ok(None),
        Err(Unreadable::Version(found)) => Err(QueueError::Misfit(format!(
            "{}, partition {}, offset {}: the session has format version {found}, this Pushline reads version {VERSION}: run the Pushline that wrote it, or a later one",
            message.topic(),
            message.partition(),
            message.offset()
        ))),
    }
}
