//! Sessions and QoS 2 over several ingest processes: docs/sessions.md, Over Kafka.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use pushline_testkit::{Answer, ExactlyOnceDevice, Inbox, Kafka, PATIENCE, Pushline, folder, payloads};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{configuration, start};
use crate::{amount, group, webhook};

/// Two ingest processes, and one that delivers to the inbox.
struct Cluster {
    ingest: [Pushline; 2],
    deliver: Pushline,
    inbox: Inbox,
    dir: tempfile::TempDir,
    configuration: String,
}

impl Cluster {
    async fn start() -> Self {
        let (kafka, dir, inbox) = (Kafka::shared().await, folder(), Inbox::start().await);
        let more = webhook("w", &inbox.url(), "window = \"200ms\"") + &group("mti", "line", "w");
        let configuration = configuration(kafka.brokers(), &kafka.prefix(), 2, &more);
        let (first, second, deliver) = tokio::join!(
            start("ingest", dir.path(), &configuration),
            start("ingest", dir.path(), &configuration),
            start("deliver", dir.path(), &configuration)
        );
        Self { ingest: [first, second], deliver, inbox, dir, configuration }
    }

    /// Kills an ingest process, and starts another one in its place.
    async fn replace(&mut self, place: usize) {
        let new = start("ingest", self.dir.path(), &self.configuration).await;
        std::mem::replace(&mut self.ingest[place], new).kill().await;
    }

    /// Under how many ids each payload came. Ends when every payload has come and no more do.
    async fn ids(&mut self, expected: &BTreeSet<String>) -> BTreeMap<String, usize> {
        let (mut ids, deadline) = (BTreeMap::<String, BTreeSet<String>>::new(), Instant::now() + PATIENCE);
        loop {
            let pushes = self.inbox.rest(Duration::from_secs(2)).await;
            let is_over = pushes.is_empty() && ids.len() >= expected.len();
            for push in pushes {
                for payload in payloads(&push) {
                    ids.entry(payload).or_default().insert(push.header("webhook-id").to_owned());
                }
            }
            if is_over {
                break;
            }
            let missing: Vec<_> = expected.iter().filter(|payload| !ids.contains_key(*payload)).collect();
            assert!(Instant::now() < deadline, "lost: {missing:?}");
        }
        ids.into_iter().map(|(payload, ids)| (payload, ids.len())).collect()
    }

    async fn stop(self) {
        for process in self.ingest.into_iter().chain([self.deliver]) {
            process.terminate().await;
        }
    }
}

/// Connects in MQTT 5 with a session of five minutes. Returns whether it was present.
async fn connect(server: SocketAddr, clean_start: bool) -> (TcpStream, bool) {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let flags = u8::from(clean_start) << 1;
    let body = [&b"\0\x04MQTT\x05"[..], &[flags, 0, 60], b"\x05\x11\0\0\x01\x2c", b"\0\x01d"].concat();
    stream.write_all(&[&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat()).await.unwrap();
    let connack = packet(&mut stream).await.expect("it is answered");
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:x?}");
    (stream, connack[2] == 1)
}

/// A short packet, `None` at the end.
async fn packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let read = async {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.ok()?;
        let mut body = vec![0; head[1].into()];
        stream.read_exact(&mut body).await.ok()?;
        Some([&head[..], &body].concat())
    };
    timeout(PATIENCE, read).await.expect("the server answers or closes")
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_a_session_is_present_on_another_process_which_takes_it_over() {
    let cluster = Cluster::start().await;
    let [first, second] = [cluster.ingest[0].mqtt, cluster.ingest[1].mqtt];
    let (mut on_first, is_present) = connect(first, false).await;
    assert!(!is_present);
    on_first.write_all(b"\x34\x0b\0\x05mti/1\0\x07\0A").await.unwrap();
    assert_eq!(packet(&mut on_first).await.as_deref(), Some(&b"\x50\x02\0\x07"[..]));
    let (mut on_second, is_present) = connect(second, false).await;
    assert!(is_present);
    assert_eq!(packet(&mut on_first).await.as_deref(), Some(&b"\xe0\x02\x8e\0"[..]), "taken over");
    assert_eq!(packet(&mut on_first).await, None);
    // The id is held: PUBREC, and nothing is appended. One that isn't held gets PUBCOMP 0x92.
    on_second.write_all(b"\x3c\x0b\0\x05mti/1\0\x07\0A\x62\x02\0\x07\x62\x02\0\x08").await.unwrap();
    let answers = [packet(&mut on_second).await.unwrap(), packet(&mut on_second).await.unwrap(), packet(&mut on_second).await.unwrap()];
    assert_eq!(answers[0], b"\x50\x02\0\x07");
    let mut completed = answers[1..].to_vec();
    completed.sort();
    assert_eq!(completed, [b"\x70\x02\0\x07".to_vec(), b"\x70\x03\0\x08\x92".to_vec()]);
    // A clean start on the first process discards it for all.
    let (on_first, is_present) = connect(first, true).await;
    assert!(!is_present);
    drop((on_first, on_second));
    assert!(connect(second, false).await.1, "the one behind the clean start");
    let mut cluster = cluster;
    assert_eq!(cluster.ids(&["A".to_owned()].into()).await, [("A".to_owned(), 1)].into());
    cluster.stop().await;
}

