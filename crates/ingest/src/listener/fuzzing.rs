//! What the fuzz targets call (fuzz/README.md): a client that sends these bytes to the listener, through a pipe in memory, up to the listener's last answer.
//!
//! Each entry panics where something is wrong: the process panics, or an answer is none that MQTT allows there. The clock is tokio's paused one, so a wait
//! takes no time.

use std::{
    future::Future,
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use pushline_model::{Registry, RegistryBuilder, Webhook};
use pushline_queue::{
    Append, Appended, DeadLetters, Partitions, Queue, QueueError, Record, Sessions, Stalled, memory::Memory, sessions::NoSessions,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, WriteHalf, duplex, split},
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Clients, Options, Subscriptions, TooLarge, connection,
    entrance::Entered,
    fields,
    limits::Seats,
    packets::{self, Version},
    shared::Shared,
    stream::Stream,
};
use crate::Ingest;

/// A target: what it does with an input.
pub type Target = fn(&[u8]);

/// All targets, by the names of their folders in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 2] = [("mqtt3", mqtt3), ("mqtt5", mqtt5)];

/// How much the pipe holds in each direction, in bytes.
const PIPE: usize = 16 << 10;

/// How often the last byte is repeated: more than the largest packet that the listener reads whole.
const FILLER: usize = 200 << 10;

/// Longer than every timeout of the listener.
const STAYS: Duration = Duration::from_hours(24);

/// The largest payload, in bytes: an input can be larger.
const MAX_PAYLOAD: usize = 500;

/// Clients that are let in: `d` with a keep-alive of 60 s.
const CONNECT_V3: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01d";
const CONNECT_V5: &[u8] = b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01d";

/// A client of MQTT 3.1.1: the first byte of the input is its [`Manner`], the rest is what it sends behind its CONNECT.
pub fn mqtt3(input: &[u8]) {
    client(Version::V3, input);
}

/// A client of MQTT 5, as [`mqtt3`].
pub fn mqtt5(input: &[u8]) {
    client(Version::V5, input);
}

/// How a client sends its bytes, and to which listener.
#[derive(Clone, Copy)]
struct Manner {
    /// How many bytes it writes at a time.
    at_a_time: usize,
    /// It keeps the connection when it has sent them.
    stays: bool,
    /// It repeats its last byte [`FILLER`] times.
    fills: bool,
    /// The listener keeps packets that are too large, refuses subscriptions, and lets the client publish to one organisation only.
    is_strict: bool,
    /// The bytes begin with the CONNECT.
    is_raw: bool,
}

impl Manner {
    fn of(byte: u8) -> Self {
        let has = |bit: u8| byte & bit != 0;
        Self { at_a_time: 1 << (byte & 0xf), stays: has(0x10), fills: has(0x20), is_strict: has(0x40), is_raw: has(0x80) }
    }
}

fn client(version: Version, input: &[u8]) {
    let Some((first, bytes)) = input.split_first() else { return };
    let (manner, connect) = (Manner::of(*first), if version == Version::V3 { CONNECT_V3 } else { CONNECT_V5 });
    let sent = if manner.is_raw { bytes.to_vec() } else { [connect, bytes].concat() };
    let (answers, appended) = play(manner, &sent);
    check(&answers, version_of(&sent), appended);
}

/// The version that the client speaks, where its CONNECT is whole and names one.
fn version_of(sent: &[u8]) -> Option<Version> {
    packets::next(sent, usize::MAX).ok().flatten().and_then(|raw| raw.version().ok())
}

/// Sends bytes to a listener. Returns its answers, and how many packets it appended for groups.
fn play(manner: Manner, sent: &[u8]) -> (Vec<u8>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("it needs no resources");
    runtime.block_on(async {
        let queue = Counting::new();
        let (shared, _stop) = listener(&queue, manner.is_strict);
        let (near, far) = duplex(PIPE);
        let entered = Entered { stream: Stream::Layered(Box::new(near)), address: ([127, 0, 0, 1], 7).into(), certificates: Vec::new() };
        let seat = Seats::new(shared.limits.clone()).take().expect("it is the only one");
        let served = connection::serve_entered(entered, shared, seat, Instant::now() + Duration::from_secs(10));
        let (answers, _will) = tokio::join!(talk(far, manner, sent), served);
        (answers, queue.appended.load(Ordering::Relaxed))
    })
}

/// A listener's state without its socket, and what stops it.
fn listener(queue: &Arc<Counting>, is_strict: bool) -> (Arc<Shared>, watch::Sender<bool>) {
    static REGISTRY: LazyLock<Arc<Registry>> = LazyLock::new(|| {
        let mut builder = RegistryBuilder::default();
        builder.webhook(Webhook::new("w", "http://a.example/".parse().expect("it is a URL"))).expect("it is the only one");
        builder.group("mti/line".parse().expect("it is a group"), Some("w"), true).expect("its webhook is there");
        Arc::new(builder.build())
    });
    let mut options = Options::new(([127, 0, 0, 1], 0).into(), vec!["{org}/{iccid}".parse().expect("it is a pattern")]);
    options.max_payload_bytes = MAX_PAYLOAD;
    options.limits.client_id_bytes = 30;
    if is_strict {
        options.too_large = TooLarge::DeadLetter(2 * MAX_PAYLOAD);
        options.subscriptions = Subscriptions::Refuse;
        options.allow_topics = vec!["mti/#".parse().expect("it is a rule")];
    }
    let (stop, stopped) = watch::channel(false);
    let registry = Arc::new(ArcSwap::new(Arc::clone(&REGISTRY)));
    let ingest = Ingest::new(Arc::clone(queue) as Arc<dyn Queue>, registry, Ingest::UNACKNOWLEDGED_BYTES, stopped);
    let (shared, _) = Shared::new(options, ingest, Arc::new(Clients::default())).expect("it reads no files");
    (Arc::new(shared), stop)
}

