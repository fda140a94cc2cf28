//! Starting a partition's task (docs/delivery.md, Restart): where its checkpoint says, if the log is the one that it speaks of.
//!
//! Records that the log has lost are counted and logged; a checkpoint that speaks of another log isn't used.

use std::{ops::Range, sync::Arc};

use pushline_lanes::{Checkpoint, Core, Effects, Excuse, LogState, Restart, Start, Tuning, Unreadable};
use pushline_model::Offset;
use pushline_queue::{Partition, QueueError, SavedCheckpoint};
use tokio::{sync::watch, task::JoinSet};
use tracing::{error, info, warn};

use super::{Context, Task, catch_up::CatchUpReader, dead_letters::Writing, metrics::PartitionMetrics, notices::excused, now};

impl Task {
    /// Starts where the partition's checkpoint says.
    pub(crate) async fn start(partition: Arc<dyn Partition>, context: Context, stop: watch::Receiver<bool>) -> Result<Self, QueueError> {
        let saved = partition.load().await?;
        let bounds = partition.bounds().await?;
        let metrics = PartitionMetrics::new(partition.index());
        let checkpoint = read(partition.index(), saved.checkpoint, &metrics)?;
        let is_named = is_named(&*partition, checkpoint.as_ref(), &bounds).await?;
        let restart = Restart::new(saved.watermark, checkpoint, &bounds, is_named);
        if restart.is_another_log {
            begin_anew(&*partition, bounds.start, &metrics).await?;
        }
        if restart.missing > 0 {
            context.losses.add(restart.missing);
            log_missing(partition.index(), restart.missing, bounds.start);
        }
        info!(
            partition = partition.index(),
            live_offset = restart.live_offset,
            watermark = restart.watermark,
            lanes = restart.lanes.len(),
            "partition started"
        );
        Ok(Self::new(partition, context, stop, restart, metrics))
    }

    fn new(
        partition: Arc<dyn Partition>,
        mut context: Context,
        stop: watch::Receiver<bool>,
        restart: Restart,
        metrics: PartitionMetrics,
    ) -> Self {
        let live = partition.live(restart.live_offset);
        let catch_up = CatchUpReader::new(partition.reader(restart.watermark), restart.watermark);
        let wakeup = context.wakeups.join();
        // A registry that is read after this is a change to the receiver that the task keeps.
        let endpoints = Arc::clone(&context.endpoints.borrow_and_update());
        let log = LogState { end: partition.end(), horizon: partition.horizon() };
        let (start, tuning) = (Start { log, now: now() }, Tuning::new(context.max_age));
        let lag = restart.end_at_start.saturating_sub(restart.live_offset);
        let webhooks = Arc::clone(endpoints.webhooks());
        let core = Core::new(partition.index(), webhooks, restart, tuning, start, &context.budgets);
        let status = core.status(start.now);
        metrics.started(partition.index(), status.unsettled - status.lag + lag);
        metrics.report(&status, start.now);
        Self {
            context,
            stop,
            partition,
            core,
            endpoints,
            effects: Effects::default(),
            wakeup,
            live,
            catch_up,
            attempts: JoinSet::new(),
            ended: Vec::new(),
            dead_letters: Writing::default(),
            saving: None,
            ticking: None,
            oldest: None,
            metrics,
        }
    }
}

/// The checkpoint that was saved, if it can be read. Where it can't, or isn't the one that belongs to the watermark, records may come under a second id.
fn read(partition: u32, saved: SavedCheckpoint, metrics: &PartitionMetrics) -> Result<Option<Checkpoint>, QueueError> {
    let excuse = |why: &str| {
        warn!(partition, "the checkpoint isn't usable: {why}");
        excused(partition, Excuse::Checkpoint, 0);
        metrics.excused(Excuse::Checkpoint, 1);
    };
    let (bytes, is_named) = match saved {
        SavedCheckpoint::None => return Ok(None),
        SavedCheckpoint::Missing { reason } => {
            excuse(&reason);
            return Ok(None);
        }
        SavedCheckpoint::Named(bytes) => (bytes, true),
        SavedCheckpoint::Unnamed(bytes) => (bytes, false),
    };
    match Checkpoint::decode(&bytes) {
        Ok(checkpoint) => {
            if !is_named {
                excuse("the one that belongs to the watermark is gone, and the last one is used");
            }
            Ok(Some(checkpoint))
        }
        Err(version @ Unreadable::Version(_)) => Err(QueueError::Misfit(format!("partition {partition}: {version}"))),
        Err(corrupt @ Unreadable::Corrupt) => {
            excuse(&corrupt.to_string());
            Ok(None)
        }
    }
}

