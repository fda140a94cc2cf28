//! A partition's task: the driver around [`Lanes`]. It reads, sends, writes dead letters, keeps time and saves progress; what any
//! of it means is decided in the pure parts.

use std::{
    future::pending,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use pushline_model::{Attempt, Cause, DeadLetter, Offset, Outcome, Timestamp};
use pushline_queue::{AppendError, DeadLetters, Frame, LastPassed, Partition, QueueError, Reader, Restart, Saved};
use tokio::{
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
    time::{Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at},
};
use tracing::{error, info, warn};

use crate::{
    Losses,
    lanes::{Burial, BurialKey, Consequence, Expiry, Lanes, MessageKey, Sending, Sweep},
    metrics::PartitionMetrics,
    outlets::Outlets,
    room::Room,
};

/// A turn of a sweep (LANES.md L4).
const TURN: usize = 8 << 20;

/// How long the last save may take where nobody waits for the partition.
const LAST_SAVE: Duration = Duration::from_secs(10);

/// After so long, a dead letter that was refused is written again.
const BURY_AGAIN: Duration = Duration::from_secs(2);

/// What a partition task needs besides its partition.
#[derive(Clone)]
pub(crate) struct Surroundings {
    /// Changes when the registry was read again.
    pub(crate) outlets: watch::Receiver<Arc<Outlets>>,
    pub(crate) room: Arc<Room>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) losses: Arc<Losses>,
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
    /// Dead letters that wait until it is known that the partition is still ours: it is asked once for all that came since the last answer.
    unasked: Vec<Burial>,
    asking: Option<BoxFuture<'static, (Vec<Burial>, bool)>>,
    burials: FuturesUnordered<BoxFuture<'static, Buried>>,
    looking: Option<JoinHandle<Result<Option<Timestamp>, QueueError>>>,
    looked_at: Instant,
    /// Since when packets have been expiring.
    expiring: bool,
    saving: Option<JoinHandle<Result<(), QueueError>>>,
    /// Something happened since the last save.
    changed: bool,
    saved_at: Instant,
    /// The last save couldn't be made for now.
    unsaved: bool,
    woken: Arc<Notify>,
    metrics: PartitionMetrics,
}

/// Reading for the sweeps: turns of at most 8 MiB, between live reading.
struct Turn {
    reader: Box<dyn Reader>,
    /// Where the reader stands.
    at: Offset,
    /// Under way: where it began, and what was read of it.
    under_way: Option<(Offset, Vec<Frame>)>,
    bytes: usize,
    /// Whose turn is next.
    next: Sweep,
    /// Somebody may want a turn.
    wanted: bool,
    /// Bytes that live reading has to read first, so that sweeps get at most half of the reading while the head is behind the end.
    owed: usize,
}

/// An attempt that ended.
struct Ended {
    key: MessageKey,
    outcome: Outcome,
    attempt: Attempt,
}

/// Dead letters that were written, or never will be.
struct Buried {
    key: BurialKey,
    cause: Cause,
    result: Result<(), AppendError>,
}

