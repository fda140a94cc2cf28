//! A real Apache Kafka without Docker: resolved once from Maven Central, run by java in KRaft mode on free ports of this machine, gone with the
//! test process however that ends.

mod broker;
mod cluster;
mod commit_proxy;
mod install;
mod owned_child;
mod security;
mod wire;

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    sync::OnceCell,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use self::{
    broker::{Broker, Plan, Ports},
    install::Installation,
    wire::Revoked,
};
pub use self::{
    cluster::KafkaCluster,
    commit_proxy::{CommitProxy, HeldCommit},
    install::KAFKA_VERSION,
    security::KafkaSecurity,
    wire::{KafkaMetadata, KafkaPartition},
};
use crate::PATIENCE;

/// An existing cluster, `host:port`, that [`Kafka::start`] and [`Kafka::shared`] use instead of starting one.
pub const KAFKA_VARIABLE: &str = "PUSHLINE_TEST_KAFKA";

/// One broker. Dropping it kills the process.
#[derive(Debug)]
pub struct Kafka {
    brokers: String,
    /// None when it was there before the test.
    broker: Option<Broker>,
    security: Option<KafkaSecurity>,
    _folder: Option<TempDir>,
}

impl Kafka {
    /// Starts one on a free port, or takes the cluster that the environment names.
    ///
    /// # Panics
    /// With what is missing, or with its log when it doesn't start.
    pub async fn start() -> Self {
        match std::env::var(KAFKA_VARIABLE) {
            Ok(brokers) => Self { brokers, broker: None, security: None, _folder: None },
            Err(_) => Self::with(&[]).await,
        }
    }

