//! One client's connection: the driver around the pure modules. It reads the socket, appends the packets of each read as one batch, and acknowledges the
//! batch when it is durable.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Buf, BytesMut};
use pushline_model::{Timestamp, TopicPattern};
use pushline_queue::AppendError;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, sleep_until, timeout},
};

use crate::{Ingest, commits::Commits, intake::Intake};

use super::{
    DisconnectReason,
    client_ids::{ClaimedClientId, ClientIds},
    connect::Connect,
    encode,
    packets::{self, Packet, Version},
};

/// The listener refuses a CONNECT that takes longer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The listener closes a connection whose client reads nothing for this long, and one that couldn't be read for this long while storage is away.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an ending connection waits for commits that it still has to acknowledge.
const LAST_ACKS_DEADLINE: Duration = Duration::from_secs(5);

/// The bounds of one read, in bytes.
const MIN_READ: usize = 2 << 10;
const MAX_READ: usize = 64 << 10;

/// The state that all connections of a listener share.
pub(crate) struct Shared {
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) topics: Vec<TopicPattern>,
    pub(crate) max_payload: usize,
    pub(crate) client_ids: Arc<ClientIds>,
}

/// A connection, from its first byte to its last acknowledgement.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    reader: OwnedReadHalf,
    /// `None` once a write didn't finish: a further byte would continue the torn packet.
    writer: Option<OwnedWriteHalf>,
    buffer: BytesMut,
    read_next: usize,
    /// The acknowledgements are bytes to write: whole PUBACKs.
    commits: Commits<u8>,
}

/// Why a connection ends.
enum End {
    /// The client closed the connection or sent DISCONNECT.
    Left,
    Refused(DisconnectReason),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Left
    }
}

