//! A process of `pushline run`, `ingest` or `deliver`: it starts up, serves and shuts down, in packet order.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use arc_swap::ArcSwap;
use futures_util::future::OptionFuture;
use pushline_deliver::Deliver;
use pushline_ingest::{BrokerHealth, Clients, Ingest, Listener, Subscriber};
use pushline_model::DescriptorBudget;
use pushline_queue::Queue;
use tokio::{sync::watch, task::JoinSet};
use tracing::{error, info, warn};

use crate::{
    admin::{
        Admin, Services,
        replay::{Replays, Routing},
    },
    config::{self, Config, Settings},
    config_metrics,
    config_watcher::ConfigWatcher,
    fd_limit, metrics, queue,
    role::Role,
    service_manager,
    signals::{Request, Signals},
};

/// How long the queue may take to close.
const CLOSE_AT_MOST: Duration = Duration::from_secs(10);

/// A process that has started.
pub(crate) struct Running {
    role: Role,
    /// The configuration of the start, or of the last reload.
    settings: Settings,
    /// Bytes of the largest record that the queue was opened for.
    largest_record: usize,
    /// Why the last reload was refused, if it was.
    refused: Option<String>,
    routing: Routing,
    queue: Arc<dyn Queue>,
    deliver: Option<Deliver>,
    intake: Option<Intake>,
    admin: Admin,
}

/// Where packets come in: the listeners, and the subscribers of brokers.
struct Intake {
    /// Where devices connect.
    addresses: Vec<SocketAddr>,
    clients: Arc<Clients>,
    brokers: BrokerHealth,
    /// They end when the process stops.
    parts: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// Runs until a signal stops the process, or until one of its parts fails for good.
///
/// # Errors
/// Why it didn't start, why it couldn't go on, or what its end left undone.
pub(crate) async fn run(config: Config, path: &Path, mut watcher: ConfigWatcher, role: Role) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    metrics::show_build(role.name());
    config_metrics::started(&config.settings);
    config_metrics::in_effect(&config.registry);
    fd_limit::raise();
    for warning in &config.warnings {
        warn!("configuration: {warning}");
    }
    let admin = Admin::start(&config.settings).await?;
    let metrics = admin.metrics_address().map(tracing::field::display);
    info!(admin = %admin.address(), metrics, "admin server listening");
    let mut running = tokio::select! {
        running = Running::start(config, role, admin) => running?,
        () = signals.stop() => {
            info!("stopped by a signal before the process was ready");
            return Ok(());
        }
    };
    let failure = running.serve(path, &mut signals, &mut watcher).await;
    service_manager::stopping();
    info!("shutting down; a second signal, at least a second after the first, stops the process at once");
    let shut_down = tokio::select! {
        result = running.shutdown() => result,
        () = signals.stop_at_once() => Err(anyhow!("stopped at once by a second signal: the next start sends again what was in flight")),
    };
    match failure {
        // What fails during the shutdown is its consequence.
        Some(failure) => Err(failure),
        None => shut_down,
    }
}

