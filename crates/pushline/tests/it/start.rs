//! The admin server answers from the first moment of a process to its last one.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use pushline_testkit::{Gateway, PATIENCE, Pushline, ScriptedReceiver, folder, get};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};

use crate::{BINARY, group, packets, start, webhook};

async fn until<T>(wanted: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{wanted}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn admin_of(log: &Path) -> Option<SocketAddr> {
    let log = std::fs::read_to_string(log).ok()?;
    let line = log.lines().find(|line| line.contains("admin server listening"))?;
    line.split("admin=").nth(1)?.split_whitespace().next()?.parse().ok()
}

#[tokio::test]
async fn while_kafka_is_away_a_process_lives_says_what_it_waits_for_and_stops_cleanly() {
    // No process listens there once it is dropped.
    let away = TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).unwrap().to_string();
    for role in ["run", "ingest", "deliver"] {
        let dir = folder();
        let more = format!("{}{}", webhook("w", "http://127.0.0.1:1/", ""), group("mti", "line", "w"));
        let file = dir.path().join("pushline.toml");
        std::fs::write(&file, Pushline::configuration_over_kafka(&away, "away", 1, "", &more)).unwrap();
        let log = dir.path().join("pushline.log");
        let mut command = tokio::process::Command::from(pushline_testkit::command(BINARY));
        command.args([role, "--config"]).arg(&file).stderr(std::fs::File::create(&log).unwrap()).stdout(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let admin = until("the admin server is told in the log", async || admin_of(&log)).await;
        assert_eq!(get(admin, "/healthz").await.unwrap().0, 200, "{role}");
        let expected = (503, format!("starting: waiting for Kafka at {away}\n"));
        until("it says what it waits for", async || (get(admin, "/readyz").await.ok()? == expected).then_some(())).await;
        assert_eq!(get(admin, "/dead-letters").await.unwrap(), expected, "{role}");
        assert_eq!(get(admin, "/metrics").await.unwrap().0, 200, "{role}");
        kill_process(i32::try_from(child.id().unwrap()).ok().and_then(Pid::from_raw).unwrap(), Signal::TERM).unwrap();
        let status = timeout(PATIENCE, child.wait()).await.expect("it stops").unwrap();
        assert!(status.success(), "{role}: {status}\n{}", std::fs::read_to_string(&log).unwrap());
    }
}

#[tokio::test]
async fn a_process_that_shuts_down_is_alive_and_not_ready() {
    let dir = folder();
    let receiver = ScriptedReceiver::start(|_| std::future::pending()).await;
    let pushline = start(dir.path(), &receiver.url(), "").await;
    Gateway::connect(pushline.mqtt, "g").await.unwrap().publish(&packets("mti/1", ["a"])).await.unwrap();
    pushline.until_metric("pushline_deliver_in_flight", "", |messages| messages == 1.0).await;
    assert_eq!(get(pushline.admin, "/readyz").await.unwrap().0, 200);
    pushline.signal(Signal::TERM);
    let expected = (503, "shutting down\n".to_owned());
    until("it isn't ready", async || (get(pushline.admin, "/readyz").await.ok()? == expected).then_some(())).await;
    assert_eq!(get(pushline.admin, "/healthz").await.unwrap().0, 200);
    pushline.kill().await;
}

#[tokio::test]
async fn a_service_manager_is_told_when_the_process_serves_reloads_and_stops() {
    let dir = folder();
    let path = dir.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let environment = [("NOTIFY_SOCKET".to_owned(), path.display().to_string()), ("WATCHDOG_USEC".to_owned(), "60000000".to_owned())];
    std::fs::write(dir.path().join("pushline.toml"), Pushline::configuration("")).unwrap();
    let pushline = Pushline::start_again_with("run", BINARY, dir.path(), &environment).await;
    until_told(&socket, "READY=1").await;
    until_told(&socket, "WATCHDOG=1").await;
    pushline.hang_up();
    let told = until_told(&socket, "RELOADING=1").await;
    assert!(told.contains("MONOTONIC_USEC="), "{told}");
    until_told(&socket, "READY=1").await;
    pushline.signal(Signal::TERM);
    until_told(&socket, "STOPPING=1").await;
    let (succeeded, log) = pushline.ended().await;
    assert!(succeeded, "{log}");
}

/// Waits for a message with this line, and returns it.
async fn until_told(socket: &tokio::net::UnixDatagram, line: &str) -> String {
    let told = async {
        loop {
            let mut message = vec![0; 1 << 10];
            let length = socket.recv(&mut message).await.unwrap();
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            if text.lines().any(|told| told == line) {
                return text;
            }
        }
    };
    tokio::time::timeout(pushline_testkit::PATIENCE, told).await.unwrap_or_else(|_| panic!("{line} isn't told"))
}
