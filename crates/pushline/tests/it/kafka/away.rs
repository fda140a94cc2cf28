//! Kafka goes away and comes back.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use pushline_testkit::{Behaviour, Gateway, Kafka, Ledger, PATIENCE, Pushline, folder, get};
use tokio::time::sleep;

use super::{
    SHORT_SESSION,
    load::{Load, Sink, groups, until_nothing_is_missing},
    start,
};
use crate::{amount, packets, webhook};

async fn readiness(pushline: &Pushline) -> (u16, String) {
    get(pushline.admin, "/readyz").await.expect("the admin address answers")
}

async fn until_ready(pushline: &Pushline, wanted: bool) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, text) = readiness(pushline).await;
        if (status == 200) == wanted {
            return text;
        }
        assert!(Instant::now() < deadline, "it stays {status} {text}:\n{}", pushline.log());
        sleep(Duration::from_millis(50)).await;
    }
}

/// Publishes large packets for ever, whether they are acknowledged or not.
async fn flood(server: SocketAddr, name: usize) {
    let payload = vec![b'p'; 100_000];
    loop {
        if let Ok(mut gateway) = Gateway::connect(server, &format!("flood-{name}")).await {
            let batch: Vec<_> = (0..1000).map(|_| ("flood/1".to_owned(), payload.clone())).collect();
            drop(gateway.publish(&batch).await);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_is_away_nothing_is_acknowledged_and_afterwards_everything_flows() {
    let (mut kafka, dir, ledger) = (Kafka::with(&[]).await, folder(), Arc::new(Ledger::default()));
    let sink = Sink::start(Behaviour::default(), &ledger).await;
    let slow = Sink::start(Behaviour { delay: Duration::from_millis(100), ..Behaviour::default() }, &ledger).await;
    let more = webhook("w", &sink.url(), "window = \"200ms\"")
        + &webhook("slow", &slow.url(), "concurrency = 1\norder = \"strict\"")
        + &groups(8, "w")
        + &crate::group("slow", "g", "slow");
    let configuration = Pushline::configuration_over_kafka(kafka.brokers(), &kafka.prefix(), 4, SHORT_SESSION, &more);
    let ingests = [start("ingest", dir.path(), &configuration).await, start("ingest", dir.path(), &configuration).await];
    let deliverers = [start("deliver", dir.path(), &configuration).await, start("deliver", dir.path(), &configuration).await];
    let load = Load::begin(8, &ingests.each_ref().map(|ingest| ingest.mqtt), &ledger);
    load.goes_on(200).await;
    // What the deliverers hold when Kafka goes: two hundred packets of one that takes its time.
    let held: Vec<String> = (0..200).map(|number| format!("99 {number}")).collect();
    let mut gateway = Gateway::connect(ingests[0].mqtt, "held").await.unwrap();
    gateway.publish(&packets("slow/1", held.iter().map(String::as_str))).await.unwrap();
    ledger.acknowledged(held.iter().cloned());
    let deadline = Instant::now() + PATIENCE;
    while slow.book().count() == 0 {
        assert!(Instant::now() < deadline, "nothing is delivered");
        sleep(Duration::from_millis(5)).await;
    }

    kafka.kill();
    let (gone, finished) = (Instant::now(), slow.book().count());
    // Those that were being sent when it was killed have their answers.
    sleep(Duration::from_millis(500)).await;
    let acknowledged = ledger.count();
    let floods: Vec<_> = (0..8).map(|number| tokio::spawn(flood(ingests[number % 2].mqtt, number))).collect();
    for ingest in &ingests {
        let why = until_ready(ingest, false).await;
        assert!(why.contains("Kafka doesn't make records durable"), "{why}");
    }
    let why = gone.elapsed();
    let mut resident = 0;
    while gone.elapsed() < Duration::from_secs(amount(15, 120) as u64) {
        resident = ingests.iter().chain(&deliverers).map(Pushline::resident).max().unwrap_or_default().max(resident);
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ledger.count(), acknowledged, "nothing is acknowledged meanwhile");
    assert!(resident < 450 << 20, "{} MiB resident", resident >> 20);
    let finished = slow.book().count() - finished;
    assert!(finished > 0, "deliverers finish what they hold");
    floods.iter().for_each(tokio::task::JoinHandle::abort);

    let back = Instant::now();
    kafka.start_again().await;
    let up = back.elapsed();
    load.goes_on(200).await;
    let flows = back.elapsed();
    load.end().await;
    until_nothing_is_missing(&ledger).await;
    ledger.check();
    for process in ingests.iter().chain(&deliverers) {
        until_ready(process, true).await;
    }
    let again = [&sink, &slow].map(|sink| sink.book().again).iter().sum::<usize>();
    println!(
        "Kafka was away for {:.0?}: /readyz told it after {why:.1?}, at most {} MiB resident, {finished} held packets were delivered meanwhile; \
         it was up again after {up:.1?}, packets flowed after {flows:.1?}; {} pushes came again, {} packets in two messages",
        back - gone,
        resident >> 20,
        again,
        ledger.twice()
    );
    for process in ingests.into_iter().chain(deliverers) {
        process.terminate().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_ends_when_it_is_told_to_though_kafka_is_away() {
    let (mut kafka, dir, ledger) = (Kafka::with(&[]).await, folder(), Arc::new(Ledger::default()));
    let sink = Sink::start(Behaviour::default(), &ledger).await;
    let more = webhook("w", &sink.url(), "window = \"200ms\"") + &groups(4, "w");
    let configuration = Pushline::configuration_over_kafka(kafka.brokers(), &kafka.prefix(), 4, SHORT_SESSION, &more);
    let (ingest, deliver) = (start("ingest", dir.path(), &configuration).await, start("deliver", dir.path(), &configuration).await);
    let load = Load::begin(4, &[ingest.mqtt], &ledger);
    load.goes_on(200).await;
    until_nothing_is_missing(&ledger).await;
    kafka.kill();
    for process in [ingest, deliver] {
        let began = Instant::now();
        process.signal(rustix::process::Signal::TERM);
        let (well, log) = process.ended().await;
        // What was appended and never acknowledged isn't durable: that may be told as a failure, but not waited for without end.
        assert!(well || log.contains("the queue didn't close in time"), "{log}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(30), "it ended after {took:.1?}:\n{log}");
        println!("told to end while Kafka was away, it ended after {took:.1?}");
    }
    kafka.start_again().await;
    let (ingest, deliver) = (start("ingest", dir.path(), &configuration).await, start("deliver", dir.path(), &configuration).await);
    load.moves(0, Some(ingest.mqtt));
    load.goes_on(200).await;
    load.end().await;
    until_nothing_is_missing(&ledger).await;
    ledger.check();
    deliver.terminate().await;
    ingest.terminate().await;
}