impl Task {
    /// Starts where the partition's progress says (L10).
    pub(crate) async fn start(
        partition: Arc<dyn Partition>,
        around: Surroundings,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, QueueError> {
        let saved = partition.load().await?;
        let bounds = partition.bounds().await?;
        let named = is_named(&*partition, &saved, &bounds).await?;
        let restart = Restart::new(saved, bounds.start, named);
        if restart.remade {
            error!(
                partition = partition.index(),
                start = bounds.start,
                "the log isn't the one that progress speaks of (made anew, or restored from a backup): it is read from its start"
            );
            // Else a crash before the next save would leave a watermark that says of the new log what was true of the old one.
            partition.reset(bounds.start).await?;
        }
        if restart.lost > 0 {
            around.losses.add(restart.lost);
            PartitionMetrics::lost(restart.lost);
            error!(
                partition = partition.index(),
                offsets = restart.lost,
                start = bounds.start,
                "the log has lost records that hadn't settled: it begins above the watermark; this process isn't ready until that is acknowledged (POST /losses/acknowledge)"
            );
        }
        info!(
            partition = partition.index(),
            head = restart.head,
            watermark = restart.watermark,
            lanes = restart.lanes.len(),
            "partition started"
        );
        let live = partition.live(restart.head);
        let (sweeping, watermark) = (partition.reader(restart.watermark), restart.watermark);
        let woken = around.room.join();
        let outlets = Arc::clone(&around.outlets.borrow());
        let lanes = Lanes::new(partition.index(), outlets, restart, Instant::now());
        let metrics = PartitionMetrics::new(partition.index());
        let lag = bounds.end.saturating_sub(lanes.head());
        metrics.started(partition.index(), lanes.unsettled() + lag);
        metrics.lanes(&lanes, lag, 0);
        Ok(Self {
            around,
            stop,
            partition,
            lanes,
            live,
            turn: Turn::new(sweeping, watermark),
            attempts: JoinSet::new(),
            unasked: Vec::new(),
            asking: None,
            burials: FuturesUnordered::new(),
            looking: None,
            looked_at: Instant::now(),
            expiring: false,
            saving: None,
            changed: false,
            saved_at: Instant::now(),
            unsaved: false,
            woken,
            metrics,
        })
    }

    /// Runs until it is told to stop, or the queue fails.
    pub(crate) async fn run(mut self) -> Result<(), QueueError> {
        let mut seconds = every_second();
        let mut stop = self.stop.clone();
        let mut outlets = self.around.outlets.clone();
        outlets.mark_unchanged();
        loop {
            self.dispatch();
            let end = self.partition.end();
            self.begin_turn();
            let may_sweep = self.turn.under_way.is_some() && (self.turn.owed == 0 || self.lanes.head() >= end);
            let tick = self.lanes.next_tick(end);
            // The order is left to chance on purpose: each branch takes all that is ready, so whichever is always ready (outcomes under
            // load, the log on a backlog) can't starve the others.
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(ended) = self.attempts.join_next() => self.ended(ended),
                (burials, ours) = answered(&mut self.asking) => self.may_bury(burials, ours),
                Some(burial) = self.burials.next() => self.buried(burial)?,
                () = self.woken.notified() => self.woken(),
                () = changed(&mut outlets) => self.reload(Arc::clone(&outlets.borrow_and_update())),
                () = at(tick) => self.tick(),
                _ = seconds.tick() => self.second(),
                saved = finished(&mut self.saving) => self.after_save(saved?)?,
                oldest = finished(&mut self.looking) => self.looked(oldest??),
                frame = self.live.next() => self.live(&frame?),
                frame = self.turn.reader.next(), if may_sweep => self.swept(frame?),
            }
        }
        self.finish().await
    }

    fn live(&mut self, frame: &Frame) {
        self.turn.owed = self.turn.owed.saturating_sub(frame.bytes().len());
        self.turn.wanted |= self.lanes.live(frame, self.partition.end(), Instant::now());
        self.changed = true;
    }

    // --- sweeps

    fn begin_turn(&mut self) {
        if self.turn.under_way.is_some() || !std::mem::take(&mut self.turn.wanted) {
            return;
        }
        let first = self.turn.next;
        for sweep in [first, first.other()] {
            if let Some(from) = self.lanes.sweep_from(sweep) {
                self.turn.begin(&*self.partition, sweep, from);
                return;
            }
        }
    }

    fn swept(&mut self, frame: Frame) {
        let passed = self.lanes.passed();
        if let Some((from, frames)) = self.turn.read(frame, passed) {
            let burials = self.lanes.sweep(from, &frames, Instant::now(), wall());
            self.bury(burials);
            self.changed = true;
        }
    }

