//! The subscriber against a broker that a test plays, byte by byte: for what a real broker doesn't do when it is asked to.

mod broker;

use std::{sync::Arc, time::Duration};

use pushline_model::Cause;
use pushline_queue::AppendError;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use self::broker::Broker;
use super::{
    BrokerHealth, BrokerOptions, ProtocolVersion, Subscriber,
    client::{Client, ClientV3, ClientV5, Target},
};
use crate::{
    Ingest,
    manual_queue::{MUST_COME_WITHIN, ManualQueue},
};

/// Longer than every timeout of the subscriber, for a paused clock.
const LONG: Duration = Duration::from_hours(1);

/// A time in which what may not happen would have happened.
const MOMENT: Duration = Duration::from_millis(200);

/// A subscriber of a broker, until it is dropped.
struct Running {
    stop: watch::Sender<bool>,
    health: BrokerHealth,
    ingest: Arc<Ingest>,
}

fn subscribe(broker: &Broker, queue: &Arc<ManualQueue>, define: impl FnOnce(&mut BrokerOptions)) -> Running {
    subscribe_within(broker, queue, Ingest::UNACKNOWLEDGED_BYTES, define)
}

fn subscribe_within(
    broker: &Broker,
    queue: &Arc<ManualQueue>,
    unacknowledged_bytes: usize,
    define: impl FnOnce(&mut BrokerOptions),
) -> Running {
    let (ingest, stop) = queue.ingest(unacknowledged_bytes);
    let mut options = BrokerOptions {
        name: "mqtt://test".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: broker.port(),
        version: ProtocolVersion::V5,
        tls: None,
        credentials: None,
        client_id: "p".to_owned(),
        topics: vec!["{org}/{iccid}".parse().unwrap()],
        shared_group: None,
        connections: 1,
        session_expiry: Duration::from_hours(1),
        receive_maximum: 65_535,
        max_payload_bytes: 1000,
        max_dead_letter_bytes: 2000,
    };
    define(&mut options);
    let subscriber = Subscriber::new(options, Arc::clone(&ingest));
    let health = subscriber.health();
    tokio::spawn(subscriber.run());
    Running { stop, health, ingest }
}

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V3, ProtocolVersion::V5];

#[tokio::test]
async fn it_subscribes_at_qos_1_and_to_no_retained_packets() {
    for version in VERSIONS {
        let broker = Broker::listen(version).await;
        let _running = subscribe(&broker, &ManualQueue::new(), |options| options.version = version);
        let session = broker.accept(false).await;
        // QoS 1; in MQTT 5 retain handling 2.
        let options = if version == ProtocolVersion::V5 { 0x21 } else { 0x01 };
        assert_eq!(session.subscribed, [("+/+".to_owned(), options), ("/+/+".to_owned(), options)]);
    }
}

#[tokio::test]
async fn it_announces_the_largest_packet_its_session_and_no_topic_aliases() {
    let broker = Broker::listen(ProtocolVersion::V5).await;
    let _running = subscribe(&broker, &ManualQueue::new(), |options| {
        options.receive_maximum = 500;
        options.credentials = Some(("u".to_owned(), pushline_model::Secret::new("hush")));
    });
    let session = broker.accept(false).await;
    // Session expiry 3600 s, receive maximum 500, maximum packet size 268,435,460; keep-alive 30 s, user, password, no clean start.
    let properties = b"\x0d\x11\x00\x00\x0e\x10\x21\x01\xf4\x27\x10\x00\x00\x04";
    let expected = [&b"\x00\x04MQTT\x05\xc0\x00\x1e"[..], properties, b"\x00\x01p\x00\x01u\x00\x04hush"].concat();
    assert_eq!(session.connect, expected);
}

