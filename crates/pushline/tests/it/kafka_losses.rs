//! A packets topic that lost unsettled records, or was recreated: Pushline reports it.

use std::path::Path;

use pushline_testkit::{Arrival, Gateway, Inbox, Kafka, PATIENCE, Pushline, ScriptedReceiver, folder, get, payloads};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    group,
    kafka::{configuration, start},
    kafka_operator::until_committed,
    packets, webhook,
};

/// POSTs and returns what is answered, status and all.
async fn post(process: &Pushline, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(process.admin).await.unwrap();
    stream.write_all(format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

struct Scene {
    kafka: &'static Kafka,
    prefix: String,
    configuration: String,
    inbox: Inbox,
}

async fn scene() -> Scene {
    let (kafka, inbox) = (Kafka::shared().await, Inbox::start().await);
    let prefix = kafka.prefix();
    let more = webhook("w", &inbox.url(), "") + &group("mti", "line", "w");
    Scene { configuration: configuration(kafka.brokers(), &prefix, 1, &more), kafka, prefix, inbox }
}

impl Scene {
    fn topic(&self) -> String {
        format!("{}.packets", self.prefix)
    }

    async fn start(&self, role: &str, dir: &Path) -> Pushline {
        start(role, dir, &self.configuration).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_deleted_unsettled_are_counted_and_reported_until_an_operator_acknowledges_them() {
    let (mut place, dir) = (scene().await, folder());
    let ingest = place.start("ingest", dir.path()).await;
    let deliver = place.start("deliver", dir.path()).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["0", "1"])).await.unwrap();
    place.inbox.packets(2).await;
    let settled = until_committed(place.kafka, &place.prefix, 0, 2).await;
    deliver.terminate().await;
    gateway.publish(&packets("mti/1", ["2", "3", "4", "5", "6"])).await.unwrap();
    place.kafka.delete_records(&place.topic(), 0, settled + 3).await;
    let deliver = place.start("deliver", dir.path()).await;
    let texts: Vec<String> = place.inbox.packets(2).await.iter().flat_map(payloads).collect();
    assert_eq!(texts, ["5", "6"], "it goes on at the log's start");
    assert_eq!(deliver.metric("pushline_queue_lost_offsets_total", "").await, 3.0);
    assert!(deliver.log().contains("ERROR") && deliver.log().contains("records that hadn't settled are gone"), "{}", deliver.log());
    let (status, why) = get(deliver.admin, "/readyz").await.unwrap();
    assert!(status == 503 && why.contains("lost 3 offsets"), "{status} {why}");
    let answer = post(&deliver, "/losses/acknowledge").await;
    assert!(answer.contains("acknowledged the loss of 3 offsets"), "{answer}");
    assert_eq!(get(deliver.admin, "/readyz").await.unwrap(), (200, "ready\n".to_owned()));
    deliver.terminate().await;
    ingest.terminate().await;
}

/// A customer's lane is behind, and records are deleted where it stands: Pushline must not pass over them as if they had been sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_a_lane_is_behind_ends_the_reading_and_the_next_start_tells_of_the_loss() {
    let (kafka, dir, mut other) = (Kafka::shared().await, folder(), Inbox::start().await);
    let (arrived, mut arrivals) = mpsc::channel(1000);
    let (answer, answered) = watch::channel(None);
    let receiver = ScriptedReceiver::start(move |Arrival { payloads, .. }| {
        arrived.try_send(payloads).unwrap();
        let answer = *answered.borrow();
        async move { answer }
    });
    let receiver = receiver.await;
    let more = webhook("w", &receiver.url(), "retries = 20\nretry_delays = [\"1s\"]")
        + &webhook("other", &other.url(), "")
        + &group("mti", "line", "w")
        + &group("oti", "line", "other");
    let prefix = kafka.prefix();
    let configuration = configuration(kafka.brokers(), &prefix, 1, &more);
    let ingest = start("ingest", dir.path(), &configuration).await;
    let deliver = start("deliver", dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    // Its connection is closed without an answer, so one message is active and the others wait in the log.
    gateway.publish(&packets("mti/1", (0..10).map(|number| number.to_string()))).await.unwrap();
    timeout(PATIENCE, arrivals.recv()).await.expect("an attempt arrives").unwrap();
    deliver.until_metric("pushline_webhooks_unresponsive", "", |unresponsive| unresponsive == 1.0).await;
    gateway.publish(&packets("mti/1", (10..40).map(|number| number.to_string()))).await.unwrap();
    // So much that what was read lately isn't in memory any more.
    for _ in 0..10 {
        gateway.publish(&packets("oti/1", (0..10).map(|_| "x".repeat(200_000)))).await.unwrap();
    }
    other.packets(100).await;
    kafka.delete_records(&format!("{prefix}.packets"), 0, 35).await;
    answer.send_replace(Some(200));
    let (ended_well, log) = deliver.ended().await;
    assert!(!ended_well && log.contains("its records were deleted, or the topic was created anew"), "{log}");
    let deliver = start("deliver", dir.path(), &configuration).await;
    // 10 to 34 are gone, and maybe it wasn't saved that 0 to 9 had settled.
    deliver.until_metric("pushline_queue_lost_offsets_total", "", |lost| (25.0..=35.0).contains(&lost)).await;
    let (status, why) = get(deliver.admin, "/readyz").await.unwrap();
    assert!(status == 503 && why.contains("lost"), "{status} {why}");
    while !timeout(PATIENCE, arrivals.recv()).await.expect("the last one arrives").unwrap().iter().any(|payload| payload == "39") {}
    deliver.terminate().await;
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_recreated_under_the_same_name_is_reported_and_read_from_its_start() {
    let (mut place, dir) = (scene().await, folder());
    let ingest = place.start("ingest", dir.path()).await;
    let deliver = place.start("deliver", dir.path()).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["0", "1", "2"])).await.unwrap();
    place.inbox.packets(3).await;
    until_committed(place.kafka, &place.prefix, 0, 3).await;
    deliver.terminate().await;
    ingest.terminate().await;
    place.kafka.delete_topic(&place.topic()).await;
    // The next start creates it again, as it must be. It grows beyond the old one's committed offset.
    let ingest = place.start("ingest", dir.path()).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..5).map(|number| format!("new {number}")))).await.unwrap();
    let deliver = place.start("deliver", dir.path()).await;
    let texts: Vec<String> = place.inbox.packets(5).await.iter().flat_map(payloads).collect();
    assert_eq!(texts, (0..5).map(|number| format!("new {number}")).collect::<Vec<_>>());
    assert!(deliver.log().contains("ERROR") && deliver.log().contains("a recreated topic"), "{}", deliver.log());
    until_committed(place.kafka, &place.prefix, 0, 5).await;
    deliver.terminate().await;
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_recreated_while_it_is_read_ends_the_reading_and_the_next_start_reads_it_from_its_start() {
    let (mut place, dir) = (scene().await, folder());
    let ingest = place.start("ingest", dir.path()).await;
    let deliver = place.start("deliver", dir.path()).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["0", "1", "2"])).await.unwrap();
    place.inbox.packets(3).await;
    until_committed(place.kafka, &place.prefix, 0, 3).await;
    ingest.terminate().await;
    place.kafka.delete_topic(&place.topic()).await;
    let ingest = place.start("ingest", dir.path()).await;
    // It ends, so that its next start finds out what happened to the log.
    let (ended_well, log) = deliver.ended().await;
    assert!(!ended_well && log.contains("the topic was created anew"), "{log}");
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..6).map(|number| format!("new {number}")))).await.unwrap();
    let deliver = place.start("deliver", dir.path()).await;
    let texts: Vec<String> = place.inbox.packets(6).await.iter().flat_map(payloads).collect();
    assert_eq!(texts, (0..6).map(|number| format!("new {number}")).collect::<Vec<_>>());
    deliver.terminate().await;
    ingest.terminate().await;
}
