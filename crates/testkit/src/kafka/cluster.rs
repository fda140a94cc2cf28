//! Three brokers, to lose one.

use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{
    CommitProxy, KafkaMetadata, KafkaPartition,
    broker::{self, Broker, Plan, Ports, Proxied},
    installation, wire,
};

const NODES: usize = 3;

/// How long the copies of a broker that was away may take to catch up.
const IN_SYNC: Duration = Duration::from_secs(120);

/// A lost broker's partitions get another leader after this, not after Kafka's 9 s.
const SETTINGS: [(&str, &str); 2] = [("broker.session.timeout.ms", "3000"), ("broker.heartbeat.interval.ms", "500")];

/// Three brokers that are controllers too; topics have three copies, and two must have a record before it counts. A broker's id is its index.
/// Dropping it kills all.
#[derive(Debug)]
pub struct KafkaCluster {
    brokers: Vec<Broker>,
    _folder: TempDir,
}

impl KafkaCluster {
    /// Starts three on free ports.
    ///
    /// # Panics
    /// With the log of one that doesn't start.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with settings of `server.properties`.
    ///
    /// # Panics
    /// With the log of one that doesn't start.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let ports: Vec<Ports> = (0..NODES).map(|_| Ports::free(false)).collect();
        Self::try_start(&ports, &[&SETTINGS, settings].concat()).await.expect("three brokers start")
    }

    /// Three brokers with a second listener each that only a proxy reaches. `checkpoints` is the topic whose records the proxy looks for.
    ///
    /// # Panics
    /// With the log of one that doesn't start.
    pub async fn behind_a_proxy(checkpoints: &str) -> (Self, CommitProxy) {
        let mut ports: Vec<Ports> = (0..NODES).map(|_| Ports::free(false)).collect();
        let listens: Vec<u16> = ports.iter().map(|_| crate::free_port()).collect();
        let behind: Vec<_> = listens.iter().copied().map(broker::local).collect();
        let proxy = CommitProxy::listen(&behind, checkpoints).await.expect("ports are free");
        for ((ports, listens), proxy) in ports.iter_mut().zip(listens).zip(&proxy.addresses) {
            ports.proxied = Some(Proxied { listens, advertised: proxy.port() });
        }
        (Self::try_start(&ports, &SETTINGS).await.expect("three brokers start"), proxy)
    }

    async fn try_start(ports: &[Ports], settings: &[(&str, &str)]) -> Result<Self, String> {
        let installation = installation().await?;
        let folder = crate::folder();
        let mut brokers = Vec::new();
        for id in 0..NODES {
            let (own, disposable) = (folder.path().join(id.to_string()), Some(folder.path().to_owned()));
            let plan = Plan { id, ports, folder: own, disposable, settings };
            brokers.push(Broker::format(plan, installation.clone()).await?);
        }
        brokers.iter_mut().try_for_each(Broker::spawn)?;
        for broker in &mut brokers {
            broker.until_it_knows(NODES).await?;
        }
        Ok(Self { brokers, _folder: folder })
    }

    /// All addresses, as a client's `bootstrap.servers`.
    #[must_use]
    pub fn brokers(&self) -> String {
        let addresses: Vec<String> = self.brokers.iter().map(|broker| broker.address.to_string()).collect();
        addresses.join(",")
    }

    /// kill -9 of one.
    pub fn kill(&mut self, broker: usize) {
        self.brokers[broker].kill();
    }

    /// SIGTERM to one, and waits until it has ended.
    pub async fn stop(&mut self, broker: usize) {
        self.brokers[broker].stop().await;
    }

    /// Starts one again, with its data and its ports, and waits until it answers.
    ///
    /// # Panics
    /// With its log, when it doesn't.
    pub async fn start_again(&mut self, broker: usize) {
        let up = self.brokers.iter().filter(|broker| broker.runs()).count() + 1;
        let broker = &mut self.brokers[broker];
        broker.spawn().expect("java can be started");
        broker.until_it_knows(up).await.expect("it starts again");
    }

    /// SIGSTOP to one: it keeps its connections and says nothing.
    pub fn pause(&self, broker: usize) {
        self.brokers[broker].pause();
    }

    /// SIGCONT to one.
    pub fn resume(&self, broker: usize) {
        self.brokers[broker].resume();
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self, broker: usize) -> u32 {
        self.brokers[broker].pid()
    }

    /// What one has logged.
    #[must_use]
    pub fn log(&self, broker: usize) -> String {
        self.brokers[broker].log()
    }

    /// What one that runs knows.
    ///
    /// # Panics
    /// When none answers.
    pub async fn metadata(&self) -> KafkaMetadata {
        self.until(|_| true).await
    }

    /// Creates a topic with a copy on each, and waits until all its partitions are led.
    ///
    /// # Panics
    /// When it can't be created.
    pub async fn create_topic(&self, topic: &str, partitions: u16) {
        let first = self.brokers.iter().find(|broker| broker.runs()).expect("one runs");
        let code = wire::create_topic(first.address, topic, partitions.into(), 3).await;
        assert_eq!(code.ok(), Some(0), "Kafka's error code");
        self.until(|known| known.led(topic) == usize::from(partitions)).await;
    }

    /// Waits until all that run are up and have everything that they keep copies of: another may be lost now.
    ///
    /// # Panics
    /// When that doesn't come.
    pub async fn until_in_sync(&self) {
        let up: Vec<i32> = (0..).zip(&self.brokers).filter(|(_, broker)| broker.runs()).map(|(id, _)| id).collect();
        let whole =
            |one: &KafkaPartition| one.leader >= 0 && one.replicas.iter().filter(|id| up.contains(id)).all(|id| one.in_sync.contains(id));
        self.until(|known| known.brokers.len() == up.len() && known.partitions.iter().all(whole)).await;
    }

    async fn until(&self, wanted: impl Fn(&KafkaMetadata) -> bool) -> KafkaMetadata {
        let deadline = Instant::now() + IN_SYNC;
        loop {
            let known = self.known().await;
            assert!(Instant::now() < deadline, "it stays {known:?}");
            if let Some(known) = known.filter(&wanted) {
                return known;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// `None`: no broker answers, for now.
    async fn known(&self) -> Option<KafkaMetadata> {
        for broker in self.brokers.iter().filter(|broker| broker.runs()) {
            if let Ok(metadata) = wire::metadata(broker.address).await {
                return Some(metadata);
            }
        }
        None
    }
}
