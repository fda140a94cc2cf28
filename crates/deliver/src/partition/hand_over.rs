//! Leaving a partition, at shutdown or when another process takes it over (LANES.md L11).
//!
//! No new attempt; what is in flight may settle, but not for ever; checkpoint is saved; and what didn't settle in time doesn't count here any more.

use std::time::Duration;

use pushline_queue::QueueError;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::Task;

/// How long the last save may take where nobody waits for the partition.
const LAST_SAVE: Duration = Duration::from_secs(10);

impl Task {
    /// What is in flight may end within the grace; suspect webhooks aren't waited for. What doesn't is sent again by whoever serves the partition
    /// next, and its outcome here doesn't count any more.
    pub(super) async fn finish(mut self) -> Result<(), QueueError> {
        let (grace, at_most) = match self.partition.revoke_deadline() {
            None => (self.around.shutdown_grace, self.around.shutdown_grace + LAST_SAVE),
            // The last quarter is for saving.
            Some(patience) => (patience * 3 / 4, patience),
        };
        let until = Instant::now() + at_most;
        if timeout(grace, self.settle_in_flight()).await.is_err() {
            info!(partition = self.partition.index(), "the grace is over: what is still in flight is sent again after the start");
        }
        self.attempts.abort_all();
        let last = timeout_at(until, self.save_last()).await;
        self.metrics.ended_serving();
        match last {
            Ok(saved) => self.after_save(saved),
            Err(_) => {
                warn!(
                    partition = self.partition.index(),
                    "checkpoint couldn't be saved in time: what has settled since the last save is sent again"
                );
                Ok(())
            }
        }
    }

    async fn save_last(&mut self) -> Result<(), QueueError> {
        if let Some(saving) = self.saving.under_way.take() {
            let saved = saving.await;
            self.after_save(saved)?;
        }
        self.save_checkpoint().await
    }
}
