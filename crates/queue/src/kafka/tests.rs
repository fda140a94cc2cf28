//! The contract on a real Kafka, and on librdkafka's mock of one.

use std::sync::atomic::{AtomicU32, Ordering};

use pushline_testkit::{Kafka as RealKafka, PATIENCE};
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use tokio::time::timeout;

use super::*;
use crate::{
    Filter, Kind,
    conformance::{self, partition, read_text},
    frame::tests::record,
};

/// One partition, so that what the suite appends lies in one order.
fn options(brokers: &str, topic_prefix: String) -> Options {
    Options { topic_prefix, partitions: 1, ..Options::new(brokers) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_kafka_keeps_the_contract() {
    let kafka = RealKafka::shared().await;
    let fresh = || -> Box<conformance::Open<'_>> {
        let options = options(kafka.brokers(), kafka.prefix());
        Box::new(move || {
            let options = options.clone();
            async move { Arc::new(Kafka::open(&options).await.unwrap()) as Arc<dyn Queue> }.boxed()
        })
    };
    conformance::all(&fresh, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn librdkafkas_mock_keeps_the_contract_as_far_as_it_goes() {
    let mock = Box::leak(Box::new(MockCluster::new(1).unwrap()));
    let place = AtomicU32::new(0);
    let fresh = || -> Box<conformance::Open<'_>> {
        let options = options(&mock.bootstrap_servers(), format!("t{}", place.fetch_add(1, Ordering::Relaxed)));
        let topics = Topics::new(&options.topic_prefix);
        for topic in [&topics.packets, &topics.checkpoints, &topics.dead_letters, &topics.unrouted] {
            mock.create_topic(topic, 1, 1).unwrap();
        }
        Box::new(move || {
            let queue = Arc::new(Kafka::connect(&options).unwrap()) as Arc<dyn Queue>;
            async { queue }.boxed()
        })
    };
    conformance::all(&fresh, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_can_never_append_again_ends_the_queue() {
    let mock = MockCluster::new(1).unwrap();
    let options = options(&mock.bootstrap_servers(), "t".to_owned());
    mock.request_errors(RDKafkaApiKey::InitProducerId, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED]);
    let queue = Kafka::connect(&Options { serves_partitions: false, ..options }).unwrap();
    let failed = timeout(PATIENCE, queue.failed()).await.expect("it notices");
    assert!(matches!(&failed, QueueError::Fatal { doing, .. } if doing == "go on appending"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_do_not_fit_are_refused_with_advice() {
    let kafka = RealKafka::shared().await;
    let right = options(kafka.brokers(), kafka.prefix());
    Kafka::open(&right).await.unwrap();
    let refused = |options: Options| async move { Kafka::open(&options).await.unwrap_err().to_string() };
    let count = refused(Options { partitions: 2, ..right.clone() }).await;
    assert!(count.contains("has 1 partitions, expected 2"), "{count}");
    let age = refused(Options { max_age: Duration::from_hours(200), ..right.clone() }).await;
    assert!(age.contains("retention.ms=") && age.contains("kafka-configs.sh --alter"), "{age}");
    let large = refused(Options { largest_record: 64 << 20, ..right.clone() }).await;
    assert!(large.contains("max.message.bytes="), "{large}");
    Kafka::open(&Options { max_age: Duration::from_hours(1), ..right }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_somebody_else_is_read_as_foreign_and_a_gap_is_passed() {
    let kafka = RealKafka::shared().await;
    let queue = Kafka::open(&options(kafka.brokers(), kafka.prefix())).await.unwrap();
    queue.append(&[record("o/g", b"ours")]).await.unwrap();
    queue.appender.put(&queue.topics.packets, 0, "theirs", b"\xff bytes").offset().await.unwrap();
    queue.append(&[record("o/g", b"ours again")]).await.unwrap();
    let mut reader = partition(&queue).await.reader(0);
    let frame = reader.next().await.unwrap();
    let kinds: Vec<_> =
        frame.records(0).map(|(offset, record)| (offset, matches!(record.kind, Kind::Foreign { .. }), record.payload.to_vec())).collect();
    assert_eq!(kinds, [(0, false, b"ours".to_vec()), (1, true, b"\xff bytes".to_vec()), (2, false, b"ours again".to_vec())]);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_reading_begins_where_it_is_told_and_knows_the_end() {
    let kafka = RealKafka::shared().await;
    let queue = Kafka::open(&options(kafka.brokers(), kafka.prefix())).await.unwrap();
    conformance::append(&queue, 0..100).await;
    let partition = partition(&queue).await;
    let mut live = partition.live(40);
    let all = read_text(&mut *live, 40, 100).await;
    assert_eq!((all[0].as_str(), all.len(), partition.end()), ("40", 60, 100));
    conformance::append(&queue, 100..101).await;
    assert_eq!(read_text(&mut *live, 100, 101).await, ["100"]);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_takes_its_share_when_the_first_has_let_go() {
    let kafka = RealKafka::shared().await;
    let options = Options { partitions: 4, ..options(kafka.brokers(), kafka.prefix()) };
    let (first, mut others) = (Kafka::open(&options).await.unwrap(), Vec::new());
    let mut firsts = first.partitions();
    firsts.wait_for(|partitions| partitions.len() == 4).await.unwrap();
    // A task begins to read each.
    let readers: Vec<_> = firsts.borrow().iter().map(|partition| partition.live(0)).collect();
    let second = Kafka::open(&options).await.unwrap();
    let mut seconds = second.partitions();
    firsts.wait_for(|partitions| partitions.len() == 2).await.unwrap();
    seconds.wait_for(|partitions| partitions.len() == 2).await.unwrap();
    others.extend(seconds.borrow().iter().map(|partition| partition.index()));
    let kept: Vec<u32> = firsts.borrow().iter().map(|partition| partition.index()).collect();
    assert!(others.iter().all(|index| !kept.contains(index)), "{kept:?} {others:?}");
    drop(readers);
    assert_eq!(second.dead_letters().list(&Filter::default(), 0, 1).await.unwrap().found, []);
    second.close().await;
    first.close().await;
}
