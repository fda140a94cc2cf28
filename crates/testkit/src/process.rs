//! The real process, as a user runs it.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{PATIENCE, get, http::get_whole, signals};

/// A running `pushline run`, `ingest` or `deliver`. Dropping it kills the process.
#[derive(Debug)]
pub struct Pushline {
    child: Child,
    /// Where devices connect; port 0 where they can't.
    pub mqtt: SocketAddr,
    /// Metrics, health, dead letters.
    pub admin: SocketAddr,
    log: PathBuf,
}

/// One packet of a dead letter, as the admin address tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterLine {
    /// The webhook's name, where there was one.
    pub webhook: Option<String>,
    /// Such as `error_response`.
    pub cause: String,
    /// The message's id.
    pub message_id: Option<String>,
    /// The status, where one arrived.
    pub status: Option<u64>,
    /// How many attempts were made.
    pub attempts: usize,
    /// Class and cause of each attempt that got no response.
    pub no_responses: Vec<(String, String)>,
    /// The response's first 2 KiB.
    pub response: String,
    /// Base64.
    pub payload: String,
}

impl Pushline {
    /// A configuration on free ports with its data beside it; to be completed with webhooks and groups.
    #[must_use]
    pub fn configuration(more: &str) -> String {
        format!(
            "shutdown_grace = \"10s\"\n[queue]\nmin_free = \"1MiB\"\n[[mqtt.listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [egress]\nallow = [\"127.0.0.0/8\"]\n{more}"
        )
    }

    /// The same over a Kafka, with topics of its own. `properties` are librdkafka's, as in a table of TOML.
    #[must_use]
    pub fn configuration_over_kafka(brokers: &str, prefix: &str, partitions: u32, properties: &str, more: &str) -> String {
        let queue = format!(
            "kind = \"kafka\"\n[queue.kafka]\nbrokers = \"{brokers}\"\ntopic_prefix = \"{prefix}\"\npartitions = {partitions}\n\
             properties = {{ {properties} }}\n"
        );
        Self::configuration(more).replace("min_free = \"1MiB\"\n", &queue)
    }

    /// Writes the configuration into a folder, starts the binary and waits until it is ready.
    ///
    /// # Panics
    /// With its log, when it doesn't become ready.
    pub async fn start(binary: &str, dir: &Path, configuration: &str) -> Self {
        Self::start_as("run", binary, dir, configuration).await
    }

    /// The same in a role: `run`, `ingest` or `deliver`.
    ///
    /// # Panics
    /// With its log, when it doesn't become ready.
    pub async fn start_as(role: &str, binary: &str, dir: &Path, configuration: &str) -> Self {
        std::fs::write(dir.join("pushline.toml"), configuration).expect("the folder is writable");
        Self::start_again_as(role, binary, dir).await
    }

    /// Starts the binary in a folder that has its configuration.
    ///
    /// # Panics
    /// With its log, when it doesn't become ready.
    pub async fn start_again(binary: &str, dir: &Path) -> Self {
        Self::start_again_as("run", binary, dir).await
    }

    /// The same in a role.
    ///
    /// # Panics
    /// With its log, when it doesn't become ready.
    pub async fn start_again_as(role: &str, binary: &str, dir: &Path) -> Self {
        Self::start_again_with(role, binary, dir, &[]).await
    }

    /// The same with more variables in its environment.
    ///
    /// # Panics
    /// With its log, when it doesn't become ready.
    pub async fn start_again_with(role: &str, binary: &str, dir: &Path, environment: &[(String, String)]) -> Self {
        let log = dir.join("pushline.log");
        let child = Self::spawn(role, binary, dir, &log, environment).expect("the binary can be started");
        let mut this = Self { child, mqtt: ([127, 0, 0, 1], 0).into(), admin: ([127, 0, 0, 1], 0).into(), log };
        let ready = timeout(PATIENCE, this.ready()).await.unwrap_or(None);
        assert!(ready.is_some(), "it isn't ready:\n{}", this.log());
        (this.mqtt, this.admin) = ready.unwrap_or((this.mqtt, this.admin));
        this
    }

    fn spawn(role: &str, binary: &str, dir: &Path, log: &Path, environment: &[(String, String)]) -> io::Result<Child> {
        let log = File::create(log)?;
        let mut command = Command::from(command(binary));
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.args([role, "--config"]).arg(dir.join("pushline.toml")).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.kill_on_drop(true).spawn()
    }

    /// Runs until the process ends by itself; its log then.
    ///
    /// # Panics
    /// When it doesn't end.
    pub async fn end_of(binary: &str, dir: &Path) -> (bool, String) {
        let log = dir.join("pushline.log");
        let mut child = Self::spawn("run", binary, dir, &log, &[]).expect("the binary can be started");
        let status = timeout(PATIENCE, child.wait()).await.expect("it ends").expect("it can be waited for");
        (status.success(), read(&log))
    }

