//! One broker: a folder with its configuration and data, and the java process that runs on it now and then.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{
    install::Installation,
    owned_child::OwnedChild,
    security,
    wire::{self, KafkaMetadata},
};
use crate::{free_port, signals};

/// A java process on a busy machine takes its time.
const START: Duration = Duration::from_secs(120);

/// 16 bytes in base64: `pushline-testkit`.
const CLUSTER_ID: &str = "cHVzaGxpbmUtdGVzdGtpdA";

/// What differs from Kafka's own defaults: little memory, no waiting for members that never come. Later settings win.
const SETTINGS: [(&str, &str); 20] = [
    ("process.roles", "broker,controller"),
    ("controller.listener.names", "CONTROLLER"),
    ("inter.broker.listener.name", "PLAINTEXT"),
    ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,SASL_SSL:SASL_SSL"),
    ("auto.create.topics.enable", "false"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "1000"),
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.num.partitions", "1"),
    ("log.segment.bytes", "16777216"),
    ("log.index.size.max.bytes", "1048576"),
    ("log.cleaner.dedupe.buffer.size", "4194304"),
    ("log.initial.task.delay.ms", "1000"),
    ("log.retention.check.interval.ms", "1000"),
    ("log.segment.delete.delay.ms", "1000"),
    ("log.cleaner.backoff.ms", "1000"),
    ("num.network.threads", "2"),
    ("num.io.threads", "4"),
    ("controlled.shutdown.max.retries", "1"),
    ("controller.quorum.election.timeout.ms", "1000"),
];

const LOG4J: &str = "appender.out.type=Console\nappender.out.name=out\nappender.out.layout.type=PatternLayout\n\
                     appender.out.layout.pattern=%d{ISO8601} %p %m (%c{1})%n\nrootLogger.level=warn\nrootLogger.appenderRef.out.ref=out\n";

/// Where a broker listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) plain: u16,
    pub(crate) controller: u16,
    pub(crate) secured: Option<u16>,
    /// A plain listener behind a proxy.
    pub(crate) proxied: Option<Proxied>,
}

/// Where a broker listens for what a proxy passes on, and the address of the proxy, which its clients are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proxied {
    pub(crate) listens: u16,
    pub(crate) advertised: u16,
}

/// What a broker shall be.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Its place among the ports.
    pub(crate) id: usize,
    /// Those of the whole cluster.
    pub(crate) ports: &'a [Ports],
    /// Configuration, data and log go there.
    pub(crate) folder: PathBuf,
    /// What goes with a test process that is killed.
    pub(crate) disposable: Option<PathBuf>,
    pub(crate) settings: &'a [(&'a str, &'a str)],
}

/// A broker, running or not. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Broker {
    process: Option<OwnedChild>,
    installation: Installation,
    folder: PathBuf,
    disposable: Option<PathBuf>,
    /// The plain listener.
    pub(crate) address: SocketAddr,
}

impl Ports {
    pub(crate) fn free(secured: bool) -> Self {
        Self { plain: free_port(), controller: free_port(), secured: secured.then(free_port), proxied: None }
    }
}

pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Plan<'_> {
    fn properties(&self) -> String {
        let ports = self.ports[self.id];
        let voters: Vec<String> = self.ports.iter().enumerate().map(|(id, one)| format!("{id}@{}", local(one.controller))).collect();
        let mut listeners = format!("PLAINTEXT://{},CONTROLLER://{}", local(ports.plain), local(ports.controller));
        let mut settings: Vec<(&str, String)> = SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        if let Some(port) = ports.secured {
            let _ = write!(listeners, ",SASL_SSL://{}", local(port));
            settings.extend(security::settings(&self.folder));
        }
        if let Some(Proxied { listens, advertised }) = ports.proxied {
            let _ = write!(listeners, ",PROXIED://{}", local(listens));
            settings.push(("advertised.listeners", format!("PLAINTEXT://{},PROXIED://{}", local(ports.plain), local(advertised))));
        }
        let (copies, in_sync) = (self.ports.len(), self.ports.len().div_ceil(2));
        settings.extend([
            ("node.id", self.id.to_string()),
            ("controller.quorum.voters", voters.join(",")),
            ("listeners", listeners),
            ("log.dirs", self.folder.join("data").display().to_string()),
            ("default.replication.factor", copies.to_string()),
            ("offsets.topic.replication.factor", copies.to_string()),
            ("transaction.state.log.replication.factor", copies.to_string()),
            ("min.insync.replicas", in_sync.to_string()),
            ("transaction.state.log.min.isr", in_sync.to_string()),
        ]);
        settings.extend(self.settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        settings.iter().fold(String::new(), |text, (name, value)| text + name + "=" + value + "\n")
    }
}

