//! The same on Kafka: ingest and deliver as processes of their own.

mod away;
mod flow;
mod hand_over;
mod hang;
mod load;
mod sessions;
mod zombie;

use std::{path::Path, time::Duration};

use pushline_testkit::{Gateway, Inbox, Kafka, Pushline, folder, payloads};

use crate::{BINARY, group, packets, webhook};

/// Deliverers that are gone are missed soon.
const SHORT_SESSION: &str = "\"session.timeout.ms\" = \"3000\", \"heartbeat.interval.ms\" = \"500\"";

/// A configuration over a Kafka, with topics of its own.
pub(crate) fn configuration(brokers: &str, prefix: &str, partitions: u32, more: &str) -> String {
    Pushline::configuration_over_kafka(brokers, prefix, partitions, "", more)
}

/// Starts it in a folder of its own.
pub(crate) async fn start(role: &str, dir: &Path, configuration: &str) -> Pushline {
    let dir = dir.join(format!("{role}-{}", fastrand::u64(..)));
    std::fs::create_dir(&dir).unwrap();
    Pushline::start_as(role, BINARY, &dir, configuration).await
}

/// How many partitions it serves.
async fn assigned(deliver: &Pushline) -> f64 {
    deliver.metric("pushline_queue_assigned_partitions", "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_goes_from_one_process_over_kafka_to_another() {
    let (kafka, dir) = (Kafka::shared().await, folder());
    let mut inbox = Inbox::start().await;
    let more = webhook("w", &inbox.url(), "") + &group("mti", "line", "w") + &group("oti", "line", "w");
    let configuration = configuration(kafka.brokers(), &kafka.prefix(), 4, &more);
    let ingest = start("ingest", dir.path(), &configuration).await;
    let deliver = start("deliver", dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["a"])).await.unwrap();
    assert_eq!(payloads(&inbox.next().await), ["a"]);
    gateway.publish(&packets("oti/1", (0..25).map(|number| number.to_string()))).await.unwrap();
    let pushes = inbox.packets(25).await;
    assert_eq!(pushes.iter().map(|push| payloads(push).len()).collect::<Vec<_>>(), [10, 10, 5]);
    gateway.publish(&packets("nobody/1", ["nobody's"])).await.unwrap();
    assert_eq!(ingest.dead_letters("unrouted").await.len(), 1);
    deliver.terminate().await;
    gateway.publish(&packets("mti/1", ["b"])).await.unwrap();
    let deliver = start("deliver", dir.path(), &configuration).await;
    assert_eq!(payloads(&inbox.next().await), ["b"]);
    deliver.terminate().await;
    ingest.terminate().await;
    assert!(inbox.rest(Duration::from_millis(200)).await.is_empty(), "nothing is sent twice");
}
