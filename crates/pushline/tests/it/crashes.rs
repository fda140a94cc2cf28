//! The promise through crashes: whatever was acknowledged arrives or is a dead letter.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pushline_testkit::{Behaviour, Gateway, Inbox, Ledger, Pushline, Receiver, folder, payloads};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{BINARY, amount, group, packets, webhook};

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

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_at_random_moments_every_acknowledged_packet_arrives_or_is_a_dead_letter() {
    let dir = folder();
    let ledger = Arc::new(Ledger::default());
    let receiver = |behaviour| {
        let ledger = Arc::clone(&ledger);
        Receiver::start(([127, 0, 0, 1], 0).into(), behaviour, move |push| {
            if push.status.is_some_and(|status| status < 300) {
                ledger.arrived(&push);
            }
        })
    };
    // One answers, one slowly, one fails now and then, one hangs now and then.
    let behaviours = [
        Behaviour::default(),
        Behaviour { delay: Duration::from_millis(50), ..Behaviour::default() },
        Behaviour { status: 503, every: 5, ..Behaviour::default() },
        Behaviour { hang: true, every: 7, ..Behaviour::default() },
    ];
    let (mut receivers, mut configuration) = (Vec::new(), String::new());
    for (number, behaviour) in behaviours.into_iter().enumerate() {
        let receiver = receiver(behaviour).await.unwrap();
        let options = "timeout = \"300ms\"\nretry_delays = [\"20ms\"]\nwindow = \"100ms\"";
        configuration += &webhook(&format!("w{number}"), &format!("http://{}/", receiver.address()), options);
        receivers.push(receiver);
    }
    configuration += &(0..4).map(|number| group(&format!("o{number}"), "g", &format!("w{number}"))).collect::<String>();

    let mut pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let (server, up) = watch::channel(Some(pushline.mqtt));
    let stop = Arc::new(AtomicBool::new(false));
    let mut gateways = JoinSet::new();
    for name in 0..8 {
        gateways.spawn(publish_through_crashes(name, up.clone(), Arc::clone(&ledger), Arc::clone(&stop)));
    }
    let kills = amount(22, 200);
    for kill in 0..kills {
        // Checkpoint is saved every second: most lives end before, and begin where an earlier one did; every third lasts longer.
        let life = if kill % 3 == 2 { 1000..2500 } else { 20..700 };
        sleep(Duration::from_millis(fastrand::u64(life))).await;
        server.send_replace(None);
        pushline.kill().await;
        pushline = Pushline::start_again(BINARY, dir.path()).await;
        server.send_replace(Some(pushline.mqtt));
    }
    stop.store(true, Ordering::Relaxed);
    drop(server);
    gateways.join_all().await;

    pushline.until_quiet().await;
    let dead = pushline.dead_letters("dead-letters").await;
    ledger.dead(dead.iter().map(|letter| String::from_utf8(base64_simd::STANDARD.decode_to_vec(&letter.payload).unwrap()).unwrap()));
    assert!(ledger.count() > 1000, "only {} packets were acknowledged: it wasn't under load", ledger.count());
    ledger.check();
    println!(
        "{} packets acknowledged through {kills} kills, {} dead letters, {} came in two messages",
        ledger.count(),
        dead.len(),
        ledger.twice()
    );
}

#[tokio::test]
async fn a_message_listed_in_the_last_checkpoint_is_sent_again_with_the_same_packets_and_id() {
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
    // They are listed once checkpoint was saved after they were sent. It is saved when something happens: two saves that began later are enough.
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
async fn an_open_window_survives_a_clean_stop_and_is_not_cut_early() {
    let dir = folder();
    let mut inbox = Inbox::start().await;
    let configuration = format!("{}{}", webhook("w", &inbox.url(), "window = \"3s\""), group("mti", "g", "w"));
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let began = Instant::now();
    Gateway::connect(pushline.mqtt, "g").await.unwrap().publish(&packets("mti/1", ["a"])).await.unwrap();
    pushline.terminate().await;
    let pushline = Pushline::start_again(BINARY, dir.path()).await;
    Gateway::connect(pushline.mqtt, "g").await.unwrap().publish(&packets("mti/1", ["b"])).await.unwrap();
    let together = began.elapsed() < Duration::from_secs(3);
    let push = inbox.next().await;
    // On a machine that was too slow for one window the two may come apart.
    if together { assert_eq!(payloads(&push), ["a", "b"]) } else { assert_eq!(payloads(&push)[0], "a") }
}
