//! The saved checkpoint of the embedded queue, and the ends of its logs that are saved with it: the next start refuses a log that ends below.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pushline_model::Offset;
use tracing::warn;

use super::{
    alternating_files::AlternatingFiles,
    checkpoint_files::{Envelope, LogEnd},
    log::{Log, lock},
    session_checkpoints::SessionCheckpoints,
};
use crate::{QueueError, Saved, SavedCheckpoint, failure::Failure};

#[derive(Debug)]
pub(super) struct Checkpoints {
    /// Held while a file is written.
    files: Mutex<Files>,
    saved: Mutex<Saved>,
    /// Packets, dead letters, unrouted packets.
    logs: [Arc<Log>; 3],
    sessions: Arc<SessionCheckpoints>,
    failure: Arc<Failure>,
}

#[derive(Debug)]
struct Files {
    files: AlternatingFiles<Envelope>,
    last: Envelope,
}

impl Checkpoints {
    pub(super) fn new(
        (files, last): (AlternatingFiles<Envelope>, Envelope),
        saved: Saved,
        logs: [Arc<Log>; 3],
        sessions: Arc<SessionCheckpoints>,
        failure: Arc<Failure>,
    ) -> Self {
        Self { files: Mutex::new(Files { files, last }), saved: Mutex::new(saved), logs, sessions, failure }
    }

    /// What was saved last.
    pub(super) fn saved(&self) -> Saved {
        lock(&self.saved).clone()
    }

    /// Makes a checkpoint durable with its watermark, then deletes the segments below the watermark that no session needs. Blocks.
    pub(super) fn save(&self, checkpoint: Bytes, watermark: Offset) -> Result<(), QueueError> {
        self.write(|last| (last.watermark, last.checkpoint) = (Some(watermark), Some(checkpoint.to_vec())))?;
        *lock(&self.saved) = Saved { watermark: Some(watermark), checkpoint: SavedCheckpoint::Named(checkpoint) };
        self.sessions.delete_below(watermark, &self.logs[0])
    }

    /// Makes the first envelope durable, before the first packet: from then on, packets without an envelope have lost it. Blocks.
    pub(super) fn save_first(&self) -> Result<(), QueueError> {
        self.write(|_| ())
    }

    /// Saves the ends of the logs once more, with the last checkpoint. Blocks. A queue that has failed isn't written any more.
    pub(super) fn save_ends(&self) {
        if !self.failure.is_noted()
            && let Err(error) = self.write(|_| ())
        {
            warn!(
                error = error.with_source(),
                "the ends of the logs couldn't be saved: the next start can't tell a torn tail from a changed one"
            );
        }
    }

    fn write(&self, change: impl FnOnce(&mut Envelope)) -> Result<(), QueueError> {
        let mut files = lock(&self.files);
        let mut envelope = files.last.clone();
        change(&mut envelope);
        envelope.ends = self.logs.each_ref().map(|log| LogEnd { durable_end: log.range().end, log_time: log.now() });
        files.files.save(&envelope)?;
        files.last = envelope;
        Ok(())
    }
}
