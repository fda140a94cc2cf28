//! The listener while it waits for a CONNECT, or for storage that is away. Tokio's paused clock advances by itself when all tasks are idle, so that waiting takes no
//! time.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use pushline_ingest::{Clients, Ingest, Listener, Options};
use pushline_model::{DescriptorBudget, RegistryBuilder, Webhook};
use pushline_queue::{Append, Appended, DeadLetters, Partitions, Queue, QueueError, Record, Resolver, Sessions, Stalled, memory::Memory};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

const CONNECT_V3: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01";
const CONNECT_V5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01";

/// How long a test waits for an event that must come, while the clock runs.
const MUST_COME_WITHIN: Duration = Duration::from_secs(30);

/// The same while the clock is paused: longer than every timeout of the listener.
const LONG: Duration = Duration::from_hours(1);

/// A queue whose appends become durable when [`Away::restore`] is called.
struct Away {
    kept: Arc<Memory>,
    waiting: Mutex<Vec<Resolver>>,
    batches: watch::Sender<usize>,
}

impl Away {
    fn new() -> Arc<Self> {
        Arc::new(Self { kept: Memory::new(), waiting: Mutex::default(), batches: watch::Sender::new(0) })
    }

    async fn until_batches(&self, count: usize) {
        timeout(MUST_COME_WITHIN, self.batches.subscribe().wait_for(|batches| *batches >= count)).await.expect("packets arrive").unwrap();
    }

    fn restore(&self) {
        self.waiting.lock().unwrap().drain(..).for_each(|resolver| resolver.resolve(Ok(())));
    }
}

impl Append for Away {
    fn append(&self, _: &[Record<'_>]) -> Appended {
        let (resolver, appended) = Appended::pending();
        self.waiting.lock().unwrap().push(resolver);
        self.batches.send_modify(|batches| *batches += 1);
        appended
    }
}

impl Queue for Away {
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
        self.kept.sessions()
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

/// A budget that one packet of a hundred bytes uses up, overhead included, and a smaller one doesn't.
const ONE_PACKET: usize = 600;

/// Starts a listener with this budget for bytes that aren't durable.
async fn listen(queue: &Arc<Away>, unacknowledged_bytes: usize) -> (SocketAddr, watch::Sender<bool>) {
    listen_with(queue, unacknowledged_bytes, |_| {}).await
}

async fn listen_with(
    queue: &Arc<Away>,
    unacknowledged_bytes: usize,
    define: impl FnOnce(&mut Options),
) -> (SocketAddr, watch::Sender<bool>) {
    let mut registry = RegistryBuilder::default();
    registry.webhook(Webhook::new("w", "http://a.example/".parse().unwrap())).unwrap();
    registry.group("mti/line".parse().unwrap(), Some("w"), true).unwrap();
    let mut options = Options::new(([127, 0, 0, 1], 0).into(), vec!["{org}/{iccid}".parse().unwrap()]);
    define(&mut options);
    let (stop, stopped) = watch::channel(false);
    let registry = Arc::new(ArcSwap::from_pointee(registry.build()));
    let ingest = Ingest::new(Arc::clone(queue) as Arc<dyn Queue>, registry, unacknowledged_bytes, stopped);
    let listener = Listener::bind(options, ingest, Arc::new(Clients::default())).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listener.run());
    (address, stop)
}

/// Sends a CONNECT with a client id of one letter, and reads the CONNACK.
async fn connect_as(server: SocketAddr, connect: &[u8], client: u8) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&[connect, &[client]].concat()).await.unwrap();
    let connack = read_packet(&mut stream).await;
    (stream, connack)
}

/// Reads one packet.
async fn read_packet(stream: &mut TcpStream) -> Vec<u8> {
    let packet = async {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.unwrap();
        let mut rest = vec![0; usize::from(head[1])];
        stream.read_exact(&mut rest).await.unwrap();
        [&head[..], &rest].concat()
    };
    timeout(MUST_COME_WITHIN, packet).await.expect("the listener answers")
}

/// PUBLISH at QoS 1 to `mti/1`, in the version of this CONNECT.
fn publish(connect: &[u8], id: u8, payload: usize) -> Vec<u8> {
    let properties: &[u8] = if connect == CONNECT_V3 { &[] } else { &[0] };
    let length = u8::try_from(9 + properties.len() + payload).unwrap();
    [&[0x32, length][..], b"\x00\x05mti/1\x00", &[id], properties, &vec![b'x'; payload]].concat()
}

/// Reads until the listener closes the connection.
async fn read_to_close(mut stream: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    timeout(LONG, stream.read_to_end(&mut received)).await.expect("the connection is closed").unwrap();
    received
}