#[tokio::test]
async fn a_packet_is_acknowledged_when_it_is_durable_and_in_the_order_of_arrival() {
    for version in VERSIONS {
        let broker = Broker::listen(version).await;
        let queue = ManualQueue::new();
        let _running = subscribe(&broker, &queue, |options| options.version = version);
        let mut session = broker.accept(false).await;
        for id in 1..=3 {
            session.publish(id, "mti/1", b"ABC").await;
            queue.until_batches(id.into()).await;
        }
        queue.resolve(1, Ok(()));
        assert!(timeout(MOMENT, session.pubacks(1)).await.is_err(), "2 waits for 1, which isn't durable");
        queue.resolve(0, Ok(()));
        assert_eq!(session.pubacks(2).await, [1, 2]);
        queue.resolve(2, Ok(()));
        assert_eq!(session.pubacks(1).await, [3]);
    }
}

#[tokio::test]
async fn an_acknowledgement_of_an_older_connection_is_never_sent_on_the_next_one() {
    for version in VERSIONS {
        let broker = Broker::listen(version).await;
        let queue = ManualQueue::new();
        let _running = subscribe(&broker, &queue, |options| options.version = version);
        let mut first = broker.accept(false).await;
        first.publish(1, "mti/1", b"old").await;
        queue.until_batches(1).await;
        drop(first);
        // The broker has lost the session: the id 1 means another packet now.
        let mut second = broker.accept(false).await;
        second.publish(1, "mti/1", b"new").await;
        queue.until_batches(2).await;
        queue.resolve(0, Ok(()));
        second.publish(2, "mti/1", b"newer").await;
        queue.until_batches(3).await;
        queue.resolve(2, Ok(()));
        assert!(timeout(MOMENT, second.pubacks(1)).await.is_err(), "1 isn't durable, so nothing is acknowledged");
        queue.resolve(1, Ok(()));
        assert_eq!(second.pubacks(2).await, [1, 2]);
    }
}

#[tokio::test]
async fn what_was_read_before_the_connection_broke_is_stored_and_not_acknowledged() {
    for version in VERSIONS {
        let broker = Broker::listen(version).await;
        let queue = ManualQueue::automatic();
        let _running = subscribe(&broker, &queue, |options| options.version = version);
        let first = broker.accept(false).await;
        // They arrive together with the end of the connection, so that one read meets all of it.
        let packets: Vec<u8> = (1..=5).flat_map(|id| first.publish_bytes(id, "mti/1", &[b'0' + u8::try_from(id).unwrap()])).collect();
        first.send_and_close(&packets).await;
        let mut second = broker.accept(false).await;
        queue.until_payloads(5).await;
        second.publish(9, "mti/1", b"9").await;
        assert_eq!(second.pubacks(1).await, [9]);
        assert_eq!(queue.payloads(), [b"1", b"2", b"3", b"4", b"5", b"9"]);
    }
}

