//! All roles in one process: starting up and shutting down, in packet order.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow, bail};
use arc_swap::ArcSwap;
use pushline_deliver::Deliver;
use pushline_ingest::Listener;
use pushline_model::Registry;
use pushline_queue::{
    Queue,
    embedded::{self, Embedded},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};
use tracing::{error, info};

use crate::{
    admin::{self, Admin},
    config::{Config, Settings},
};

/// How often the configuration file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A process that is up.
pub(crate) struct Running {
    /// As it was started, or reloaded last.
    settings: Settings,
    registry: Arc<ArcSwap<Registry>>,
    queue: Arc<dyn Queue>,
    deliver: Deliver,
    listener: JoinHandle<()>,
    admin: Admin,
    stop_listener: watch::Sender<bool>,
    /// Where devices connect.
    pub(crate) mqtt: SocketAddr,
}

/// Runs until a signal, or until something fails for good.
pub(crate) async fn run(path: &Path) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut file = Watched::new(path);
    let mut running = Running::start(Config::load(path)?).await?;
    let failure = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Wish::End => break None,
                Wish::Reload => running.reload(path),
            },
            failure = running.failed() => break Some(failure),
            () = file.changed() => running.reload(path),
        }
    };
    info!("shutting down; a second signal ends the process at once");
    tokio::select! {
        result = running.shutdown() => result?,
        () = signals.end() => return Err(anyhow!("ended at once by a second signal: what was in flight is sent again after the start")),
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
        let queue = open_queue(&config.settings).await?;
        let Config { settings, registry } = config;
        let registry = Arc::new(registry);
        let options = pushline_deliver::Options {
            shutdown_grace: settings.shutdown_grace,
            max_age: settings.backlog_max_age,
            ..pushline_deliver::Options::new(egress)
        };
        let deliver = Deliver::start(options, &queue, Arc::clone(&registry)).await?;

        let (stop_listener, stopped) = watch::channel(false);
        let ingest = pushline_ingest::Options {
            max_packet_bytes: usize::try_from(settings.listener.max_packet_bytes)?,
            ..pushline_ingest::Options::new(settings.listener.address, settings.listener.topics.clone())
        };
        let registry = Arc::new(ArcSwap::from(registry));
        let listener = Listener::bind(ingest, Arc::clone(&queue), Arc::clone(&registry), stopped).await?;
        let mqtt = listener.local_addr()?;
        let admin = Admin::start(settings.admin, metrics, Arc::clone(&queue), Arc::clone(&registry)).await?;
        let listener = tokio::spawn(listener.run());
        info!(%mqtt, admin = %admin.address(), "ready");
        Ok(Self { settings, registry, queue, deliver, listener, admin, stop_listener, mqtt })
    }

    /// The queue, to look at.
    pub(crate) fn queue(&self) -> &dyn Queue {
        &*self.queue
    }

    /// Reads webhooks and groups again (LANES.md L13). A bad file changes nothing.
    fn reload(&mut self, path: &Path) {
        match Config::load(path).and_then(|config| self.apply(config)) {
            Ok(()) => {
                let registry = self.registry.load();
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
        if let Some(changed) = self.settings.difference(&config.settings) {
            bail!("{changed} has changed, and only webhooks and groups can be read again: change it back, or restart");
        }
        let registry = Arc::new(config.registry);
        self.deliver.reload(Arc::clone(&registry))?;
        self.registry.store(registry);
        Ok(())
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

async fn open_queue(settings: &Settings) -> anyhow::Result<Arc<dyn Queue>> {
    let options = embedded::Options {
        max_bytes: settings.queue.max_bytes,
        min_free: settings.queue.min_free,
        keep_dead_letters: settings.dead_letters.keep,
        dead_letters_max_bytes: settings.dead_letters.max_bytes,
        ..embedded::Options::new(settings.queue.dir.clone())
    };
    info!(dir = %options.dir.display(), "opening the queue");
    // Every frame is checked: that may take seconds.
    let queue = tokio::task::spawn_blocking(move || Embedded::open(&options)).await??;
    Ok(Arc::new(queue))
}

/// What a signal wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    End,
    Reload,
}

/// SIGTERM and SIGINT end it, SIGHUP reads the configuration again.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("can't listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }

    async fn end(&mut self) {
        while self.next().await != Wish::End {}
    }
}

/// A file whose changes are noticed. What it names (devices, secrets) isn't watched: SIGHUP is for those.
struct Watched {
    path: PathBuf,
    /// As it was read last.
    read: Option<Stamp>,
    /// As it was looked at last.
    seen: Option<Stamp>,
}

/// When a file was written, and how long it is.
type Stamp = (SystemTime, u64);

impl Watched {
    fn new(path: &Path) -> Self {
        let stamp = stamp(path);
        Self { path: path.to_owned(), read: stamp, seen: stamp }
    }

    /// Resolves when it is another one, or was written.
    async fn changed(&mut self) {
        loop {
            sleep(LOOK_EVERY).await;
            if self.is_changed(stamp(&self.path)) {
                return;
            }
        }
    }

    /// A file that is away is being replaced, and one that was another at the last look is being written: half of it may be valid too.
    fn is_changed(&mut self, now: Option<Stamp>) -> bool {
        let rests = std::mem::replace(&mut self.seen, now) == now;
        let changed = rests && now.is_some() && now != self.read;
        if changed {
            self.read = now;
        }
        changed
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_being_written_or_replaced_is_not_read_yet() {
        let stamp = |bytes| Some((SystemTime::UNIX_EPOCH, bytes));
        let mut file = Watched { path: PathBuf::new(), read: stamp(9), seen: stamp(9) };
        let looks = [stamp(9), stamp(0), stamp(5), None, stamp(7), stamp(7), stamp(7)];
        assert_eq!(looks.map(|now| file.is_changed(now)), [false, false, false, false, false, true, false]);
    }
}
