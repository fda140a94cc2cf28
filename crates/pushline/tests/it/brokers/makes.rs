//! A broker that a test stops and starts: Mosquitto, or HiveMQ Community Edition.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pushline_testkit::{Mosquitto, PATIENCE, free_port};
use rustix::process::Signal;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{foreign_process::ForeignProcess, packages};

/// A running broker that keeps its sessions over restarts.
pub(super) trait Broker: Sized {
    /// Starts it with its data in a folder.
    async fn start(folder: &Path) -> Self;

    fn address(&self) -> SocketAddr;

    /// Stops it: it keeps its sessions, and ends.
    async fn stop(&mut self);

    /// Starts it again where it was.
    async fn start_again(&mut self);
}

impl Broker for Mosquitto {
    async fn start(folder: &Path) -> Self {
        Self::start(folder, "").await
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    async fn stop(&mut self) {
        self.stop().await;
    }

    async fn start_again(&mut self) {
        self.start_again().await;
    }
}

/// HiveMQ with a program around it that lets every client in.
pub(super) struct HiveMq {
    address: SocketAddr,
    folder: PathBuf,
    process: ForeignProcess,
}

/// It discards packets for a client that is away beyond this many: more than a test makes.
const CONFIGURATION: &str = "<?xml version=\"1.0\"?>
<hivemq>
  <listeners><tcp-listener><port>PORT</port><bind-address>127.0.0.1</bind-address></tcp-listener></listeners>
  <mqtt><queued-messages><max-queue-size>10000000</max-queue-size></queued-messages></mqtt>
  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
</hivemq>
";

/// What its libraries look into (JEP 261).
const OPENED: [&str; 3] = ["java.base/java.lang", "java.base/java.nio", "java.base/sun.nio.ch"];

impl HiveMq {
    fn spawn(folder: &Path) -> ForeignProcess {
        let mut command = Command::new("java");
        command.args(OPENED.map(|package| format!("--add-opens={package}=ALL-UNNAMED")));
        command.args(["-Xmx512m", "-cp", &packages::of_maven("com.hivemq", "hivemq-community-edition-embedded", "2025.5")]);
        command.arg(folder.join("HiveMq.java")).arg(folder);
        ForeignProcess::start(command, &folder.join("hivemq.log"))
    }

    async fn listens(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).await.is_err() {
            assert!(!self.process.has_ended() && Instant::now() < deadline, "it doesn't listen:\n{}", self.process.log());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Broker for HiveMq {
    async fn start(folder: &Path) -> Self {
        let port = free_port();
        ["data", "extensions"].iter().for_each(|name| fs::create_dir(folder.join(name)).unwrap());
        fs::write(folder.join("config.xml"), CONFIGURATION.replace("PORT", &port.to_string())).unwrap();
        fs::write(folder.join("HiveMq.java"), include_str!("HiveMq.java")).unwrap();
        let mut this = Self { address: ([127, 0, 0, 1], port).into(), folder: folder.to_owned(), process: Self::spawn(folder) };
        this.listens().await;
        this
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    async fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while !self.process.has_ended() {
            assert!(Instant::now() < deadline, "it doesn't end:\n{}", self.process.log());
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn start_again(&mut self) {
        self.process = Self::spawn(&self.folder);
        self.listens().await;
    }
}
