//! The roles of a process: starting up and shutting down, in packet order.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use arc_swap::ArcSwap;
use futures_util::future::OptionFuture;
use pushline_deliver::Deliver;
use pushline_ingest::Listener;
use pushline_model::Registry;
use pushline_queue::Queue;
use tokio::{sync::watch, task::JoinHandle};
use tracing::{error, info, warn};

use crate::{
    admin::{self, Admin},
    config::{self, Config, Settings},
    config_watcher::ConfigWatcher,
    fd_limit, queue,
    replay::Routing,
    role::Role,
    signals::{Request, Signals},
};

/// A process that is up.
pub(crate) struct Running {
    role: Role,
    /// As it was started, or reloaded last.
    settings: Settings,
    /// What the queue was opened for.
    largest_record: usize,
    routing: Routing,
    queue: Arc<dyn Queue>,
    deliver: Option<Deliver>,
    intake: Option<Intake>,
    admin: Admin,
}

/// Where packets come in.
struct Intake {
    address: SocketAddr,
    listening: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// Runs until a signal, or until something fails for good.
pub(crate) async fn run(path: &Path, role: Role) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut file = ConfigWatcher::new(path);
    let config = Config::load(path)?;
    fd_limit::raise();
    if !config.passed_over.is_empty() {
        warn!(variables = config.passed_over.join(", "), "environment variables that name no field are passed over");
    }
    let mut running = tokio::select! {
        running = Running::start(config, role) => running?,
        () = signals.stop() => return Err(anyhow!("ended by a signal before it was ready")),
    };
    let failure = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Request::Stop => break None,
                Request::Reload => running.reload(path),
            },
            failure = running.failed() => {
                error!(error = format!("{failure:#}"), "it can't go on");
                break Some(failure);
            }
            () = file.changed() => running.reload(path),
        }
    };
    info!("shutting down; a second signal ends the process at once");
    let shut_down = tokio::select! {
        result = running.shutdown() => result,
        () = signals.stop() => Err(anyhow!("ended at once by a second signal: what was in flight is sent again after the start")),
    };
    match failure {
        // Whatever else fails in its wake, it is the cause.
        Some(failure) => Err(failure),
        None => shut_down,
    }
}

impl Running {
    /// From the end of a packet's way to its beginning: whoever takes packets finds who takes them further.
    pub(crate) async fn start(config: Config, role: Role) -> anyhow::Result<Self> {
        let metrics = admin::install_metrics()?;
        let (egress, largest_record) = (config.egress(), config.largest_record());
        let Config { settings, registry, .. } = config;
        let queue = queue::open(&settings, role, largest_record).await?;
        let registry = Arc::new(ArcSwap::from_pointee(registry));
        let topics = Arc::new(ArcSwap::from_pointee(settings.listener.topics.clone()));
        let routing = Routing { registry: Arc::clone(&registry), topics };
        let deliver = if role.delivers() {
            let options = pushline_deliver::Options {
                shutdown_grace: settings.shutdown_grace,
                max_age: settings.backlog_max_age,
                ..pushline_deliver::Options::new(egress)
            };
            Some(Deliver::start(options, &queue, registry.load_full()).await?)
        } else {
            None
        };
        let intake = if role.ingests() { Some(Intake::start(&settings, &queue, &registry).await?) } else { None };
        let losses = deliver.as_ref().map(Deliver::losses);
        let admin = Admin::start(settings.admin, metrics, Arc::clone(&queue), routing.clone(), losses).await?;
        let mqtt = intake.as_ref().map(|intake| tracing::field::display(intake.address));
        info!(mqtt, admin = %admin.address(), "ready");
        Ok(Self { role, settings, largest_record, routing, queue, deliver, intake, admin })
    }

    /// Where devices connect.
    pub(crate) fn mqtt(&self) -> Option<SocketAddr> {
        self.intake.as_ref().map(|intake| intake.address)
    }

    /// The queue, to look at.
    pub(crate) fn queue(&self) -> &dyn Queue {
        &*self.queue
    }

    /// Reads webhooks and groups again (LANES.md L13). A bad file changes nothing.
    fn reload(&mut self, path: &Path) {
        match Config::load(path).and_then(|config| self.apply(config)) {
            Ok(()) => {
                let registry = self.routing.registry.load();
                info!(
                    webhooks = registry.webhooks().len(),
                    groups = registry.groups().len(),
                    devices = registry.devices(),
                    "webhooks and groups were read again"
                );
            }
            Err(error) => error!(error = format!("{error:#}"), "the configuration wasn't read again: the old one stays"),
        }
    }

    fn apply(&mut self, config: Config) -> anyhow::Result<()> {
        if let Some(changed) = self.settings.difference(&config.settings, self.role) {
            bail!("{changed} has changed, and only webhooks and groups can be read again: change it back, or restart");
        }
        // Only Kafka has been told how large a record may be.
        let has_limit = matches!(config.settings.queue, config::Queue::Kafka(_));
        if has_limit && config.largest_message() > self.largest_record {
            bail!("a webhook's max_body_bytes or max_packets is larger than what the queue was opened for: restart");
        }
        let registry = Arc::new(config.registry);
        self.deliver.as_ref().map_or(Ok(()), |deliver| deliver.reload(Arc::clone(&registry)))?;
        self.routing.registry.store(registry);
        // Where this process ingests they are the same: another [mqtt.listener] is refused.
        self.routing.topics.store(Arc::new(config.settings.listener.topics));
        Ok(())
    }

    /// Resolves when it can't go on.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.queue.failed() => anyhow!(error).context("the queue failed: nothing acknowledged is lost, start again when the cause is mended"),
            Some(error) = OptionFuture::from(self.deliver.as_mut().map(Deliver::failed)) => anyhow!(error).context("delivering failed"),
            Some(ended) = OptionFuture::from(self.intake.as_mut().map(|intake| &mut intake.listening)) => match ended {
                Ok(()) => anyhow!("the listener ended"),
                Err(error) => anyhow!(error).context("the listener failed"),
            },
        }
    }

    /// In packet order: take nothing in, finish what is in flight, make the rest durable. Each part has its own deadline.
    pub(crate) async fn shutdown(self) -> anyhow::Result<()> {
        if let Some(intake) = self.intake {
            intake.shutdown().await?;
            info!("nothing is taken in any more");
        }
        let mut delivered = Ok(());
        if let Some(deliver) = self.deliver {
            delivered = deliver.shutdown().await.context("checkpoint couldn't be saved: some packets may be sent again");
            info!("nothing is in flight any more");
        }
        let closed = tokio::time::timeout(Duration::from_secs(10), self.queue.close()).await;
        self.admin.stop();
        delivered?;
        closed.context("the queue couldn't be closed in time")?;
        info!("down");
        Ok(())
    }
}

impl Intake {
    async fn start(settings: &Settings, queue: &Arc<dyn Queue>, registry: &Arc<ArcSwap<Registry>>) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let options = pushline_ingest::Options {
            max_payload_bytes: usize::try_from(settings.listener.max_payload_bytes)?,
            max_connections: fd_limit::for_devices(),
            ..pushline_ingest::Options::new(settings.listener.address, settings.listener.topics.clone())
        };
        let listener = Listener::bind(options, Arc::clone(queue), Arc::clone(registry), stopped).await?;
        Ok(Self { address: listener.local_addr()?, listening: tokio::spawn(listener.run()), stop })
    }

    async fn shutdown(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        if self.listening.is_finished() { Ok(()) } else { self.listening.await.context("the listener failed") }
    }
}