#[tokio::test]
async fn a_connect_that_does_not_come_within_ten_seconds_is_refused() {
    let (server, _stop) = listen(&Away::new(), ONE_PACKET).await;
    let began = Instant::now();
    let mut slow = TcpStream::connect(server).await.unwrap();
    slow.write_all(&CONNECT_V5[..7]).await.unwrap();
    // A later client is accepted meanwhile.
    let (_other, connack) = connect_as(server, CONNECT_V3, b'o').await;
    assert_eq!(connack, [0x20, 2, 0, 0]);
    tokio::time::pause();
    assert!(read_to_close(slow).await.is_empty(), "its version is unknown, so it gets no CONNACK");
    let waited = began.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_secs(30)).contains(&waited), "{waited:?}");
}

#[tokio::test]
async fn while_storage_is_away_new_clients_are_refused_and_reading_goes_on_when_it_is_back() {
    let queue = Away::new();
    let (server, _stop) = listen(&queue, ONE_PACKET).await;
    let (mut first, _) = connect_as(server, CONNECT_V3, b'f').await;
    first.write_all(&publish(CONNECT_V3, 7, 100)).await.unwrap();
    queue.until_batches(1).await;
    let (stream, connack) = connect_as(server, CONNECT_V3, b'a').await;
    assert_eq!((connack.as_slice(), read_to_close(stream).await), (&[0x20, 2, 0, 3][..], vec![]), "server unavailable");
    let (stream, connack) = connect_as(server, CONNECT_V5, b'b').await;
    assert_eq!((connack[0], connack[3], read_to_close(stream).await), (0x20, 0x88, vec![]), "server unavailable");
    // The listener doesn't read what the first client sends meanwhile.
    first.write_all(&publish(CONNECT_V3, 8, 50)).await.unwrap();
    for client in b'0'..=b'9' {
        connect_as(server, CONNECT_V3, client).await;
    }
    assert_eq!(*queue.batches.borrow(), 1);

    queue.restore();
    assert_eq!(read_packet(&mut first).await, [0x40, 2, 0, 7]);
    queue.until_batches(2).await;
    let (_accepted, connack) = connect_as(server, CONNECT_V3, b'd').await;
    assert_eq!(connack, [0x20, 2, 0, 0]);
}

#[tokio::test]
async fn a_client_that_could_not_be_read_for_thirty_seconds_is_closed_without_acknowledgement() {
    for connect in [CONNECT_V3, CONNECT_V5] {
        let queue = Away::new();
        let (server, _stop) = listen(&queue, ONE_PACKET).await;
        let (mut stream, _) = connect_as(server, connect, b'f').await;
        let began = Instant::now();
        stream.write_all(&publish(connect, 7, 100)).await.unwrap();
        queue.until_batches(1).await;
        tokio::time::pause();
        let server_busy: &[u8] = if connect == CONNECT_V3 { &[] } else { &[0xe0, 2, 0x89, 0] };
        assert_eq!(read_to_close(stream).await, server_busy);
        // Thirty seconds, and five for the last acknowledgements.
        let waited = began.elapsed();
        assert!((Duration::from_secs(30)..Duration::from_secs(60)).contains(&waited), "{waited:?}");
        tokio::time::resume();
    }
}

/// The client sends SUBSCRIBE after SUBSCRIBE and reads nothing, until its writes block too: the answer that is being written stays unfinished.
#[tokio::test]
async fn after_a_torn_answer_the_listener_writes_nothing() {
    const FILTERS: usize = 50_000;
    let queue = Away::new();
    let (server, _stop) = listen(&queue, 10 * ONE_PACKET).await;
    let (mut stream, _) = connect_as(server, CONNECT_V3, b'f').await;
    stream.write_all(&publish(CONNECT_V3, 7, 100)).await.unwrap();
    queue.until_batches(1).await;
    // SUBSCRIBE: an identifier, and filters of one letter. Three bytes hold its length, and the length of its answer.
    let length = |bytes: usize| [bytes & 0x7f | 0x80, bytes >> 7 & 0x7f | 0x80, bytes >> 14].map(|byte| u8::try_from(byte).unwrap());
    let subscribe = [&[0x82][..], &length(2 + 4 * FILTERS), &[0, 9], &b"\x00\x01a\x01".repeat(FILTERS)].concat();
    while timeout(Duration::from_secs(1), stream.write_all(&subscribe)).await.is_ok() {}
    tokio::time::pause();
    // Thirty seconds, and less than five more.
    tokio::time::sleep(Duration::from_secs(32)).await;
    tokio::time::resume();
    queue.restore();

    let mut received = Vec::new();
    // The listener hasn't read all requests, so the connection is reset.
    drop(timeout(MUST_COME_WITHIN, stream.read_to_end(&mut received)).await.expect("the connection is closed"));
    let answer = [&[0x90][..], &length(2 + FILTERS), &[0, 9], &vec![1; FILTERS]].concat();
    let torn = received.chunks(answer.len()).last().unwrap();
    assert!(torn.len() < answer.len(), "the last answer isn't whole");
    assert!(received.chunks(answer.len()).all(|chunk| answer.starts_with(chunk)), "and nothing stands behind it");
}

