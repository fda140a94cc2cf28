//! A partition's task: the driver around [`Lanes`]. It reads, sends, writes dead letters, keeps time and saves checkpoint; what any
//! of it means is decided in the pure parts.
//!
//! Here are its waits, every `select!` of it, and what is one line each; beside it, a file for each thing that takes longer.

mod attempts;
mod burying;
mod counting;
mod expiry;
mod hand_over;
mod saving;
mod start;
mod turn;

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::StreamExt;
use pushline_model::{Offset, Timestamp};
use pushline_queue::{DeadLetters, Frame, Partition, QueueError, Reader};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Interval, MissedTickBehavior, interval, sleep_until},
};

use self::{attempts::Ended, burying::Burying, counting::PartitionMetrics, expiry::Look, saving::Saving, turn::Turn};
use crate::{
    Losses,
    lanes::Lanes,
    outlets::Outlets,
    room::{Bell, Room},
    webhook_health::WebhookHealth,
};

/// What a partition task needs besides its partition.
#[derive(Clone)]
pub(crate) struct Surroundings {
    /// Changes when the registry was read again.
    pub(crate) outlets: watch::Receiver<Arc<Outlets>>,
    pub(crate) room: Arc<Room>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) losses: Arc<Losses>,
    pub(crate) health: Arc<WebhookHealth>,
    /// How long packets may wait (LANES.md L12).
    pub(crate) max_age: Duration,
    pub(crate) shutdown_grace: Duration,
}

/// The task. Owns everything of its partition; nothing of it is locked.
pub(crate) struct Task {
    around: Surroundings,
    /// Turns true once: no new attempt, finish what is in flight, save, leave.
    stop: watch::Receiver<bool>,
    partition: Arc<dyn Partition>,
    lanes: Lanes,
    live: Box<dyn Reader>,
    turn: Turn,
    attempts: JoinSet<Ended>,
    burying: Burying,
    look: Look,
    saving: Saving,
    bell: Arc<Bell>,
    /// Where the log ended at the start.
    end_at_start: Offset,
    metrics: PartitionMetrics,
}

impl Task {
    /// Runs until it is told to stop, or the queue fails.
    pub(crate) async fn run(mut self) -> Result<(), QueueError> {
        let mut seconds = every_second();
        let mut stop = self.stop.clone();
        let mut outlets = self.around.outlets.clone();
        loop {
            self.dispatch();
            let end = self.partition.end();
            self.begin_turn();
            let may_sweep = self.turn.may_read(self.lanes.head() >= end);
            let tick = self.lanes.next_tick(end);
            // The order is left to chance on purpose: each branch takes all that is ready, so whichever is always ready (outcomes under
            // load, the log on a backlog) can't starve the others.
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(ended) = self.attempts.join_next() => self.ended(ended),
                (burials, ours) = finished(&mut self.burying.asking) => self.may_bury(burials, ours),
                Some(burial) = self.burying.writing.next() => self.buried(burial)?,
                for_sweeps = self.bell.rung() => self.woken(for_sweeps),
                () = changed(&mut outlets) => self.reload(Arc::clone(&outlets.borrow_and_update())),
                () = at(tick) => self.tick(),
                _ = seconds.tick() => self.second(),
                saved = finished(&mut self.saving.under_way) => self.after_save(saved)?,
                oldest = finished(&mut self.look.under_way) => self.looked(result_of(oldest)?),
                frame = self.live.next() => self.live(&frame?),
                frame = self.turn.reader.next(), if may_sweep => self.swept(frame?),
            }
        }
        self.finish().await
    }

    /// What is in flight ends, and what it means is durable.
    async fn settle_in_flight(&mut self) {
        while self.lanes.awaited(!self.burying.lost) > 0 {
            tokio::select! {
                Some(ended) = self.attempts.join_next() => self.ended(ended),
                (burials, ours) = finished(&mut self.burying.asking) => self.may_bury(burials, ours),
                Some(burial) = self.burying.writing.next() => if self.buried(burial).is_err() { return },
                saved = finished(&mut self.saving.under_way) => if self.after_save(saved).is_err() { return },
            }
        }
    }

    fn live(&mut self, frame: &Frame) {
        self.turn.live_has_read(frame.bytes().len());
        self.count_at_start(frame);
        self.turn.wanted |= self.lanes.live(frame, self.partition.end(), Instant::now());
        self.saving.changed = true;
    }

    fn woken(&mut self, for_sweeps: bool) {
        self.turn.wanted |= self.lanes.woken() || for_sweeps;
    }

    fn tick(&mut self) {
        self.turn.wanted |= self.lanes.tick(self.partition.end(), Instant::now());
    }

    fn reload(&mut self, outlets: Arc<Outlets>) {
        self.lanes.redirect(outlets, Instant::now());
        (self.saving.changed, self.turn.wanted) = (true, true);
    }

    fn second(&mut self) {
        self.look();
        let lag = self.partition.end().saturating_sub(self.lanes.head());
        self.metrics.lanes(&self.lanes, lag, self.around.outlets.borrow().suspects());
        self.save_changes();
    }
}

/// What is under way comes to its end; waits for ever where nothing is.
async fn finished<F: Future + Unpin>(under_way: &mut Option<F>) -> F::Output {
    match under_way {
        None => pending().await,
        Some(future) => {
            let output = future.await;
            *under_way = None;
            output
        }
    }
}

/// A task that was cut off has come to nothing.
fn result_of<T>(joined: Result<Result<T, QueueError>, JoinError>) -> Result<T, QueueError> {
    joined.unwrap_or(Err(QueueError::Closed))
}

/// Resolves when the registry was read again.
async fn changed(outlets: &mut watch::Receiver<Arc<Outlets>>) {
    if outlets.changed().await.is_err() {
        pending::<()>().await;
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        None => pending().await,
        Some(instant) => sleep_until(instant.into()).await,
    }
}

fn every_second() -> Interval {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds
}

fn wall() -> Timestamp {
    Timestamp::of(SystemTime::now())
}