async fn begin_anew(partition: &dyn Partition, start: Offset, metrics: &PartitionMetrics) -> Result<(), QueueError> {
    error!(
        partition = partition.index(),
        start, "the log isn't the one that the checkpoint speaks of (a recreated topic, or a restored backup): it is read from its start"
    );
    metrics.excused(Excuse::AnotherLog, 1);
    // Else a crash before the next save would leave a watermark and a checkpoint that say of the new log what was true of the old one.
    let empty = Checkpoint { live_offset: start, ..Checkpoint::default() };
    partition.reset(empty.encode(), start).await
}

fn log_missing(partition: u32, offsets: u64, start: Offset) {
    PartitionMetrics::missing(offsets);
    error!(
        partition,
        offsets,
        start,
        "records that hadn't settled are gone: the log begins above the watermark; /readyz fails until an operator acknowledges the loss (POST /losses/acknowledge)"
    );
}

/// Whether the log holds the record that the checkpoint names as the last one passed, at its time.
async fn is_named(partition: &dyn Partition, checkpoint: Option<&Checkpoint>, bounds: &Range<Offset>) -> Result<bool, QueueError> {
    let Some(last) = checkpoint.and_then(|checkpoint| checkpoint.last).filter(|last| bounds.contains(&last.offset)) else {
        return Ok(false);
    };
    let frame = partition.reader(last.offset).next().await?;
    Ok(frame.records(last.offset).next().is_some_and(|(offset, record)| offset == last.offset && record.at == last.at))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pushline_lanes::Budgets;
    use pushline_model::{Cause, Iccid, Packet, Registry, RegistryBuilder, Timestamp, Webhook};
    use pushline_queue::{Append, Filter, Queue, Record, memory::Memory};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::{Egress, Losses, Network, RefusedTicks, endpoints::Endpoints, wakeups::Wakeups};

    /// One group, with a webhook at an address that may not be dialled, or with none.
    fn registry(knows: bool) -> Arc<Registry> {
        let mut builder = RegistryBuilder::default();
        builder.webhook(Webhook::new("w", "http://127.0.0.1:9/".parse().unwrap())).unwrap();
        builder.group("o/a".parse().unwrap(), knows.then_some("w"), false).unwrap();
        Arc::new(builder.build())
    }

    #[tokio::test]
    async fn a_reload_while_a_partition_starts_is_not_missed() {
        let (queue, budgets, network) = (Memory::new(), Budgets::new(1 << 20), Network::new(Egress::default()).unwrap());
        let (endpoints, known) = watch::channel(Arc::new(Endpoints::new(registry(false), &budgets, &network).unwrap()));
        let context = Context {
            endpoints: known,
            budgets,
            wakeups: Arc::new(Wakeups::default()),
            dead_letters: queue.dead_letters(),
            losses: Arc::new(Losses::default()),
            refused_ticks: Arc::new(RefusedTicks::default()),
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
        let task = Task::start(partition, context, stopped).await.unwrap();
        endpoints.send_modify(|endpoints| *endpoints = Arc::new(endpoints.reload(registry(true)).unwrap()));
        let running = tokio::spawn(task.run());
        let tried = async {
            while queue.dead_letters().list(&Filter::default(), 0, 1).await.unwrap().found.is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), tried).await.expect("the webhook that came is tried");
        let found = queue.dead_letters().list(&Filter::default(), 0, 1).await.unwrap().found;
        assert_eq!(found[0].dead_letter.cause, Cause::BlockedAddress);
        running.abort();
    }
}
