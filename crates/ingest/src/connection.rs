//! One client's connection: the driver around the pure parts. It reads, appends what each read brought as one batch, and acknowledges when
//! that is durable.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use metrics::{Histogram, counter, histogram};
use pushline_model::{DeadLetter, Registry, Timestamp, TopicPattern};
use pushline_queue::{AppendError, Appended, DeadLetters, Queue, metrics::DEAD_LETTERED};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Refusal, answers,
    budget::{Budget, Lease},
    intake::Intake,
    metrics as names,
    packets::{self, Connect, Packet, Version},
    sessions::{Session, Sessions},
};

/// A CONNECT that takes longer is refused.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A client that takes nothing for so long is given up; so is one that couldn't be read for so long since storage is away.
const STALLED: Duration = Duration::from_secs(30);

/// How long a connection that ends waits for what it still has to acknowledge.
const LAST_ACKS: Duration = Duration::from_secs(5);

/// The least and the most that is read at once.
const READ_LEAST: usize = 2 << 10;
const READ_MOST: usize = 64 << 10;

/// What all connections of a listener share.
pub(crate) struct Shared {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) unrouted: DeadLetters,
    pub(crate) registry: Arc<ArcSwap<Registry>>,
    pub(crate) topics: Vec<TopicPattern>,
    pub(crate) max_payload: usize,
    pub(crate) budget: Arc<Budget>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// A connection.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    reader: OwnedReadHalf,
    /// Gone once a write didn't finish.
    writer: Option<OwnedWriteHalf>,
    buffer: BytesMut,
    read_next: usize,
    /// Read and not yet durable, in order.
    commits: VecDeque<Commit>,
    ack_seconds: Histogram,
}

/// What one read brought, on its way to the disk.
struct Commit {
    appended: VecDeque<Appended>,
    acks: Vec<u8>,
    packets: u64,
    unrouted: Vec<DeadLetter>,
    read_at: Instant,
    _lease: Lease,
}

