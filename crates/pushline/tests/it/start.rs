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
