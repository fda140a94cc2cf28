//! What came in is what went out: the identity of the metrics on a quiet system.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pushline_testkit::{Behaviour, Gateway, Inbox, Ledger, PATIENCE, Push, Pushline, Receiver, ScriptedReceiver, folder};
use tokio::time::{Instant, sleep};

use crate::{BINARY, command, group, packets, webhook};

/// A group that is known and has no webhook.
const BARE: &str = "[[groups]]\norg = \"bare\"\nname = \"g\"\ndefault = true\n";

/// Both sides of the identity: unsettled at the start and what came in since; delivered, dead letters and what is unsettled now.
async fn sides(pushline: &Pushline) -> (f64, f64) {
    let all = pushline.metrics().await;
    let sum = |name: &str, label: &str| -> f64 {
        all.iter().filter(|(key, _)| key.split('{').next() == Some(name) && key.contains(label)).map(|(_, value)| value).sum()
    };
    let came: f64 =
        ["appended", "unrouted", "no_webhook"].iter().map(|result| sum("pushline_ingest_packets_total", &format!("\"{result}\""))).sum();
    let out = ["pushline_packets_delivered_total", "pushline_packets_dead_lettered_total", "pushline_queue_unsettled_packets"];
    (sum("pushline_queue_unsettled_packets_at_start", "") + came, out.iter().map(|name| sum(name, "")).sum())
}

#[tokio::test]
async fn what_came_in_is_delivered_a_dead_letter_or_unsettled() {
    let dir = folder();
    let fine = Inbox::start().await;
    let failing = Inbox::behaving(Behaviour { status: 500, every: 2, ..Behaviour::default() }).await;
    let hanging = Inbox::behaving(Behaviour { hang: true, ..Behaviour::default() }).await;
    let configuration = format!(
        "{}{}{}{}{}{}{BARE}",
        webhook("fine", &fine.url(), ""),
        webhook("failing", &failing.url(), ""),
        webhook("hanging", &hanging.url(), ""),
        group("a", "g", "fine"),
        group("b", "g", "failing"),
        group("c", "g", "hanging"),
    );
    let mut pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration).replace("\"10s\"", "\"100ms\"")).await;
    let mut before = 0.0;
    for _ in 0..3 {
        let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
        for org in ["a", "b", "c", "bare", "none"] {
            gateway.publish(&packets(&format!("{org}/1"), (0..37).map(|number| number.to_string()))).await.unwrap();
        }
        // Nothing moves any more but what hangs: 37 packets a round, for 90 s.
        until_balanced(&pushline, before + 37.0).await;
        for cause in ["unrouted", "no_webhook"] {
            assert_eq!(pushline.metric("pushline_packets_dead_lettered_total", cause).await, 37.0);
        }
        before += 37.0;
        pushline.terminate().await;
        pushline = Pushline::start_again(BINARY, dir.path()).await;
        assert_eq!(pushline.metric("pushline_queue_unsettled_packets_at_start", "").await, before);
    }
}

