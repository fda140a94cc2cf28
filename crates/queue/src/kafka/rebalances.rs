//! What librdkafka tells the group's consumer while it is polled. It is noted here, and the polling thread answers it later (docs/delivery.md, Hand-over).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use pushline_model::Offset;
use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaRespErr,
};
use serde::Deserialize;
use tracing::warn;

use super::clients;

/// Notes rebalances while the consumer is polled.
#[derive(Debug, Default)]
pub(super) struct Rebalances {
    events: Mutex<VecDeque<Event>>,
    /// The ends of partitions, from librdkafka's statistics.
    ends: Mutex<Vec<(i32, Offset)>>,
    /// The consumer is being closed: rebalances are answered at once.
    pub(super) closing: AtomicBool,
}

#[derive(Debug)]
pub(super) enum Event {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
}

/// Pauses or resumes one partition. librdkafka fetches again what it had fetched ahead.
pub(super) fn set_paused(consumer: &BaseConsumer<Rebalances>, topic: &str, partition: i32, paused: bool) {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(topic, partition);
    let done = if paused { consumer.pause(&list) } else { consumer.resume(&list) };
    if let Err(error) = done {
        // The partition isn't assigned any more.
        warn!(partition, paused, %error, "the partition can't be paused or resumed");
    }
}

// === impl Rebalances ===

impl Rebalances {
    pub(super) fn take_events(&self) -> VecDeque<Event> {
        std::mem::take(&mut lock(&self.events))
    }

    pub(super) fn take_ends(&self) -> Vec<(i32, Offset)> {
        std::mem::take(&mut lock(&self.ends))
    }
}

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        clients::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }

    /// Notes the ends of partitions and drops the rest.
    fn stats_raw(&self, statistics: &[u8]) {
        #[derive(Deserialize)]
        struct Statistics {
            topics: BTreeMap<String, Topic>,
        }
        #[derive(Deserialize)]
        struct Topic {
            partitions: BTreeMap<i32, End>,
        }
        #[derive(Deserialize)]
        struct End {
            hi_offset: i64,
        }
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => {
                let ends = statistics.topics.into_values().flat_map(|topic| topic.partitions);
                lock(&self.ends).extend(ends.filter_map(|(partition, end)| Some((partition, Offset::try_from(end.hi_offset).ok()?))));
            }
            Err(error) => warn!(%error, "librdkafka's statistics can't be read: the lag isn't known"),
        }
    }
}

impl ConsumerContext for Rebalances {
    /// Answered later, by the polling thread; while the consumer is being closed, at once.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let is_assigned = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            let done = if is_assigned { consumer.unassign() } else { consumer.incremental_unassign(list) };
            if let Err(error) = done {
                warn!(%error, "partitions can't be given up while the consumer is closed");
            }
            return;
        }
        let partitions = list.elements().iter().map(|element| element.partition()).collect();
        lock(&self.events).push_back(if is_assigned { Event::Assigned(partitions) } else { Event::Revoked(partitions) });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
