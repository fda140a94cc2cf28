//! The command line: what a newcomer types first.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Output, Stdio},
};

use pushline_testkit::{Gateway, PATIENCE, Pushline, folder, get};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::{BINARY, command, packets, start_with_inbox};

async fn pushline(arguments: &[&str]) -> Output {
    command().args(arguments).output().await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn the_example_configuration_is_accepted() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pushline.example.toml");
    let output = pushline(&["check", "--config", example.to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(shown.contains("tokyo-server") && !shown.contains("123456789\""), "{shown}");
}

#[tokio::test]
async fn a_quiet_check_prints_mistakes_alone() {
    let dir = folder();
    let file = dir.path().join("pushline.toml");
    std::fs::write(&file, "").unwrap();
    let check = || command().args(["check", "--quiet", "--config"]).arg(&file).output();
    let output = check().await.unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    std::fs::write(&file, "colour = 1").unwrap();
    let output = check().await.unwrap();
    assert!(!output.status.success() && text(&output.stderr).contains("colour: there is no such field"), "{output:?}");
}

#[tokio::test]
async fn whatever_else_is_in_the_environment_is_nobodys_business() {
    let dir = folder();
    let file = dir.path().join("pushline.toml");
    std::fs::write(&file, "").unwrap();
    let bytes = OsStr::from_bytes(b"\xff");
    let check = |name: &str| command().args(["check", "--config"]).arg(&file).env(name, bytes).output();
    let output = check("ODD").await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = check("PUSHLINE_QUEUE__DIR").await.unwrap();
    assert!(text(&output.stderr).contains("environment variable PUSHLINE_QUEUE__DIR: its value isn't UTF-8"), "{}", text(&output.stderr));
    let output = command().args(["check", "--config"]).arg(&file).env("PUSHLINE_SHUTDWN_GRACE", "1s").output().await.unwrap();
    let shown = text(&output.stdout);
    assert!(
        output.status.success() && shown.contains("# warning: ignored environment variables that name no field: PUSHLINE_SHUTDWN_GRACE\n")
    );
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let dir = folder();
    let (pushline_process, _inbox) = start_with_inbox(dir.path(), "").await;
    let mut gateway = Gateway::connect(pushline_process.mqtt, "g").await.unwrap();
    // More than a pipe holds.
    gateway.publish(&packets("nobody/1", vec![vec![b'x'; 1000]; 500])).await.unwrap();
    let listing = format!("{BINARY} dead-letters list --json --admin {} | head -n 1; exit ${{PIPESTATUS[0]}}", pushline_process.admin);
    let output = tokio::process::Command::from(pushline_testkit::command("bash")).args(["-c", &listing]).output().await.unwrap();
    assert!(output.status.success() && output.stdout.ends_with(b"\n"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_reader_of_the_demo_or_the_receiver_that_has_seen_enough_ends_them_well() {
    let dir = folder();
    for arguments in [&["demo"][..], &["receive", "--listen", "localhost:0"]] {
        let mut command = command();
        command.args(arguments).env("TMPDIR", dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.expect("it prints").unwrap().unwrap();
        drop(lines);
        if let Some(address) = first.strip_prefix("listening on http://") {
            let mut push = TcpStream::connect(address).await.unwrap();
            push.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        }
        let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {}: {}", output.status, text(&output.stderr));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the demo leaves nothing behind");
}

#[tokio::test]
async fn a_mistake_is_refused_before_anything_starts() {
    let dir = folder();
    std::fs::write(dir.path().join("pushline.toml"), "[queue]\nkidn = \"embedded\"\n").unwrap();
    let (ended_well, log) = Pushline::end_of(BINARY, dir.path()).await;
    assert!(!ended_well && log.contains("pushline.toml:2: queue.kidn: there is no such field; did you mean kind?"), "{log}");
    assert!(!dir.path().join("pushline-data").exists());
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused() {
    let dir = folder();
    let (_first, _inbox) = start_with_inbox(dir.path(), "").await;
    let (ended_well, log) = Pushline::end_of(BINARY, dir.path()).await;
    assert!(!ended_well && log.contains("in use by another process"), "{log}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_reported_with_the_reason_once() {
    let dir = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let configuration = Pushline::configuration("").replacen("127.0.0.1:0", &taken.local_addr().unwrap().to_string(), 1);
    std::fs::write(dir.path().join("pushline.toml"), configuration).unwrap();
    let (ended_well, log) = Pushline::end_of(BINARY, dir.path()).await;
    let line = log.lines().last().unwrap();
    assert!(!ended_well && line.starts_with("pushline: can't listen on ") && line.matches("os error 98").count() == 1, "{log}");
}

#[tokio::test]
async fn help_tells_a_newcomer_what_there_is() {
    let help = text(&pushline(&["--help"]).await.stdout);
    for command in ["demo", "run", "check", "receive", "dead-letters"] {
        assert!(help.contains(&format!("\n  {command}")), "{help}");
    }
}

#[tokio::test]
async fn the_demo_ends_with_a_ledger_that_adds_up() {
    let output = pushline(&["demo"]).await;
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(shown.contains("Nothing is missing."), "{shown}");
    assert!(shown.contains("array of 10") && shown.contains("sent again") && shown.contains("a dead letter"), "{shown}");
}

#[tokio::test]
async fn dead_letters_are_listed_for_people_and_for_programs() {
    let dir = folder();
    let (pushline_process, _inbox) = start_with_inbox(dir.path(), "").await;
    let mut gateway = Gateway::connect(pushline_process.mqtt, "g").await.unwrap();
    gateway.publish(&packets("nobody/1", ["nobody's"])).await.unwrap();
    let admin = pushline_process.admin.to_string();
    let shown = text(&pushline(&["dead-letters", "list", "--admin", &admin]).await.stdout);
    assert!(shown.contains("unrouted") && shown.contains("\"nobody's\""), "{shown}");
    let line = text(&pushline(&["dead-letters", "list", "--json", "--cause", "unrouted", "--admin", &admin]).await.stdout);
    let value: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(
        (value["cause"].as_str(), value["payload"].as_str(), value["iccid"].as_str()),
        (Some("unrouted"), Some("bm9ib2R5J3M="), Some("1"))
    );
    assert_eq!(text(&pushline(&["dead-letters", "list", "--cause", "expired", "--admin", &admin]).await.stdout), "");
    for (option, value, says) in [
        (
            "--cause",
            "boredom",
            "there is no cause \"boredom\": there are error_response, no_response, blocked_address, unrouted, no_webhook,",
        ),
        ("--group", "mti", "\"mti\" is not a group: write it as organisation/name"),
        ("--message-id", "x", "\"x\" is not a message id: msg_ and 22"),
    ] {
        for command in ["list", "replay"] {
            let wrong = pushline(&["dead-letters", command, option, value, "--admin", &admin]).await;
            assert!(wrong.status.code() == Some(2) && text(&wrong.stderr).contains(says), "{}", text(&wrong.stderr));
        }
    }
}

#[tokio::test]
async fn health_and_metrics_are_told() {
    let dir = folder();
    let (pushline_process, _inbox) = start_with_inbox(dir.path(), "").await;
    assert_eq!(get(pushline_process.admin, "/healthz").await.unwrap(), (200, "alive\n".to_owned()));
    assert_eq!(get(pushline_process.admin, "/readyz").await.unwrap(), (200, "ready\n".to_owned()));
    assert_eq!(get(pushline_process.admin, "/nothing").await.unwrap().0, 404);
    let (_, metrics) = get(pushline_process.admin, "/metrics").await.unwrap();
    for name in ["pushline_queue_lag_records", "pushline_packets_delivered_total", "pushline_lanes"] {
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} in\n{metrics}");
    }
}
