//! The promise through kill -9 of whoever it hits.

use std::{sync::Arc, time::Duration};

use pushline_testkit::{Behaviour, KafkaCluster, Ledger, Pushline, folder};
use tokio::time::{Instant, sleep};

use super::{
    SHORT_SESSION,
    load::{Load, Sink, groups, until_nothing_is_missing},
    start,
};
use crate::{amount, webhook};

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_of_ingests_deliverers_and_brokers_at_random_nothing_acknowledged_is_lost() {
    let (mut kafka, dir, ledger) = (KafkaCluster::start().await, folder(), Arc::new(Ledger::default()));
    let sink = Sink::start(Behaviour::default(), &ledger).await;
    let slow = Sink::start(Behaviour { delay: Duration::from_millis(150), ..Behaviour::default() }, &ledger).await;
    let more = webhook("w", &sink.url(), "window = \"100ms\"")
        + &webhook("slow", &slow.url(), "window = \"100ms\"")
        + &groups(8, "w")
        + &(8..12).map(|number| crate::group(&format!("o{number}"), "g", "slow")).collect::<String>();
    let configuration = Pushline::configuration_over_kafka(&kafka.brokers(), "t", 4, SHORT_SESSION, &more);
    let mut ingests = Vec::new();
    let mut deliverers = Vec::new();
    for _ in 0..2 {
        ingests.push(start("ingest", dir.path(), &configuration).await);
        deliverers.push(start("deliver", dir.path(), &configuration).await);
    }
    let load = Load::begin(12, &[ingests[0].mqtt, ingests[1].mqtt], &ledger);
    load.goes_on(100).await;

    let (kills, began) = (amount(20, 200), Instant::now());
    let mut count = [0; 3];
    // A broker that is away comes back after some other kills; the next goes only when no copy is missing.
    let mut away: Option<(usize, usize)> = None;
    for kill in 0..kills {
        sleep(Duration::from_millis(fastrand::u64(20..1000))).await;
        if let Some((broker, until)) = away
            && kill >= until
        {
            kafka.start_again(broker).await;
            away = None;
        }
        // The brokers take turns with the others often enough that each run has some.
        let victim = if away.is_none() && kill % 5 == 1 { 2 } else { fastrand::usize(0..2) };
        count[victim] += 1;
        match victim {
            0 => {
                let number = fastrand::usize(0..2);
                load.moves(number, None);
                ingests.remove(number).kill().await;
                ingests.insert(number, start("ingest", dir.path(), &configuration).await);
                load.moves(number, Some(ingests[number].mqtt));
            }
            1 => {
                let number = fastrand::usize(0..2);
                deliverers.remove(number).kill().await;
                deliverers.insert(number, start("deliver", dir.path(), &configuration).await);
            }
            _ => {
                kafka.until_in_sync().await;
                let broker = fastrand::usize(0..3);
                kafka.kill(broker);
                away = Some((broker, kill + fastrand::usize(2..4)));
            }
        }
    }
    if let Some((broker, _)) = away {
        kafka.start_again(broker).await;
    }
    let [of_ingests, of_deliverers, of_brokers] = count;
    println!("{of_ingests} kills of ingests, {of_deliverers} of deliverers, {of_brokers} of brokers in {:.0?}", began.elapsed());
    load.goes_on(100).await;
    load.end().await;
    until_nothing_is_missing(&ledger).await;
    ledger.check();
    assert!(ledger.count() > 50 * kills, "only {} packets were acknowledged: it wasn't under load", ledger.count());
    let again = sink.book().again + slow.book().again;
    println!("{} packets acknowledged, {again} pushes came again, {} packets came in two messages", ledger.count(), ledger.twice());
    for process in deliverers.into_iter().chain(ingests) {
        process.terminate().await;
    }
}
