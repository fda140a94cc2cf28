//! A Kafka that refuses a record, for whatever reason: nothing is skipped in silence, an operator reads why, and all goes on when the cause is mended.

use std::{collections::BTreeSet, time::Duration};

use pushline_testkit::{Behaviour, Gateway, Inbox, Kafka, PATIENCE, Pushline, folder, get, payloads};
use tokio::time::{sleep, timeout};

use crate::{
    command, group,
    kafka::{configuration, start},
    packets, webhook,
};

/// Waits until it is ready, or says why it isn't.
async fn until_readiness(process: &Pushline, wanted: &str) {
    let reached = async {
        while !get(process.admin, "/readyz").await.unwrap().1.contains(wanted) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let is = timeout(PATIENCE, reached).await.is_ok();
    assert!(is, "it says {:?}, not {wanted}:\n{}", get(process.admin, "/readyz").await, process.log());
}

/// What was not acknowledged is sent again, as devices do, until it is.
async fn publish_until_acknowledged(process: &Pushline, packets: &[(String, Vec<u8>)]) {
    let acknowledged = async {
        while Gateway::connect(process.mqtt, "again").await.unwrap().publish(packets).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, acknowledged).await.unwrap_or_else(|_| panic!("it isn't acknowledged:\n{}", process.log()));
}

/// A change that Kafka has answered is in force a little later. Publishes the packet of each number, from 0, with a client of its own until one is
/// refused; how many were accepted before, rightly.
async fn publish_until_refused(process: &Pushline, packet: impl Fn(usize) -> Vec<(String, Vec<u8>)>) -> usize {
    let refused = async {
        for number in 0.. {
            let mut gateway = Gateway::connect(process.mqtt, &format!("try-{number}")).await.unwrap();
            if gateway.publish(&packet(number)).await.is_err() {
                assert_eq!(gateway.acknowledged(), 0);
                return number;
            }
        }
        unreachable!("numbers don't end")
    };
    timeout(PATIENCE, refused).await.expect("it is refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_for_the_topic_is_not_acknowledged_until_it_fits() {
    let (kafka, dir) = (Kafka::shared().await, folder());
    let (mut inbox, prefix) = (Inbox::start().await, kafka.prefix());
    let more = webhook("w", &inbox.url(), "") + &group("mti", "line", "w");
    let configuration = configuration(kafka.brokers(), &prefix, 1, &more);
    let ingest = start("ingest", dir.path(), &configuration).await;
    let deliver = start("deliver", dir.path(), &configuration).await;
    let topic = format!("{prefix}.packets");
    kafka.set(&topic, "max.message.bytes", "5000").await;
    let large = packets("mti/1", ["x".repeat(10_000)]);
    let accepted = publish_until_refused(&ingest, |_| large.clone()).await;
    for client in ["a", "b", "c"] {
        let mut gateway = Gateway::connect(ingest.mqtt, client).await.unwrap();
        timeout(PATIENCE, gateway.publish(&large)).await.expect("it is refused").unwrap_err();
        assert_eq!(gateway.acknowledged(), 0);
        // What fits is taken meanwhile, and the reason stays to be read.
        publish_until_acknowledged(&ingest, &packets("mti/2", [client])).await;
    }
    until_readiness(&ingest, &topic).await;
    let log = ingest.log();
    assert_eq!(log.matches("Kafka refuses records").count(), 1, "once per change:\n{log}");
    assert!(log.contains("ERROR") && log.contains(&topic), "{log}");
    kafka.set(&topic, "max.message.bytes", "8388608").await;
    publish_until_acknowledged(&ingest, &large).await;
    until_readiness(&ingest, "ready").await;
    let texts: Vec<String> = inbox.packets(accepted + 4).await.iter().flat_map(payloads).collect();
    let expected = [vec![10_000; accepted], vec![1, 1, 1, 10_000]].concat();
    assert_eq!(texts.iter().map(String::len).collect::<Vec<_>>(), expected);
    deliver.terminate().await;
    let log = ingest.terminate().await;
    assert_eq!(log.matches("accepts records again").count(), 1, "{log}");
}

/// A Kafka that is entered with a password, and a configuration for it.
async fn secured(more: &str) -> (Kafka, String, String) {
    let kafka = Kafka::secured().await;
    let prefix = kafka.prefix();
    let properties: Vec<String> =
        kafka.security().properties("SCRAM-SHA-256").iter().map(|(name, value)| format!("\"{name}\" = {value:?}")).collect();
    let configuration = Pushline::configuration_over_kafka(&kafka.security().brokers, &prefix, 1, &properties.join(", "), more);
    (kafka, prefix, configuration)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_with_a_password_all_goes_on_when_rights_that_were_taken_are_given_back() {
    let (mut fine, mut failing) = (Inbox::start().await, Inbox::behaving(Behaviour { status: 500, ..Behaviour::default() }).await);
    let more = webhook("fine", &fine.url(), "")
        + &group("mti", "line", "fine")
        + &webhook("failing", &failing.url(), "")
        + &group("oti", "line", "failing");
    let (kafka, prefix, configuration) = secured(&more).await;
    let dir = folder();
    let ingest = start("ingest", dir.path(), &configuration).await;
    let deliver = start("deliver", dir.path(), &configuration).await;
    publish_until_acknowledged(&ingest, &packets("mti/1", ["over TLS"])).await;
    assert_eq!(payloads(&fine.next().await), ["over TLS"]);

    // The right to the packets topic.
    let topic = format!("{prefix}.packets");
    kafka.revoke(&topic).await;
    let accepted = publish_until_refused(&ingest, |number| packets("mti/1", [format!("not yet refused {number}")])).await;
    until_readiness(&ingest, &topic).await;
    until_readiness(&deliver, "Kafka can't be read").await;
    kafka.grant(&topic).await;
    publish_until_acknowledged(&ingest, &packets("mti/1", ["with rights again"])).await;
    let mut texts: Vec<String> = Vec::new();
    while texts.last().is_none_or(|text| text != "with rights again") {
        texts.extend(payloads(&fine.next().await));
    }
    // Messages that are in flight together come in any order.
    let expected = (0..accepted).map(|number| format!("not yet refused {number}")).chain(["with rights again".to_owned()]);
    assert_eq!(texts.into_iter().collect::<BTreeSet<_>>(), expected.collect());
    for process in [&ingest, &deliver] {
        until_readiness(process, "ready").await;
    }

    // The right to dead letters.
    let topic = format!("{prefix}.dead-letters");
    kafka.revoke(&topic).await;
    // Those that are still taken are right; the first that isn't waits.
    let mut taken = 0.0;
    let waits = async {
        loop {
            publish_until_acknowledged(&ingest, &packets("oti/1", ["an error response"])).await;
            failing.next().await;
            loop {
                if get(deliver.admin, "/readyz").await.unwrap().1.contains(&topic) {
                    return;
                }
                if deliver.metric("pushline_packets_dead_lettered_total", "error_response").await > taken {
                    taken += 1.0;
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    timeout(PATIENCE, waits).await.unwrap_or_else(|_| panic!("it says nothing of {topic}:\n{}", deliver.log()));
    // The gauge is set once a second.
    deliver.until_metric("pushline_queue_unsettled_packets", "", |unsettled| unsettled == 1.0).await;
    kafka.grant(&topic).await;
    deliver.until_metric("pushline_packets_dead_lettered_total", "error_response", |count| count == taken + 1.0).await;
    deliver.until_metric("pushline_queue_unsettled_packets", "", |unsettled| unsettled == 0.0).await;
    until_readiness(&deliver, "ready").await;
    let log = deliver.terminate().await;
    assert_eq!(log.matches("Kafka refuses records").count(), 1, "once per change:\n{log}");
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_hides_the_password_of_kafka() {
    let dir = folder();
    let properties =
        "\"security.protocol\" = \"sasl_ssl\", \"sasl.mechanism\" = \"PLAIN\", \"sasl.username\" = \"u\", \"sasl.password\" = \"s3cret\"";
    let configuration = Pushline::configuration_over_kafka("127.0.0.1:1", "p", 1, properties, "");
    let file = dir.path().join("pushline.toml");
    std::fs::write(&file, configuration).unwrap();
    let output = command().args(["check", "--config"]).arg(&file).output().await.unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("\"sasl.password\" = \"***\""), "{shown}");
    assert!(!shown.contains("s3cret") && shown.contains("\"sasl.username\" = \"u\""), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_is_told_and_nothing_is_acknowledged_until_it_is_back() {
    let (kafka, dir) = (Kafka::shared().await, folder());
    let (mut inbox, prefix) = (Inbox::start().await, kafka.prefix());
    let more = webhook("w", &inbox.url(), "") + &group("mti", "line", "w");
    let configuration = configuration(kafka.brokers(), &prefix, 1, &more);
    let ingest = start("ingest", dir.path(), &configuration).await;
    publish_until_acknowledged(&ingest, &packets("mti/1", ["before"])).await;
    kafka.delete_topic(&format!("{prefix}.packets")).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    let packet = packets("mti/1", ["nowhere to go"]);
    let publishing = async { gateway.publish(&packet).await };
    tokio::select! {
        _ = publishing => {}
        () = until_readiness(&ingest, "Kafka") => {}
    }
    assert_eq!(gateway.acknowledged(), 0);
    assert!(ingest.log().contains("WARN") || ingest.log().contains("ERROR"), "{}", ingest.log());
    ingest.kill().await;
    // The start makes it again.
    let ingest = start("ingest", dir.path(), &configuration).await;
    publish_until_acknowledged(&ingest, &packet).await;
    let deliver = start("deliver", dir.path(), &configuration).await;
    assert_eq!(payloads(&inbox.next().await), ["nowhere to go"]);
    deliver.terminate().await;
    ingest.terminate().await;
}
