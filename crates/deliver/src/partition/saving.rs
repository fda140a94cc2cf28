//! Saving checkpoint (LANES.md L9), for the driver: every second when something changed, and by the hand-over.
//!
//! One save is under way at a time. Where it can't be made for now, what has settled meanwhile may be sent again after a crash.

use std::{sync::Arc, time::Instant};

use futures_util::{FutureExt, future::BoxFuture};
use pushline_queue::QueueError;
use tracing::{info, warn};

use super::Task;

/// How far saving has come.
pub(super) struct Saving {
    /// Ends with the task: a save that hangs must not keep the partition from whoever serves it next.
    pub(super) under_way: Option<BoxFuture<'static, Result<(), QueueError>>>,
    /// Something happened since the last save.
    pub(super) changed: bool,
    saved_at: Instant,
    /// The last save couldn't be made for now.
    unsaved: bool,
}

impl Saving {
    pub(super) fn new() -> Self {
        // The process before may have died between its checkpoint and its watermark.
        Self { under_way: None, changed: true, saved_at: Instant::now(), unsaved: false }
    }
}

impl Task {
    /// Saves what has changed since the last save, unless that is still under way.
    pub(super) fn save_changes(&mut self) {
        self.metrics.checkpoint_age(self.saving.changed.then(|| self.saving.saved_at.elapsed()));
        if self.saving.changed && self.saving.under_way.is_none() {
            self.saving.changed = false;
            self.saving.under_way = Some(self.save_checkpoint().boxed());
        }
    }

    /// A full disk heals by itself, and so do brokers that are away: until then what has settled meanwhile may be sent again after a crash.
    pub(super) fn after_save(&mut self, saved: Result<(), QueueError>) -> Result<(), QueueError> {
        match saved {
            Err(error) if error.is_passing() => {
                if !std::mem::replace(&mut self.saving.unsaved, true) {
                    warn!(partition = self.partition.index(), %error, "checkpoint can't be saved for now");
                }
                self.saving.changed = true;
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => {
                if std::mem::take(&mut self.saving.unsaved) {
                    info!(partition = self.partition.index(), "checkpoint is saved again");
                }
                self.saving.saved_at = Instant::now();
                self.metrics.saved();
                Ok(())
            }
        }
    }

    /// Checkpoint goes first, then the watermark. Nothing is saved before the first record was passed.
    pub(super) fn save_checkpoint(&mut self) -> impl Future<Output = Result<(), QueueError>> + Send + 'static {
        let (partition, watermark) = (Arc::clone(&self.partition), self.lanes.watermark());
        let checkpoint = self.lanes.checkpoint();
        async move {
            match checkpoint {
                Some(checkpoint) => partition.save(checkpoint.encode(), watermark).await,
                None => Ok(()),
            }
        }
    }
}
