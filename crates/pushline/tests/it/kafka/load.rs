//! Gateways that publish through everything that happens, and a server that writes down what comes.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use pushline_testkit::{Behaviour, Gateway, Ledger, PATIENCE, Push, Receiver, payloads};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{group, packets};

/// Gateways of a number of organisations, `o0`, `o1` and so on, each with a group `g`. A payload is the gateway's number and the packet's; gateway
/// `n` belongs to organisation `n`.
pub(super) struct Load {
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    servers: Vec<watch::Sender<Option<SocketAddr>>>,
    gateways: JoinSet<()>,
}

/// A customer's server.
pub(super) struct Sink {
    receiver: Receiver,
    book: Arc<Mutex<Book>>,
}

/// What came.
#[derive(Default)]
pub(super) struct Book {
    ids: HashSet<String>,
    packets: HashSet<String>,
    /// Pushes under an id that had come before.
    pub(super) again: usize,
    /// When something came, by gateway.
    came: HashMap<usize, Vec<Instant>>,
    last: HashMap<usize, usize>,
    /// Packets that came after a later one of the same gateway, and hadn't come before.
    pub(super) out_of_order: Vec<String>,
}

/// The groups of so many organisations, with one webhook.
pub(super) fn groups(organisations: usize, webhook: &str) -> String {
    (0..organisations).map(|number| group(&format!("o{number}"), "g", webhook)).collect()
}

impl Load {
    /// Gateway `n` publishes to server `n` modulo their number.
    pub(super) fn begin(gateways: usize, servers: &[SocketAddr], ledger: &Arc<Ledger>) -> Self {
        let servers: Vec<_> = servers.iter().map(|server| watch::Sender::new(Some(*server))).collect();
        let (stop, mut running) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for number in 0..gateways {
            let server = servers[number % servers.len()].subscribe();
            running.spawn(publish(number, server, Arc::clone(ledger), Arc::clone(&stop)));
        }
        Self { ledger: Arc::clone(ledger), stop, servers, gateways: running }
    }

    /// A server has another address, or none.
    pub(super) fn moves(&self, server: usize, address: Option<SocketAddr>) {
        self.servers[server].send_replace(address);
    }

    /// Goes on until so many more packets were acknowledged.
    pub(super) async fn goes_on(&self, packets: usize) {
        let (wanted, deadline) = (self.ledger.count() + packets, Instant::now() + PATIENCE);
        while self.ledger.count() < wanted {
            assert!(Instant::now() < deadline, "nothing is acknowledged any more: {} were", self.ledger.count());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The gateways publish what they have begun with.
    pub(super) async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.servers);
        self.gateways.join_all().await;
    }
}

async fn publish(name: usize, mut server: watch::Receiver<Option<SocketAddr>>, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let (mut number, topic) = (0, format!("o{name}/{name}"));
    while !stop.load(Ordering::Relaxed) {
        let Some(address) = *server.borrow_and_update() else {
            if server.changed().await.is_err() {
                return;
            }
            continue;
        };
        let Ok(mut gateway) = Gateway::connect(address, &format!("gateway-{name}")).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let batch: Vec<String> = (number..number + fastrand::usize(1..20)).map(|number| format!("{name} {number}")).collect();
            number += batch.len();
            let before = usize::try_from(gateway.acknowledged()).unwrap();
            let result = gateway.publish(&packets(&topic, batch.iter().map(String::as_str))).await;
            let acknowledged = usize::try_from(gateway.acknowledged()).unwrap() - before;
            ledger.acknowledged(batch.into_iter().take(acknowledged));
            if result.is_err() {
                break;
            }
            sleep(Duration::from_millis(fastrand::u64(20..60))).await;
        }
    }
}

impl Sink {
    /// Listens; what it accepts goes into the ledger.
    pub(super) async fn start(behaviour: Behaviour, ledger: &Arc<Ledger>) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), behaviour, ledger).await
    }

    /// The same at an address that another has just left.
    pub(super) async fn start_at(address: SocketAddr, behaviour: Behaviour, ledger: &Arc<Ledger>) -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (written, ledger) = (Arc::clone(&book), Arc::clone(ledger));
            let receive = move |push: Push| {
                if push.status.is_some_and(|status| status < 300) {
                    lock(&written).note(&push);
                    ledger.arrived(&push);
                }
            };
            match Receiver::start(address, behaviour, receive).await {
                Ok(receiver) => return Self { receiver, book },
                // The port is free once the last connection of the old one is closed.
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.receiver.address()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address())
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

impl Book {
    fn note(&mut self, push: &Push) {
        let packets = payloads(push);
        self.again += usize::from(!self.ids.insert(push.header("webhook-id").to_owned()));
        for packet in packets {
            let mut words = packet.split(' ').map(|word| word.parse::<usize>().unwrap());
            let (gateway, number) = (words.next().unwrap(), words.next().unwrap());
            self.came.entry(gateway).or_default().push(Instant::now());
            if self.packets.insert(packet.clone()) {
                let last = self.last.entry(gateway).or_insert(number);
                if number < *last {
                    self.out_of_order.push(packet);
                }
                *last = number.max(*last);
            }
        }
    }

    /// How many different packets came.
    pub(super) fn count(&self) -> usize {
        self.packets.len()
    }

    /// The longest time in which nothing came of one of these gateways.
    pub(super) fn longest_pause(&self, gateways: impl Iterator<Item = usize>, from: Instant, until: Instant) -> Duration {
        let pause = |gateway| {
            let came = self.came.get(&gateway).into_iter().flatten().copied().filter(|at| (from..until).contains(at));
            let times: Vec<Instant> = [from].into_iter().chain(came).chain([until]).collect();
            times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
        };
        gateways.map(pause).max().unwrap_or_default()
    }
}

/// Waits until everything has arrived that was acknowledged before the call. Under load a packet is always on its way.
pub(super) async fn until_nothing_is_missing(ledger: &Ledger) {
    let mut missing = ledger.missing();
    let mut deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        assert!(Instant::now() < deadline, "{} packets stay missing, such as {:?}", missing.len(), &missing[..missing.len().min(5)]);
        sleep(Duration::from_millis(50)).await;
        let before = missing.len();
        let still: HashSet<_> = ledger.missing().into_iter().collect();
        missing.retain(|packet| still.contains(packet));
        if missing.len() < before {
            deadline = Instant::now() + PATIENCE;
        }
    }
}

/// Which of so many partitions a key is in: Kafka's own hash, murmur2.
pub(super) fn partition_of(key: &str, partitions: u32) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let (blocks, rest) = key.as_bytes().as_chunks::<4>();
    let mut hash = 0x9747_b28c ^ u32::try_from(key.len()).unwrap();
    for block in blocks {
        let mut k = u32::from_le_bytes(*block).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    ((hash ^ (hash >> 15)) & 0x7fff_ffff) % partitions
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