impl Running {
    /// Starts the parts from the end of a packet's way to its beginning: a part that hands packets on finds the next one ready.
    pub(crate) async fn start(config: Config, role: Role, admin: Admin) -> anyhow::Result<Self> {
        let (egress, largest_record, largest_dead_payload) = (config.egress(), config.largest_record(), config.largest_dead_payload());
        let Config { settings, registry, .. } = config;
        admin.starting(&queue::opening(&settings));
        let queue = queue::open(&settings, role, largest_record).await?;
        let registry = Arc::new(ArcSwap::from_pointee(registry));
        let topics = Arc::new(ArcSwap::from_pointee(settings.mqtt.topics()));
        let routing = Routing { registry: Arc::clone(&registry), topics };
        let descriptors = DescriptorBudget::new(fd_limit::limit(), role.descriptor_uses());
        let deliver = if role.delivers() {
            admin.starting("reading the checkpoints");
            let options = pushline_deliver::Options {
                shutdown_grace: settings.shutdown_grace,
                max_age: settings.backlog.max_age,
                descriptors: Arc::clone(&descriptors),
                connections_per_host: settings.egress.connections_per_host,
                per_webhook_metrics: settings.metrics.per_webhook,
                ..pushline_deliver::Options::new(egress)
            };
            Some(Deliver::start(options, &queue, registry.load_full()).await?)
        } else {
            None
        };
        let intake = if role.ingests() {
            let ingest = |stopped| Ingest::new(Arc::clone(&queue), Arc::clone(&registry), Ingest::UNACKNOWLEDGED_BYTES, stopped);
            Some(Intake::start(&settings, ingest, descriptors, largest_dead_payload).await?)
        } else {
            None
        };
        let replays = Replays::new(Arc::clone(&queue), routing.clone());
        admin.started(Services {
            queue: Arc::clone(&queue),
            replays,
            losses: deliver.as_ref().map(Deliver::losses),
            local_failures: deliver.as_ref().map(Deliver::local_failures),
            refused_ticks: deliver.as_ref().map(Deliver::refused_ticks),
            clients: intake.as_ref().map(|intake| Arc::clone(&intake.clients)),
            brokers: intake.as_ref().map(|intake| intake.brokers.clone()).unwrap_or_default(),
        });
        let mqtt = intake.as_ref().and_then(Intake::address).map(tracing::field::display);
        info!(mqtt, admin = %admin.address(), "ready");
        service_manager::ready();
        Ok(Self { role, settings, largest_record, refused: None, routing, queue, deliver, intake, admin })
    }

    /// Serves until a signal stops the process (`None`), or until one of its parts fails.
    async fn serve(&mut self, path: &Path, signals: &mut Signals, watcher: &mut ConfigWatcher) -> Option<anyhow::Error> {
        let mut watchdog = Box::pin(service_manager::keep_watchdog_quiet());
        loop {
            tokio::select! {
                () = &mut watchdog => {}
                request = signals.next() => match request {
                    Request::Stop => return None,
                    Request::Reload => {
                        // An operator who asks again gets the answer again.
                        self.refused = None;
                        self.reload(path, watcher);
                    }
                },
                () = watcher.changed() => self.reload(path, watcher),
                failure = self.failed() => {
                    error!(error = format!("{failure:#}"), "fatal error, shutting down");
                    return Some(failure);
                }
            }
        }
    }

    /// The first address that devices connect to.
    pub(crate) fn mqtt(&self) -> Option<SocketAddr> {
        self.intake.as_ref().and_then(Intake::address)
    }

    /// The queue, for reading.
    pub(crate) fn queue(&self) -> &dyn Queue {
        &*self.queue
    }

    /// Reloads webhooks and groups (docs/delivery.md, Reload). A file with a mistake changes nothing.
    fn reload(&mut self, path: &Path, watcher: &mut ConfigWatcher) {
        service_manager::reloading();
        let loaded = Config::load(path);
        watcher.judged(&loaded);
        match loaded.and_then(|config| self.apply(config)) {
            Ok(()) => {
                self.refused = None;
                let registry = self.routing.registry.load();
                config_metrics::in_effect(&registry);
                info!(
                    webhooks = registry.webhooks().len(),
                    groups = registry.groups().len(),
                    devices = registry.devices(),
                    "configuration reloaded"
                );
            }
            Err(error) => {
                config_metrics::refused();
                let text = format!("{error:#}");
                // The watcher reads a file that can't be read again each second.
                if self.refused.as_ref() != Some(&text) {
                    error!(error = text, "configuration not reloaded: the old one stays in effect");
                }
                self.refused = Some(text);
            }
        }
        service_manager::ready();
    }

