//! The delivering role: a task for each partition that this process serves, as they come and go, around one set of budgets and webhook handles.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use pushline_lanes::Budgets;
use pushline_model::{DescriptorBudget, Registry};
use pushline_queue::{Partition, Partitions, Queue, QueueError};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

use crate::{
    CONNECTIONS_PER_HOST, DeliverError, Egress, LocalFailures, Losses, Network, RefusedTicks,
    endpoints::Endpoints,
    partition::{Context, Task},
    wakeups::Wakeups,
    webhook_health::WebhookHealth,
};

/// How often connections are closed that no attempt will use again, and files of certificates are looked at.
const LOOK_AFTER_CONNECTIONS: Duration = Duration::from_secs(5);

/// How to deliver.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which addresses may be dialled.
    pub egress: Egress,
    /// Bytes that message bodies may hold in memory (docs/delivery.md, Memory budget).
    pub memory_budget: usize,
    /// How long a shutdown waits for what is in flight.
    pub shutdown_grace: Duration,
    /// How long packets may wait before they become dead letters (docs/delivery.md, Expiry).
    pub max_age: Duration,
    /// The file descriptors of connections.
    pub descriptors: Arc<DescriptorBudget>,
    /// How many connections a host may have.
    pub connections_per_host: usize,
    /// Whether webhooks get metrics of their own, 1,000 at the most.
    pub per_webhook_metrics: bool,
}

/// The running role. Dropping it aborts what is in flight; nothing acknowledged is lost, it is sent again after the start.
#[derive(Debug)]
pub struct Deliver {
    /// `None`: it has failed, and [`Deliver::failed`] has returned that.
    serving: Option<JoinHandle<Result<(), QueueError>>>,
    stop: watch::Sender<bool>,
    endpoints: watch::Sender<Arc<Endpoints>>,
    losses: Arc<Losses>,
    refused_ticks: Arc<RefusedTicks>,
    local_failures: Arc<LocalFailures>,
    health: Arc<WebhookHealth>,
}

/// The tasks of the partitions that this process serves.
struct Serving {
    network: Arc<Network>,
    context: Context,
    partitions: watch::Receiver<Partitions>,
    tasks: JoinSet<Result<(), QueueError>>,
    served: Vec<Served>,
}

/// A partition that has a task.
struct Served {
    /// Only its task keeps it alive.
    partition: Weak<dyn Partition>,
    /// Turns true when the task must leave it.
    stop: watch::Sender<bool>,
}

impl Options {
    /// The defaults: 128 MiB of bodies, 10 s of grace, 72 h of backlog.
    #[must_use]
    pub fn new(egress: Egress) -> Self {
        Self {
            egress,
            memory_budget: 128 << 20,
            shutdown_grace: Duration::from_secs(10),
            max_age: Duration::from_hours(72),
            descriptors: DescriptorBudget::unlimited(),
            connections_per_host: CONNECTIONS_PER_HOST,
            per_webhook_metrics: false,
        }
    }
}

impl Deliver {
    /// Starts a task for each partition, where its checkpoint says: for those that this process serves already before it returns, for those
    /// that come later when they come.
    ///
    /// # Errors
    /// [`DeliverError`] when a webhook's requests can't be prepared, or what was saved of a partition can't be read.
    pub async fn start(options: Options, queue: &Arc<dyn Queue>, registry: Arc<Registry>) -> Result<Self, DeliverError> {
        let budgets = Budgets::new(options.memory_budget);
        let network = Network::within(options.egress, options.descriptors, options.connections_per_host)?;
        let (local_failures, health) = (Arc::clone(network.local_failures()), WebhookHealth::new(options.per_webhook_metrics));
        let (endpoints, known) = watch::channel(Arc::new(Endpoints::new(registry, &budgets, &network)?));
        let (losses, refused_ticks) = (Arc::<Losses>::default(), Arc::<RefusedTicks>::default());
        let context = Context {
            endpoints: known,
            budgets,
            wakeups: Arc::new(Wakeups::default()),
            dead_letters: queue.dead_letters(),
            losses: Arc::clone(&losses),
            refused_ticks: Arc::clone(&refused_ticks),
            health: Arc::clone(&health),
            max_age: options.max_age,
            shutdown_grace: options.shutdown_grace,
        };
        let mut serving = Serving { network, context, partitions: queue.partitions(), tasks: JoinSet::new(), served: Vec::new() };
        serving.begin().await?;
        let (stop, stopped) = watch::channel(false);
        Ok(Self { serving: Some(tokio::spawn(serving.serve(stopped))), stop, endpoints, losses, refused_ticks, local_failures, health })
    }

