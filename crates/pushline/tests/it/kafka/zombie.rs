//! A deliverer that was stopped past its session and goes on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pushline_testkit::{Arrival, Behaviour, Gateway, Kafka, Ledger, PATIENCE, Pushline, ScriptedReceiver, folder};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    SHORT_SESSION,
    load::{Load, Sink, groups, until_nothing_is_missing},
    start,
};
use crate::{group, packets, webhook};

/// It is in the group again, and has partitions.
async fn until_it_serves_again(zombie: &Pushline, other: &Pushline) {
    let deadline = Instant::now() + PATIENCE;
    while !zombie.log().contains("were revoked") || super::assigned(zombie).await == 0.0 {
        assert!(Instant::now() < deadline, "it doesn't come back:\n{}\nthe other:\n{}", zombie.log(), other.log());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_loses_nothing_and_dead_letters_nothing_that_another_took_over() {
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
    zombie.pause();
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
    zombie.resume();
    until_it_serves_again(&zombie, &other).await;
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
    println!("the other took over {took_over:.1?} after the stop; {} pushes came again", sink.book().again + back.book().again);
    assert_eq!(ledger.twice(), 0, "packets in two messages");
    zombie.terminate().await;
    other.terminate().await;
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_zombie_was_told_before_it_was_stopped_does_not_count_when_it_goes_on() {
    let (kafka, dir) = (Kafka::with(&[]).await, folder());
    let (arrived, mut arrivals) = mpsc::channel(10);
    let (answer, answered) = watch::channel(None);
    let receiver = ScriptedReceiver::start(move |Arrival { id, .. }| {
        arrived.try_send(id).unwrap();
        let mut answered = answered.clone();
        async move { *answered.wait_for(Option::is_some).await.unwrap() }
    });
    let receiver = receiver.await;
    let more = webhook("w", &receiver.url(), "window = \"100ms\"\nretries = 0") + &group("o", "g", "w");
    let configuration = Pushline::configuration_over_kafka(kafka.brokers(), &kafka.prefix(), 4, SHORT_SESSION, &more);
    let ingest = start("ingest", dir.path(), &configuration).await;
    let zombie = start("deliver", dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("o/1", ["held"])).await.unwrap();
    let id = timeout(PATIENCE, arrivals.recv()).await.expect("an attempt arrives").unwrap();
    // Its dead letter waits for Kafka, which says yes, but to a process that stands still.
    kafka.pause();
    answer.send_replace(Some(400));
    zombie.until_metric("pushline_deliver_in_flight", "", |in_flight| in_flight == 0.0).await;
    // The question is on its way: nothing tells.
    sleep(Duration::from_millis(300)).await;
    zombie.pause();
    answer.send_replace(Some(200));
    kafka.resume();
    let other = start("deliver", dir.path(), &configuration).await;
    let again = timeout(PATIENCE, arrivals.recv()).await.expect("who took over sends it again").unwrap();
    assert_eq!(again, id);
    other.until_quiet().await;
    zombie.resume();
    until_it_serves_again(&zombie, &other).await;
    zombie.terminate().await;
    let dead = other.dead_letters("dead-letters").await;
    assert!(dead.is_empty(), "{dead:?}");
    other.terminate().await;
    ingest.terminate().await;
}
