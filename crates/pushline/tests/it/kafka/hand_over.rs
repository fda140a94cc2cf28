//! Deliverers come and go under load.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use pushline_testkit::{Behaviour, Kafka, Ledger, PATIENCE, Pushline, folder};
use tokio::time::sleep;

use super::{
    configuration,
    load::{Load, Sink, groups, partition_of, until_nothing_is_missing},
    start,
};
use crate::{amount, webhook};

const PARTITIONS: u32 = 6;
const GATEWAYS: usize = 24;

/// What is told where a hand-over couldn't wait for what was in flight, or couldn't save.
const HURRIED: [&str; 3] = ["the grace is over", "couldn't be saved in time", "can't be saved for now"];

#[tokio::test(flavor = "multi_thread")]
async fn deliverers_come_and_go_under_load_and_nothing_is_lost_nor_sent_again_that_had_settled() {
    let (kafka, dir, ledger) = (Kafka::shared().await, folder(), Arc::new(Ledger::default()));
    let sink = Sink::start(Behaviour { delay: Duration::from_millis(5), ..Behaviour::default() }, &ledger).await;
    let more = webhook("w", &sink.url(), "window = \"200ms\"\norder = \"strict\"") + &groups(GATEWAYS, "w");
    // The session is the product's own: a busy machine stops a process for as long as a short one lasts, and the group puts it out.
    let configuration = configuration(kafka.brokers(), &kafka.prefix(), PARTITIONS, &more);
    let ingest = start("ingest", dir.path(), &configuration).await;
    let deliver = async || start("deliver", dir.path(), &configuration).await;
    let first = deliver().await;
    until_all_are_served(&[&first]).await;
    let load = Load::begin(GATEWAYS, &[ingest.mqtt], &ledger);
    load.goes_on(amount(500, 20_000)).await;

    // 1 -> 3.
    let began = Instant::now();
    let (second, third) = (deliver().await, deliver().await);
    until_all_are_served(&[&first, &second, &third]).await;
    let came = began.elapsed();
    load.goes_on(amount(1000, 20_000)).await;
    let kept = served_throughout(&first);
    let pause = sink.book().longest_pause(gateways_of(&kept), began, Instant::now());
    println!("1 -> 3 deliverers took {came:.1?}; partitions {kept:?} stayed, their longest pause {pause:.1?}");

    // 3 -> 2, by a clean stop.
    let (began, before) = (Instant::now(), partitions_of(&second));
    let third_log = third.terminate().await;
    until_all_are_served(&[&first, &second]).await;
    let went = began.elapsed();
    load.goes_on(amount(1000, 20_000)).await;
    let after = partitions_of(&second);
    let stayed: BTreeSet<u32> = before.intersection(&after).copied().collect();
    let pause = sink.book().longest_pause(gateways_of(&stayed), began, Instant::now());
    println!("3 -> 2 deliverers took {went:.1?}; partitions {stayed:?} stayed, their longest pause {pause:.1?}");
    let again = sink.book().again;
    let hurried = [&first.log(), &second.log(), &third_log].iter().any(|log| HURRIED.iter().any(|what| log.contains(what)));
    println!("{again} pushes came again; was a hand-over hurried: {hurried}");
    assert!(hurried || again == 0, "{again} pushes came again");

    // 2 -> 1, by kill -9.
    let began = Instant::now();
    let before = partitions_of(&first);
    second.kill().await;
    until_all_are_served(&[&first]).await;
    let killed = began.elapsed();
    load.goes_on(amount(1000, 20_000)).await;
    let pause = sink.book().longest_pause(gateways_of(&before), began, Instant::now());
    println!("2 -> 1 deliverers by kill -9 took {killed:.1?}; partitions {before:?} stayed, their longest pause {pause:.1?}");

    load.end().await;
    until_nothing_is_missing(&ledger).await;
    ledger.check();
    assert_eq!(sink.book().out_of_order, Vec::<String>::new());
    let packets = sink.book().count();
    let after_the_kill = sink.book().again - again;
    println!("{packets} packets; after the kill {after_the_kill} pushes came again");
    assert_eq!(ledger.twice(), 0, "packets in two messages");
    first.terminate().await;
    ingest.terminate().await;
}

/// Waits until each partition has one that serves it, and each of these serves one.
async fn until_all_are_served(deliverers: &[&Pushline]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let served: Vec<_> = deliverers.iter().map(|deliver| partitions_of(deliver)).collect();
        let count: usize = served.iter().map(BTreeSet::len).sum();
        if count == PARTITIONS as usize
            && served.iter().flatten().collect::<BTreeSet<_>>().len() == count
            && !served.contains(&BTreeSet::new())
        {
            return;
        }
        let logs: String = deliverers.iter().map(|deliver| deliver.log()).collect();
        assert!(Instant::now() < deadline, "they serve {served:?}:\n{logs}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Those that it serves, as it tells in its log.
fn partitions_of(deliver: &Pushline) -> BTreeSet<u32> {
    played(&deliver.log()).0
}

/// Those that the first had from the beginning and never gave up.
fn served_throughout(deliver: &Pushline) -> BTreeSet<u32> {
    let (now, revoked) = played(&deliver.log());
    now.difference(&revoked).copied().collect()
}

/// What the lines about assignments come to: what is served now, and what was ever given up.
fn played(log: &str) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut now, mut revoked) = (BTreeSet::new(), BTreeSet::new());
    for line in log.lines().filter(|line| line.contains("partitions were ")) {
        let list =
            line.split_once("partitions=").and_then(|(_, rest)| rest.split_once('[')?.1.split_once(']')).map_or("", |(list, _)| list);
        let list: BTreeSet<u32> = list.split(", ").filter_map(|number| number.parse().ok()).collect();
        if line.contains("partitions were assigned") {
            now.extend(list);
        } else {
            now.retain(|partition| !list.contains(partition));
            revoked.extend(list);
        }
    }
    (now, revoked)
}

fn gateways_of(partitions: &BTreeSet<u32>) -> impl Iterator<Item = usize> {
    (0..GATEWAYS).filter(|number| partitions.contains(&partition_of(&format!("o{number}/g"), PARTITIONS)))
}