    /// Applies a registry that was read again (docs/delivery.md, Reload). What is in flight ends under the old definition; everything else of a webhook
    /// or group that changed goes out under the new one, with the same packets and ids.
    ///
    /// # Errors
    /// [`DeliverError`] when a webhook's requests can't be prepared; then nothing has changed.
    pub fn reload(&self, registry: Arc<Registry>) -> Result<(), DeliverError> {
        let before = Arc::clone(&self.endpoints.borrow());
        let endpoints = before.reload(registry)?;
        let webhooks = endpoints.webhooks();
        self.health.retain(|webhook| webhooks.has(webhook));
        webhooks.end_suspensions(before.webhooks()).into_iter().for_each(|webhook| self.health.suspension_over(webhook));
        self.endpoints.send_replace(Arc::new(endpoints));
        Ok(())
    }

    /// What this machine lacks for attempts: `/readyz` fails meanwhile.
    #[must_use]
    pub fn local_failures(&self) -> Arc<LocalFailures> {
        Arc::clone(&self.local_failures)
    }

    /// Ticks that the log refuses: `/readyz` fails while there are any.
    #[must_use]
    pub fn refused_ticks(&self) -> Arc<RefusedTicks> {
        Arc::clone(&self.refused_ticks)
    }

    /// Records that the log has lost.
    #[must_use]
    pub fn losses(&self) -> Arc<Losses> {
        Arc::clone(&self.losses)
    }

    /// Resolves when a task ends though it wasn't stopped: a fatal error.
    pub async fn failed(&mut self) -> QueueError {
        let ended = match &mut self.serving {
            Some(serving) => serving.await,
            None => std::future::pending().await,
        };
        self.serving = None;
        into_result(ended).err().unwrap_or(QueueError::Closed)
    }

    /// Starts no new attempt, lets what is in flight end within the grace (unresponsive webhooks aren't waited for), saves the last checkpoints, ends.
    ///
    /// # Errors
    /// The first that a task gave.
    pub async fn shutdown(self) -> Result<(), QueueError> {
        self.stop.send_replace(true);
        match self.serving {
            Some(serving) => into_result(serving.await),
            None => Ok(()),
        }
    }
}

impl Serving {
    /// With the partitions that are there already.
    async fn begin(&mut self) -> Result<(), QueueError> {
        let partitions = self.partitions.borrow_and_update().clone();
        for partition in partitions {
            let stop = self.serves(&partition);
            let task = Task::start(partition, self.context.clone(), stop).await?;
            self.tasks.spawn(task.run());
        }
        Ok(())
    }

    /// Until it is stopped, or a task fails.
    async fn serve(mut self, mut stop: watch::Receiver<bool>) -> Result<(), QueueError> {
        let mut looks = interval(LOOK_AFTER_CONNECTIONS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                _ = looks.tick() => self.network.look_after_connections(),
                // Once the queue has closed its end, they stay as they are.
                Ok(()) = self.partitions.changed() => self.reconcile(),
                Some(ended) = self.tasks.join_next() => self.ended(ended)?,
            }
        }
        self.served.iter().for_each(|served| _ = served.stop.send_replace(true));
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            result = result.and(self.ended(ended));
        }
        result
    }

    /// Partitions have come or gone.
    fn reconcile(&mut self) {
        let partitions = self.partitions.borrow_and_update().clone();
        let is_kept = |served: &Served| partitions.iter().any(|partition| served.partition.ptr_eq(&Arc::downgrade(partition)));
        self.served.iter().filter(|served| !is_kept(served)).for_each(|served| _ = served.stop.send_replace(true));
        let new = |partition: &Arc<dyn Partition>| !self.served.iter().any(|served| served.partition.ptr_eq(&Arc::downgrade(partition)));
        for partition in partitions.iter().filter(|partition| new(partition)).cloned().collect::<Vec<_>>() {
            let (context, stop) = (self.context.clone(), self.serves(&partition));
            let mut stopped = stop.clone();
            self.tasks.spawn(async move {
                // Kafka may be away: the start waits for it, or until another process serves the partition.
                tokio::select! {
                    task = Task::start(partition, context, stop) => task?.run().await,
                    () = stops(&mut stopped) => Ok(()),
                }
            });
        }
    }

    /// Notes that a partition has a task. Returns what tells the task to leave.
    fn serves(&mut self, partition: &Arc<dyn Partition>) -> watch::Receiver<bool> {
        let (stop, stopped) = watch::channel(false);
        self.served.push(Served { partition: Arc::downgrade(partition), stop });
        stopped
    }

    /// A task ends well only when it was stopped.
    fn ended(&mut self, ended: Result<Result<(), QueueError>, JoinError>) -> Result<(), QueueError> {
        self.served.retain(|served| served.partition.strong_count() > 0);
        into_result(ended)
    }
}

/// Resolves when a task must leave.
async fn stops(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means it, too.
    drop(stop.wait_for(|stop| *stop).await);
}

/// A task that panicked takes the process with it.
fn into_result(ended: Result<Result<(), QueueError>, JoinError>) -> Result<(), QueueError> {
    match ended {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(QueueError::Closed),
    }
}