impl From<DisconnectReason> for End {
    fn from(reason: DisconnectReason) -> Self {
        Self::Refused(reason)
    }
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        let (reader, writer) = stream.into_split();
        let commits = Commits::new(Arc::clone(&shared.ingest), "listener");
        Self { shared, reader, writer: Some(writer), buffer: BytesMut::new(), read_next: MIN_READ, commits }
    }

    /// Serves the client until it leaves or is refused.
    pub(crate) async fn run(mut self) {
        let ingest = Arc::clone(&self.shared.ingest);
        let connect = tokio::select! {
            connect = timeout(CONNECT_DEADLINE, self.connect()) => connect.unwrap_or(Err(DisconnectReason::ConnectTimeout.into())),
            () = ingest.stopped() => Err(DisconnectReason::ServerShuttingDown.into()),
        };
        let connect = match connect {
            Ok(connect) => connect,
            Err(end) => return self.end(None, end).await,
        };
        let client_id =
            if connect.client_id.is_empty() { format!("pushline-{:016x}", fastrand::u64(..)) } else { connect.client_id.clone() };
        let claimed = self.shared.client_ids.claim(&client_id);
        let connack = encode::connack_accepted(
            &connect,
            connect.client_id.is_empty().then_some(&client_id),
            packets::packet_limit(self.shared.max_payload),
        );
        if connack.len() > connect.largest_answer() {
            let end = self.refuse(connect.version, connect.largest_answer(), DisconnectReason::AnswerTooLarge).await;
            return self.end(None, end).await;
        }
        let end = match self.write(&connack).await {
            Ok(()) => self.serve(&connect, &claimed).await,
            Err(end) => end,
        };
        self.end(Some(connect.version), end).await;
    }

    /// Waits for CONNECT. A refused client gets its CONNACK here, in its own protocol version.
    async fn connect(&mut self) -> Result<Connect, End> {
        let (version, connect) = loop {
            if !packets::begins_like_connect(&self.buffer) {
                return Err(DisconnectReason::MalformedPacket.into());
            }
            if let Some(raw) = packets::next(&self.buffer, packets::packet_limit(self.shared.max_payload))? {
                let (version, length) = (raw.version(), raw.len());
                let connect = version.and_then(|version| raw.connect(version));
                self.buffer.advance(length);
                break (version, connect);
            }
            self.read().await?;
        };
        let (largest_answer, reason) = match connect {
            Err(reason) => (usize::MAX, reason),
            Ok(connect) => match self.reason_to_refuse(&connect) {
                None => return Ok(connect),
                Some(reason) => (connect.largest_answer(), reason),
            },
        };
        // MQTT 3.1.1 §3.1.2.2 defines the answer to a client of an unknown version.
        Err(self.refuse(version.unwrap_or(Version::V3), largest_answer, reason).await)
    }

    /// Sends the CONNACK that refuses the client, if the client takes one of this size.
    async fn refuse(&mut self, version: Version, largest_answer: usize, reason: DisconnectReason) -> End {
        let connack = encode::connack_refused(version, reason);
        if connack.len() <= largest_answer
            && let Err(end) = self.write(&connack).await
        {
            return end;
        }
        reason.into()
    }

    fn reason_to_refuse(&self, connect: &Connect) -> Option<DisconnectReason> {
        // MQTT 3.1.1 §3.1.3.1: a client without an id can't keep a session.
        if connect.client_id.is_empty() && !connect.clean && connect.version == Version::V3 {
            return Some(DisconnectReason::ClientIdentifierNotValid);
        }
        if connect.has_authentication_method {
            return Some(DisconnectReason::BadAuthenticationMethod);
        }
        if connect.will_qos2 {
            return Some(DisconnectReason::QosNotSupported);
        }
        (!self.shared.ingest.budget.has_capacity()).then_some(DisconnectReason::ServerBusy)
    }

    async fn serve(&mut self, connect: &Connect, claimed: &ClaimedClientId) -> End {
        let ingest = Arc::clone(&self.shared.ingest);
        // MQTT 5 §3.1.2.10: one and a half times the keep-alive.
        let keep_alive_timeout = (connect.keep_alive > 0).then(|| Duration::from_secs(connect.keep_alive.into()) * 3 / 2);
        let mut last_read = Instant::now();
        let mut result = self.handle_packets(connect).await;
        while result.is_ok() {
            let has_capacity = ingest.budget.has_capacity();
            let deadline = if has_capacity {
                keep_alive_timeout.map(|keep_alive_timeout| last_read + keep_alive_timeout)
            } else {
                Some(last_read + STALL_TIMEOUT)
            };
            self.buffer.reserve(self.read_next);
            // The order is random: reading and acknowledging each handle all that is ready, so neither starves the other.
            result = tokio::select! {
                read = self.reader.read_buf(&mut self.buffer), if has_capacity => {
                    last_read = Instant::now();
                    match self.after_read(read) {
                        Ok(()) => self.handle_packets(connect).await,
                        Err(end) => Err(end),
                    }
                }
                durable = self.commits.durable(), if !self.commits.is_empty() => self.acknowledge(durable).await,
                () = ingest.budget.capacity(), if !has_capacity => {
                    last_read = Instant::now();
                    Ok(())
                }
                () = at(deadline) => Err(if has_capacity { DisconnectReason::KeepAliveTimeout } else { DisconnectReason::ServerBusy }.into()),
                () = claimed.taken_over() => Err(DisconnectReason::SessionTakenOver.into()),
                () = ingest.stopped() => Err(DisconnectReason::ServerShuttingDown.into()),
            };
        }
        result.err().unwrap_or(End::Left)
    }

    // --- Reading

    async fn read(&mut self) -> Result<(), End> {
        self.buffer.reserve(self.read_next);
        let read = self.reader.read_buf(&mut self.buffer).await;
        self.after_read(read)
    }

    /// A read that fills its buffer is followed by a larger one, so that an idle client holds little memory.
    fn after_read(&mut self, read: io::Result<usize>) -> Result<(), End> {
        match read? {
            0 => Err(End::Left),
            n if n >= self.read_next => {
                self.read_next = (self.read_next * 2).min(MAX_READ);
                Ok(())
            }
            n => {
                self.read_next = (self.read_next / 2).max(n).max(MIN_READ);
                Ok(())
            }
        }
    }

    /// Handles every whole packet of the buffer.
    async fn handle_packets(&mut self, connect: &Connect) -> Result<(), End> {
        let (shared, version) = (Arc::clone(&self.shared), connect.version);
        let (registry, budget) = (shared.ingest.registry.load(), &shared.ingest.budget);
        let mut intake = Intake::new(&registry, &shared.topics, Timestamp::of(SystemTime::now()));
        let (mut at, mut answers, mut acks) = (0, Vec::new(), Vec::new());
        let end = loop {
            let raw = match packets::next(&self.buffer[at..], packets::packet_limit(shared.max_payload)) {
                Ok(Some(raw)) => raw,
                Ok(None) => break None,
                Err(reason) => break Some(End::Refused(reason)),
            };
            at += raw.len();
            match raw.read(version, shared.max_payload) {
                Ok(Packet::Publish(publish)) => {
                    let matched = intake.publish(&publish, budget.has_capacity());
                    publish.id.into_iter().for_each(|id| encode::puback(version, id, matched, &mut acks));
                }
                Ok(Packet::Ping) => encode::pingresp(&mut answers),
                Ok(Packet::Subscribe(id, filters)) if encode::suback_len(filters) <= connect.largest_answer() => {
                    encode::suback(version, id, filters, &mut answers);
                }
                Ok(Packet::Unsubscribe(id, filters)) if encode::suback_len(filters) <= connect.largest_answer() => {
                    encode::unsuback(version, id, filters, &mut answers);
                }
                Ok(Packet::Subscribe(..) | Packet::Unsubscribe(..)) => break Some(End::Refused(DisconnectReason::AnswerTooLarge)),
                Ok(Packet::Disconnect) => break Some(End::Left),
                Err(reason) => break Some(End::Refused(reason)),
            }
        };
        self.commits.append(intake, acks, at);
        drop(registry);
        self.buffer.advance(at);
        if self.buffer.is_empty() && self.buffer.capacity() > 2 * self.read_next {
            self.buffer = BytesMut::new();
        }
        if !answers.is_empty() {
            self.write(&answers).await?;
        }
        end.map_or(Ok(()), Err)
    }

    // --- Acknowledging

    /// Writes the acknowledgements of what is durable.
    async fn acknowledge(&mut self, durable: Result<Vec<u8>, AppendError>) -> Result<(), End> {
        let acks = durable.map_err(|_| DisconnectReason::StorageFailed)?;
        self.write(&acks).await
    }

    /// Writes all bytes. After a write that didn't finish, by its own timeout or because its caller was cancelled, nothing is written any more: the client
    /// would take it for the rest of the torn packet.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer.take().ok_or(End::Left)?;
        timeout(STALL_TIMEOUT, writer.write_all(bytes)).await.map_err(|_| End::Left)??;
        self.writer = Some(writer);
        Ok(())
    }

    /// Ends the connection. It acknowledges what was appended if the client still reads, and counts it in any case.
    async fn end(mut self, version: Option<Version>, end: End) {
        let last_acks = async {
            while !self.commits.is_empty() {
                let durable = self.commits.durable().await;
                if self.acknowledge(durable).await.is_err() {
                    break;
                }
            }
        };
        drop(timeout(LAST_ACKS_DEADLINE, last_acks).await);
        if let End::Refused(reason) = end {
            self.commits.count(reason.label(), 1);
            if let Some(version) = version {
                drop(self.write(&encode::disconnect(version, reason)).await);
            }
        }
        if let Some(mut writer) = self.writer {
            drop(writer.shutdown().await);
        }
        // After the deadline the rest is still counted when it is durable.
        self.commits.count_later();
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        None => std::future::pending().await,
        Some(deadline) => sleep_until(deadline).await,
    }
}
