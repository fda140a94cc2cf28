//! What a stop and a crash leave as it was. Kills under load are in `chaos`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pushline_testkit::{Behaviour, Gateway, Inbox, Ledger, Pushline, folder, payloads};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{BINARY, group, packets, webhook};

/// Publishes packets with numbers of its own to whatever process is up, and notes what was acknowledged.
async fn publish_through_crashes(name: usize, mut server: watch::Receiver<Option<SocketAddr>>, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(address) = *server.borrow_and_update() else {
            if server.changed().await.is_err() {
                return;
            }
            continue;
        };
        let Ok(mut gateway) = Gateway::connect(address, &format!("gateway-{name}")).await else {
            sleep(Duration::from_millis(5)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let batch: Vec<String> = (number..number + fastrand::usize(1..40)).map(|number| format!("{name} {number}")).collect();
            number += batch.len();
            let before = usize::try_from(gateway.acknowledged()).unwrap();
            let topic = format!("o{}/{name}", name % 4);
            let result = gateway.publish(&packets(&topic, batch.iter().map(String::as_str))).await;
            let acknowledged = usize::try_from(gateway.acknowledged()).unwrap() - before;
            ledger.acknowledged(batch.into_iter().take(acknowledged));
            if result.is_err() {
                break;
            }
            sleep(Duration::from_millis(fastrand::u64(0..20))).await;
        }
    }
}

#[tokio::test]
async fn an_outstanding_message_of_the_last_checkpoint_is_sent_again_with_the_same_packets_and_id() {
    let dir = folder();
    let mut inbox = Inbox::behaving(Behaviour { hang: true, ..Behaviour::default() }).await;
    let other = Inbox::start().await;
    let configuration = format!(
        "{}{}{}{}",
        webhook("w", &inbox.url(), "concurrency = 4"),
        group("mti", "g", "w"),
        webhook("v", &other.url(), ""),
        group("oti", "g", "v")
    );
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..34).map(|number| number.to_string()))).await.unwrap();
    let before = inbox.packets(34).await;
    // The checkpoint holds them once it was saved after they were sent. It is saved when something happens: two saves that began later are enough.
    let saves = pushline.metric("pushline_checkpoint_saves_total", "").await;
    for more in [1.0, 2.0] {
        gateway.publish(&packets("oti/1", ["something"])).await.unwrap();
        pushline.until_metric("pushline_checkpoint_saves_total", "", |now| now >= saves + more).await;
    }
    pushline.kill().await;
    let pushline = Pushline::start_again(BINARY, dir.path()).await;
    let again = inbox.packets(34).await;
    let bodies = |pushes: &[pushline_testkit::Push]| -> HashMap<String, Vec<u8>> {
        pushes.iter().map(|push| (push.header("webhook-id").to_owned(), push.body.to_vec())).collect()
    };
    assert_eq!(bodies(&before).len(), 4);
    assert_eq!(bodies(&before), bodies(&again));
    pushline.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_and_start_sends_nothing_twice() {
    let dir = folder();
    let mut inbox = Inbox::behaving(Behaviour { delay: Duration::from_millis(50), ..Behaviour::default() }).await;
    let groups: String = (0..4).map(|number| group(&format!("o{number}"), "g", "w")).collect();
    let configuration = format!("{}{groups}", webhook("w", &inbox.url(), "window = \"200ms\""));
    let mut pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let (server, up) = watch::channel(Some(pushline.mqtt));
    let (ledger, stop) = (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)));
    let mut gateways = JoinSet::new();
    for name in 0..4 {
        gateways.spawn(publish_through_crashes(name, up.clone(), Arc::clone(&ledger), Arc::clone(&stop)));
    }
    for _ in 0..4 {
        sleep(Duration::from_millis(fastrand::u64(100..500))).await;
        server.send_replace(None);
        pushline.terminate().await;
        pushline = Pushline::start_again(BINARY, dir.path()).await;
        server.send_replace(Some(pushline.mqtt));
    }
    stop.store(true, Ordering::Relaxed);
    drop(server);
    gateways.join_all().await;
    pushline.until_quiet().await;
    let mut seen: HashMap<String, usize> = HashMap::new();
    for push in inbox.rest(Duration::from_millis(300)).await {
        ledger.arrived(&push);
        payloads(&push).into_iter().for_each(|payload| *seen.entry(payload).or_default() += 1);
    }
    ledger.check();
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{} of {} packets were pushed twice, such as {:?}", twice.len(), seen.len(), twice.first());
}

#[tokio::test]
async fn a_restart_on_one_box_closes_every_open_window() {
    let dir = folder();
    let mut inbox = Inbox::start().await;
    let configuration = format!("{}{}", webhook("w", &inbox.url(), "window = \"30s\""), group("mti", "g", "w"));
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    Gateway::connect(pushline.mqtt, "g").await.unwrap().publish(&packets("mti/1", ["a"])).await.unwrap();
    pushline.terminate().await;
    // Log time goes on a minute later, which is the longest window: what comes now belongs to another one (docs/delivery.md, Log time).
    let pushline = Pushline::start_again(BINARY, dir.path()).await;
    Gateway::connect(pushline.mqtt, "g").await.unwrap().publish(&packets("mti/1", ["b"])).await.unwrap();
    assert_eq!(payloads(&inbox.next().await), ["a"]);
    pushline.kill().await;
    let _pushline = Pushline::start_again(BINARY, dir.path()).await;
    let again = inbox.next().await;
    let next = if payloads(&again) == ["a"] { inbox.next().await } else { again };
    assert_eq!(payloads(&next), ["b"]);
}