    /// The one that all tests of a test binary share; it starts when the first asks. Each takes a [`prefix`](Self::prefix) for its topics and
    /// groups, and none stops it.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// Starts one of its own with settings of `server.properties`.
    ///
    /// # Panics
    /// With what is missing, or with its log when it doesn't start.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        Self::temporary(settings, false).await.expect("Kafka starts")
    }

    /// Starts one of its own that has a SASL_SSL listener too ([`security`](Self::security)).
    ///
    /// # Panics
    /// With what is missing, or with its log when it doesn't start.
    pub async fn secured() -> Self {
        Self::temporary(&[], true).await.expect("Kafka starts")
    }

    async fn temporary(settings: &[(&str, &str)], secured: bool) -> Result<Self, String> {
        let folder = crate::folder();
        let ports = [Ports::free(secured)];
        let security = ports[0].secured.map(|port| KafkaSecurity::create(folder.path(), broker::local(port)));
        let (own, disposable) = (folder.path().to_owned(), Some(folder.path().to_owned()));
        let mut broker = Broker::format(Plan { id: 0, ports: &ports, folder: own, disposable, settings }, installation().await?).await?;
        broker.spawn()?;
        broker.until_it_knows(1).await?;
        Ok(Self { brokers: broker.address.to_string(), broker: Some(broker), security, _folder: Some(folder) })
    }

    /// Starts one on a given port whose data stays in a folder, for trying things out: the first producer of a topic creates it.
    ///
    /// # Errors
    /// What is missing, or its log when it doesn't start.
    pub async fn keep(folder: &Path, port: u16) -> Result<Self, String> {
        let address = broker::local(port);
        // Another listener there would answer the question whether the broker is up.
        TcpListener::bind(address).map_err(|error| format!("can't listen on {address}: {error}"))?;
        let ports = [Ports { plain: port, ..Ports::free(false) }];
        let settings = [("auto.create.topics.enable", "true")];
        let plan = Plan { id: 0, ports: &ports, folder: folder.to_owned(), disposable: None, settings: &settings };
        let mut broker = Broker::format(plan, installation().await?).await?;
        broker.spawn()?;
        broker.until_it_knows(1).await?;
        Ok(Self { brokers: broker.address.to_string(), broker: Some(broker), security: None, _folder: None })
    }

    /// Its address, as a client's `bootstrap.servers`.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// A name that no other test uses.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("t-{:012x}", fastrand::u64(..) >> 16)
    }

    /// How to get in by the SASL_SSL listener.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn security(&self) -> &KafkaSecurity {
        self.security.as_ref().expect("it was started with Kafka::secured")
    }

    /// Takes from the user of the SASL_SSL listener every right to a topic.
    ///
    /// # Panics
    /// When it has no such listener, or doesn't do it.
    pub async fn revoke(&self, topic: &str) {
        let code = Revoked { topic, user: self.security().user }.begin(self.own().address).await;
        assert_eq!(code.ok(), Some(0), "Kafka's error code");
    }

    /// Gives it back.
    ///
    /// # Panics
    /// When it has no such listener, or doesn't do it.
    pub async fn grant(&self, topic: &str) {
        let code = Revoked { topic, user: self.security().user }.end(self.own().address).await;
        assert_eq!(code.ok(), Some(0), "Kafka's error code");
    }

    /// Creates a topic, without any client library, and waits until all its partitions are led.
    ///
    /// # Panics
    /// When it can't be created.
    pub async fn create_topic(&self, topic: &str, partitions: u16) {
        let code = wire::create_topic(self.address(), topic, partitions.into(), 1).await;
        assert_eq!(code.ok(), Some(0), "Kafka's error code");
        self.until(|known| known.led(topic) == usize::from(partitions)).await;
    }

    /// Deletes a topic, and waits until it is gone.
    ///
    /// # Panics
    /// When it can't be deleted.
    pub async fn delete_topic(&self, topic: &str) {
        assert_eq!(wire::delete_topic(self.address(), topic).await.ok(), Some(0), "Kafka's error code");
        self.until(|known| known.partitions.iter().all(|one| one.topic != topic)).await;
    }

    /// Changes one setting of a topic.
    ///
    /// # Panics
    /// When Kafka doesn't.
    pub async fn set(&self, topic: &str, name: &str, value: &str) {
        assert_eq!(wire::set(self.address(), topic, name, value).await.ok(), Some(0), "Kafka's error code");
    }

    /// Deletes a partition's records below an offset; -1: all that are there.
    ///
    /// # Panics
    /// When Kafka doesn't.
    pub async fn delete_records(&self, topic: &str, partition: i32, below: i64) {
        assert_eq!(wire::delete_records(self.address(), topic, partition, below).await.ok(), Some(0), "Kafka's error code");
    }

    /// The offset that a group has committed; -1 for none: what Kafka's own tools take lag from.
    ///
    /// # Panics
    /// When Kafka doesn't answer.
    pub async fn committed(&self, group: &str, topic: &str, partition: i32) -> i64 {
        wire::committed(self.address(), group, topic, partition).await.expect("Kafka answers")
    }

    /// Brokers, topics, leaders.
    ///
    /// # Panics
    /// When it doesn't answer.
    pub async fn metadata(&self) -> KafkaMetadata {
        self.until(|_| true).await
    }

    /// The controller answers a change before each broker knows of it.
    async fn until(&self, wanted: impl Fn(&KafkaMetadata) -> bool) -> KafkaMetadata {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let known = wire::metadata(self.address()).await;
            assert!(Instant::now() < deadline, "it stays {known:?}");
            if let Some(known) = known.ok().filter(&wanted) {
                return known;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM, and waits until it has ended. Its data stays.
    pub async fn stop(&mut self) {
        self.own_mut().stop().await;
    }

    /// kill -9. Its data stays.
    pub fn kill(&mut self) {
        self.own_mut().kill();
    }

    /// Starts it again with its data and its ports, and waits until it answers.
    ///
    /// # Panics
    /// With its log, when it doesn't.
    pub async fn start_again(&mut self) {
        self.own_mut().spawn().expect("java can be started");
        self.own_mut().until_it_knows(1).await.expect("it starts again");
    }

    /// Waits until it has ended by itself; it never does when all is well.
    pub async fn ended(&mut self) {
        self.own_mut().ended().await;
    }

    /// SIGSTOP: it keeps its connections and says nothing.
    pub fn pause(&self) {
        self.own().pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.own().resume();
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.own().pid()
    }

    /// Its folder: configuration, log and data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.own().folder()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.own().log()
    }

    fn address(&self) -> SocketAddr {
        self.brokers.parse().expect("PUSHLINE_TEST_KAFKA is an address and a port")
    }

    fn own(&self) -> &Broker {
        self.broker.as_ref().expect("a test that touches the process starts its own")
    }

    fn own_mut(&mut self) -> &mut Broker {
        self.broker.as_mut().expect("a test that touches the process starts its own")
    }
}

/// Kafka's classes, with their archive: the first test makes it, while the others wait.
async fn installation() -> Result<Installation, String> {
    let blocking = |work: fn() -> Result<_, String>| async move { spawn_blocking(work).await.map_err(|error| error.to_string())? };
    let installation = blocking(Installation::of_this_user).await?;
    if installation.archive().exists() {
        return Ok(installation);
    }
    let waiting = installation.clone();
    let _lock = spawn_blocking(move || waiting.lock()).await.map_err(|error| error.to_string())??;
    if !installation.archive().exists() {
        let (folder, ports) = (crate::folder(), [Ports::free(false)]);
        let (own, disposable) = (folder.path().to_owned(), Some(folder.path().to_owned()));
        let plan = Plan { id: 0, ports: &ports, folder: own, disposable, settings: &[] };
        Broker::format(plan, installation.clone()).await?.archive_classes().await?;
    }
    Ok(installation)
}
