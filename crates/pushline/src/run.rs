//! All roles in one process: starting up and shutting down, in packet order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use pushline_deliver::Deliver;
use pushline_ingest::Listener;
use pushline_queue::{
    Queue,
    embedded::{self, Embedded},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tracing::info;

use crate::{
    admin::{self, Admin},
    config::Config,
};

/// A process that is up.
pub(crate) struct Running {
    queue: Arc<dyn Queue>,
    deliver: Deliver,
    listener: JoinHandle<()>,
    admin: Admin,
    stop_listener: watch::Sender<bool>,
    /// Where devices connect.
    pub(crate) mqtt: SocketAddr,
}

/// Runs until a signal, or until something fails for good.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut running = Running::start(config).await?;
    let failure = tokio::select! {
        () = signals.any() => None,
        failure = running.failed() => Some(failure),
    };
    info!("shutting down; a second signal ends the process at once");
    tokio::select! {
        result = running.shutdown() => result?,
        () = signals.any() => return Err(anyhow!("ended at once by a second signal: what was in flight is sent again after the start")),
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

impl Running {
    /// From the end of a packet's way to its beginning: whoever takes packets finds who takes them further.
    pub(crate) async fn start(config: Config) -> anyhow::Result<Self> {
        let metrics = admin::install_metrics()?;
        let egress = config.egress();
        let queue = open_queue(&config).await?;
        let registry = Arc::new(config.registry);
        let options = pushline_deliver::Options {
            shutdown_grace: config.shutdown_grace,
            max_age: config.backlog_max_age,
            ..pushline_deliver::Options::new(egress)
        };
        let deliver = Deliver::start(options, &queue, Arc::clone(&registry)).await?;

        let (stop_listener, stopped) = watch::channel(false);
        let ingest = pushline_ingest::Options {
            max_packet_bytes: usize::try_from(config.listener.max_packet_bytes)?,
            ..pushline_ingest::Options::new(config.listener.address, config.listener.topics)
        };
        let listener = Listener::bind(ingest, Arc::clone(&queue), Arc::new(ArcSwap::from(registry)), stopped).await?;
        let mqtt = listener.local_addr()?;
        let admin = Admin::start(config.admin, metrics, Arc::clone(&queue)).await?;
        let listener = tokio::spawn(listener.run());
        info!(%mqtt, admin = %admin.address(), "ready");
        Ok(Self { queue, deliver, listener, admin, stop_listener, mqtt })
    }

    /// The queue, to look at.
    pub(crate) fn queue(&self) -> &dyn Queue {
        &*self.queue
    }

    /// Resolves when it can't go on.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.queue.failed() => anyhow!(error).context("the queue failed: nothing acknowledged is lost, start again when the cause is mended"),
            error = self.deliver.failed() => anyhow!(error).context("delivering failed"),
            ended = &mut self.listener => match ended {
                Ok(()) => anyhow!("the listener ended"),
                Err(error) => anyhow!(error).context("the listener failed"),
            },
        }
    }

    /// In packet order: take nothing in, finish what is in flight, make the rest durable. Each part has its own deadline.
    pub(crate) async fn shutdown(self) -> anyhow::Result<()> {
        self.stop_listener.send_replace(true);
        if !self.listener.is_finished() {
            self.listener.await.context("the listener failed")?;
        }
        info!("nothing is taken in any more");
        let delivered = self.deliver.shutdown().await.context("progress couldn't be saved: some packets may be sent again");
        info!("nothing is in flight any more");
        let closed = tokio::time::timeout(Duration::from_secs(10), self.queue.close()).await;
        self.admin.stop();
        delivered?;
        closed.context("the queue couldn't be closed in time")?;
        info!("down");
        Ok(())
    }
}

async fn open_queue(config: &Config) -> anyhow::Result<Arc<dyn Queue>> {
    let options = embedded::Options {
        max_bytes: config.queue.max_bytes,
        min_free: config.queue.min_free,
        keep_dead_letters: config.dead_letters.keep,
        dead_letters_max_bytes: config.dead_letters.max_bytes,
        ..embedded::Options::new(config.queue.dir.clone())
    };
    info!(dir = %options.dir.display(), "opening the queue");
    // Every frame is checked: that may take seconds.
    let queue = tokio::task::spawn_blocking(move || Embedded::open(&options)).await??;
    Ok(Arc::new(queue))
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("can't listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