/// Why a connection ends.
enum End {
    /// The client went away, or said goodbye.
    Gone,
    Refused(Refusal),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        let (reader, writer) = stream.into_split();
        let ack_seconds = histogram!(names::ACK_SECONDS);
        Self { shared, reader, writer: Some(writer), buffer: BytesMut::new(), read_next: READ_LEAST, commits: VecDeque::new(), ack_seconds }
    }

    /// Serves the client until it goes away or is refused.
    pub(crate) async fn run(mut self) {
        let mut stop = self.shared.stop.clone();
        let connect = tokio::select! {
            connect = timeout(CONNECT_DEADLINE, self.connect()) => connect.unwrap_or(Err(Refusal::NoConnect.into())),
            () = stopped(&mut stop) => Err(Refusal::ShuttingDown.into()),
        };
        let connect = match connect {
            Ok(connect) => connect,
            Err(end) => return self.end(None, end).await,
        };
        let client_id =
            if connect.client_id.is_empty() { format!("pushline-{:016x}", fastrand::u64(..)) } else { connect.client_id.clone() };
        let session = self.shared.sessions.take(&client_id);
        let welcome =
            answers::welcome(&connect, connect.client_id.is_empty().then_some(&client_id), packets::packet_limit(self.shared.max_payload));
        let end = match self.write(&welcome).await {
            Ok(()) => self.serve(&connect, &session).await,
            Err(end) => end,
        };
        self.end(Some(connect.version), end).await;
    }

    /// Waits for CONNECT. A refusal is answered here, in the version that the client speaks.
    async fn connect(&mut self) -> Result<Connect, End> {
        let (version, connect) = loop {
            if !packets::begins_like_connect(&self.buffer) {
                return Err(Refusal::Malformed.into());
            }
            if let Some(raw) = packets::next(&self.buffer, packets::packet_limit(self.shared.max_payload))? {
                let (version, length) = (raw.version(), raw.len());
                let connect = version.and_then(|version| raw.connect(version));
                self.buffer.advance(length);
                break (version, connect);
            }
            self.read().await?;
        };
        let refusal = match connect {
            Err(refusal) => refusal,
            Ok(connect) => match self.refusal(&connect) {
                None => return Ok(connect),
                Some(refusal) => refusal,
            },
        };
        // MQTT 3.1.1 §3.1.2.2 has the answer for who speaks another one.
        self.write(&answers::refuse_connect(version.unwrap_or(Version::V3), refusal)).await?;
        Err(refusal.into())
    }

    fn refusal(&self, connect: &Connect) -> Option<Refusal> {
        // MQTT 3.1.1 §3.1.3.1: without an id there is no session to keep.
        if connect.client_id.is_empty() && !connect.clean && connect.version == Version::V3 {
            return Some(Refusal::ClientId);
        }
        if connect.will_qos2 {
            return Some(Refusal::Qos2);
        }
        (!self.shared.budget.has_room()).then_some(Refusal::Full)
    }

    async fn serve(&mut self, connect: &Connect, session: &Session) -> End {
        let shared = Arc::clone(&self.shared);
        // MQTT 5 §3.1.2.10: one and a half times the keep-alive.
        let patience = (connect.keep_alive > 0).then(|| Duration::from_secs(connect.keep_alive.into()) * 3 / 2);
        let mut stop = shared.stop.clone();
        let mut heard = Instant::now();
        let mut result = self.take_in(connect.version).await;
        while result.is_ok() {
            let has_room = shared.budget.has_room();
            let deadline = if has_room { patience.map(|patience| heard + patience) } else { Some(heard + STALLED) };
            self.buffer.reserve(self.read_next);
            // The order is left to chance: reading and acknowledging each take all that is ready, so neither starves the other.
            result = tokio::select! {
                read = self.reader.read_buf(&mut self.buffer), if has_room => {
                    heard = Instant::now();
                    match self.after_read(read) {
                        Ok(()) => self.take_in(connect.version).await,
                        Err(end) => Err(end),
                    }
                }
                durable = front(&mut self.commits), if !self.commits.is_empty() => self.acknowledge(durable).await,
                () = shared.budget.room(), if !has_room => {
                    heard = Instant::now();
                    Ok(())
                }
                () = at(deadline) => Err(if has_room { Refusal::KeepAlive } else { Refusal::Full }.into()),
                () = session.taken_over() => Err(Refusal::TakenOver.into()),
                () = stopped(&mut stop) => Err(Refusal::ShuttingDown.into()),
            };
        }
        result.err().unwrap_or(End::Gone)
    }

    // --- reading

    async fn read(&mut self) -> Result<(), End> {
        self.buffer.reserve(self.read_next);
        let read = self.reader.read_buf(&mut self.buffer).await;
        self.after_read(read)
    }

    /// A read that filled what it was given is followed by a larger one; an idle client holds little.
    fn after_read(&mut self, read: io::Result<usize>) -> Result<(), End> {
        match read? {
            0 => Err(End::Gone),
            n if n >= self.read_next => {
                self.read_next = (self.read_next * 2).min(READ_MOST);
                Ok(())
            }
            n => {
                self.read_next = (self.read_next / 2).max(n).max(READ_LEAST);
                Ok(())
            }
        }
    }

    /// Takes in every whole packet of the buffer.
    async fn take_in(&mut self, version: Version) -> Result<(), End> {
        let shared = Arc::clone(&self.shared);
        let registry = shared.registry.load();
        let mut intake = Intake::new(&registry, &shared.topics, version, Timestamp::of(SystemTime::now()));
        let (mut at, mut answers) = (0, Vec::new());
        let refused = loop {
            let raw = match packets::next(&self.buffer[at..], packets::packet_limit(shared.max_payload)) {
                Ok(Some(raw)) => raw,
                Ok(None) => break None,
                Err(refusal) => break Some(End::Refused(refusal)),
            };
            at += raw.len();
            match raw.read(version, shared.max_payload) {
                Ok(Packet::Publish(publish)) => intake.publish(&publish, shared.budget.has_room()),
                Ok(Packet::Ping) => answers::pingresp(&mut answers),
                Ok(Packet::Subscribe(id, filters)) => answers::suback(version, id, filters, &mut answers),
                Ok(Packet::Unsubscribe(id, filters)) => answers::unsuback(version, id, filters, &mut answers),
                Ok(Packet::Disconnect) => break Some(End::Gone),
                Err(refusal) => break Some(End::Refused(refusal)),
            }
        };
        let commit = append(&shared, intake, at);
        drop(registry);
        self.commits.extend(commit);
        self.buffer.advance(at);
        if self.buffer.is_empty() && self.buffer.capacity() > 2 * self.read_next {
            self.buffer = BytesMut::new();
        }
        if !answers.is_empty() {
            self.write(&answers).await?;
        }
        refused.map_or(Ok(()), Err)
    }

    // --- acknowledging

    /// The first commit is durable, or never will be. Those behind it that are durable too are acknowledged in the same write.
    async fn acknowledge(&mut self, mut durable: Result<(), AppendError>) -> Result<(), End> {
        let mut acks = Vec::new();
        while let Some(commit) = self.commits.pop_front() {
            if durable.is_err() {
                return Err(Refusal::Storage.into());
            }
            commit.count();
            self.ack_seconds.record(commit.read_at.elapsed());
            if acks.is_empty() {
                acks = commit.acks
            } else {
                acks.extend_from_slice(&commit.acks)
            }
            match front(&mut self.commits).now_or_never() {
                Some(next) => durable = next,
                None => break,
            }
        }
        self.write(&acks).await
    }

    /// Where it doesn't finish, by its own time or its caller's, nothing is written any more: the client would take that for the rest of the packet that
    /// was torn.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer.take().ok_or(End::Gone)?;
        timeout(STALLED, writer.write_all(bytes)).await.map_err(|_| End::Gone)??;
        self.writer = Some(writer);
        Ok(())
    }

    /// What was appended is still acknowledged where the client may be listening, and counted in any case.
    async fn end(mut self, version: Option<Version>, end: End) {
        let last_acks = async {
            while !self.commits.is_empty() {
                let durable = front(&mut self.commits).await;
                if self.acknowledge(durable).await.is_err() {
                    break;
                }
            }
        };
        // Past its time the rest is still counted when it is durable.
        if timeout(LAST_ACKS, last_acks).await.is_err() || !self.commits.is_empty() {
            tokio::spawn(count_later(std::mem::take(&mut self.commits)));
        }
        if let End::Refused(refusal) = end {
            counter!(names::PACKETS, "source" => "listener", "result" => refusal.result()).increment(1);
            if let Some(version) = version {
                drop(self.write(&answers::disconnect(version, refusal)).await);
            }
        }
        if let Some(mut writer) = self.writer {
            drop(writer.shutdown().await);
        }
    }
}

