//! Clients that talk to the running listener at random: packets that are right, packets that are broken, connections that end at any place. A ledger holds
//! what was acknowledged against what the queue has.
//!
//! Everything comes from one seed, which a failure prints. Its own length: `LONG_TESTS=1`.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use pushline_queue::{
    Append, Appended, DeadLetters, Filter, Partitions, Queue, QueueError, Record, Resolver, Sessions, Stalled, memory::Memory,
    sessions::NoSessions,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinSet, yield_now},
    time::timeout,
};

use super::{
    Listening, MUST_COME_WITHIN,
    hostile::{PING, Version, connect, packet, properties, text},
    listen_on, read_packet,
};

/// How many clients talk at the same time.
const CLIENTS: u64 = 8;

/// How many connections each of them makes.
const CONNECTIONS: u64 = 60;
const CONNECTIONS_LONG: u64 = 20_000;

/// The most packets of a connection.
const PACKETS: usize = 30;

/// A queue that makes batches durable one after the other, some time after they were appended.
struct Ledger {
    kept: Arc<Memory>,
    appended: mpsc::Sender<(Vec<Vec<u8>>, Resolver)>,
    /// The payloads that are durable.
    durable: Mutex<HashSet<Vec<u8>>>,
}

/// What a client does with a connection once it has sent its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// It waits for each PUBACK, and sends DISCONNECT.
    Polite,
    /// It sends bytes that are broken.
    Broken,
    /// It closes its side.
    HalfClose,
    /// It closes both sides at once.
    Drop,
}

/// A PUBLISH at QoS 1 that was sent.
struct Published {
    id: u16,
    payload: Vec<u8>,
    is_wanted: bool,
}

impl Ledger {
    fn new() -> Arc<Self> {
        let (appended, mut batches) = mpsc::channel::<(Vec<Vec<u8>>, Resolver)>(100_000);
        let this = Arc::new(Self { kept: Memory::new(), appended, durable: Mutex::default() });
        let weak = Arc::downgrade(&this);
        tokio::spawn(async move {
            while let Some((payloads, resolver)) = batches.recv().await {
                // Other tasks run in between: an acknowledgement that doesn't wait is seen.
                yield_now().await;
                yield_now().await;
                let Some(ledger) = weak.upgrade() else { return };
                ledger.durable.lock().unwrap().extend(payloads);
                resolver.resolve(Ok(()));
            }
        });
        this
    }

    fn has(&self, payload: &[u8]) -> bool {
        self.durable.lock().unwrap().contains(payload)
    }

    /// The payloads of the unrouted packets.
    async fn unrouted_payloads(&self) -> HashSet<Vec<u8>> {
        let (mut payloads, mut next) = (HashSet::new(), Some(0));
        while let Some(from) = next {
            let page = self.kept.unrouted().list(&Filter::default(), from, 1000).await.unwrap();
            payloads.extend(page.found.into_iter().flat_map(|found| found.dead_letter.packets).map(|packet| packet.payload));
            next = page.next;
        }
        payloads
    }
}

impl Append for Ledger {
    fn append(&self, batch: &[Record<'_>]) -> Appended {
        let (resolver, appended) = Appended::pending();
        let payloads = batch.iter().map(|record| record.payload.to_vec()).collect();
        assert!(self.appended.try_send((payloads, resolver)).is_ok(), "the budget bounds what isn't durable");
        appended
    }
}

impl Queue for Ledger {
    fn partitions(&self) -> watch::Receiver<Partitions> {
        self.kept.partitions()
    }

    fn dead_letters(&self) -> DeadLetters {
        self.kept.dead_letters()
    }

    fn unrouted(&self) -> DeadLetters {
        self.kept.unrouted()
    }

    fn sessions(&self) -> Arc<dyn Sessions> {
        Arc::new(NoSessions)
    }

    fn stalled(&self) -> Option<Stalled> {
        None
    }

    fn failed(&self) -> BoxFuture<'static, QueueError> {
        self.kept.failed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.kept.close()
    }
}