    fn tick(&mut self) {
        self.lanes.tick(self.partition.end(), Instant::now());
        self.turn.wanted = true;
    }

    // --- reload (L13)

    fn reload(&mut self, outlets: Arc<Outlets>) {
        self.lanes.redirect(outlets, Instant::now());
        (self.changed, self.turn.wanted) = (true, true);
    }

    // --- expiry (L12)

    /// Looks at the oldest record that hasn't settled, now and then: sixty times in `backlog.max_age`, at least once a minute.
    fn look(&mut self) {
        let (watermark, end) = (self.lanes.watermark(), self.partition.end());
        if watermark >= end {
            self.metrics.oldest_unsettled(Duration::ZERO);
        }
        let due = (self.around.max_age / 60).clamp(Duration::from_millis(500), Duration::from_mins(1));
        let is_due = self.looked_at.elapsed() >= due || self.partition.overflow().is_some();
        if self.looking.is_some() || !is_due || watermark >= end && !self.expiring {
            return;
        }
        self.looked_at = Instant::now();
        let mut reader = self.partition.reader(watermark);
        self.looking = Some(tokio::spawn(async move {
            if watermark >= end {
                return Ok(None);
            }
            let frame = reader.next().await?;
            Ok(frame.records(watermark).next().map(|(_, record)| record.at))
        }));
    }

    fn looked(&mut self, oldest: Option<Timestamp>) {
        let before = wall().minus(self.around.max_age);
        let below = self.partition.overflow();
        self.metrics.oldest_unsettled(oldest.map_or(Duration::ZERO, |oldest| wall().distance(oldest)));
        let expires = oldest.is_some_and(|oldest| oldest < before) || below.is_some_and(|below| self.lanes.watermark() < below);
        if expires != std::mem::replace(&mut self.expiring, expires) {
            let partition = self.partition.index();
            match expires {
                true => warn!(
                    partition,
                    overflow = below.is_some(),
                    "the oldest packets wait too long or take too much space: they become dead letters"
                ),
                false => info!(partition, "no packets expire any more"),
            }
        }
        let expiry = expires.then_some(Expiry { before, below: below.unwrap_or(0) });
        let burials = self.lanes.expire(expiry, wall());
        self.bury(burials);
        self.turn.wanted |= expires;
    }

    fn woken(&mut self) {
        self.lanes.woken();
        self.turn.wanted = true;
    }

    // --- attempts

    fn dispatch(&mut self) {
        let (attempts, metrics) = (&mut self.attempts, &self.metrics);
        self.lanes.dispatch(|sending| {
            metrics.sending(&sending);
            attempts.spawn(attempt(sending));
        });
    }

