//! Kafka's messages become frames, the form in which every reader of the queue gets records. A message is copied once and dropped: records that were
//! fetched ahead lie in librdkafka's buffers, records that were handed over lie in frames, and none lies in both.

use std::mem;

use pushline_model::{Offset, Timestamp};
use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers},
};

use super::{QueueError, header};
use crate::{Frame, FrameBuilder, Record};

/// Records of one partition on their way into frames. The offsets of a frame follow each other and its
/// records have one log time; else the next frame begins.
#[derive(Debug, Default)]
pub(super) struct Frames {
    builder: FrameBuilder,
    base: Offset,
    next: Offset,
    /// Of the records in the builder: a frame has one.
    log_time: Timestamp,
    full: Vec<Frame>,
    bytes: usize,
    /// Bytes of the frame before, and some more: the next one is often like it, and needn't grow step by step.
    usual: usize,
}

impl Frames {
    /// Adds a message.
    ///
    /// # Errors
    /// [`QueueError::OtherFormat`]: another version of Pushline wrote it. It isn't added.
    pub(super) fn push(&mut self, message: &BorrowedMessage<'_>) -> Result<(), QueueError> {
        let (offset, log_time) = (offset_of(message), log_time_of(message));
        let record = record_of(message, log_time)?;
        if offset != self.next || log_time != self.log_time || self.builder.is_full_for(&record) {
            self.seal();
        }
        if self.builder.is_empty() {
            (self.base, self.log_time) = (offset, log_time);
            self.builder = FrameBuilder::with_capacity(self.usual);
        }
        self.builder.push(&record);
        self.bytes += record.payload.len() + record.group.len();
        self.next = offset + 1;
        Ok(())
    }

    /// Bytes of keys and values that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.builder.is_empty()
    }

    /// What was pushed.
    pub(super) fn take(&mut self) -> Vec<Frame> {
        self.seal();
        self.bytes = 0;
        mem::take(&mut self.full)
    }

    fn seal(&mut self) {
        if !self.builder.is_empty() {
            self.builder.trim();
            let frame = mem::take(&mut self.builder).seal(self.base, self.base, self.log_time);
            self.usual = frame.bytes().len() * 9 / 8;
            self.full.push(frame);
        }
    }
}

/// A message's offset.
pub(super) fn offset_of(message: &BorrowedMessage<'_>) -> Offset {
    Offset::try_from(message.offset()).expect("a message that was read has an offset")
}

/// An offset as librdkafka takes it.
pub(super) fn to_kafka(offset: Offset) -> i64 {
    i64::try_from(offset).expect("an offset of a log on Kafka fits its own type")
}

/// The time that Kafka gave it (LogAppendTime): the same for every consumer. A message of a format that has no time counts as 1970.
pub(super) fn log_time_of(message: &BorrowedMessage<'_>) -> Timestamp {
    /// Timestamps are in units of 100 ns, Kafka's in milliseconds.
    const UNITS: u64 = 10_000;
    let millis = message.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok());
    millis.map_or(Timestamp(0), |millis| Timestamp(millis.saturating_mul(UNITS)))
}

fn record_of<'a>(message: &'a BorrowedMessage<'_>, written_at: Timestamp) -> Result<Record<'a>, QueueError> {
    let header = message.headers().and_then(|headers| headers.iter().find(|header| header.key == header::NAME));
    let raw = header::Raw { key: message.key(), header: header.and_then(|header| header.value), payload: message.payload(), written_at };
    header::record(raw).map_err(|header::OtherVersion(found)| QueueError::OtherFormat {
        place: format!("{}, partition {}, offset {}", message.topic(), message.partition(), message.offset()),
        found: u32::from(found),
        known: u32::from(header::VERSION),
    })
}
