//! Devices that publish through everything that happens. A device sends again what wasn't acknowledged, as real ones do: that makes another record,
//! so it gets another payload, `organisation-device number.attempt`.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pushline_testkit::{Gateway, Ledger, PATIENCE};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::Customer;
use crate::packets;

/// How often, and how much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// Bursts that follow each other at once.
    Busy,
    /// A few packets, several times a second.
    Steady,
    /// One packet a second or so.
    Sparse,
}

impl Traffic {
    fn burst(self) -> Range<usize> {
        match self {
            Self::Busy => 1..20,
            Self::Steady => 1..5,
            Self::Sparse => 1..2,
        }
    }

    fn pause_millis(self) -> Range<u64> {
        match self {
            Self::Busy => 10..120,
            Self::Steady => 60..250,
            Self::Sparse => 500..1600,
        }
    }
}

/// All devices of a test.
pub(super) struct Devices {
    stop: Arc<AtomicBool>,
    servers: Vec<watch::Sender<Option<SocketAddr>>>,
    running: JoinSet<()>,
}

impl Devices {
    /// Device `n` publishes to server `n` modulo their number.
    pub(super) fn start<'a>(customers: impl Iterator<Item = &'a Customer>, servers: &[SocketAddr], ledger: &Arc<Ledger>) -> Self {
        let servers: Vec<_> = servers.iter().map(|server| watch::Sender::new(Some(*server))).collect();
        let mut this = Self { stop: Arc::default(), servers, running: JoinSet::new() };
        for customer in customers {
            let of_a_group = |organisation: String| (0..customer.devices).map(move |device| (organisation.clone(), device));
            for (organisation, device) in customer.organisations().flat_map(of_a_group) {
                let server = this.servers[this.running.len() % this.servers.len()].subscribe();
                let publish = publish(customer.traffic, organisation, device, server, Arc::clone(ledger), Arc::clone(&this.stop));
                this.running.spawn(publish);
            }
        }
        this
    }

    /// A server has another address from now on; `None`: there is none.
    pub(super) fn move_server(&self, server: usize, address: Option<SocketAddr>) {
        self.servers[server].send_replace(address);
    }

    /// Follows where a server is.
    pub(super) fn server(&self, server: usize) -> watch::Receiver<Option<SocketAddr>> {
        self.servers[server].subscribe()
    }

    /// Waits until every device has published what it had begun with.
    pub(super) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.servers);
        timeout(PATIENCE, self.running.join_all()).await.expect("no device waits for ever");
    }
}

/// The next connection to wherever the server is; `None`: there is no server any more.
async fn connect(server: &mut watch::Receiver<Option<SocketAddr>>, client_id: &str) -> Option<Gateway> {
    loop {
        let Some(address) = *server.borrow_and_update() else {
            server.changed().await.ok()?;
            continue;
        };
        if let Ok(gateway) = Gateway::connect(address, client_id).await {
            return Some(gateway);
        }
        server.has_changed().ok()?;
        sleep(Duration::from_millis(10)).await;
    }
}

async fn publish(
    traffic: Traffic,
    organisation: String,
    device: usize,
    mut server: watch::Receiver<Option<SocketAddr>>,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
) {
    let (name, topic) = (format!("{organisation}-{device}"), format!("{organisation}/{device}"));
    let (mut number, mut unacknowledged) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let Some(mut gateway) = connect(&mut server, &name).await else { return };
        while !stop.load(Ordering::Relaxed) {
            let mut batch: Vec<(usize, usize)> = std::mem::take(&mut unacknowledged);
            let new = fastrand::usize(traffic.burst());
            batch.extend((number..number + new).map(|number| (number, 1)));
            number += new;
            let payloads: Vec<String> = batch.iter().map(|(number, attempt)| format!("{name} {number}.{attempt}")).collect();
            let before = gateway.acknowledged();
            let result = gateway.publish(&packets(&topic, payloads.iter().map(String::as_str))).await;
            let acknowledged = usize::try_from(gateway.acknowledged() - before).unwrap();
            ledger.acknowledged(payloads.into_iter().take(acknowledged));
            if result.is_err() {
                unacknowledged = batch.into_iter().skip(acknowledged).map(|(number, attempt)| (number, attempt + 1)).collect();
                break;
            }
            sleep(Duration::from_millis(fastrand::u64(traffic.pause_millis()))).await;
        }
    }
}

/// A device whose large packets fill the disk.
pub(super) struct Filler {
    published: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    running: tokio::task::JoinHandle<()>,
}

/// Bytes of one of its packets: below the largest payload that is taken.
const LARGE: usize = 250_000;

impl Filler {
    /// Publishes so many bytes for an organisation, to wherever the server is.
    pub(super) fn start(organisation: String, mut server: watch::Receiver<Option<SocketAddr>>, bytes: usize) -> Self {
        let (published, stop): (Arc<AtomicUsize>, Arc<AtomicBool>) = Default::default();
        let (count, stopped) = (Arc::clone(&published), Arc::clone(&stop));
        let running = tokio::spawn(async move {
            let (mut number, filling) = (0, "x".repeat(LARGE));
            while count.load(Ordering::Relaxed) < bytes && !stopped.load(Ordering::Relaxed) {
                let Some(mut gateway) = connect(&mut server, &organisation).await else { return };
                while count.load(Ordering::Relaxed) < bytes && !stopped.load(Ordering::Relaxed) {
                    let batch: Vec<String> = (number..number + 16).map(|number| format!("{organisation}-0 {number}.1 {filling}")).collect();
                    number += batch.len();
                    let before = gateway.acknowledged();
                    let result = gateway.publish(&packets(&format!("{organisation}/0"), batch)).await;
                    let acknowledged = usize::try_from(gateway.acknowledged() - before).unwrap();
                    count.fetch_add(acknowledged * LARGE, Ordering::Relaxed);
                    if result.is_err() {
                        break;
                    }
                }
            }
        });
        Self { published, stop, running }
    }

    /// Waits until so many bytes are acknowledged.
    pub(super) async fn until(&self, bytes: usize) {
        let reached = async {
            while self.published.load(Ordering::Relaxed) < bytes {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("the disk fills up");
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        timeout(PATIENCE, self.running).await.expect("it doesn't wait for ever").expect("it doesn't panic");
    }
}
