//! One partition of one topic as a log: for packets, for checkpoints, and for dead letters, which have one partition.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::{Offset, Timestamp};
use tokio::{task::spawn_blocking, time::sleep};

use super::{
    append::{Appender, Put},
    catch_up::{CatchUp, CatchUpReader, TopicPartition},
    health::Health,
};
use crate::{Append, Appended, QueueError, Read, Reader, Record, blocking};

/// How long Kafka may take to answer a question before it is asked again.
const ANSWER: Duration = Duration::from_secs(5);

/// A log. Cheap to clone.
#[derive(Clone)]
pub(super) struct KafkaLog {
    pub(super) place: TopicPartition,
    pub(super) health: Arc<Health>,
    appender: Arc<Appender>,
    catch_up: CatchUp,
}

impl KafkaLog {
    pub(super) fn new(place: TopicPartition, appender: &Arc<Appender>, catch_up: &CatchUp, health: &Arc<Health>) -> Self {
        Self { place, health: Arc::clone(health), appender: Arc::clone(appender), catch_up: catch_up.clone() }
    }

    /// Appends a record of Pushline's own, a checkpoint.
    pub(super) fn put(&self, key: &str, bytes: &[u8]) -> Put {
        self.appender.put(&self.place.topic, self.place.partition, key.as_bytes(), Some(bytes))
    }

    pub(super) fn tick(&self, at: Timestamp) -> Put {
        self.appender.tick(&self.place.topic, self.place.partition, at)
    }

    pub(super) fn read_from(&self, offset: Offset) -> CatchUpReader {
        self.catch_up.reader(self.place.clone(), offset, &self.health)
    }

    /// Asks until Kafka answers.
    pub(super) async fn ask_bounds(&self) -> Result<Range<Offset>, QueueError> {
        let mut wait = self.health.wait();
        loop {
            let (appender, place) = (Arc::clone(&self.appender), self.place.clone());
            let ask = move || appender.client().fetch_watermarks(&place.topic, place.partition, ANSWER);
            match blocking::result(spawn_blocking(ask)).await? {
                Ok((start, end)) if start >= 0 && end >= start => return Ok(start.unsigned_abs()..end.unsigned_abs()),
                Ok(_) => wait.because("it doesn't know the bounds of a log"),
                Err(error) => wait.because(&error.to_string()),
            }
            sleep(ANSWER / 10).await;
        }
    }

    /// The value of the record at an offset. `None`: there is none any more.
    pub(super) async fn value_at(&self, offset: Offset) -> Result<Option<Vec<u8>>, QueueError> {
        if !self.ask_bounds().await?.contains(&offset) {
            return Ok(None);
        }
        let frames = self.read_from(offset).read_on().await?;
        let first = frames.iter().flat_map(|frame| frame.records(offset)).next();
        Ok(first.filter(|(found, _)| *found == offset).map(|(_, record)| record.payload.to_vec()))
    }

    /// The value of its last record.
    pub(super) async fn last_value(&self) -> Result<Option<Vec<u8>>, QueueError> {
        let bounds = self.ask_bounds().await?;
        // The last record is never compacted away. Offsets without a record may lie behind it: it is looked for further back each time.
        for back in [1, 16, Offset::MAX] {
            let from = bounds.end.saturating_sub(back).max(bounds.start);
            if from >= bounds.end {
                return Ok(None);
            }
            let mut reader = self.read_from(from);
            let (mut last, mut at) = (None, from);
            while at < bounds.end {
                let frames = reader.read_on().await?;
                let records = frames.iter().flat_map(|frame| frame.records(at));
                last = records.last().map(|(_, record)| record.payload.to_vec()).or(last);
                match frames.last() {
                    Some(frame) => at = frame.end(),
                    None => break,
                }
            }
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }
}

impl Append for KafkaLog {
    fn append(&self, batch: &[Record<'_>]) -> Appended {
        self.appender.append(&self.place.topic, batch)
    }
}

impl Read for KafkaLog {
    fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>> {
        self.ask_bounds().boxed()
    }

    fn reader(&self, from: Offset) -> Box<dyn Reader> {
        Box::new(self.read_from(from))
    }
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog").field("place", &self.place).finish_non_exhaustive()
    }
}