/// Where in a packet's way the process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// The PUBLISH was sent: between a packet and its id it comes twice.
    Publish,
    Pubrec,
    Pubrel,
    Pubcomp,
}

const POINTS: [Point; 4] = [Point::Publish, Point::Pubrec, Point::Pubrel, Point::Pubcomp];

/// Publishes a packet and goes as far with it as the point.
async fn go_to(point: Point, device: &mut ExactlyOnceDevice, payload: &str) {
    device.publish(payload).await;
    if point == Point::Publish {
        return sleep(Duration::from_millis(fastrand::u64(0..25))).await;
    }
    let Answer::Received(id) = device.answer().await.unwrap() else { panic!("PUBREC comes first") };
    if point == Point::Pubrec {
        return;
    }
    device.release(id).await;
    match point {
        Point::Pubrel => sleep(Duration::from_millis(fastrand::u64(0..15))).await,
        _ => assert_eq!(device.answer().await.unwrap(), Answer::Complete(id)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_a_packet_at_qos_2_comes_through_kills_of_ingest_and_twice_only_if_it_died_before_pubrec() {
    let mut cluster = Cluster::start().await;
    let mut device = ExactlyOnceDevice::new("gateway", "mti/1");
    let (rounds, mut expected) = (amount(3, 30), BTreeSet::new());
    for round in 0..rounds {
        for (place, point) in POINTS.into_iter().enumerate() {
            let (here, there) = (place % 2, 1 - place % 2);
            let payload = format!("{point:?} {round}");
            device.connect(cluster.ingest[here].mqtt).await.unwrap();
            go_to(point, &mut device, &payload).await;
            cluster.replace(here).await;
            device.connect(cluster.ingest[there].mqtt).await.unwrap();
            device.finish().await.unwrap();
            expected.insert(payload);
        }
    }
    let ids = cluster.ids(&expected).await;
    let twice: Vec<&String> = ids.iter().filter(|(_, ids)| **ids > 1).map(|(payload, _)| payload).collect();
    println!("{} kills; {} PUBLISHes were sent again; under two ids: {twice:?}", expected.len(), device.resent());
    assert!(twice.iter().all(|payload| payload.starts_with("Publish")), "{twice:?}");
    assert_eq!(ids.keys().cloned().collect::<BTreeSet<_>>(), expected);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_a_process_that_was_stopped_beyond_a_takeover_changes_nothing_of_the_session() {
    let mut cluster = Cluster::start().await;
    let mut device = ExactlyOnceDevice::new("gateway", "mti/1");
    device.connect(cluster.ingest[0].mqtt).await.unwrap();
    device.publish("received by the first").await;
    assert!(matches!(device.answer().await.unwrap(), Answer::Received(_)));
    cluster.ingest[0].pause();
    device.publish("read late by the first").await;
    device.connect(cluster.ingest[1].mqtt).await.unwrap();
    device.finish().await.unwrap();
    cluster.ingest[0].resume();
    // The first process has noticed the takeover once it has closed the connection.
    cluster.ingest[0].until_metric("pushline_ingest_connections", "", |open| open == 0.0).await;
    let mut expected: BTreeSet<String> = ["received by the first".to_owned(), "read late by the first".to_owned()].into();
    // More packets than there are ids in flight, over reconnects to both: none is taken for a repeat of another.
    for round in 0..6 {
        device.connect(cluster.ingest[round % 2].mqtt).await.unwrap();
        device.reuse_ids();
        for number in 0..5 {
            let payload = format!("{round}.{number}");
            device.publish(&payload).await;
            expected.insert(payload);
        }
        device.finish().await.unwrap();
    }
    let mut ids = cluster.ids(&expected).await;
    let late = ids.remove("read late by the first");
    println!("read late by the first: under {late:?} ids");
    assert!(matches!(late, Some(1 | 2)), "{late:?}");
    assert!(ids.values().all(|ids| *ids == 1), "{ids:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_a_storm_of_clients_with_sessions_gets_in_within_seconds() {
    let cluster = Cluster::start().await;
    let (clients, began) = (amount(1_000, 10_000), Instant::now());
    let mut connecting = tokio::task::JoinSet::new();
    for client in 0..clients {
        let server = cluster.ingest[client % 2].mqtt;
        connecting.spawn(async move {
            let mut device = ExactlyOnceDevice::new(&format!("storm-{client}"), "mti/1");
            device.connect(server).await.unwrap();
            device
        });
    }
    let devices = timeout(PATIENCE, connecting.join_all()).await.expect("all get in");
    let took = began.elapsed();
    println!("{} clients with sessions over Kafka in {took:?}", devices.len());
    drop(devices);
    cluster.stop().await;
}