/// Waits until nothing moves any more but so many packets that hang, and both sides are the same: what is unsettled is told once a second, the rest at once.
async fn until_balanced(pushline: &Pushline, hang: f64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (unsettled, (came_in, went_out)) = (pushline.metric("pushline_queue_unsettled_packets", "").await, sides(pushline).await);
        if unsettled == hang && came_in == went_out {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{came_in} came in, {went_out} went out or are left, {unsettled} of them\n{:#?}",
            pushline.metrics().await
        );
        sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes numbered packets of every kind, and notes what was acknowledged. Until the process is gone, or so many rounds.
async fn publish(name: &str, pushline: &Pushline, ledger: Arc<Ledger>, rounds: usize) -> tokio::task::JoinHandle<()> {
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    let name = name.to_owned();
    tokio::spawn(async move {
        for round in 0..rounds {
            for org in ["fine", "failing", "silent", "hanging", "bare", "none"] {
                let batch: Vec<String> = (0..11).map(|number| format!("{name} {org} {round} {number}")).collect();
                let before = gateway.acknowledged();
                let result = gateway.publish(&packets(&format!("{org}/1"), batch.iter().map(String::as_str))).await;
                ledger.acknowledged(batch.into_iter().take(usize::try_from(gateway.acknowledged() - before).unwrap()));
                if result.is_err() {
                    return;
                }
            }
        }
    })
}

#[tokio::test]
async fn across_a_kill_every_kind_of_dead_letter_and_a_replay_nothing_is_missing_and_both_sides_stay_the_same() {
    let dir = folder();
    let ledger = Arc::new(Ledger::default());
    let note = |ledger: &Arc<Ledger>| {
        let ledger = Arc::clone(ledger);
        move |push: Push| {
            if push.status == Some(200) {
                ledger.arrived(&push)
            }
        }
    };
    let anywhere = ([127, 0, 0, 1], 0).into();
    let fine = Receiver::start(anywhere, Behaviour::default(), note(&ledger)).await.unwrap();
    let failing = Receiver::start(anywhere, Behaviour { status: 500, every: 2, ..Behaviour::default() }, note(&ledger)).await.unwrap();
    let silent = ScriptedReceiver::start(|_| async { None }).await;
    let hung = Arc::new(AtomicBool::new(false));
    let hangs = Arc::clone(&hung);
    let hanging = ScriptedReceiver::start(move |_| {
        hangs.store(true, Ordering::SeqCst);
        std::future::pending()
    });
    let hanging = hanging.await;
    let url = |receiver: &Receiver| format!("http://{}/", receiver.address());
    let configuration = format!(
        "{}{}{}{}{}{BARE}",
        webhook("fine", &url(&fine), "window = \"100ms\""),
        webhook("failing", &url(&failing), "window = \"100ms\""),
        webhook("silent", &silent.url(), "window = \"100ms\"\nretry_delays = [\"10ms\"]"),
        webhook("hanging", &hanging.url(), "max_packets = 1\nconcurrency = 1"),
        ["fine", "failing", "silent", "hanging"].map(|name| group(name, "g", name)).concat(),
    );
    let configuration = Pushline::configuration(&format!("[backlog]\nmax_age = \"2s\"\n{configuration}"));
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    publish("first", &pushline, Arc::clone(&ledger), 5).await.await.unwrap();
    until_balanced(&pushline, 1.0).await;
    let causes = ["error_response", "no_response", "expired", "unrouted", "no_webhook"];
    for cause in causes {
        assert!(pushline.metric("pushline_packets_dead_lettered_total", cause).await > 0.0, "{cause}");
    }

    // Killed under load.
    let load = publish("second", &pushline, Arc::clone(&ledger), usize::MAX).await;
    pushline.until_metric("pushline_ingest_packets_total", "appended", |appended| appended > 3000.0).await;
    pushline.kill().await;
    load.await.unwrap();
    let pushline = Pushline::start_again(BINARY, dir.path()).await;
    assert!(pushline.metric("pushline_queue_unsettled_packets_at_start", "").await >= 1.0);
    publish("third", &pushline, Arc::clone(&ledger), 5).await.await.unwrap();
    until_balanced(&pushline, 1.0).await;

    // Some of what failed is sent again, and it is killed once more.
    let replay = ["dead-letters", "replay", "--cause", "error_response", "--admin", &pushline.admin.to_string()];
    assert!(command().args(replay).status().await.unwrap().success());
    let replayed = pushline.metric("pushline_ingest_packets_total", "replay").await;
    assert!(replayed >= 10.0, "only {replayed} packets were replayed");
    until_balanced(&pushline, 1.0).await;
    pushline.kill().await;
    let pushline = Pushline::start_again(BINARY, dir.path()).await;
    publish("fourth", &pushline, Arc::clone(&ledger), 5).await.await.unwrap();
    until_balanced(&pushline, 1.0).await;

    let decoded = |payload: &str| String::from_utf8(base64_simd::STANDARD.decode_to_vec(payload).unwrap()).unwrap();
    for log in ["dead-letters", "unrouted"] {
        ledger.dead(pushline.dead_letters(log).await.iter().map(|letter| decoded(&letter.payload)));
    }
    assert!(hung.load(Ordering::SeqCst));
    let missing = ledger.missing();
    assert!(missing.len() <= 1 && missing.iter().all(|packet| packet.contains("hanging")), "{missing:?}");
    println!("{} packets acknowledged, {replayed} replayed", ledger.count());
    assert_eq!(ledger.twice(), 0, "packets in two messages");
    pushline.kill().await;
}
