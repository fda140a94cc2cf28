//! When a will is published, and which wills are refused: docs/listeners.md, Wills.

use std::time::Duration;

use pushline_ingest::{Selection, TooLarge};
use pushline_queue::Filter;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{Listening, MUST_COME_WITHIN, listen, read_packet};

/// A client, and its will for `mti/1`.
#[derive(Debug, Clone, Copy)]
struct Client {
    level: u8,
    id: &'static str,
    /// In seconds.
    keep_alive: u8,
    /// QoS and Retain, as the flags of CONNECT have them.
    will_flags: u8,
    will: &'static str,
    /// In seconds. MQTT 5 only.
    will_delay: u16,
    /// Of the session, in seconds. MQTT 5 only.
    expiry: u16,
    is_clean: bool,
}

const V5: Client = Client { level: 5, id: "d", keep_alive: 60, will_flags: 1 << 3, will: "", will_delay: 0, expiry: 0, is_clean: true };
const V3: Client = Client { level: 4, ..V5 };

impl Client {
    fn connect(self) -> Vec<u8> {
        let property = |id: u8, [high, low]: [u8; 2]| if self.level == 5 { vec![5, id, 0, 0, high, low] } else { vec![] };
        let (expiry, delay) = (property(0x11, self.expiry.to_be_bytes()), property(0x18, self.will_delay.to_be_bytes()));
        let flags = 4 | u8::from(self.is_clean) << 1 | self.will_flags;
        let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
        let will = [delay, text("mti/1"), text(self.will)].concat();
        let head = [&b"\0\x04MQTT"[..], &[self.level, flags, 0, self.keep_alive], &expiry].concat();
        let body = [head, text(self.id), will].concat();
        [&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat()
    }

    /// Connects; returns CONNACK's code, `None` where the connection is closed instead.
    async fn try_connect(self, listening: &Listening) -> (TcpStream, Option<u8>) {
        let mut stream = TcpStream::connect(listening.address).await.unwrap();
        stream.write_all(&self.connect()).await.unwrap();
        let connack = read_packet(&mut stream).await;
        (stream, connack.map(|(_, body)| body[1]))
    }

    async fn connected(self, listening: &Listening) -> TcpStream {
        let (stream, code) = self.try_connect(listening).await;
        assert_eq!(code, Some(0), "{self:?}");
        stream
    }
}

impl Listening {
    /// Waits for this many packets. Returns the payloads of all that were stored.
    async fn stored(&self, count: usize) -> Vec<String> {
        let partition = self.queue.partitions().borrow()[0].clone();
        let (mut reader, mut payloads, deadline) = (partition.reader(0), Vec::new(), Instant::now() + MUST_COME_WITHIN);
        while payloads.len() < count {
            let frame = timeout_at(deadline, reader.next()).await.unwrap_or_else(|_| panic!("only {payloads:?} came")).unwrap();
            let packets = frame.records(0).filter(|(_, record)| record.as_packet().is_some());
            payloads.extend(packets.map(|(_, record)| String::from_utf8(record.payload.to_vec()).unwrap()));
        }
        payloads
    }
}

async fn closed(stream: &mut TcpStream) {
    timeout(MUST_COME_WITHIN, async { while read_packet(stream).await.is_some() {} }).await.expect("the listener closes the connection");
}

#[tokio::test]
async fn a_will_is_published_unless_the_client_said_good_bye() {
    let listening = listen(|_| {}).await;
    let mut expected: Vec<&str> = Vec::new();
    for (client, good_bye) in [(V3, &b"\xe0\0"[..]), (V5, b"\xe0\0"), (V5, b"\xe0\x02\0\0")] {
        let mut stream = Client { will: "after a good-bye", ..client }.connected(&listening).await;
        stream.write_all(good_bye).await.unwrap();
        closed(&mut stream).await;
    }
    for client in [V3, V5] {
        let mut broken = Client { will: "at a broken connection", ..client }.connected(&listening).await;
        let publish: &[u8] = if client.level == 5 { b"\x30\x09\0\x05mti/1\0A" } else { b"\x30\x08\0\x05mti/1A" };
        broken.write_all(publish).await.unwrap();
        drop(broken);
        expected.extend(["A", "at a broken connection"]);
        assert_eq!(listening.stored(expected.len()).await, expected);

        let mut silent = Client { will: "after the keep-alive", keep_alive: 1, ..client }.connected(&listening).await;
        closed(&mut silent).await;
        expected.push("after the keep-alive");

        let mut at_fault = Client { will: "after a fault", ..client }.connected(&listening).await;
        at_fault.write_all(b"\x00\x00").await.unwrap();
        closed(&mut at_fault).await;
        expected.push("after a fault");

        let mut first = Client { will: "at a takeover", ..client }.connected(&listening).await;
        let mut second = Client { will: "at an operator's disconnect", ..client }.connected(&listening).await;
        closed(&mut first).await;
        expected.push("at a takeover");
        assert_eq!(listening.stored(expected.len()).await, expected);
        assert_eq!(listening.clients.devices.disconnect(&Selection::ClientId("d".into())), 1);
        closed(&mut second).await;
        expected.push("at an operator's disconnect");
        assert_eq!(listening.stored(expected.len()).await, expected);
    }
    let mut stream = Client { will: "with DISCONNECT 0x04", ..V5 }.connected(&listening).await;
    stream.write_all(b"\xe0\x02\x04\0").await.unwrap();
    closed(&mut stream).await;
    expected.push("with DISCONNECT 0x04");
    assert_eq!(listening.stored(expected.len()).await, expected);
}

#[tokio::test]
async fn a_will_of_each_qos_is_published_and_retain_changes_nothing() {
    const RETAIN: u8 = 1 << 5;
    let listening = listen(|_| {}).await;
    for (count, will_flags) in (1..).zip([0, 1 << 3, 2 << 3, RETAIN, 2 << 3 | RETAIN]) {
        drop(Client { will: "bye", will_flags, ..V5 }.connected(&listening).await);
        assert_eq!(listening.stored(count).await.len(), count);
    }
}

#[tokio::test]
async fn a_process_that_stops_publishes_no_will() {
    let listening = listen(|_| {}).await;
    let mut streams = Vec::new();
    for id in ["a", "b", "c"] {
        streams.push(Client { id, will: "bye", ..V5 }.connected(&listening).await);
    }
    listening.stop.send(true).unwrap();
    for stream in &mut streams {
        closed(stream).await;
    }
    assert_eq!(listening.queue.partitions().borrow()[0].end(), 0);
}

#[tokio::test]
async fn a_will_that_may_not_be_published_is_refused_at_connect() {
    let bound = listen(|options| options.allow_topics = vec!["mti/2".parse().unwrap()]).await;
    let small = listen(|options| options.max_payload_bytes = 2).await;
    for (listening, client, code) in [(&bound, V3, Some(5)), (&bound, V5, Some(0x87)), (&small, V3, None), (&small, V5, Some(0x95))] {
        assert_eq!(Client { will: "bye", ..client }.try_connect(listening).await.1, code, "{client:?}");
    }
    let kept = listen(|options| (options.max_payload_bytes, options.too_large) = (2, TooLarge::DeadLetter(100))).await;
    drop(Client { will: "bye", ..V5 }.connected(&kept).await);
    let unrouted = kept.queue.unrouted();
    let found = async {
        while unrouted.list(&Filter::default(), 0, 9).await.unwrap().found.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(MUST_COME_WITHIN, found).await.expect("it is kept as a dead letter");
}

#[tokio::test]
async fn wills_are_refused_while_others_use_their_budget_up() {
    let listening = listen(|options| options.limits.will_bytes = 1).await;
    let first = Client { id: "first", ..V5 }.connected(&listening).await;
    assert_eq!(Client { id: "second", ..V5 }.try_connect(&listening).await.1, Some(0x97));
    assert_eq!(Client { id: "second", ..V3 }.try_connect(&listening).await.1, Some(3));
    drop(first);
    listening.stored(1).await;
    let comes_in = async {
        while (Client { id: "second", ..V5 }).try_connect(&listening).await.1 != Some(0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(MUST_COME_WITHIN, comes_in).await.expect("the first client's will has ended");
}

#[tokio::test]
async fn a_will_with_a_delay_waits_until_its_session_goes_on_ends_or_the_delay_is_over() {
    const LONG: u16 = 3600;
    let listening = listen(|options| options.limits.session_expiry = Duration::from_secs(u64::from(LONG))).await;
    let client = Client { will_delay: LONG, expiry: LONG, is_clean: false, ..V5 };
    // It goes on: the will of the first connection is discarded, whether it is taken over or gone.
    let goes_on = Client { id: "goes on", will: "of a session that went on", will_delay: 1, ..client };
    let mut taken_over = goes_on.connected(&listening).await;
    let gone = goes_on.connected(&listening).await;
    closed(&mut taken_over).await;
    drop(gone);
    let _stays = goes_on.connected(&listening).await;
    // A clean start ends it, whether the connection is taken over or gone.
    let ends = Client { id: "ends", will: "of a session that ended", ..client };
    let mut taken_over = ends.connected(&listening).await;
    let gone = Client { is_clean: true, ..ends }.connected(&listening).await;
    closed(&mut taken_over).await;
    listening.stored(1).await;
    drop(gone);
    let _stays = Client { is_clean: true, ..ends }.connected(&listening).await;
    assert_eq!(listening.stored(2).await, ["of a session that ended"; 2]);
    // It expires, or the delay is over, a second later. By then the first will would have come.
    drop(Client { id: "expires", will: "of a session that expired", expiry: 1, ..client }.connected(&listening).await);
    listening.stored(3).await;
    drop(Client { id: "late", will: "after its delay", will_delay: 1, ..client }.connected(&listening).await);
    assert_eq!(listening.stored(4).await[2..], ["of a session that expired", "after its delay"]);
}
