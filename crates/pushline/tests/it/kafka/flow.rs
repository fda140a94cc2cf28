//! Several processes of each role, and the books balance.

use std::sync::Arc;

use pushline_testkit::{Behaviour, Kafka, Ledger, Pushline, folder};

use super::{
    assigned, configuration,
    load::{Load, Sink, groups, until_nothing_is_missing},
    start,
};
use crate::{amount, group, webhook};

const PARTITIONS: u32 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn what_two_ingests_take_in_three_deliverers_push_and_the_books_balance() {
    let (kafka, dir, ledger) = (Kafka::shared().await, folder(), Arc::new(Ledger::default()));
    let sink = Sink::start(Behaviour::default(), &ledger).await;
    let sick = Sink::start(Behaviour { status: 503, every: 3, ..Behaviour::default() }, &ledger).await;
    let more = webhook("w", &sink.url(), "window = \"200ms\"\norder = \"strict\"")
        + &webhook("sick", &sick.url(), "window = \"200ms\"")
        + &groups(20, "w")
        + &(20..24).map(|number| group(&format!("o{number}"), "g", "sick")).collect::<String>();
    let configuration = configuration(kafka.brokers(), &kafka.prefix(), PARTITIONS, &more);
    let ingests = [start("ingest", dir.path(), &configuration).await, start("ingest", dir.path(), &configuration).await];
    let mut deliverers = Vec::new();
    for _ in 0..3 {
        deliverers.push(start("deliver", dir.path(), &configuration).await);
    }
    for deliver in &deliverers {
        deliver.until_metric("pushline_queue_assigned_partitions", "", |partitions| partitions == 2.0).await;
    }
    let load = Load::begin(24, &ingests.each_ref().map(|ingest| ingest.mqtt), &ledger);
    load.goes_on(amount(5000, 100_000)).await;
    load.end().await;
    // Each packet has settled once: the identity of the metrics, over all processes.
    let mut came_in = 0.0;
    for ingest in &ingests {
        came_in += ingest.metric("pushline_ingest_packets_total", "appended").await;
    }
    let deadline = tokio::time::Instant::now() + pushline_testkit::PATIENCE;
    let (mut delivered, mut dead) = (0.0, 0.0);
    while delivered + dead < came_in {
        assert!(tokio::time::Instant::now() < deadline, "{came_in} came in, {delivered} were delivered, {dead} are dead letters");
        (delivered, dead) = (0.0, 0.0);
        for deliver in &deliverers {
            delivered += deliver.metric("pushline_packets_delivered_total", "").await;
            dead += deliver.metric("pushline_packets_dead_lettered_total", "").await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let letters = deliverers[0].dead_letters("dead-letters").await;
    assert!((letters.len() as f64 - dead).abs() < 0.5 && dead > 0.0, "{} dead letters are kept, {dead} were counted", letters.len());
    assert!(letters.iter().all(|letter| letter.cause == "error_response" && letter.status == Some(503)));
    let payload = |text: &str| String::from_utf8(base64_simd::STANDARD.decode_to_vec(text).unwrap()).unwrap();
    ledger.dead(letters.iter().map(|letter| payload(&letter.payload)));
    until_nothing_is_missing(&ledger).await;
    ledger.check();
    assert!((delivered + dead - came_in).abs() < 0.5 && ledger.count() as f64 <= came_in);
    assert_eq!((sink.book().again, sick.book().again, ledger.twice()), (0, 0, 0), "nobody came or went");
    assert_eq!(sink.book().out_of_order, Vec::<String>::new());
    assert!(futures_of(&deliverers).await.iter().all(|partitions| *partitions == 2.0));
    println!("{came_in} packets: {delivered} delivered, {dead} dead letters");
}

async fn futures_of(deliverers: &[Pushline]) -> Vec<f64> {
    let mut all = Vec::new();
    for deliver in deliverers {
        all.push(assigned(deliver).await);
    }
    all
}