/// The client reads on a thread of its own, so that it sees each write by itself.
#[tokio::test]
async fn the_acknowledgements_of_one_commit_leave_in_one_write() {
    const TOGETHER: u8 = 5;
    let queue = Away::new();
    let (server, _stop) = listen(&queue, 10 * ONE_PACKET).await;
    let (stream, _) = connect_as(server, CONNECT_V3, b'f').await;
    let mut writer = stream.into_std().unwrap();
    writer.set_nonblocking(false).unwrap();
    let mut reader = writer.try_clone().unwrap();
    let (read, mut reads) = mpsc::channel(1000);
    let reading = std::thread::spawn(move || {
        let mut buffer = [0; 1000];
        while let Ok(bytes @ 1..) = reader.read(&mut buffer) {
            read.blocking_send(bytes).unwrap();
        }
    });
    for round in 0..100 {
        for id in 1..=TOGETHER {
            // The listener reads each packet by itself.
            writer.write_all(&publish(CONNECT_V3, id, 0)).unwrap();
            queue.until_batches(round * usize::from(TOGETHER) + usize::from(id)).await;
        }
        queue.restore();
        let bytes = timeout(MUST_COME_WITHIN, reads.recv()).await.expect("they are acknowledged").unwrap();
        assert_eq!(bytes, 4 * usize::from(TOGETHER), "round {round}");
    }
    writer.shutdown(Shutdown::Both).unwrap();
    reading.join().unwrap();
}

#[tokio::test]
async fn beyond_the_limit_of_descriptors_a_client_waits_until_another_leaves() {
    let (server, _stop) =
        listen_with(&Away::new(), Ingest::UNACKNOWLEDGED_BYTES, |options| options.descriptors = DescriptorBudget::of(2, 0)).await;
    let (first, _) = connect_as(server, CONNECT_V3, b'a').await;
    let (_second, _) = connect_as(server, CONNECT_V3, b'b').await;
    let third = tokio::spawn(async move { connect_as(server, CONNECT_V3, b'c').await.1 });
    // The system accepts its connection; the listener does not.
    sleep(Duration::from_millis(100)).await;
    assert!(!third.is_finished());
    drop(first);
    assert_eq!(third.await.unwrap(), [0x20, 2, 0, 0]);
}

#[tokio::test]
async fn a_client_beyond_its_rate_is_read_later_and_loses_neither_packets_nor_its_connection() {
    let queue = Away::new();
    let define = |options: &mut Options| options.limits.packet_rate = Some("1/m".parse().unwrap());
    let (server, _stop) = listen_with(&queue, Ingest::UNACKNOWLEDGED_BYTES, define).await;
    let (mut stream, _) = connect_as(server, CONNECT_V3, b'f').await;
    let ten: Vec<u8> = (1..=10).flat_map(|id| publish(CONNECT_V3, id, 1)).collect();
    stream.write_all(&ten).await.unwrap();
    queue.until_batches(1).await;
    queue.restore();
    for id in 1..=10 {
        assert_eq!(read_packet(&mut stream).await, [0x40, 2, 0, id]);
    }
    stream.write_all(&publish(CONNECT_V3, 11, 1)).await.unwrap();
    tokio::time::pause();
    let began = Instant::now();
    timeout(LONG, queue.batches.subscribe().wait_for(|batches| *batches >= 2)).await.expect("it is read later").unwrap();
    let waited = began.elapsed();
    // Its keep-alive would be over after a minute and a half.
    assert!((Duration::from_secs(500)..Duration::from_secs(700)).contains(&waited), "{waited:?}");
    queue.restore();
    assert_eq!(read_packet(&mut stream).await, [0x40, 2, 0, 11]);
    // The keep-alive began anew when the wait was over.
    tokio::time::sleep(Duration::from_secs(80)).await;
    stream.write_all(&[0xe0, 0]).await.unwrap();
    assert!(read_to_close(stream).await.is_empty());
}
