//! Starting a partition's task (LANES.md L10): where its checkpoint says, if the log is the one that it speaks of.
//!
//! Whatever the log has lost is counted and told; checkpoint that speaks of another log isn't used.

use std::{ops::Range, sync::Arc, time::Instant};

use pushline_model::Offset;
use pushline_queue::{Frame, LastPassed, Partition, QueueError, Replay, Restart, Saved};
use tokio::{sync::watch, task::JoinSet};
use tracing::{error, info};

use super::{Surroundings, Task, burying::Burying, counting::PartitionMetrics, expiry::Look, saving::Saving, turn::Turn};
use crate::lanes::Lanes;

impl Task {
    /// Starts where the partition's checkpoint says (L10).
    pub(crate) async fn start(
        partition: Arc<dyn Partition>,
        around: Surroundings,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, QueueError> {
        let saved = partition.load().await?;
        let bounds = partition.bounds().await?;
        let named = is_named(&*partition, &saved, &bounds).await?;
        let restart = Restart::new(saved, &bounds, named);
        if restart.remade {
            begin_anew(&*partition, bounds.start).await?;
        }
        if restart.lost > 0 {
            around.losses.add(restart.lost);
            tell_lost(partition.index(), restart.lost, bounds.start);
        }
        info!(
            partition = partition.index(),
            head = restart.head,
            watermark = restart.watermark,
            lanes = restart.lanes.len(),
            "partition started"
        );
        Ok(Self::new(partition, around, stop, restart, bounds.end))
    }

    fn new(partition: Arc<dyn Partition>, mut around: Surroundings, stop: watch::Receiver<bool>, restart: Restart, end: Offset) -> Self {
        let live = partition.live(restart.head);
        let turn = Turn::new(partition.reader(restart.watermark), restart.watermark);
        let saving = Saving::new(restart.watermark);
        let bell = around.room.join();
        // A registry that is read after this is a change to the receiver that the task keeps.
        let outlets = Arc::clone(&around.outlets.borrow_and_update());
        let lanes = Lanes::new(partition.index(), outlets, restart, Instant::now());
        let metrics = PartitionMetrics::new(partition.index());
        let lag = end.saturating_sub(lanes.head());
        metrics.started(partition.index(), lanes.unsettled() + lag);
        metrics.lanes(&lanes, lag, 0);
        Self {
            around,
            stop,
            partition,
            lanes,
            live,
            turn,
            attempts: JoinSet::new(),
            burying: Burying::default(),
            look: Look::new(),
            saving,
            bell,
            end_at_start: end,
            metrics,
        }
    }

    /// What nobody had read yet at the start was counted by offsets: a replay has one, and may hold several packets.
    pub(super) fn count_at_start(&self, frame: &Frame) {
        if frame.base() < self.end_at_start {
            let unread = frame.records(self.lanes.head()).take_while(|(offset, _)| *offset < self.end_at_start);
            let more =
                unread.filter_map(|(_, record)| Replay::of(&record)).map(|replay| replay.packets.len().saturating_sub(1) as u64).sum();
            self.metrics.more_at_start(self.partition.index(), more);
        }
    }
}

async fn begin_anew(partition: &dyn Partition, start: Offset) -> Result<(), QueueError> {
    error!(
        partition = partition.index(),
        start, "the log isn't the one that checkpoint speaks of (made anew, or restored from a backup): it is read from its start"
    );
    // Else a crash before the next save would leave a watermark that says of the new log what was true of the old one.
    partition.reset(start).await
}

fn tell_lost(partition: u32, offsets: u64, start: Offset) {
    PartitionMetrics::lost(offsets);
    error!(
        partition,
        offsets,
        start,
        "the log has lost records that hadn't settled: it begins above the watermark; this process isn't ready until that is acknowledged (POST /losses/acknowledge)"
    );
}

/// Whether the log holds the record that checkpoint passed last, at its time (L10).
async fn is_named(partition: &dyn Partition, saved: &Saved, bounds: &Range<Offset>) -> Result<bool, QueueError> {
    let Some(LastPassed { offset, at }) = saved.checkpoint.as_ref().map(|checkpoint| checkpoint.last) else { return Ok(false) };
    if !bounds.contains(&offset) {
        return Ok(false);
    }
    let frame = partition.reader(offset).next().await?;
    Ok(frame.records(offset).next().is_some_and(|(found, record)| found == offset && record.at == at))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pushline_model::{Cause, Iccid, Packet, Registry, RegistryBuilder, Timestamp, Webhook};
    use pushline_queue::{Append, Filter, Queue, Record, memory::Memory};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::{Egress, Losses, Network, outlets::Outlets, room::Room};

    /// One group, with a webhook at an address that may not be dialled, or with none.
    fn registry(knows: bool) -> Arc<Registry> {
        let mut builder = RegistryBuilder::default();
        builder.webhook(Webhook::new("w", "http://127.0.0.1:9/".parse().unwrap())).unwrap();
        builder.group("o/a".parse().unwrap(), knows.then_some("w"), false).unwrap();
        Arc::new(builder.build())
    }

    #[tokio::test]
    async fn a_reload_while_a_partition_starts_is_not_missed() {
        let (queue, room, network) = (Memory::new(), Room::new(1 << 20), Network::new(Egress::default()).unwrap());
        let (outlets, known) = watch::channel(Arc::new(Outlets::new(registry(false), &room, &network).unwrap()));
        let around = Surroundings {
            outlets: known,
            room,
            dead_letters: queue.dead_letters(),
            losses: Arc::new(Losses::default()),
            health: crate::webhook_health::WebhookHealth::new(false),
            max_age: Duration::from_hours(72),
            shutdown_grace: Duration::ZERO,
        };
        let packet = Packet {
            iccid: Iccid::from_bytes(b"1").unwrap(),
            topic: "o/1",
            received_at: Timestamp::of(std::time::SystemTime::now()),
            payload: b"",
        };
        queue.append(&[Record::packet("o/a", &packet)]).await.unwrap();
        let partition = Arc::clone(&queue.partitions().borrow()[0]);
        let (_stop, stopped) = watch::channel(false);
        let task = Task::start(partition, around, stopped).await.unwrap();
        outlets.send_modify(|outlets| *outlets = Arc::new(outlets.read_again(registry(true)).unwrap()));
        let running = tokio::spawn(task.run());
        let tried = async {
            while queue.dead_letters().list(&Filter::default(), 0, 1).await.unwrap().found.is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), tried).await.expect("the webhook that came is tried");
        let found = queue.dead_letters().list(&Filter::default(), 0, 1).await.unwrap().found;
        assert_eq!(found[0].letter.cause, Cause::BlockedAddress);
        running.abort();
    }
}