impl Broker {
    /// Writes its configuration and formats its folder; a folder that has been formatted keeps its data.
    pub(crate) async fn format(plan: Plan<'_>, installation: Installation) -> Result<Self, String> {
        let address = local(plan.ports[plan.id].plain);
        let write = |name: &str, text: &str| fs::write(plan.folder.join(name), text);
        let written = fs::create_dir_all(&plan.folder)
            .and_then(|()| write("server.properties", &plan.properties()))
            .and_then(|()| write("log4j2.properties", LOG4J));
        written.map_err(|error| format!("can't write to {}: {error}", plan.folder.display()))?;
        let this = Self { process: None, installation, folder: plan.folder, disposable: plan.disposable, address };
        let scram = plan.ports[plan.id].secured.map(|_| security::scram_user());
        let configuration = this.configuration();
        let mut arguments = vec!["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID, "-c", &configuration];
        arguments.extend(scram.iter().flat_map(|user| ["--add-scram", user]));
        let mut format = this.java(&["-Xmx64m".into(), "-XX:TieredStopAtLevel=1".into()], &arguments)?;
        match format.end(START).await {
            Some(status) if status.success() => Ok(this),
            _ => Err(format!("Kafka can't format its folder:\n{}", this.log())),
        }
    }

    /// Starts it; it answers only later.
    pub(crate) fn spawn(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "it runs already");
        self.process = Some(self.java(&["-Xms64m".into(), "-Xmx384m".into()], &["kafka.Kafka", &self.configuration()])?);
        Ok(())
    }

    /// Once and for all: starts it, stops it and keeps the classes that it loaded.
    pub(crate) async fn archive_classes(&mut self) -> Result<(), String> {
        let archive = self.installation.archive();
        let partial = archive.with_extension("partial");
        let option = format!("-XX:ArchiveClassesAtExit={}", partial.display());
        self.process = Some(self.java(&[option], &["kafka.Kafka", &self.configuration()])?);
        self.until_it_knows(1).await?;
        self.stop().await;
        // Without one it works as well, only slower.
        let _ = fs::rename(partial, archive);
        Ok(())
    }

    fn java(&self, options: &[String], arguments: &[&str]) -> Result<OwnedChild, String> {
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.map_err(|error| format!("can't write {}: {error}", self.log_file().display()))?;
        let mut command = vec!["java".to_owned(), "-XX:+UseSerialGC".into(), "-Dlog4j2.disableJmx=true".into()];
        command.push(format!("-Dlog4j2.configurationFile={}", self.folder.join("log4j2.properties").display()));
        if self.installation.archive().exists() {
            command.push(format!("-XX:SharedArchiveFile={}", self.installation.archive().display()));
        }
        command.extend_from_slice(options);
        command.extend(["-cp".into(), self.installation.class_path()]);
        command.extend(arguments.iter().map(|&argument| argument.to_owned()));
        OwnedChild::start(&command, log, self.disposable.as_deref()).map_err(|error| format!("can't start sh and java: {error}"))
    }

    /// Waits until it answers that so many brokers are up.
    pub(crate) async fn until_it_knows(&mut self, brokers: usize) -> Result<KafkaMetadata, String> {
        let deadline = Instant::now() + START;
        loop {
            let answer = wire::metadata(self.address).await;
            if let Some(metadata) = answer.ok().filter(|metadata| metadata.brokers.len() == brokers) {
                return Ok(metadata);
            }
            if self.process.as_mut().is_none_or(|process| process.ended().is_some()) {
                return Err(format!("Kafka has ended:\n{}", self.log()));
            }
            if Instant::now() > deadline {
                return Err(format!("Kafka doesn't answer that {brokers} are up:\n{}", self.log()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM, and waits until it has ended; one that can't leave in order is killed.
    pub(crate) async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            signals::signal(process.id(), Signal::TERM);
            process.end(START).await;
        }
    }

    /// kill -9, and waits until it's gone.
    pub(crate) fn kill(&mut self) {
        drop(self.process.take().expect("it runs"));
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) {
        while self.process.as_mut().is_some_and(|process| process.ended().is_none()) {
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// SIGSTOP: it keeps its connections and says nothing.
    pub(crate) fn pause(&self) {
        signals::pause(self.pid());
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        signals::signal(self.pid(), Signal::CONT);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn log(&self) -> String {
        fs::read(self.log_file()).map_or_else(|error| error.to_string(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    fn configuration(&self) -> String {
        self.folder.join("server.properties").display().to_string()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}
