//! `pushline doctor`, the real binary, in environments that are really broken: each finding names the cause and the remedy.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use pushline_testkit::{Behaviour, Inbox, Pushline, folder};
use serde_json::Value;

use crate::{command, group, start, webhook};

/// What it printed, a finding each, and its exit status.
struct Report {
    findings: Vec<Value>,
    status: i32,
}

impl Report {
    /// The text and the remedy of the first finding of a check in a state.
    fn of(&self, check: &str, state: &str) -> String {
        let is_it = |finding: &&Value| finding["check"] == check && finding["state"] == state;
        let finding = self.findings.iter().find(is_it).unwrap_or_else(|| panic!("no {check} is {state}: {:#?}", self.findings));
        format!("{} -> {}", finding["text"].as_str().unwrap(), finding["remedy"].as_str().unwrap_or("nothing"))
    }
}

async fn doctor(dir: &Path, more: &[&str]) -> Report {
    let output = command().args(["doctor", "--json", "--config"]).arg(dir.join("pushline.toml")).args(more).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let findings: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!findings.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Report { findings, status: output.status.code().unwrap() }
}

/// Looks at a configuration that nothing runs with.
async fn of(dir: &Path, configuration: &str) -> Report {
    fs::write(dir.join("pushline.toml"), configuration).unwrap();
    doctor(dir, &[]).await
}

#[tokio::test]
async fn a_healthy_process_gives_no_warning() {
    let dir = folder();
    let inbox = Inbox::start().await;
    let pushline = start(dir.path(), &inbox.url(), "").await;
    let report = doctor(dir.path(), &["--admin", &pushline.admin.to_string()]).await;
    let bad: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding["state"] == "failed" || finding["check"] == "configuration" && finding["state"] != "ok")
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(report.of("webhook", "ok").starts_with("w: reached over http/1.1"));
    assert!(report.of("process", "ok").ends_with("is ready -> nothing"));
    assert!(report.of("queue", "ok").starts_with("a running process has it"));
}

#[tokio::test]
async fn a_test_message_is_sent_only_where_it_was_asked_for_and_its_answer_is_told() {
    let dir = folder();
    let mut fine = Inbox::start().await;
    let mut failing = Inbox::behaving(Behaviour { status: 401, ..Behaviour::default() }).await;
    let hooks = format!("{}{}", webhook("fine", &fine.url(), ""), webhook("failing", &failing.url(), ""));
    fs::write(dir.path().join("pushline.toml"), Pushline::configuration(&hooks)).unwrap();
    let report = doctor(dir.path(), &[]).await;
    assert!(report.of("webhook", "ok").contains("reached"), "{:#?}", report.findings);
    let report = doctor(dir.path(), &["--push", "fine", "--push", "failing", "--push", "missing"]).await;
    assert!(report.of("webhook", "ok").starts_with("fine: accepted a test message with status 200"));
    let texts = report.findings.iter().filter(|finding| finding["state"] == "failed").map(|finding| finding["text"].as_str().unwrap());
    let texts: Vec<&str> = texts.collect();
    assert_eq!(texts, ["--push missing: there is no webhook with this name", "failing: HTTP status 401"]);
    assert_eq!(report.status, 2);
    let push = fine.next().await;
    assert!(String::from_utf8_lossy(&push.body).contains("\"Payload\":\"pushline doctor\""), "{push:?}");
    failing.next().await;
}

#[tokio::test]
async fn each_mistake_of_the_configuration_is_a_finding() {
    let dir = folder();
    let report = of(dir.path(), "colour = 1\n[admin]\naddress = 2\n").await;
    assert_eq!((report.findings.len(), report.status), (2, 2));
    assert!(report.of("configuration", "failed").contains("there is no such field"));
    let missing = doctor(&dir.path().join("nowhere"), &[]).await;
    assert!(missing.of("configuration", "failed").contains("can't read"));
}

#[tokio::test]
async fn servers_that_no_attempt_would_reach_are_told_with_the_cause() {
    let dir = folder();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plain = Inbox::start().await;
    for (url, egress, text) in [
        (format!("http://{closed}/"), "127.0.0.0/8", "connect: "),
        ("http://127.0.0.1:9/".to_owned(), "10.0.0.0/8", "blocked address: "),
        ("http://name.invalid/".to_owned(), "127.0.0.0/8", ""),
        (plain.url().replace("http://", "https://"), "127.0.0.0/8", "tls: "),
    ] {
        let hook = webhook("w", &url, "");
        let configuration = Pushline::configuration(&hook).replace("127.0.0.0/8", egress);
        let report = of(dir.path(), &configuration).await;
        let found = report.of("webhook", "failed");
        assert!(found.starts_with(&format!("w: {text}")) && !found.ends_with("nothing"), "{url}: {found}");
        assert_eq!(report.status, 2);
    }
}

#[tokio::test]
async fn a_disk_that_holds_no_queue_is_told_with_the_cause() {
    let dir = folder();
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, Permissions::from_mode(0o500)).unwrap();
    let at = |queue: &str| Pushline::configuration("").replace("[queue]\n", &format!("[queue]\ndir = \"{queue}\"\n"));
    // Root may write everywhere but in these.
    let report = of(dir.path(), &at("/proc/self/queue")).await;
    assert!(report.of("disk", "failed").contains("can't be written"), "{:#?}", report.findings);
    let report = of(dir.path(), &Pushline::configuration("").replace("min_free = \"1MiB\"", "min_free = \"4194304GiB\"")).await;
    assert!(report.of("disk", "failed").contains("less than [queue] min_free"), "{:#?}", report.findings);
    let report = of(dir.path(), &at("/dev/shm/pushline-doctor-test")).await;
    assert!(report.of("disk", "warning").contains("tmpfs"), "{:#?}", report.findings);
    assert!(!Path::new("/dev/shm/pushline-doctor-test").exists(), "it creates nothing");
}

#[tokio::test]
async fn a_process_that_is_not_ready_or_runs_with_an_older_configuration_is_told() {
    let dir = folder();
    let inbox = Inbox::start().await;
    let pushline = start(dir.path(), &inbox.url(), "").await;
    let admin = pushline.admin.to_string();
    let file = dir.path().join("pushline.toml");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{good}{}", group("mti", "line", "nowhere"))).unwrap();
    crate::reload::until_logged(&pushline, "the old one stays", 1).await;
    fs::write(dir.path().join("good.toml"), good).unwrap();
    let output = command().args(["doctor", "--admin", &admin, "--config"]).arg(dir.path().join("good.toml")).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("FAIL  process        its last reload was refused") && text.contains("\n                     -> mend"), "{text}");
    pushline.terminate().await;
    let report = doctor(dir.path(), &["--admin", &admin]).await;
    assert_eq!(report.status, 2);
    fs::rename(dir.path().join("good.toml"), &file).unwrap();
    assert!(doctor(dir.path(), &["--admin", &admin]).await.of("process", "failed").contains("can't reach a running Pushline"));
    let other = Inbox::start().await;
    let address = other.url().replace("http://", "").trim_end_matches('/').to_owned();
    let address = address.split('/').next().unwrap();
    assert!(doctor(dir.path(), &["--admin", address]).await.of("process", "failed").contains("something else answers"));
}