#[tokio::test]
async fn connecting_goes_on_while_packets_of_an_older_connection_become_durable() {
    let broker = Broker::listen(ProtocolVersion::V5).await;
    let queue = ManualQueue::new();
    let _running = subscribe(&broker, &queue, |_| {});
    let mut first = broker.accept(false).await;
    for id in 1..=10 {
        first.publish(id, "mti/1", b"ABC").await;
        queue.until_batches(id.into()).await;
    }
    drop(first);
    let connecting = broker.accept_without_answer().await;
    for batch in 0..10 {
        queue.resolve(batch, Ok(()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut second = connecting.answer(true).await;
    second.publish(11, "mti/1", b"ABC").await;
    queue.until_batches(11).await;
    queue.resolve(10, Ok(()));
    assert_eq!(second.pubacks(1).await, [11]);
}

#[tokio::test]
async fn a_packet_that_could_not_be_stored_is_sent_again_on_a_new_connection() {
    for version in VERSIONS {
        let broker = Broker::listen(version).await;
        let queue = ManualQueue::new();
        let _running = subscribe(&broker, &queue, |options| options.version = version);
        let mut first = broker.accept(false).await;
        first.publish(1, "mti/1", b"ABC").await;
        queue.until_batches(1).await;
        queue.resolve(0, Err(AppendError::Refused("no".to_owned())));
        assert!(first.rest().await.is_empty(), "it isn't acknowledged, and the connection ends");
        let mut second = broker.accept(true).await;
        second.publish(1, "mti/1", b"ABC").await;
        queue.until_batches(2).await;
        queue.resolve(1, Ok(()));
        assert_eq!(second.pubacks(1).await, [1]);
    }
}

#[tokio::test]
async fn acknowledgements_beyond_what_the_client_takes_at_once_follow_later() {
    const PACKETS: u16 = 1000;
    for version in VERSIONS {
        let broker = Broker::listen(version).await;
        let queue = ManualQueue::new();
        let _running = subscribe(&broker, &queue, |options| options.version = version);
        let mut session = broker.accept(false).await;
        for id in 1..=PACKETS {
            session.publish(id, "mti/1", b"ABC").await;
        }
        queue.until_payloads(PACKETS.into()).await;
        queue.resolve_all();
        assert_eq!(session.pubacks(PACKETS.into()).await, (1..=PACKETS).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn each_connection_subscribes_also_where_the_broker_kept_the_session() {
    let broker = Broker::listen(ProtocolVersion::V5).await;
    let running = subscribe(&broker, &ManualQueue::new(), |_| {});
    for session_present in [false, true, false] {
        // It fails where no SUBSCRIBE comes.
        drop(broker.accept(session_present).await);
    }
    assert_eq!(running.health.reason(), None);
}

#[tokio::test]
async fn a_refused_subscription_is_told_and_tried_again() {
    for (version, code, says) in [
        (ProtocolVersion::V5, 0x87, "/+/+: NotAuthorized"),
        (ProtocolVersion::V3, 0x80, "/+/+: Failure"),
        (ProtocolVersion::V5, 0, "/+/+: it granted QoS 0 only"),
    ] {
        let broker = Broker::listen(version).await;
        let running = subscribe(&broker, &ManualQueue::new(), |options| options.version = version);
        let refused = broker.accept_without_answer().await.answer_granting(false, &[1, code]).await;
        assert!(refused.rest().await.is_empty());
        let connecting = broker.accept_without_answer().await;
        let reason = running.health.reason().expect("it was never up");
        assert!(reason.contains(says), "{reason}");
        let mut session = connecting.answer(false).await;
        session.until_answered().await;
        assert_eq!(running.health.reason(), None);
    }
}

#[tokio::test]
async fn a_broker_that_reads_nothing_is_left_though_the_client_would_wait_for_ever() {
    let broker = Broker::listen(ProtocolVersion::V5).await;
    let queue = ManualQueue::automatic();
    let _running = subscribe(&broker, &queue, |_| {});
    let mut session = broker.accept(false).await;
    // Acknowledgements fill the connection until the client's writes block, and it reads no more.
    let packets = session.publish_bytes(1, "mti/1", b"").repeat(1000);
    while timeout(Duration::from_secs(1), session.send(&packets)).await.is_ok() {}
    tokio::time::pause();
    timeout(LONG, broker.accept(true)).await.expect("the subscriber connects again");
}

/// A budget that one packet of a hundred bytes uses up, overhead included.
const ONE_PACKET: usize = 600;

#[tokio::test]
async fn while_storage_is_away_nothing_is_read_or_acknowledged_and_the_connection_is_given_up() {
    for version in VERSIONS {
        let broker = Broker::listen(version).await;
        let queue = ManualQueue::new();
        let running = subscribe_within(&broker, &queue, ONE_PACKET, |options| options.version = version);
        let mut first = broker.accept(false).await;
        let began = Instant::now();
        first.publish(1, "mti/1", &[b'x'; 100]).await;
        queue.until_batches(1).await;
        first.publish(2, "mti/1", &[b'x'; 100]).await;
        tokio::time::pause();
        assert!(first.rest().await.is_empty());
        assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
        assert_eq!(queue.payloads().len(), 1, "the second packet wasn't read");
        assert!(timeout(LONG, broker.accept_without_answer()).await.is_err(), "the packets wait at the broker");
        tokio::time::resume();
        assert!(!running.ingest.budget.has_capacity());
        queue.resolve_all();
        let mut second = broker.accept(true).await;
        second.publish(1, "mti/1", b"again").await;
        queue.until_batches(2).await;
        queue.resolve_all();
        assert_eq!(second.pubacks(1).await, [1]);
    }
}

#[tokio::test]
async fn a_stop_acknowledges_what_was_appended_and_leaves_with_a_disconnect() {
    for version in VERSIONS {
        let broker = Broker::listen(version).await;
        let queue = ManualQueue::new();
        let running = subscribe(&broker, &queue, |options| options.version = version);
        let mut session = broker.accept(false).await;
        session.publish(1, "mti/1", b"ABC").await;
        queue.until_batches(1).await;
        running.stop.send_replace(true);
        queue.resolve_all();
        assert_eq!(session.pubacks(1).await, [1]);
        let rest = session.rest().await;
        assert_eq!(rest.first().map(|packet| packet[0]), Some(0xe0), "{rest:x?}");
    }
}

#[tokio::test]
async fn a_broker_that_sends_at_qos_2_all_the_same_gets_pubrec_when_the_packet_is_durable() {
    let broker = Broker::listen(ProtocolVersion::V5).await;
    let queue = ManualQueue::new();
    let _running = subscribe(&broker, &queue, |_| {});
    let mut session = broker.accept(false).await;
    let mut packet = session.publish_bytes(7, "mti/1", b"ABC");
    packet[0] = 0x34;
    session.send(&packet).await;
    queue.until_batches(1).await;
    queue.resolve(0, Ok(()));
    assert_eq!(timeout(MUST_COME_WITHIN, session.read_packet()).await.unwrap().unwrap()[..4], [0x50, 2, 0, 7]);
}

#[tokio::test]
async fn a_retained_packet_and_one_on_a_topic_of_the_brokers_own_are_acknowledged_and_not_stored() {
    for version in VERSIONS {
        let broker = Broker::listen(version).await;
        let queue = ManualQueue::automatic();
        let _running = subscribe(&broker, &queue, |options| options.version = version);
        let mut session = broker.accept(false).await;
        let mut retained = session.publish_bytes(1, "mti/1", b"retained");
        retained[0] |= 1;
        session.send(&retained).await;
        session.publish(2, "$SYS/broker/connection/bridge/state", b"1").await;
        session.publish(3, "mti/1", b"ABC").await;
        assert_eq!(session.pubacks(3).await, [1, 2, 3]);
        assert_eq!(queue.payloads(), [b"ABC"]);
        assert_eq!(queue.unrouted_packets().await, []);
    }
}

#[tokio::test]
async fn a_packet_that_is_too_large_is_kept_as_a_dead_letter_or_dropped_and_the_next_one_goes_on() {
    for version in VERSIONS {
        let broker = Broker::listen(version).await;
        let queue = ManualQueue::automatic();
        let _running = subscribe(&broker, &queue, |options| options.version = version);
        let mut session = broker.accept(false).await;
        for (id, size) in [(1, 1000), (2, 1001), (3, 2000), (4, 2001), (5, 1)] {
            session.publish(id, "mti/1", &vec![b'x'; size]).await;
        }
        assert_eq!(session.pubacks(5).await, [1, 2, 3, 4, 5]);
        assert_eq!(queue.payloads().iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1]);
        let large = |size| ("mti/line".to_owned(), Cause::TooLarge, size);
        assert_eq!(queue.unrouted_packets().await, [large(1001), large(2000)]);
    }
}

#[test]
fn a_client_reserves_little_memory_for_packets_that_it_will_never_publish() {
    fn measure<C: Client>() -> u64 {
        let target = Target {
            host: "a.example".to_owned(),
            port: 1883,
            tls: None,
            client_id: "p".to_owned(),
            credentials: None,
            session_expiry: Duration::from_secs(1),
            receive_maximum: 1000,
        };
        allocation_counter::measure(|| drop(C::new(&target))).bytes_max
    }
    // 13 MiB by rumqttc's default.
    assert!(measure::<ClientV5>() < 200 << 10, "{}", measure::<ClientV5>());
    assert!(measure::<ClientV3>() < 200 << 10, "{}", measure::<ClientV3>());
}
