//! A partition's task: the driver around [`Core`]. It reads, sends, writes dead letters, keeps time and saves; all of it is decided in the core.
//!
//! Here are its waits, the only `select!` of a partition. Beside it, a file for each thing that takes longer.

mod attempts;
mod catch_up;
mod dead_letters;
mod metrics;
mod notices;
mod oldest;
mod start;

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use pushline_lanes::{AttemptEnded, Budgets, Core, Effects, Event, Leave, LogState, Now, OldestRead, Save, SaveEnded, TickRefused};
use pushline_model::{Offset, Timestamp};
use pushline_queue::{AppendError, DeadLetters, Partition, QueueError, Reader};
use tokio::{sync::watch, task::JoinSet, time::sleep_until};

use self::{catch_up::CatchUpReader, dead_letters::Writing, metrics::PartitionMetrics};
use crate::{
    Losses, RefusedTicks,
    endpoints::Endpoints,
    wakeups::{Wakeup, Wakeups},
    webhook_health::WebhookHealth,
};

/// What a partition task needs besides its partition.
#[derive(Clone)]
pub(crate) struct Context {
    /// Changes when the registry was read again.
    pub(crate) endpoints: watch::Receiver<Arc<Endpoints>>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) wakeups: Arc<Wakeups>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) losses: Arc<Losses>,
    pub(crate) refused_ticks: Arc<RefusedTicks>,
    pub(crate) health: Arc<WebhookHealth>,
    /// How long packets may wait: `backlog.max_age`.
    pub(crate) max_age: Duration,
    pub(crate) shutdown_grace: Duration,
}

/// The task. Owns everything of its partition; nothing of it is locked.
pub(crate) struct Task {
    context: Context,
    /// Turns true once: the task leaves its partition.
    stop: watch::Receiver<bool>,
    partition: Arc<dyn Partition>,
    core: Core,
    /// Of the snapshot that the core has.
    endpoints: Arc<Endpoints>,
    effects: Effects,
    wakeup: Arc<Wakeup>,
    live: Box<dyn Reader>,
    catch_up: CatchUpReader,
    attempts: JoinSet<AttemptEnded>,
    /// Reused: attempts that ended at the same time.
    ended: Vec<AttemptEnded>,
    dead_letters: Writing,
    /// Ends with the task: a save that hangs must not keep the partition from its next owner.
    saving: Option<BoxFuture<'static, Result<(), QueueError>>>,
    ticking: Option<BoxFuture<'static, Result<Offset, AppendError>>>,
    oldest: Option<BoxFuture<'static, Oldest>>,
    metrics: PartitionMetrics,
}

/// From where the oldest record was read, and when it was received.
type Oldest = (Offset, Result<Option<Timestamp>, QueueError>);

impl Task {
    /// Runs until it has left the partition, or the queue fails.
    pub(crate) async fn run(mut self) -> Result<(), QueueError> {
        let (mut stop, mut is_leaving) = (self.stop.clone(), false);
        let mut endpoints = self.context.endpoints.clone();
        let wakeup = Arc::clone(&self.wakeup);
        self.time_passed();
        loop {
            self.execute().await;
            if self.effects.left {
                break;
            }
            let wake_at = self.effects.wake_at;
            // The order is left to chance on purpose: each branch takes all that is ready, so one that is always ready (outcomes under load, the log
            // on a backlog) can't starve the others.
            tokio::select! {
                _ = stop.wait_for(|stop| *stop), if !is_leaving => {
                    is_leaving = true;
                    self.on(Event::Leave(self.leave()));
                }
                Some(ended) = self.attempts.join_next() => self.attempts_ended(ended),
                (batches, is_owner) = finished(&mut self.dead_letters.confirming) => self.ownership_confirmed(batches, is_owner),
                Some(written) = self.dead_letters.writing.next() => self.dead_letters_written(written)?,
                wake = wakeup.woken() => self.on(Event::Woken { for_catch_up: wake.for_catch_up }),
                () = changed(&mut endpoints) => self.reloaded(Arc::clone(&endpoints.borrow_and_update())),
                () = at(wake_at) => self.time_passed(),
                saved = finished(&mut self.saving) => self.saved(saved)?,
                ticked = finished(&mut self.ticking) => self.ticked(ticked),
                (from, oldest) = finished(&mut self.oldest) => self.oldest_read(from, oldest?),
                frame = self.live.next(), if self.core.reads_live() => self.on(Event::LiveFrame { frame: &frame?, log: self.log_state() }),
                block = self.catch_up.read() => self.block_read(block)?,
            }
        }
        self.metrics.left();
        self.context.refused_ticks.resumed(self.partition.index());
        Ok(())
    }

