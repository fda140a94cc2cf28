//! The contract on a real Kafka, and on librdkafka's mock of one.

use std::sync::atomic::{AtomicU32, Ordering};

use pushline_model::DeadLetter;
use pushline_testkit::{Kafka as RealKafka, PATIENCE};
use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use tokio::time::timeout;

use super::*;
use crate::{
    Filter, Frame, Kind,
    conformance::{self, partition, read_text},
    frame::tests::record,
    sessions::conformance as sessions_conformance,
};

/// One partition, so that what the suite appends lies in one order.
fn options(brokers: &str, topic_prefix: String) -> Options {
    Options { topic_prefix, partitions: 1, ..Options::new(brokers) }
}

/// The only partition of a topic, with a catch-up consumer of its own.
fn log_of(queue: &Kafka, topic: &Arc<str>, reads: &CatchUp) -> KafkaLog {
    let place = TopicPartition { topic: Arc::clone(topic), partition: 0, holds: Holds::WhatIsLeft };
    KafkaLog::new(place, &queue.appender, reads, &queue.health)
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
    sessions_conformance::all(&fresh, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn librdkafkas_mock_keeps_the_contract_as_far_as_it_goes() {
    let mock = Box::leak(Box::new(MockCluster::new(1).unwrap()));
    let place = AtomicU32::new(0);
    let fresh = || -> Box<conformance::Open<'_>> {
        let options = options(&mock.bootstrap_servers(), format!("t{}", place.fetch_add(1, Ordering::Relaxed)));
        let topics = Topics::new(&options.topic_prefix);
        for topic in [&topics.packets, &topics.checkpoints, &topics.dead_letters, &topics.unrouted, &topics.sessions] {
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
    queue.appender.put(&queue.topics.packets, 0, b"theirs", Some(b"\xff bytes")).offset().await.unwrap();
    queue.append(&[record("o/g", b"ours again")]).await.unwrap();
    let (mut reader, mut kinds) = (partition(&queue).await.reader(0), Vec::new());
    while kinds.len() < 3 {
        // Records with the same time are in one frame.
        let frame = reader.next().await.unwrap();
        let kind = |(offset, record): (_, Record<'_>)| (offset, matches!(record.kind, Kind::Foreign { .. }), record.payload.to_vec());
        kinds.extend(frame.records(frame.base()).map(kind));
    }
    assert_eq!(kinds, [(0, false, b"ours".to_vec()), (1, true, b"\xff bytes".to_vec()), (2, false, b"ours again".to_vec())]);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_another_version_stops_its_partition_and_no_other_and_is_never_passed() {
    let kafka = RealKafka::shared().await;
    let options = Options { partitions: 2, ..options(kafka.brokers(), kafka.prefix()) };
    let queue = Kafka::open(&options).await.unwrap();
    let mut partitions = queue.partitions();
    let both = partitions.wait_for(|partitions| partitions.len() == 2).await.unwrap().clone();
    let ticks = |index: usize| both[index].tick();
    let stopped = usize::from(both[0].index() == 0);
    assert_eq!((ticks(0).await.unwrap(), ticks(1).await.unwrap()), (0, 0));
    queue.appender.put_with_header(&queue.topics.packets, 1, &[header::VERSION + 1, 0]).offset().await.unwrap();
    assert_eq!((ticks(stopped).await.unwrap(), ticks(1 - stopped).await.unwrap()), (2, 1));
    let mut other = both[1 - stopped].live(0);
    let mut live = both[stopped].live(0);
    while other.next().await.unwrap().end() < 2 {}
    assert_eq!(live.next().await.unwrap().end(), 1);
    let says = || queue.stalled().is_some_and(|Stalled(why)| why.contains("offset 1") && why.contains("format version 3"));
    timeout(PATIENCE, async {
        while !says() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it is reported");
    let mut catch_up = both[stopped].reader(1);
    tokio::select! {
        frame = live.next() => panic!("{frame:?}"),
        frame = catch_up.next() => panic!("{frame:?}"),
        () = tokio::time::sleep(Duration::from_secs(2)) => {}
    }
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoint_that_the_commit_names_is_loaded_whatever_else_was_written() {
    let kafka = RealKafka::shared().await;
    let queue = Kafka::open(&options(kafka.brokers(), kafka.prefix())).await.unwrap();
    conformance::append(&queue, 0..9).await;
    let partition = partition(&queue).await;
    let first = partition.load().await.unwrap();
    assert_eq!(first, crate::Saved::default());
    // Before the first save, ownership is confirmed with a commit that names no checkpoint.
    assert!(partition.confirm_ownership().await);
    assert_eq!(partition.load().await.unwrap(), crate::Saved { watermark: Some(0), ..first });
    partition.save(conformance::checkpoint(1), 3).await.unwrap();
    // A process that was stopped for long writes a checkpoint, and its commit is refused.
    let foreign = checkpoints::encode(b"of a zombie", 1);
    queue.appender.put(&queue.topics.checkpoints, 0, b"0", Some(&foreign)).offset().await.unwrap();
    assert_eq!(partition.load().await.unwrap(), conformance::saved(1, 3));
    assert!(partition.confirm_ownership().await);
    assert_eq!(partition.load().await.unwrap(), conformance::saved(1, 3));
    partition.reset(conformance::checkpoint(2), 0).await.unwrap();
    assert_eq!(partition.load().await.unwrap(), conformance::saved(2, 0));
    queue.close().await;
}

/// A queue on a mock, without partitions to serve, and its topics.
fn mocked(mock: &MockCluster<'_, DefaultProducerContext>) -> (Kafka, Topics, Options) {
    let options = Options { serves_partitions: false, ..options(&mock.bootstrap_servers(), "t".to_owned()) };
    let topics = Topics::new(&options.topic_prefix);
    for topic in [&topics.packets, &topics.checkpoints, &topics.dead_letters, &topics.unrouted] {
        mock.create_topic(topic, 1, 1).unwrap();
    }
    (Kafka::connect(&options).unwrap(), topics, options)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_holds_up_no_other_reader() {
    let mock = MockCluster::new(1).unwrap();
    let (queue, topics, options) = mocked(&mock);
    queue.unrouted().append(&conformance::dead_letter(0)).await.unwrap();
    queue.dead_letters().append(&conformance::dead_letter(1)).await.unwrap();
    mock.partition_leader(&topics.dead_letters, 0, None).unwrap();
    let reads = CatchUp::start(&options).unwrap();
    let (leaderless, unrouted) = (log_of(&queue, &topics.dead_letters, &reads), log_of(&queue, &topics.unrouted, &reads));
    let waiting = (0..16).map(|_| {
        let mut reader = leaderless.read_from(0);
        async move { reader.read_on().await }.boxed()
    });
    let waiting = futures_util::future::select_all(waiting);
    let others = async {
        for _ in 0..16 {
            assert_eq!(unrouted.read_from(0).read_on().await.unwrap().len(), 1);
        }
    };
    // A reader that waited behind the others would get its turn once in ten seconds.
    tokio::select! {
        (frames, ..) = waiting => panic!("{frames:?}"),
        done = timeout(PATIENCE / 2, others) => done.expect("others are served meanwhile"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_learns_again_that_it_stands_at_the_end_and_never_takes_an_old_end_for_the_end() {
    let mock = MockCluster::new(1).unwrap();
    let (queue, topics, options) = mocked(&mock);
    let unrouted = queue.unrouted();
    // It fills a reader's first block, so the consumer fetches what follows ahead.
    let large = DeadLetter { response: vec![7; 300 << 10], ..conformance::dead_letter(0) };
    let fetched_ahead = || tokio::time::sleep(Duration::from_millis(300));
    unrouted.append_all(&[large, conformance::dead_letter(1)]).await.unwrap();
    let mut reader = log_of(&queue, &topics.unrouted, &CatchUp::start(&options).unwrap()).read_from(0);
    let ends = async {
        let mut ends = Vec::new();
        for _ in 0..2 {
            ends.push(reader.read_on().await.unwrap().last().map(Frame::end));
            fetched_ahead().await;
        }
        ends.push(reader.read_on().await.unwrap().last().map(Frame::end));
        // The end that was told then is an old one.
        unrouted.append(&conformance::dead_letter(2)).await.unwrap();
        fetched_ahead().await;
        ends.push(reader.read_on().await.unwrap().last().map(Frame::end));
        ends
    };
    let reported = async {
        while queue.stalled().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        ends = ends => assert_eq!(ends, [Some(1), Some(2), None, Some(3)]),
        () = reported => panic!("it waits for an end that was told before: {:?}", queue.stalled()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_told_before_a_record_came_is_not_taken_for_the_end() {
    let mock = MockCluster::new(1).unwrap();
    let (queue, topics, options) = mocked(&mock);
    let mut reader = log_of(&queue, &topics.unrouted, &CatchUp::start(&options).unwrap()).read_from(0);
    for number in 0..3 {
        queue.unrouted().append(&conformance::dead_letter(number)).await.unwrap();
        let frames = reader.read_on().await.unwrap();
        assert_eq!(frames.last().map(Frame::end), Some(number + 1));
        // The consumer fetches ahead, and notes the end.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
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
async fn a_second_process_takes_its_share_when_the_first_has_given_it_up() {
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