    fn ended(&mut self, first: Result<Ended, tokio::task::JoinError>) {
        let mut ended = Some(first);
        while let Some(result) = ended {
            match result {
                Ok(ended) => self.outcome(ended),
                // A bug in the sender: the process ends here, and the message is sent again after the start.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
            ended = self.attempts.try_join_next();
        }
        self.changed = true;
    }

    fn outcome(&mut self, Ended { key, outcome, attempt }: Ended) {
        self.metrics.ended(&outcome, attempt.took);
        let (consequence, suspect) = self.lanes.outcome(key, outcome, attempt, fastrand::f64(), Instant::now());
        self.turn.wanted |= suspect;
        match consequence {
            Consequence::Delivered(packets) => self.metrics.delivered(packets),
            Consequence::Bury(burial) => self.bury([burial]),
            // What ended under an old definition was let go: a sweep rebuilds it for the new one.
            Consequence::Again => self.turn.wanted = true,
            Consequence::Discarded => {}
        }
    }

    fn bury(&mut self, burials: impl IntoIterator<Item = Burial>) {
        self.unasked.extend(burials);
        self.ask();
    }

    fn ask(&mut self) {
        if self.asking.is_some() || self.unasked.is_empty() {
            return;
        }
        let (burials, partition, watermark) = (std::mem::take(&mut self.unasked), Arc::clone(&self.partition), self.lanes.watermark());
        self.asking = Some(async move { (burials, partition.is_ours(watermark).await) }.boxed());
    }

    /// What another process serves now is its business: this one is about to be told.
    fn may_bury(&mut self, burials: Vec<Burial>, ours: bool) {
        if !ours {
            let partition = self.partition.index();
            warn!(partition, dead_letters = burials.len(), "another process serves the partition: no dead letters are written here");
            return;
        }
        for Burial { key, cause, letters } in burials {
            let written = write(self.around.dead_letters.clone(), letters);
            self.burials.push(written.map(move |result| Buried { key, cause, result }).boxed());
        }
        self.ask();
    }

    fn buried(&mut self, Buried { key, cause, result }: Buried) -> Result<(), QueueError> {
        match result {
            Ok(()) => self.metrics.dead_lettered(cause, self.lanes.buried(key)),
            Err(_) => return Err(QueueError::Closed),
        }
        self.changed = true;
        self.turn.wanted = true;
        Ok(())
    }

    // --- progress (L9)

    fn second(&mut self) {
        self.look();
        let lag = self.partition.end().saturating_sub(self.lanes.head());
        self.metrics.lanes(&self.lanes, lag, self.around.outlets.borrow().suspects());
        self.metrics.progress_age(self.changed.then(|| self.saved_at.elapsed()));
        if self.changed && self.saving.is_none() {
            self.changed = false;
            self.saving = Some(tokio::spawn(self.saved()));
        }
    }

    /// A full disk heals by itself, and so do brokers that are away: until then what has settled meanwhile may be sent again after a crash.
    fn after_save(&mut self, saved: Result<(), QueueError>) -> Result<(), QueueError> {
        match saved {
            Err(error) if error.is_passing() => {
                if !std::mem::replace(&mut self.unsaved, true) {
                    warn!(partition = self.partition.index(), %error, "progress can't be saved for now");
                }
                self.changed = true;
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => {
                if std::mem::take(&mut self.unsaved) {
                    info!(partition = self.partition.index(), "progress is saved again");
                }
                self.saved_at = Instant::now();
                self.metrics.saved();
                Ok(())
            }
        }
    }

    fn saved(&self) -> impl Future<Output = Result<(), QueueError>> + Send + 'static {
        let (partition, watermark) = (Arc::clone(&self.partition), self.lanes.watermark());
        let progress = self.lanes.progress(partition.end());
        async move {
            match progress {
                Some(progress) => partition.save(&progress, watermark).await,
                None => Ok(()),
            }
        }
    }

    /// What is in flight may end within the grace; suspect webhooks aren't waited for. What doesn't is sent again by whoever serves the partition
    /// next, and its outcome here doesn't count any more.
    async fn finish(mut self) -> Result<(), QueueError> {
        let (grace, at_most) = match self.partition.patience() {
            None => (self.around.shutdown_grace, self.around.shutdown_grace + LAST_SAVE),
            // The last quarter is for saving.
            Some(patience) => (patience * 3 / 4, patience),
        };
        let until = tokio::time::Instant::now() + at_most;
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
                    "progress couldn't be saved in time: what has settled since the last save is sent again"
                );
                Ok(())
            }
        }
    }

    async fn save_last(&mut self) -> Result<(), QueueError> {
        if let Some(saving) = self.saving.take() {
            let saved = saving.await.unwrap_or(Err(QueueError::Closed));
            self.after_save(saved)?;
        }
        self.saved().await
    }

    async fn settle_in_flight(&mut self) {
        while self.lanes.awaited() > 0 {
            tokio::select! {
                Some(ended) = self.attempts.join_next() => self.ended(ended),
                (burials, ours) = answered(&mut self.asking) => self.may_bury(burials, ours),
                Some(burial) = self.burials.next() => if self.buried(burial).is_err() { return },
            }
        }
    }
}

