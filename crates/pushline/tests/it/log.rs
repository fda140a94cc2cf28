//! The log tells about the process and never stops it, whatever becomes of standard error.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use pushline_testkit::{Gateway, Inbox, PATIENCE, Pushline, folder, get};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::unix::pipe,
    time::{Instant, sleep, timeout},
};

use crate::{BINARY, group, packets, webhook};

/// A process with a standard error of its own. Its addresses are chosen before, since its log can't be read.
struct Process {
    child: Child,
    mqtt: SocketAddr,
    admin: SocketAddr,
    inbox: Inbox,
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).unwrap()
}

impl Process {
    async fn start(dir: &Path, stderr: Stdio) -> Self {
        Self::start_selecting("", dir, stderr).await
    }

    /// The same with a value of RUST_LOG.
    async fn start_selecting(lines: &str, dir: &Path, stderr: Stdio) -> Self {
        let inbox = Inbox::start().await;
        let (mqtt, admin) = (free_address(), free_address());
        let configuration = Pushline::configuration(&format!("{}{}", webhook("w", &inbox.url(), ""), group("mti", "line", "w")));
        let configuration = configuration.replacen("127.0.0.1:0", &mqtt.to_string(), 1).replacen("127.0.0.1:0", &admin.to_string(), 1);
        std::fs::write(dir.join("pushline.toml"), configuration).unwrap();
        let mut command = pushline_testkit::command(BINARY);
        command.args(["run", "--config"]).arg(dir.join("pushline.toml")).current_dir(dir).env("RUST_LOG", lines);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let mut this = Self { child, mqtt, admin, inbox };
        this.until(async || matches!(get(admin, "/readyz").await, Ok((200, _)))).await;
        this
    }

    async fn until(&mut self, is_so: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so().await {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "the process has ended: {ended:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Lines that the process has dropped.
    async fn dropped(admin: SocketAddr) -> f64 {
        let (_, metrics) = get(admin, "/metrics").await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("pushline_log_lines_dropped_total "));
        line.expect("the counter is there from the start").parse().unwrap()
    }

    /// A packet is acknowledged and delivered.
    async fn serves(&mut self, payload: &str) {
        let mut gateway = Gateway::connect(self.mqtt, "g").await.unwrap();
        timeout(PATIENCE, gateway.publish(&packets("mti/1", [payload]))).await.expect("the packet is acknowledged").unwrap();
        let push = self.inbox.next().await;
        assert!(String::from_utf8_lossy(&push.body).contains(payload), "{push:?}");
    }

    /// Ends well after SIGTERM.
    async fn stops(mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it doesn't end");
            sleep(Duration::from_millis(10)).await;
        }
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already can't be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn a_full_disk_under_the_log_costs_its_lines_and_nothing_else() {
    let dir = folder();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut process = Process::start(dir.path(), full.into()).await;
    process.serves("a").await;
    let admin = process.admin;
    process.until(async || Process::dropped(admin).await >= 2.0).await;
    process.stops().await;
}

#[tokio::test]
async fn a_selection_of_lines_that_cannot_be_read_ends_nothing_and_is_reported_where_the_log_can_be_written() {
    let dir = folder();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut process = Process::start_selecting("a=b=c", dir.path(), full.into()).await;
    process.serves("a").await;
    process.stops().await;
    let log = dir.path().join("log");
    let process = Process::start_selecting("a=b=c,warn", dir.path(), File::create(&log).unwrap().into()).await;
    process.stops().await;
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.starts_with("pushline: RUST_LOG: ignored \"a=b=c\": write a level such as debug"), "{log}");
}

#[tokio::test]
async fn a_log_whose_reader_has_gone_costs_its_lines_and_a_new_reader_hears_how_many() {
    let dir = folder();
    let fifo = dir.path().join("log.fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reader = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
    let writer = File::from(pipe::OpenOptions::new().open_sender(&fifo).unwrap().into_blocking_fd().unwrap());
    let mut process = Process::start(dir.path(), writer.into()).await;
    drop(reader);
    let admin = process.admin;
    process.signal(Signal::HUP);
    process.until(async || Process::dropped(admin).await >= 1.0).await;
    process.serves("a").await;

    let reader = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
    process.signal(Signal::HUP);
    let mut log = String::new();
    let heard = async {
        while !log.contains("log lines were dropped: standard error couldn't be written") {
            reader.readable().await.unwrap();
            let mut bytes = [0; 4096];
            if let Ok(count) = reader.try_read(&mut bytes) {
                log.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("the new reader hears of the dropped lines");
    assert!(log.contains("configuration reloaded") && log.contains("lines=1"), "{log}");
    process.stops().await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    let dir = folder();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    let mut process = Process::start(dir.path(), writer.into()).await;
    // The pipe is full once this write waits. It ends when the reader has gone, with the test.
    let (filled, fills) = std::sync::mpsc::channel();
    std::thread::spawn(move || while filler.write(&[b'x'; 512]).is_ok_and(|_| filled.send(()).is_ok()) {});
    while fills.recv_timeout(Duration::from_secs(1)).is_ok() {}
    process.signal(Signal::HUP);
    process.serves("a").await;
    process.signal(Signal::HUP);
    process.serves("b").await;
    process.stops().await;
    let mut log = [0; 256];
    assert_eq!(reader.read(&mut log).unwrap(), log.len(), "it was there to be read");
}