/// One connection: what it sends, and what it has to hear.
struct Conversation {
    version: Version,
    sent: Vec<u8>,
    published: Vec<Published>,
    farewell: Farewell,
}

impl Conversation {
    /// `name`: of the connection, no other has it.
    fn new(random: &mut fastrand::Rng, client: u64, name: &str) -> Self {
        let version = if random.bool() { Version::V3 } else { Version::V5 };
        let farewell = [Farewell::Polite, Farewell::Broken, Farewell::HalfClose, Farewell::Drop][random.usize(..4)];
        let mut this =
            Self { version, sent: connect(version, 2, b"", &text(format!("c{client}").as_bytes())), published: vec![], farewell };
        for number in 0..random.usize(..PACKETS) {
            let next = this.right_packet(random, &format!("{name}-{number}"));
            this.sent.extend(next);
        }
        match farewell {
            Farewell::Broken => {
                let count = this.published.len();
                let mut broken = this.right_packet(random, &format!("{name}-broken"));
                this.published.truncate(count);
                break_it(random, &mut broken);
                this.sent.extend(broken);
            }
            Farewell::Polite | Farewell::HalfClose | Farewell::Drop => {}
        }
        this
    }

    fn right_packet(&mut self, random: &mut fastrand::Rng, name: &str) -> Vec<u8> {
        let no_properties = properties(self.version, b"");
        match random.u8(..10) {
            0 => PING.to_vec(),
            1 => packet(0x82, &[b"\0\x09", &no_properties[..], b"\0\x01#\x01"].concat()),
            2 => packet(0xa2, &[b"\0\x09", &no_properties[..], b"\0\x01#"].concat()),
            3 => {
                let topic = text(b"mti/1");
                packet(0x30, &[&topic[..], &no_properties, name.as_bytes()].concat())
            }
            kind => {
                let (topic, is_wanted): (&[u8], bool) = [(&b"mti/1"[..], true), (b"mti/2", true), (b"none/1", false)][random.usize(..3)];
                let id = u16::try_from(self.published.len() + 1).unwrap();
                let mut payload = name.as_bytes().to_vec();
                payload.resize(payload.len() + random.usize(..if kind == 4 { 3000 } else { 30 }), b'.');
                let of_version: &[u8] = if self.version == Version::V5 && random.bool() { b"\x01\x01\x02\0\0\0\x05" } else { b"" };
                let dup = if random.u8(..5) == 0 { 8 } else { 0 };
                let body = [&text(topic)[..], &id.to_be_bytes(), &properties(self.version, of_version), &payload].concat();
                self.published.push(Published { id, payload, is_wanted });
                packet(0x32 | dup, &body)
            }
        }
    }

    /// Talks, and returns the payloads of the unrouted packets that were acknowledged.
    async fn talk(self, listening: &Listening, ledger: &Ledger, random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
        let stream = TcpStream::connect(listening.address).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        if self.farewell == Farewell::Drop {
            drop(send(&mut write, &self.sent[..random.usize(..=self.sent.len())], random).await);
            return vec![];
        }
        let farewell = async {
            // The listener may have closed, because of a broken packet or a client with the same id.
            let sent = send(&mut write, &self.sent, random).await;
            if self.farewell != Farewell::Polite || sent.is_err() {
                drop(write.shutdown().await);
            }
            write
        };
        let (mut write, heard) = tokio::join!(farewell, self.hear(&mut read, ledger));
        if self.farewell == Farewell::Polite {
            drop(write.write_all(&packet(0xe0, b"")).await);
        }
        heard
    }

