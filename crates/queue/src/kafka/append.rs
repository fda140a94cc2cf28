//! Appending: one idempotent producer, with a token for each record instead of a future for each record. A batch is durable when the last of its tokens has
//! come back.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::histogram;
use pushline_model::{Offset, Timestamp};
use rdkafka::{
    ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};

use super::{Options, clients, header, health::Health};
use crate::{AppendError, Appended, Kind, QueueError, Record, Resolver, frame::fits, metrics as names};

/// The writing half of a queue.
pub(super) struct Appender {
    producer: ThreadedProducer<Deliveries>,
    largest: usize,
    health: Arc<Health>,
    closed: AtomicBool,
}

/// Takes the tokens back, on the producer's own thread.
pub(super) struct Deliveries(Arc<Health>);

/// The token of each record of a batch.
pub(super) struct Batch {
    /// Tokens that haven't come back.
    waits: AtomicUsize,
    began: Instant,
    topic: String,
    /// Bytes of its largest value.
    largest: usize,
    failed: OnceLock<Unkept>,
    /// The offset of a record that is durable; negative while none is known.
    offset: AtomicI64,
    resolver: Mutex<Option<Resolver>>,
}

/// One record on its way to a partition that was given. Dropping it takes nothing back.
pub(super) struct Put {
    appended: Appended,
    batch: Arc<Batch>,
}

/// Why a record isn't kept.
#[derive(Debug)]
struct Unkept {
    error: AppendError,
    for_its_size: bool,
}

// === impl Appender ===

impl Appender {
    pub(super) fn new(options: &Options, health: &Arc<Health>) -> Result<Self, QueueError> {
        let deliveries = Deliveries(Arc::clone(health));
        let producer =
            clients::producer(options).create_with_context(deliveries).map_err(|error| QueueError::kafka("set up a producer", &error))?;
        Ok(Self { producer, largest: options.largest_record, health: Arc::clone(health), closed: AtomicBool::new(false) })
    }

    /// Appends records to a topic, each to the partition of its key.
    pub(super) fn append(&self, topic: &str, records: &[Record<'_>]) -> Appended {
        if let Some(refused) = records.iter().find_map(|record| fits(record).err().or_else(|| self.too_large(record))) {
            return Appended::ready(Err(refused));
        }
        let Some(largest) = records.iter().map(|record| record.payload.len()).max() else {
            return Appended::ready(Ok(()));
        };
        let mut scratch = Vec::with_capacity(64);
        self.send(
            &Arc::new(Batch::new((topic, largest), records.len())),
            records.iter().map(|record| {
                header::encode(record, &mut scratch);
                let headers = OwnedHeaders::new_with_capacity(1).insert(Header { key: header::NAME, value: Some(&scratch) });
                move |batch| BaseRecord::with_opaque_to(topic, batch).key(record.group.as_bytes()).payload(record.payload).headers(headers)
            }),
        )
    }

    /// Appends a record of Pushline's own, a checkpoint or a session's, to a partition of a compacted topic. Without a value it deletes those of its key.
    pub(super) fn put(&self, topic: &str, partition: i32, key: &[u8], value: Option<&[u8]>) -> Put {
        let record = |batch| {
            let record = BaseRecord::with_opaque_to(topic, batch).partition(partition).key(key);
            if let Some(value) = value { record.payload(value) } else { record }
        };
        self.send_one((topic, value.map_or(0, <[u8]>::len)), record)
    }

    /// Appends a tick to a partition: a record without key and value.
    pub(super) fn tick(&self, topic: &str, partition: i32, at: Timestamp) -> Put {
        let mut header = Vec::new();
        header::encode(&Record { group: "", at, kind: Kind::Tick, payload: b"" }, &mut header);
        let headers = OwnedHeaders::new_with_capacity(1).insert(Header { key: header::NAME, value: Some(&header) });
        let record = move |batch| BaseRecord::with_opaque_to(topic, batch).partition(partition).headers(headers);
        self.send_one((topic, 0), record)
    }

    /// Appends a record with any header.
    #[cfg(test)]
    pub(super) fn put_with_header(&self, topic: &str, partition: i32, header: &[u8]) -> Put {
        let headers = OwnedHeaders::new_with_capacity(1).insert(Header { key: header::NAME, value: Some(header) });
        let record = move |batch| BaseRecord::with_opaque_to(topic, batch).partition(partition).headers(headers);
        self.send_one((topic, 0), record)
    }

    fn send_one<'a>(&self, place: (&str, usize), record: impl FnOnce(Arc<Batch>) -> BaseRecord<'a, [u8], [u8], Arc<Batch>>) -> Put {
        let batch = Arc::new(Batch::new(place, 1));
        let appended = self.send(&batch, std::iter::once(record));
        Put { appended, batch }
    }