    async fn ready(&mut self) -> Option<(SocketAddr, SocketAddr)> {
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(" ready ")) {
                let field = |name: &str| line.split(name).nth(1)?.split_whitespace().next()?.parse().ok();
                let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
                return Some((field("mqtt=").unwrap_or(nowhere), field("admin=")?));
            }
            if self.child.try_wait().ok().flatten().is_some() {
                return None;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Its resident size in bytes, from `/proc` (proc(5)).
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.pid())));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has a resident size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number") << 10
    }

    /// kill -9.
    ///
    /// # Panics
    /// When it can't be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// SIGTERM, and waits until it has ended. Returns its log.
    ///
    /// # Panics
    /// When it doesn't end well.
    pub async fn terminate(mut self) -> String {
        self.signal(Signal::TERM);
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("it can be waited for");
        assert!(status.success(), "{status}:\n{}", self.log());
        self.log()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        signals::signal(self.pid(), signal);
    }

    /// SIGSTOP: it keeps its connections and does nothing, from now on.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pause(&self) {
        signals::pause(self.pid());
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Waits until it ends by itself; whether it ended well, and its log.
    ///
    /// # Panics
    /// When it doesn't end.
    pub async fn ended(mut self) -> (bool, String) {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("it can be waited for");
        (status.success(), self.log())
    }

    /// A metric, summed over its labels that contain a text; 0 where there is none.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let all = self.metrics().await;
        all.iter().filter(|(key, _)| key.split('{').next() == Some(name) && key.contains(labels)).map(|(_, value)| value).sum()
    }

    /// All metrics, name and labels to value.
    ///
    /// # Panics
    /// When the admin address doesn't answer.
    pub async fn metrics(&self) -> HashMap<String, f64> {
        let (status, text) = get(self.admin, "/metrics").await.expect("the admin address answers");
        assert_eq!(status, 200);
        let line = |line: &str| line.rsplit_once(' ').and_then(|(key, value)| Some((key.to_owned(), value.parse().ok()?)));
        text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
    }

    /// Waits until a metric has a value.
    ///
    /// # Panics
    /// When it never has.
    pub async fn until_metric(&self, name: &str, labels: &str, wanted: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name, labels).await;
            if wanted(value) {
                return;
            }
            assert!(Instant::now() < deadline, "{name}{{{labels}}} stays {value}:\n{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until everything that came in has settled.
    ///
    /// # Panics
    /// When nothing more settles.
    pub async fn until_quiet(&self) {
        let (mut deadline, mut least) = (Instant::now() + PATIENCE, f64::INFINITY);
        loop {
            let all = self.metrics().await;
            let sum =
                |name: &str| -> f64 { all.iter().filter(|(key, _)| key.split('{').next() == Some(name)).map(|(_, value)| value).sum() };
            let packets = |result: &str| -> f64 {
                let its = |key: &str| key.starts_with("pushline_ingest_packets_total{") && key.contains(&format!("result=\"{result}\""));
                all.iter().filter(|(key, _)| its(key)).map(|(_, value)| value).sum()
            };
            let came_in: f64 = ["appended", "unrouted", "no_webhook"].into_iter().map(packets).sum();
            let open = sum("pushline_queue_unsettled_packets_at_start") + came_in
                - sum("pushline_packets_delivered_total")
                - sum("pushline_packets_dead_lettered_total");
            if open == 0.0 {
                return;
            }
            if open < least {
                (deadline, least) = (Instant::now() + PATIENCE, open);
            }
            assert!(Instant::now() < deadline, "{open} packets never settle: {came_in} came in\n{all:#?}\n{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The dead letters of a log, `dead-letters` or `unrouted`, packet by packet.
    ///
    /// # Panics
    /// When the admin address doesn't answer with JSON lines.
    pub async fn dead_letters(&self, log: &str) -> Vec<DeadLetterLine> {
        self.dead_letters_where(log, "").await
    }

    /// Those of them that a query selects, such as `&cause=expired&group=mti%2Fline`.
    ///
    /// # Panics
    /// When the admin address doesn't answer with JSON lines.
    pub async fn dead_letters_where(&self, log: &str, query: &str) -> Vec<DeadLetterLine> {
        let (mut lines, mut next) = (Vec::new(), Some(0u64));
        while let Some(from) = next {
            let path = format!("/{log}?limit=1000&from={from}{query}");
            let (status, head, text) = get_whole(self.admin, &path).await.expect("the admin address answers");
            assert_eq!(status, 200, "{text}");
            // Where the next page begins: numbers have gaps, of marks, of what was filtered and of what was forgotten.
            let told = head.lines().find_map(|line| line.strip_prefix("pushline-next: "));
            next = told.map(|next| next.parse().expect("the next page begins at a number"));
            lines.extend(text.lines().map(|line| DeadLetterLine::read(&serde_json::from_str(line).expect("a line is JSON"))));
        }
        lines
    }
}

impl DeadLetterLine {
    fn read(line: &Value) -> Self {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let attempts = line["attempts"].as_array().map_or(&[][..], Vec::as_slice);
        let no_response =
            |attempt: &Value| Some((attempt["no_response"].as_str()?.to_owned(), attempt["cause"].as_str().unwrap_or_default().to_owned()));
        Self {
            webhook: line["webhook"].as_str().map(str::to_owned),
            cause: text("cause"),
            message_id: line["message_id"].as_str().map(str::to_owned),
            status: line["status"].as_u64(),
            attempts: attempts.len(),
            no_responses: attempts.iter().filter_map(no_response).collect(),
            response: text("response"),
            payload: text("payload"),
        }
    }
}

fn read(path: &Path) -> String {
    let mut text = String::new();
    File::open(path).and_then(|mut file| file.read_to_string(&mut text)).map_or_else(|error| error.to_string(), |_| text)
}

/// A command of the product, without what it would read from the environment of the tests.
#[must_use]
pub fn command(binary: &str) -> std::process::Command {
    let mut command = std::process::Command::new(binary);
    let reads = |name: &OsString| name == "RUST_LOG" || name.as_encoded_bytes().starts_with(b"PUSHLINE_");
    std::env::vars_os().map(|(name, _)| name).filter(reads).for_each(|name| {
        command.env_remove(name);
    });
    command
}

/// A folder that is gone with the test.
#[must_use]
pub fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder can be created")
}