/// What a packet takes beside its bytes until it is durable, at the most: librdkafka's message, key and header.
const AROUND: usize = 512;

fn append(shared: &Shared, intake: Intake<'_>, bytes: usize) -> Option<Commit> {
    counter!(names::PACKETS, "source" => "listener", "result" => "dropped").increment(intake.dropped);
    if intake.records.is_empty() && intake.unrouted.is_empty() {
        return None;
    }
    let mut appended = VecDeque::new();
    if !intake.records.is_empty() {
        appended.push_back(shared.queue.append(&intake.records));
    }
    if !intake.unrouted.is_empty() {
        appended.push_back(shared.unrouted.append_all(&intake.unrouted));
    }
    let packets = intake.records.len() as u64;
    let lease = shared.budget.lease(bytes + AROUND * (intake.records.len() + intake.unrouted.len()));
    Some(Commit { appended, acks: intake.acks, packets, unrouted: intake.unrouted, read_at: Instant::now(), _lease: lease })
}

impl Commit {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AppendError>> {
        while let Some(appended) = self.appended.front_mut() {
            let result = ready!(Pin::new(appended).poll(cx));
            self.appended.pop_front();
            result?;
        }
        Poll::Ready(Ok(()))
    }

    fn count(&self) {
        let of = |result, count| counter!(names::PACKETS, "source" => "listener", "result" => result).increment(count);
        of("appended", self.packets);
        for letter in &self.unrouted {
            of(letter.cause.name(), 1);
            counter!(DEAD_LETTERED, "cause" => letter.cause.name()).increment(1);
        }
    }
}

/// Cancel safe: what is durable is remembered in the commit.
async fn front(commits: &mut VecDeque<Commit>) -> Result<(), AppendError> {
    poll_fn(|cx| commits.front_mut().map_or(Poll::Pending, |commit| commit.poll(cx))).await
}

async fn count_later(mut commits: VecDeque<Commit>) {
    while !commits.is_empty() {
        let durable = front(&mut commits).await;
        if let (Ok(()), Some(commit)) = (durable, commits.pop_front()) {
            commit.count();
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        None => std::future::pending().await,
        Some(deadline) => sleep_until(deadline).await,
    }
}