    fn apply(&mut self, config: Config) -> anyhow::Result<()> {
        if let Some(changed) = self.settings.difference(&config.settings, self.role) {
            bail!("{changed} has changed, and only webhooks and groups can be reloaded: change it back, or restart");
        }
        // Kafka's topics and clients have a limit of a record's size, which was set when the queue was opened.
        let has_limit = matches!(config.settings.queue.chosen(), config::Queue::Kafka(_));
        if has_limit && config.largest_message() > self.largest_record {
            bail!("a webhook's max_body_bytes or max_packets needs larger records than the queue was opened for: restart");
        }
        let registry = Arc::new(config.registry);
        self.deliver.as_ref().map_or(Ok(()), |deliver| deliver.reload(Arc::clone(&registry)))?;
        self.routing.registry.store(registry);
        // A process that ingests has refused another [mqtt] above.
        self.routing.topics.store(Arc::new(config.settings.mqtt.topics()));
        Ok(())
    }

    /// Resolves when a part of the process has failed for good.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.queue.failed() => anyhow!(error).context("the queue failed; no acknowledged packet is lost; remove the cause and start again"),
            Some(error) = OptionFuture::from(self.deliver.as_mut().map(Deliver::failed)) => anyhow!(error).context("delivery failed"),
            Some(Some(ended)) = OptionFuture::from(self.intake.as_mut().map(|intake| intake.parts.join_next())) => match ended {
                Ok(()) => anyhow!("the intake of packets ended"),
                Err(error) => anyhow!(error).context("the intake of packets failed"),
            },
            error = self.admin.failed() => error,
        }
    }

    /// Shuts down in packet order: accepts no packets, finishes what is in flight, makes the rest durable. Each part has its own deadline.
    ///
    /// # Errors
    /// What was left undone.
    pub(crate) async fn shutdown(self) -> anyhow::Result<()> {
        self.admin.shutting_down();
        if let Some(intake) = self.intake {
            intake.shutdown().await?;
            info!("intake closed: no more packets are accepted");
        }
        let mut delivered = Ok(());
        if let Some(deliver) = self.deliver {
            delivered = deliver.shutdown().await.context("can't save the checkpoint: the next start may send some packets again");
            info!("delivery stopped: no more messages are in flight");
        }
        let closed = tokio::time::timeout(CLOSE_AT_MOST, self.queue.close()).await;
        drop(self.admin);
        delivered?;
        closed.context("the queue didn't close in time")?;
        info!("stopped");
        Ok(())
    }
}

impl Intake {
    async fn start(
        settings: &Settings,
        ingest: impl FnOnce(watch::Receiver<bool>) -> Arc<Ingest>,
        descriptors: Arc<DescriptorBudget>,
        largest_dead_payload: usize,
    ) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let ingest = ingest(stopped);
        let mut this =
            Self { addresses: Vec::new(), clients: Arc::default(), brokers: BrokerHealth::default(), parts: JoinSet::new(), stop };
        for listener in &settings.mqtt.listeners {
            let options = pushline_ingest::Options { descriptors: Arc::clone(&descriptors), ..listener.options(largest_dead_payload) };
            let (tls, websocket) = (options.tls.is_some(), options.websocket);
            let listener = Listener::bind(options, Arc::clone(&ingest), Arc::clone(&this.clients)).await?;
            let address = listener.local_addr()?;
            info!(%address, tls, websocket, "listening for devices");
            this.addresses.push(address);
            this.parts.spawn(listener.run());
        }
        for broker in &settings.mqtt.brokers {
            let subscriber = Subscriber::new(broker.options(largest_dead_payload), Arc::clone(&ingest));
            this.brokers.extend(subscriber.health());
            this.parts.spawn(subscriber.run());
        }
        Ok(this)
    }

    /// The address of the first listener.
    fn address(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    async fn shutdown(mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.parts.join_next().await {
            ended.context("the intake of packets failed")?;
        }
        Ok(())
    }
}