impl Turn {
    fn new(reader: Box<dyn Reader>, at: Offset) -> Self {
        Self { reader, at, under_way: None, bytes: 0, next: Sweep::Near, wanted: true, owed: 0 }
    }

    fn begin(&mut self, partition: &dyn Partition, sweep: Sweep, from: Offset) {
        // One that goes on where it stands keeps what it has read ahead.
        if from != self.at {
            (self.reader, self.at) = (partition.reader(from), from);
        }
        self.next = sweep.other();
        self.bytes = 0;
        self.under_way = Some((from, Vec::new()));
    }

    /// A frame was read. When it completes the turn, the turn is handed out.
    fn read(&mut self, frame: Frame, passed: Offset) -> Option<(Offset, Vec<Frame>)> {
        let (_, frames) = self.under_way.as_mut()?;
        self.bytes += frame.bytes().len();
        self.at = frame.end();
        frames.push(frame);
        if self.bytes < TURN && self.at < passed {
            return None;
        }
        self.owed = self.bytes;
        self.wanted = true;
        self.under_way.take()
    }
}

/// Writes dead letters until they are kept: what refuses them (a limit of the topic, rights on it) can be mended. Their message stays unsettled
/// until then.
fn write(dead_letters: DeadLetters, letters: Vec<DeadLetter>) -> impl Future<Output = Result<(), AppendError>> {
    let mut written = dead_letters.bury_all(&letters);
    async move {
        let mut told = false;
        loop {
            match written.await {
                Err(refused @ AppendError::Refused(_)) => {
                    if !std::mem::replace(&mut told, true) {
                        error!(%refused, "a dead letter can't be written for now: its message stays unsettled");
                    }
                    sleep(BURY_AGAIN).await;
                    written = dead_letters.bury_all(&letters);
                }
                kept_or_closed => return kept_or_closed,
            }
        }
    }
}

async fn attempt(sending: Sending) -> Ended {
    let (at, began) = (wall(), Instant::now());
    let outcome = sending.outlet.destination.attempt(sending.id, sending.body).await;
    let (status, no_response) = match &outcome {
        Outcome::Accepted { status } | Outcome::ErrorResponse { status, .. } => (Some(*status), None),
        Outcome::NoResponse(why) => (None, Some(*why)),
        Outcome::BlockedAddress { .. } => (None, None),
    };
    Ended { key: sending.key, outcome, attempt: Attempt { at, took: began.elapsed(), status, no_response } }
}

/// Whether the log holds the record that progress passed last, at its time (L10).
async fn is_named(partition: &dyn Partition, saved: &Saved, bounds: &Range<Offset>) -> Result<bool, QueueError> {
    let Some(LastPassed { offset, at }) = saved.progress.as_ref().map(|progress| progress.last) else { return Ok(false) };
    if !bounds.contains(&offset) {
        return Ok(false);
    }
    let frame = partition.reader(offset).next().await?;
    Ok(frame.records(offset).next().is_some_and(|(found, record)| found == offset && record.at == at))
}

/// What a task came to; waits for ever where there is none.
async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, QueueError> {
    match task {
        None => pending().await,
        Some(handle) => {
            let result = handle.await.map_err(|_| QueueError::Closed);
            *task = None;
            result
        }
    }
}

/// Whether dead letters may be written; waits for ever where nobody asks.
async fn answered(asking: &mut Option<BoxFuture<'static, (Vec<Burial>, bool)>>) -> (Vec<Burial>, bool) {
    match asking {
        None => pending().await,
        Some(future) => {
            let answer = future.await;
            *asking = None;
            answer
        }
    }
}

/// Resolves when the registry was read again.
async fn changed(outlets: &mut watch::Receiver<Arc<Outlets>>) {
    if outlets.changed().await.is_err() {
        pending::<()>().await;
    }
}

fn wall() -> Timestamp {
    Timestamp::of(SystemTime::now())
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