    /// Hears the answers up to the end, or up to the last PUBACK of a polite client. PUBACKs come in the order of the PUBLISHes, and not before their packets are
    /// durable. What a broken packet is answered isn't looked at.
    async fn hear(&self, read: &mut OwnedReadHalf, ledger: &Ledger) -> Vec<Vec<u8>> {
        let (mut unrouted, mut due) = (Vec::new(), self.published.iter());
        let mut left = self.published.len();
        let (first, connack) = read_packet(read).await.unwrap_or((0x20, vec![0, 0]));
        assert_eq!((first, connack[1]), (0x20, 0), "a right CONNECT is accepted");
        while left > 0 || self.farewell != Farewell::Polite {
            let Some((first, body)) = read_packet(read).await else { return unrouted };
            if first != 0x40 {
                assert!([0x90, 0xb0, 0xd0, 0xe0].contains(&first), "{first:#x} {body:x?}");
                continue;
            }
            let Some(Published { id, payload, is_wanted }) = due.next() else { continue };
            left -= 1;
            assert_eq!(body[..2], id.to_be_bytes(), "in the order of the packets");
            let reason = if self.version == Version::V5 && !is_wanted { &[0x10][..] } else { &[] };
            assert_eq!(body[2..], *reason);
            if *is_wanted {
                assert!(ledger.has(payload), "{} was acknowledged and isn't durable", String::from_utf8_lossy(payload));
            } else {
                unrouted.push(payload.clone());
            }
        }
        unrouted
    }
}

/// Sends bytes in parts of any size.
async fn send(write: &mut OwnedWriteHalf, mut bytes: &[u8], random: &mut fastrand::Rng) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let (part, rest) = bytes.split_at(random.usize(1..=bytes.len()));
        write.write_all(part).await?;
        if random.bool() {
            yield_now().await;
        }
        bytes = rest;
    }
    Ok(())
}

/// Changes a packet: a bit, an end that is missing, bytes that are too many, or all of it.
fn break_it(random: &mut fastrand::Rng, packet: &mut Vec<u8>) {
    match random.u8(..4) {
        0 => {
            let at = random.usize(..packet.len());
            packet[at] ^= 1 << random.u8(..8);
        }
        1 => packet.truncate(random.usize(..packet.len())),
        2 => packet.extend((0..random.usize(1..20)).map(|_| random.u8(..)).collect::<Vec<u8>>()),
        _ => packet.iter_mut().for_each(|byte| *byte = random.u8(..)),
    }
}

/// All conversations of one client, one after the other.
async fn client(number: u64, seed: u64, connections: u64, listening: Arc<Listening>, ledger: Arc<Ledger>) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number));
    let mut unrouted = Vec::new();
    for connection in 0..connections {
        // Two clients share an id: each takes over from the other.
        let conversation = Conversation::new(&mut random, number.min(CLIENTS - 2), &format!("{number}-{connection}"));
        unrouted.extend(conversation.talk(&listening, &ledger, &mut random).await);
    }
    unrouted
}

#[tokio::test]
async fn whatever_clients_send_what_was_acknowledged_is_in_the_queue_and_the_listener_goes_on() {
    let is_long = std::env::var_os("LONG_TESTS").is_some();
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let ledger = Ledger::new();
    // A connection that isn't given back is missed here.
    let listening = Arc::new(
        listen_on(Arc::clone(&ledger) as Arc<dyn Queue>, |options| {
            options.max_payload_bytes = 4000;
            options.limits.connections = 100;
        })
        .await,
    );
    let connections = if is_long { CONNECTIONS_LONG } else { CONNECTIONS };
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(number, seed, connections, Arc::clone(&listening), Arc::clone(&ledger)));
    }
    let mut unrouted: Vec<Vec<u8>> = Vec::new();
    while let Some(ended) = clients.join_next().await {
        unrouted.extend(ended.unwrap());
    }
    let kept = ledger.unrouted_payloads().await;
    assert!(unrouted.iter().all(|payload| kept.contains(payload)), "each unrouted packet that was acknowledged is kept");
    assert!(!unrouted.is_empty() && ledger.durable.lock().unwrap().len() > 100, "the clients were heard");
    let gone = async {
        while !listening.clients.devices.page(None, 1).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(MUST_COME_WITHIN, gone).await.expect("each connection ends");
    let mut stream = TcpStream::connect(listening.address).await.unwrap();
    stream.write_all(&connect(Version::V5, 2, b"", &text(b"last"))).await.unwrap();
    stream.write_all(PING).await.unwrap();
    assert_eq!(read_packet(&mut stream).await.unwrap().0, 0x20);
    assert_eq!(stream.read_u8().await.unwrap(), 0xd0);
}