    fn on(&mut self, event: Event<'_>) {
        self.core.on(event, now(), &self.context.budgets, &mut self.effects);
    }

    fn time_passed(&mut self) {
        self.on(Event::TimePassed { log: self.log_state(), overflow: self.partition.overflow() });
    }

    fn reloaded(&mut self, endpoints: Arc<Endpoints>) {
        let webhooks = Arc::clone(endpoints.webhooks());
        self.endpoints = endpoints;
        self.on(Event::Reloaded(webhooks));
    }

    fn log_state(&self) -> LogState {
        LogState { end: self.partition.end(), horizon: self.partition.horizon() }
    }

    fn leave(&self) -> Leave {
        match self.partition.revoke_deadline() {
            None => Leave::at_shutdown(Instant::now(), self.context.shutdown_grace),
            Some(deadline) => Leave::revoked(Instant::now(), deadline),
        }
    }

    fn block_read(&mut self, block: Result<(), QueueError>) -> Result<(), QueueError> {
        block?;
        let frames = self.catch_up.take();
        self.on(Event::CatchUpBlock { frames: &frames });
        Ok(())
    }

    fn oldest_read(&mut self, from: Offset, received_at: Option<Timestamp>) {
        self.on(Event::OldestRead(OldestRead { from, received_at, overflow: self.partition.overflow() }));
    }

    fn ticked(&mut self, ticked: Result<Offset, AppendError>) {
        self.metrics.ticked(ticked.is_ok());
        self.on(Event::TickEnded(ticked.map_err(|error| TickRefused(error.to_string()))));
    }

    /// A full disk recovers by itself, and so do brokers that are away. Anything else ends the task.
    fn saved(&mut self, saved: Result<(), QueueError>) -> Result<(), QueueError> {
        let ended = match saved {
            Ok(()) => SaveEnded::Durable,
            Err(error) if error.is_passing() => SaveEnded::Postponed { why: error.with_source() },
            Err(error) => return Err(error),
        };
        self.metrics.saved(&ended);
        self.on(Event::SaveEnded(ended));
        Ok(())
    }

    /// Does what the core wants done. What takes longer begins here, and ends in the `select!`.
    async fn execute(&mut self) {
        self.start_attempts();
        self.confirm_ownership();
        if let Some(read) = self.effects.read.take() {
            self.catch_up.begin(&*self.partition, read);
        }
        if let Some(Save { checkpoint, watermark }) = self.effects.save.take() {
            self.saving = Some(self.partition.save(checkpoint, watermark));
        }
        if std::mem::take(&mut self.effects.append_tick) {
            self.ticking = Some(self.partition.tick());
        }
        if let Some(from) = self.effects.look_at.take() {
            let read = oldest::read(self.partition.reader(from), from, self.partition.end());
            self.oldest = Some(read.map(move |oldest| (from, oldest)).boxed());
        }
        if let Some(wake) = self.effects.wake_others.take() {
            self.context.wakeups.wake_others(&self.wakeup, wake);
        }
        self.report();
        if std::mem::take(&mut self.effects.abort_attempts) {
            self.attempts.shutdown().await;
            self.on(Event::AttemptsAborted);
            Box::pin(self.execute()).await;
        }
    }
}

/// What was begun ends; waits for ever where nothing was.
async fn finished<F: Future + Unpin>(begun: &mut Option<F>) -> F::Output {
    match begun {
        None => pending().await,
        Some(future) => {
            let output = future.await;
            *begun = None;
            output
        }
    }
}

/// Resolves when the registry was read again.
async fn changed(endpoints: &mut watch::Receiver<Arc<Endpoints>>) {
    if endpoints.changed().await.is_err() {
        pending::<()>().await;
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        None => pending().await,
        Some(instant) => sleep_until(instant.into()).await,
    }
}

fn now() -> Now {
    Now { monotonic: Instant::now(), wall: wall() }
}

fn wall() -> Timestamp {
    Timestamp::of(SystemTime::now())
}