    fn send<'a, F>(&self, batch: &Arc<Batch>, records: impl Iterator<Item = F>) -> Appended
    where
        F: FnOnce(Arc<Batch>) -> BaseRecord<'a, [u8], [u8], Arc<Batch>>,
    {
        if self.closed.load(Ordering::Acquire) {
            return Appended::ready(Err(AppendError::Closed));
        }
        let (resolver, appended) = Appended::pending();
        *batch.resolver.lock().unwrap_or_else(PoisonError::into_inner) = Some(resolver);
        self.health.appending(batch.began);
        for record in records {
            if let Err((error, _)) = self.producer.send(record(Arc::clone(batch))) {
                batch.token(Err(&error), &self.health);
            }
        }
        appended
    }

    fn too_large(&self, record: &Record<'_>) -> Option<AppendError> {
        let bytes = record.payload.len();
        (bytes > self.largest).then(|| AppendError::Refused(format!("a record of {bytes} bytes, at most {} fit the topic", self.largest)))
    }

    /// Messages that aren't durable yet.
    pub(super) fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).expect("a count isn't negative")
    }

    /// Why no record can be appended until the process starts again: an idempotent producer that has lost its place stays in that error.
    pub(super) fn failed(&self) -> Option<QueueError> {
        let (_, what) = self.producer.client().fatal_error()?;
        Some(QueueError::Fatal { doing: "go on appending".into(), what })
    }

    /// Refuses further records, and waits until those that were appended are durable.
    pub(super) fn close(&self) {
        /// The caller that closes the queue has a shorter deadline; this one ends a thread that no caller waits for any more.
        const AT_MOST: Duration = Duration::from_secs(60);
        self.closed.store(true, Ordering::Release);
        if let Err(error) = self.producer.flush(AT_MOST) {
            tracing::warn!(%error, "some records aren't durable: they were not acknowledged");
        }
    }

    /// The client, for questions that any client can ask.
    pub(super) fn client(&self) -> &rdkafka::client::Client<Deliveries> {
        self.producer.client()
    }
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

// === impl Put ===

impl Put {
    /// Resolves when the record is durable, to its offset. `None`: Kafka has it and doesn't tell where, since it was sent again after an
    /// acknowledgement was lost.
    pub(super) async fn offset(self) -> Result<Option<Offset>, AppendError> {
        self.appended.await?;
        Ok(Offset::try_from(self.batch.offset.load(Ordering::Acquire)).ok())
    }
}

// === impl Batch ===

impl Batch {
    fn new((topic, largest): (&str, usize), records: usize) -> Self {
        Self {
            waits: AtomicUsize::new(records),
            began: Instant::now(),
            topic: topic.to_owned(),
            largest,
            failed: OnceLock::new(),
            offset: AtomicI64::new(-1),
            resolver: Mutex::new(None),
        }
    }

    /// A token has come back. The last one resolves the batch.
    fn token(&self, result: Result<(), &KafkaError>, health: &Health) {
        result.err().into_iter().for_each(|error| _ = self.failed.set(unkept(&self.topic, error)));
        if self.waits.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        match self.failed.get() {
            None => health.appended(self.began, &self.topic, self.largest),
            Some(Unkept { error: AppendError::Closed, .. }) => health.taken_back(self.began),
            Some(Unkept { error, for_its_size }) => {
                health.refused(self.began, &self.topic, if *for_its_size { self.largest } else { 0 }, &error.to_string());
            }
        }
        histogram!(names::APPEND_SECONDS).record(self.began.elapsed());
        let result = self.failed.get().map_or(Ok(()), |unkept| Err(unkept.error.clone()));
        let resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner).take();
        resolver.into_iter().for_each(|resolver| resolver.resolve(result.clone()));
    }
}

fn unkept(topic: &str, error: &KafkaError) -> Unkept {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    let why = code.map_or_else(|| error.to_string(), |code| code.to_string());
    let error = match code {
        // The record was taken back while the queue was closed.
        Some(Code::PurgeQueue | Code::PurgeInflight) => AppendError::Closed,
        _ => AppendError::Refused(format!("{topic}: {why}")),
    };
    Unkept { error, for_its_size: code == Some(Code::MessageSizeTooLarge) }
}

// === impl Deliveries ===

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        clients::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, delivery: &DeliveryResult<'_>, batch: Arc<Batch>) {
        if let Ok(message) = delivery {
            batch.offset.store(message.offset(), Ordering::Release);
        }
        let result = delivery.as_ref().map(drop).map_err(|(error, _)| error);
        batch.token(result, &self.0);
    }
}