/// The client's end: it sends, and reads meanwhile; then it closes, or waits until the listener does. Returns what it has read.
async fn talk(far: DuplexStream, manner: Manner, sent: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = split(far);
    let mut answers = Vec::new();
    let send = async {
        // The listener may have closed.
        let sent = write_all(&mut write, manner, sent).await;
        if manner.stays && sent.is_ok() {
            sleep(STAYS).await;
        }
        drop(write.shutdown().await);
    };
    let hear = async { read.read_to_end(&mut answers).await.expect("a pipe has no errors") };
    // The listener may close long before a client that stays.
    let mut send = std::pin::pin!(send);
    let mut hear = std::pin::pin!(hear);
    let mut is_sending = true;
    std::future::poll_fn(|cx| {
        if is_sending && send.as_mut().poll(cx).is_ready() {
            is_sending = false;
        }
        hear.as_mut().poll(cx)
    })
    .await;
    answers
}

async fn write_all(write: &mut WriteHalf<DuplexStream>, manner: Manner, sent: &[u8]) -> io::Result<()> {
    for block in sent.chunks(manner.at_a_time) {
        write.write_all(block).await?;
    }
    let filler = sent.last().filter(|_| manner.fills).map_or(Vec::new(), |last| vec![*last; FILLER]);
    write.write_all(&filler).await
}

/// Whole packets of a server, in an order that MQTT allows: CONNACK first and once, nothing behind a refusal or a DISCONNECT. And no more packets are
/// acknowledged as wanted than were appended.
fn check(answers: &[u8], version: Option<Version>, appended: usize) {
    let mut rest = answers;
    let (mut count, mut is_over, mut wanted) = (0, false, 0);
    while let Some((&first, behind)) = rest.split_first() {
        assert!(!is_over, "an answer follows the last one: {answers:x?}");
        let (length, header) = fields::variable(behind).expect("the length is MQTT").expect("the length is whole");
        let body = behind.get(header..header + length).expect("the packet is whole");
        rest = &behind[header + length..];
        assert_eq!(count == 0, first == 0x20, "CONNACK is the first answer, and only that: {answers:x?}");
        match (first, body) {
            (0x20, [0, reason, ..]) => is_over = *reason != 0,
            (0x40 | 0x50 | 0x70, [_, _]) => wanted += usize::from(first == 0x40),
            (0x40 | 0x50 | 0x70, [_, _, reason, ..]) if version == Some(Version::V5) => assert_ne!(*reason, 0),
            (0x90 | 0xb0, [_, _, ..]) | (0xd0, []) => {}
            (0xe0, [_, ..]) if version == Some(Version::V5) => is_over = true,
            _ => unreachable!("no answer of this version: {answers:x?}"),
        }
        count += 1;
    }
    // MQTT 3.1.1 has one PUBACK for all.
    assert!(version != Some(Version::V5) || wanted <= appended, "{wanted} packets acknowledged, {appended} appended: {answers:x?}");
}

/// A queue that counts what is appended for groups.
struct Counting {
    kept: Arc<Memory>,
    appended: AtomicUsize,
}

impl Counting {
    fn new() -> Arc<Self> {
        Arc::new(Self { kept: Memory::new(), appended: AtomicUsize::new(0) })
    }
}

impl Append for Counting {
    fn append(&self, batch: &[Record<'_>]) -> Appended {
        self.appended.fetch_add(batch.len(), Ordering::Relaxed);
        let (resolver, appended) = Appended::pending();
        resolver.resolve(Ok(()));
        appended
    }
}

impl Queue for Counting {
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_input_of_the_corpus_ends_in_answers_that_mqtt_allows() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let inputs: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(!inputs.is_empty(), "{name} has no corpus");
            for input in inputs {
                // An input that fails is the last one that is printed.
                println!("{}", input.display());
                target(&fs::read(&input).unwrap());
            }
        }
    }

    #[test]
    fn a_client_reaches_its_answers_through_the_pipe() {
        const PUBLISH: &[u8] = b"\x32\x0b\0\x05mti/1\0\x07\0A";
        let heard = |manner: u8, sent: &[u8]| play(Manner::of(manner), sent);
        let (answers, appended) = heard(0x8f, &[CONNECT_V5, PUBLISH].concat());
        assert!(answers.starts_with(b"\x20") && answers.ends_with(b"\x40\x02\0\x07"), "{answers:x?}");
        assert_eq!(appended, 1);
        assert_eq!(heard(0x8f, b"\x10\x0d\0\x04MQTT\x06\x02\0\x3c\0\x01d").0, b"\x20\x02\0\x01");
        // A client that stays is closed by its keep-alive, or because it never sends its CONNECT.
        assert!(heard(0x90, CONNECT_V5).0.ends_with(b"\xe0\x02\x8d\0"));
        assert_eq!(heard(0x90, b"\x10"), (vec![], 0));
        // A payload that is longer than any that is kept is passed over, and what stands behind it isn't taken for its rest.
        let large = [CONNECT_V5, b"\x32\x89\xc0\x0c\0\x05mti/1\0\x07\0A"].concat();
        let (answers, appended) = heard(0xef, &large);
        assert!(answers.ends_with(b"\x40\x03\0\x07\x10"), "{answers:x?}");
        assert_eq!(appended, 0);
    }

    #[test]
    #[should_panic(expected = "1 packets acknowledged, 0 appended")]
    fn a_packet_that_is_acknowledged_and_not_appended_is_found() {
        check(b"\x20\x03\0\0\0\x40\x02\0\x07", Some(Version::V5), 0);
    }
}
