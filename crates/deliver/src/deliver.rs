//! The delivering role: a task for each partition that this process serves, around one room and one set of destinations.

use std::{sync::Arc, time::Duration};

use pushline_model::Registry;
use pushline_queue::{Queue, QueueError};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    DeliverError, Egress, Network,
    outlets::Outlets,
    partition::{Surroundings, Task},
    room::Room,
};

/// How to deliver.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which addresses may be dialled.
    pub egress: Egress,
    /// Bytes that message bodies may hold in memory (LANES.md, *Room*).
    pub room: usize,
    /// How long a shutdown waits for what is in flight.
    pub shutdown_grace: Duration,
    /// How long packets may wait before they become dead letters (LANES.md L12).
    pub max_age: Duration,
}

/// The running role. Dropping it aborts what is in flight; nothing acknowledged is lost, it is sent again after the start.
#[derive(Debug)]
pub struct Deliver {
    tasks: JoinSet<Result<(), QueueError>>,
    stop: watch::Sender<bool>,
    outlets: watch::Sender<Arc<Outlets>>,
}

impl Options {
    /// The defaults of DESIGN.md.
    #[must_use]
    pub fn new(egress: Egress) -> Self {
        Self { egress, room: 128 << 20, shutdown_grace: Duration::from_secs(10), max_age: Duration::from_hours(72) }
    }
}

impl Deliver {
    /// Starts a task for each partition, where its progress says.
    ///
    /// # Errors
    /// [`DeliverError`] when a webhook can't be made ready to send to, or saved progress can't be read.
    pub async fn start(options: Options, queue: &Arc<dyn Queue>, registry: Arc<Registry>) -> Result<Self, DeliverError> {
        let room = Room::new(options.room);
        let network = Network::new(options.egress)?;
        let (outlets, known) = watch::channel(Arc::new(Outlets::new(registry, &room, &network)?));
        let (stop, stopped) = watch::channel(false);
        let Options { shutdown_grace, max_age, .. } = options;
        let around = Surroundings { outlets: known, room, dead_letters: queue.dead_letters(), max_age, shutdown_grace, stop: stopped };
        let mut tasks = JoinSet::new();
        for partition in queue.partitions() {
            tasks.spawn(Task::start(partition, around.clone()).await?.run());
        }
        Ok(Self { tasks, stop, outlets })
    }

    /// The registry was read again (LANES.md L13). What is in flight ends under the old definition; everything else of a webhook or group that changed
    /// goes out under the new one, with the same packets and ids.
    ///
    /// # Errors
    /// [`DeliverError`] when a webhook can't be made ready to send to; then nothing has changed.
    pub fn reload(&self, registry: Arc<Registry>) -> Result<(), DeliverError> {
        let outlets = self.outlets.borrow().read_again(registry)?;
        self.outlets.send_replace(Arc::new(outlets));
        Ok(())
    }

    /// Resolves when a task ends that nobody told to: the role can't go on.
    pub async fn failed(&mut self) -> QueueError {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(ended) => into_result(ended).err().unwrap_or(QueueError::Closed),
        }
    }

    /// Starts no new attempt, lets what is in flight end within the grace (suspect webhooks aren't waited for), saves progress, ends.
    ///
    /// # Errors
    /// The first that saving gave.
    pub async fn shutdown(mut self) -> Result<(), QueueError> {
        self.stop.send_replace(true);
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            result = result.and(into_result(ended));
        }
        result
    }
}

/// A task that panicked takes the process with it.
fn into_result(ended: Result<Result<(), QueueError>, tokio::task::JoinError>) -> Result<(), QueueError> {
    match ended {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(QueueError::Closed),
    }
}
