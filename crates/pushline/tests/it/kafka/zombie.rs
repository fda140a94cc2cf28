//! A deliverer that was stopped past its session and goes on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pushline_testkit::{Behaviour, Gateway, Kafka, Ledger, PATIENCE, Pushline, folder};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    SHORT_SESSION,
    load::{Load, Sink, groups, until_nothing_is_missing},
    start,
};
use crate::{group, packets, webhook};

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_loses_nothing_and_buries_nothing_that_another_took_over() {
    let (kafka, dir, ledger) = (Kafka::shared().await, folder(), Arc::new(Ledger::default()));
    let sink = Sink::start(Behaviour::default(), &ledger).await;
    let hangs = Sink::start(Behaviour { hang: true, ..Behaviour::default() }, &ledger).await;
    let more = webhook("w", &sink.url(), "window = \"200ms\"")
        + &webhook("once", &hangs.url(), "window = \"100ms\"\ntimeout = \"8s\"\nretries = 0\nconcurrency = 40")
        + &groups(8, "w")
        + &(50..58).map(|number| group(&format!("o{number}"), "g", "once")).collect::<String>();
    let configuration = Pushline::configuration_over_kafka(kafka.brokers(), &kafka.prefix(), 4, SHORT_SESSION, &more);
    let ingest = start("ingest", dir.path(), &configuration).await;
    let zombie = start("deliver", dir.path(), &configuration).await;
    zombie.until_metric("pushline_queue_assigned_partitions", "", |partitions| partitions == 4.0).await;
    let load = Load::begin(8, &[ingest.mqtt], &ledger);
    load.goes_on(200).await;
    // In flight when it is stopped: their only attempt will have timed out when it goes on.
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    for number in 50..58 {
        let held: Vec<String> = (0..10).map(|packet| format!("{number} {packet}")).collect();
        gateway.publish(&packets(&format!("o{number}/{number}"), held.iter().map(String::as_str))).await.unwrap();
        ledger.acknowledged(held);
    }
    zombie.until_metric("pushline_deliver_in_flight", "", |in_flight| in_flight >= 8.0).await;
    zombie.signal(Signal::STOP);
    let stopped = Instant::now();
    let address = hangs.address();
    drop(hangs);
    let back = Sink::start_at(address, Behaviour::default(), &ledger).await;
    let other = start("deliver", dir.path(), &configuration).await;
    other.until_metric("pushline_queue_assigned_partitions", "", |partitions| partitions == 4.0).await;
    let took_over = stopped.elapsed();
    let deadline = Instant::now() + PATIENCE;
    while back.book().count() < 80 || stopped.elapsed() < Duration::from_secs(9) {
        assert!(Instant::now() < deadline, "{} of 80 came", back.book().count());
        sleep(Duration::from_millis(20)).await;
    }
    let before = other.dead_letters("dead-letters").await.len();
    assert_eq!(before, 0, "it was stopped before its attempts ended:\n{}", zombie.log());
    zombie.signal(Signal::CONT);
    // It serves again, in the group.
    let deadline = Instant::now() + 2 * PATIENCE;
    while !zombie.log().contains("were revoked") || super::assigned(&zombie).await == 0.0 {
        assert!(Instant::now() < deadline, "it doesn't come back:\n{}\nthe other:\n{}", zombie.log(), other.log());
        sleep(Duration::from_millis(20)).await;
    }
    load.goes_on(200).await;
    load.end().await;
    until_nothing_is_missing(&ledger).await;
    ledger.check();
    let dead = other.dead_letters("dead-letters").await;
    assert!(
        dead.is_empty(),
        "{} packets that another took over are dead letters of the zombie, such as {:?}:\n{}",
        dead.len(),
        dead.first(),
        zombie.log()
    );
    println!(
        "the other took over {took_over:.1?} after the stop; {} pushes came again, {} packets in two messages",
        sink.book().again + back.book().again,
        ledger.twice()
    );
    zombie.terminate().await;
    other.terminate().await;
    ingest.terminate().await;
}
