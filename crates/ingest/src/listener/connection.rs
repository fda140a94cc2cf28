//! One client's connection: the driver around the pure modules. It reads the socket, appends the packets of each read as one batch, and acknowledges the
//! batch when it is durable.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};
use metrics::counter;
use pushline_model::Timestamp;
use pushline_queue::{AppendError, OpenSession, OpenedSession, PacketIds, Session, SessionKey};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use crate::{commits::Commits, intake::Intake, metrics as names};

use super::{
    DisconnectReason, TooLarge,
    access::{ClientIdentity, Denied},
    connect::Connect,
    delayed_will::DelayedWill,
    devices::Connected,
    encode::{self, Ack, Connack},
    entrance::{Entered, NotEntered},
    even_rate::ReadRate,
    in_flight::InFlight,
    limits::Seat,
    one_read::{Ending, Fault, OneRead, Terms},
    packets::{self, Disconnect, Version},
    shared::{Shared, Who, now},
    stream::Stream,
    will::{Farewell, Fate, HeldWill},
};

/// The listener refuses a client whose CONNECT comes later: load balancer, TLS and WebSocket included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The largest CONNECT, in bytes: a will of 64 KiB, and what stands beside it. A client that hasn't proved anything yet can't take more memory.
const LARGEST_CONNECT: usize = 96 << 10;

/// The listener closes a connection whose client reads nothing for this long, and one that couldn't be read for this long while storage is away.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the queue may take to make a session durable before its client is told to come again.
const SESSION_DEADLINE: Duration = Duration::from_secs(10);

/// How long an ending connection waits for commits that it still has to acknowledge.
const LAST_ACKS_DEADLINE: Duration = Duration::from_secs(5);

/// The bounds of one read, in bytes.
const MIN_READ: usize = 2 << 10;
const MAX_READ: usize = 64 << 10;

/// A connection, from its first byte of MQTT to its last acknowledgement.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    stream: Stream,
    /// A write didn't finish: a further byte would continue the torn packet.
    is_torn: bool,
    address: SocketAddr,
    certificates: Vec<CertificateDer<'static>>,
    buffer: BytesMut,
    /// How many of the next bytes belong to a packet that is too large to be kept.
    discard: usize,
    read_next: usize,
    rate: ReadRate,
    commits: Commits<Ack>,
    in_flight: InFlight,
}

/// A client that was let in.
pub(crate) struct Client {
    version: Version,
    /// In seconds; 0: none.
    keep_alive: u16,
    /// The most bytes that an answer may have.
    largest_answer: usize,
    identity: ClientIdentity,
    pub(crate) connected: Connected,
    /// `None`: the session ends with its connection.
    session: Option<Arc<dyn Session>>,
    /// Whether CONNECT asked for a session that outlives its connection.
    may_set_expiry: bool,
    /// How long the session outlives the connection.
    session_expiry: Duration,
    will: Option<HeldWill>,
}

/// Why a connection ends.
enum End {
    /// The client has sent DISCONNECT.
    Disconnected(Disconnect),
    /// The connection is closed or broken.
    Left,
    Refused(Fault),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Left
    }
}

impl From<DisconnectReason> for End {
    fn from(reason: DisconnectReason) -> Self {
        Self::Refused(Fault { reason, topic: None, length: None })
    }
}

impl From<AppendError> for End {
    fn from(error: AppendError) -> Self {
        DisconnectReason::from(error).into()
    }
}

impl From<AppendError> for DisconnectReason {
    fn from(error: AppendError) -> Self {
        if error == AppendError::SessionTakenOver { Self::SessionTakenOver } else { Self::StorageFailed }
    }
}

/// Serves the client of an accepted socket until it leaves or is refused. Returns its will if that is published later.
pub(crate) async fn serve(tcp: TcpStream, peer: SocketAddr, shared: Arc<Shared>, mut seat: Seat) -> Option<DelayedWill> {
    let (ingest, deadline) = (Arc::clone(&shared.ingest), Instant::now() + CONNECT_DEADLINE);
    // Boxes: what only the way in needs isn't part of an idle connection.
    let entered = tokio::select! {
        entered = timeout_at(deadline, Box::pin(shared.entrance.enter(tcp, peer, &mut seat))) => entered.unwrap_or_else(|_| Err(NotEntered::too_late(peer))),
        () = ingest.stopped() => return None,
    };
    let entered = match entered {
        Ok(entered) => entered,
        Err(NotEntered::Left) => return None,
        Err(NotEntered::Refused { address, reason, detail }) => {
            shared.refused(address, ("", None), reason, None, &detail);
            return None;
        }
    };
    serve_entered(entered, shared, seat, deadline).await
}

/// Serves a client whose bytes are MQTT. Its CONNECT has to come until the deadline. Returns its will if that is published later.
pub(super) async fn serve_entered(entered: Entered, shared: Arc<Shared>, mut seat: Seat, deadline: Instant) -> Option<DelayedWill> {
    let ingest = Arc::clone(&shared.ingest);
    let mut connection = Connection::new(entered, shared);
    let client = tokio::select! {
        client = Box::pin(connection.open(deadline)) => client,
        () = ingest.stopped() => Err(DisconnectReason::ServerShuttingDown.into()),
    };
    seat.connected();
    match client {
        Ok(client) => {
            let end = connection.serve(&client).await;
            connection.part_with(client, end).await
        }
        Err(end) => {
            connection.end(None, end).await;
            None
        }
    }
}

impl Connection {
    fn new(entered: Entered, shared: Arc<Shared>) -> Self {
        let Entered { stream, address, certificates } = entered;
        let commits = Commits::new(Arc::clone(&shared.ingest), "listener");
        let rate = ReadRate::new(shared.limits.packet_rate, shared.limits.byte_rate, Instant::now().into_std());
        let (buffer, in_flight) = (BytesMut::new(), InFlight::new(PacketIds::default(), usize::MAX));
        Self { shared, stream, is_torn: false, address, certificates, buffer, discard: 0, read_next: MIN_READ, rate, commits, in_flight }
    }

    // --- Opening

    /// Waits for CONNECT, and answers it. A refused client gets its CONNACK here, in its own protocol version.
    async fn open(&mut self, deadline: Instant) -> Result<Client, End> {
        let (version, connect) = timeout_at(deadline, self.read_connect()).await.map_err(|_| DisconnectReason::ConnectTimeout)??;
        let (largest_answer, who, admitted) = match &connect {
            Ok(connect) => {
                (connect.largest_answer(), (connect.client_id.as_str(), connect.user_name.as_deref()), self.admit(connect).await)
            }
            Err(reason) => (usize::MAX, ("", None), Err((*reason).into())),
        };
        match admitted {
            Ok((client, connack)) => self.write(&connack).await.map(|()| client),
            Err(Denied { reason, detail }) => {
                self.shared.refused(self.address, who, reason, None, &detail);
                // MQTT 3.1.1 §3.1.2.2 defines the answer to a client of an unknown version.
                let connack = encode::connack_refused(version.unwrap_or(Version::V3), reason);
                if connack.len() <= largest_answer {
                    self.write(&connack).await?;
                }
                Err(End::Left)
            }
        }
    }

    /// The version is told apart, so that a refusal of the rest can be encoded in it.
    async fn read_connect(&mut self) -> Result<(Result<Version, DisconnectReason>, Result<Connect, DisconnectReason>), End> {
        loop {
            if !packets::begins_like_connect(&self.buffer) {
                return Err(DisconnectReason::MalformedPacket.into());
            }
            if let Some(raw) = packets::next(&self.buffer, LARGEST_CONNECT)? {
                let (version, length) = (raw.version(), raw.len());
                let connect = version.and_then(|version| raw.connect(version));
                self.buffer.advance(length);
                return Ok((version, connect));
            }
            self.read().await?;
        }
    }

    /// Lets a client in, with the CONNACK that it gets.
    async fn admit(&mut self, connect: &Connect) -> Result<(Client, Vec<u8>), Denied> {
        if let Some(reason) = self.reason_to_refuse(connect) {
            return Err(reason.into());
        }
        let shared = Arc::clone(&self.shared);
        let Shared { entrance, clients, max_payload, subscriptions, limits, .. } = &*shared;
        let identity = entrance.identify(connect, &self.certificates, self.address.ip().to_canonical()).await?;
        let assigned = connect.client_id.is_empty().then(|| format!("pushline-{:016x}", fastrand::u64(..)));
        let connack = Connack {
            is_present: false,
            session_expiry: connect.expiry(limits.session_expiry),
            assigned: assigned.as_deref(),
            max_packet: packets::packet_limit(*max_payload),
            receive_maximum: limits.receive_maximum,
            subscriptions: *subscriptions,
        };
        // It has the same length whatever becomes of the session.
        if encode::connack_accepted(connect.version, &connack).len() > connect.largest_answer() {
            return Err(DisconnectReason::AnswerTooLarge.into());
        }
        let client_id = assigned.as_deref().unwrap_or(&connect.client_id);
        let will = self.hold_will(connect, &identity)?;
        let connected = clients.devices.claim(client_id, identity.name.clone(), self.address, connect.clean, now())?;
        clients.reconnects.connected(client_id, identity.name.as_deref(), self.address.ip(), Instant::now().into_std());
        let key = SessionKey { user: identity.name.as_deref(), client_id };
        let (session, is_present) = self.open_session(key, connect).await?;
        let session_expiry = if session.is_some() { connack.session_expiry } else { Duration::ZERO };
        let connack = encode::connack_accepted(connect.version, &Connack { is_present, session_expiry, ..connack });
        let Connect { version, keep_alive, .. } = *connect;
        let (largest_answer, may_set_expiry) = (connect.largest_answer(), connect.session_expiry.is_some_and(|expiry| expiry > 0));
        Ok((Client { version, keep_alive, largest_answer, identity, connected, session, may_set_expiry, session_expiry, will }, connack))
    }

    /// Opens the client's session, which is durable then. Returns it, if it outlives the connection, and whether it was there.
    async fn open_session(&mut self, key: SessionKey<'_>, connect: &Connect) -> Result<(Option<Arc<dyn Session>>, bool), DisconnectReason> {
        let limits = &self.shared.limits;
        let (expiry, max_sessions) = (connect.expiry(limits.session_expiry), limits.sessions);
        let opening = self.shared.ingest.sessions.open(OpenSession { key, clean_start: connect.clean, expiry, max_sessions });
        let opened = timeout(SESSION_DEADLINE, opening).await.map_err(|_| DisconnectReason::ServerBusy)?;
        let OpenedSession { session, is_present, held } = opened?;
        let receive_maximum = if connect.version == Version::V5 { limits.receive_maximum.into() } else { usize::MAX };
        self.in_flight = InFlight::new(held, receive_maximum);
        self.commits.set_session(session.clone());
        Ok((session, is_present))
    }

    fn reason_to_refuse(&self, connect: &Connect) -> Option<DisconnectReason> {
        // MQTT 3.1.1 §3.1.3.1: a client without an id can't keep a session.
        let needs_id = connect.client_id.is_empty() && !connect.clean && connect.version == Version::V3;
        if needs_id || connect.client_id.len() > self.shared.limits.client_id_bytes {
            return Some(DisconnectReason::ClientIdentifierNotValid);
        }
        if connect.has_authentication_method {
            return Some(DisconnectReason::BadAuthenticationMethod);
        }
        (!self.shared.ingest.budget.has_capacity()).then_some(DisconnectReason::ServerBusy)
    }

    /// Keeps the will of a client that may publish it.
    fn hold_will(&self, connect: &Connect, identity: &ClientIdentity) -> Result<Option<HeldWill>, DisconnectReason> {
        let Some(will) = &connect.will else { return Ok(None) };
        if !identity.may_publish(&will.topic) {
            return Err(DisconnectReason::NotAuthorized);
        }
        if self.shared.too_large == TooLarge::Refuse && will.payload.len() > self.shared.max_payload {
            return Err(DisconnectReason::PacketTooLarge);
        }
        HeldWill::new(will, &self.shared.wills).map(Some)
    }

    // --- Serving

    async fn serve(&mut self, client: &Client) -> End {
        let (ingest, mut read_again) = (Arc::clone(&self.shared.ingest), self.shared.read_again.clone());
        // MQTT 5 §3.1.2.10: one and a half times the keep-alive.
        let keep_alive_timeout = (client.keep_alive > 0).then(|| Duration::from_secs(client.keep_alive.into()) * 3 / 2);
        let mut taken_over = client.taken_over();
        let mut last_read = Instant::now();
        let expires = client.identity.expires.and_then(at_wall_time);
        let mut result = self.handle_packets(client).await;
        while result.is_ok() {
            let (all_have, this_has) = (ingest.budget.has_capacity(), self.commits.bytes() < self.shared.limits.unacknowledged_bytes);
            let has_capacity = all_have && this_has;
            let paused = self.rate.due(Instant::now().into_std()).map(Instant::from);
            let deadline = if has_capacity {
                keep_alive_timeout.map(|keep_alive_timeout| paused.unwrap_or(last_read).max(last_read) + keep_alive_timeout)
            } else {
                Some(last_read + STALL_TIMEOUT)
            };
            self.buffer.reserve(self.read_next);
            // The order is random: reading and acknowledging each handle all that is ready, so neither starves the other.
            result = tokio::select! {
                read = self.stream.read_buf(&mut self.buffer), if has_capacity && paused.is_none() => {
                    last_read = Instant::now();
                    match self.after_read(read) {
                        Ok(()) => self.handle_packets(client).await,
                        Err(end) => Err(end),
                    }
                }
                durable = self.commits.durable(), if !self.commits.is_empty() => {
                    if !this_has {
                        last_read = Instant::now();
                    }
                    self.acknowledge(client.version, durable).await
                }
                () = ingest.budget.capacity(), if !all_have => {
                    last_read = Instant::now();
                    Ok(())
                }
                () = at(paused), if paused.is_some() => {
                    // The keep-alive begins anew: the client could say nothing.
                    last_read = Instant::now();
                    Ok(())
                }
                () = at(deadline) => Err(if has_capacity { DisconnectReason::KeepAliveTimeout } else { DisconnectReason::ServerBusy }.into()),
                () = at(expires) => Err(DisconnectReason::LoginExpired.into()),
                reason = client.connected.closed() => Err(reason.into()),
                () = &mut taken_over => Err(DisconnectReason::SessionTakenOver.into()),
                Ok(()) = read_again.changed() => self.check_again(client),
                () = ingest.stopped() => Err(DisconnectReason::ServerShuttingDown.into()),
            };
        }
        result.err().unwrap_or(End::Left)
    }

    /// Certificates and users were read again.
    fn check_again(&self, client: &Client) -> Result<(), End> {
        if self.is_current(client) { Ok(()) } else { Err(DisconnectReason::NotAuthorized.into()) }
    }

    /// Whether the client would still be let in.
    fn is_current(&self, client: &Client) -> bool {
        self.shared.entrance.is_current(&client.identity, &self.certificates)
    }

    // --- Reading

    async fn read(&mut self) -> Result<(), End> {
        self.buffer.reserve(self.read_next);
        let read = self.stream.read_buf(&mut self.buffer).await;
        self.after_read(read)
    }

    /// A read that fills its buffer is followed by a larger one, so that an idle client holds little memory.
    fn after_read(&mut self, read: io::Result<usize>) -> Result<(), End> {
        let read = read?;
        self.rate.read(0, read as u64, Instant::now().into_std());
        match read {
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
    async fn handle_packets(&mut self, client: &Client) -> Result<(), End> {
        let (shared, now) = (Arc::clone(&self.shared), now());
        client.connected.seen(now);
        let passed_over = self.discard.min(self.buffer.len());
        self.buffer.advance(passed_over);
        self.discard -= passed_over;
        let registry = shared.ingest.registry.load();
        let intake = Intake::new(&registry, &shared.topics, now).of_session(client.session.as_ref().map(|session| session.id()));
        let mut read = OneRead::new(client.terms(&shared), &mut self.in_flight, intake);
        let ending = read.handle(&self.buffer);
        let OneRead {
            intake,
            acks,
            answers,
            handled,
            discard,
            packets,
            too_large,
            system_topics,
            resent,
            repeated,
            unauthorised,
            unauthorised_topic,
            ..
        } = read;
        if resent > 0 {
            counter!(names::RESENT_PACKETS).increment(resent);
        }
        if repeated > 0 {
            self.commits.count("repeated", repeated);
        }
        if system_topics > 0 {
            self.commits.count("system_topic", system_topics);
        }
        if unauthorised > 0 {
            let reason = DisconnectReason::NotAuthorized;
            shared.refused(self.address, client.who(), reason, unauthorised_topic, reason.describe());
        }
        if let Some(fault) = too_large {
            let detail = format!("{}; it is a dead letter too_large now", shared.detail(&fault));
            shared.report(self.address, client.who(), fault.reason, fault.topic.as_deref(), &detail);
        }
        self.discard += discard;
        self.commits.append(intake, acks, handled);
        drop(registry);
        self.note_packets(packets);
        self.buffer.advance(handled);
        if self.buffer.is_empty() && self.buffer.capacity() > 2 * self.read_next {
            self.buffer = BytesMut::new();
        }
        if !answers.is_empty() {
            self.write(&answers).await?;
        }
        match ending {
            None => Ok(()),
            Some(Ending::Left(disconnect)) => Err(self.left(client, disconnect)),
            Some(Ending::Refused(fault)) => Err(End::Refused(fault)),
        }
    }

    /// The client has sent DISCONNECT. It may set another expiry of its session, but not one of a session that ends with its connection (§3.14.2.2.2).
    fn left(&self, client: &Client, disconnect: Disconnect) -> End {
        match disconnect.session_expiry {
            Some(expiry) if expiry > 0 && !client.may_set_expiry => return DisconnectReason::ProtocolError.into(),
            Some(expiry) => {
                let expiry = Duration::from_secs(expiry.into()).min(self.shared.limits.session_expiry);
                client.session.iter().for_each(|session| session.set_expiry(expiry));
            }
            None => {}
        }
        End::Disconnected(disconnect)
    }

    /// Counts packets that were handled, and a pause where it begins. The bytes were counted when they were read.
    fn note_packets(&mut self, packets: u64) {
        let now = Instant::now().into_std();
        self.rate.read(packets, 0, now);
        if self.rate.due(now).is_some() {
            counter!(names::RATE_LIMITED).increment(1);
        }
    }

    // --- Acknowledging

    /// Writes the acknowledgements of what is durable.
    async fn acknowledge(&mut self, version: Version, durable: Result<Vec<Ack>, AppendError>) -> Result<(), End> {
        let acks = durable?;
        self.in_flight.acknowledged(&acks);
        self.write(&encode::acks(version, &acks)).await
    }

    /// Writes all bytes. After a write that didn't finish, by its own timeout or because its caller was cancelled, nothing is written any more: the client
    /// would take it for the rest of the torn packet.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        if std::mem::replace(&mut self.is_torn, true) {
            return Err(End::Left);
        }
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(STALL_TIMEOUT, write).await.map_err(|_| End::Left)??;
        self.is_torn = false;
        Ok(())
    }

    // --- Ending

    /// Ends the connection of a client that was let in. Its will is published behind its last packet, or returned to be published later.
    async fn part_with(mut self, mut client: Client, end: End) -> Option<DelayedWill> {
        let held = client.will.take();
        let fate =
            held.as_ref().map_or(Fate::Discard, |held| held.will.fate(self.farewell(&client, &end), self.session_expiry(&client, &end)));
        let shared = Arc::clone(&self.shared);
        // The session may be another connection's by now.
        self.commits.set_session(None);
        if let (Fate::Publish, Some(held)) = (fate, &held) {
            client.publish_will(held, &shared, &mut self.commits);
        }
        self.end(Some(&client), end).await;
        match (fate, held) {
            (Fate::Wait(delay), Some(held)) => {
                client.connected.left();
                let taken_over = client.taken_over();
                // Its expiry runs.
                client.session = None;
                Some(DelayedWill { shared, client, held, delay, taken_over })
            }
            _ => None,
        }
    }

    /// How long the session outlives the connection.
    fn session_expiry(&self, client: &Client, end: &End) -> Duration {
        match end {
            End::Disconnected(Disconnect { session_expiry: Some(expiry), .. }) => {
                Duration::from_secs((*expiry).into()).min(self.shared.limits.session_expiry)
            }
            _ => client.session_expiry,
        }
    }

    fn farewell(&self, client: &Client, end: &End) -> Farewell {
        match end {
            _ if *self.shared.ingest.stop.borrow() => Farewell::Stopped,
            // §3.14.2.1
            End::Disconnected(Disconnect { reason: 0, .. }) => Farewell::Disconnected,
            End::Refused(fault) if fault.reason == DisconnectReason::SessionTakenOver => {
                Farewell::TakenOver { ends_session: client.connected.ends_session() }
            }
            _ if !self.is_current(client) => Farewell::Expelled,
            _ => Farewell::Lost,
        }
    }

    /// Ends the connection. It acknowledges what was appended if the client still reads, and counts it in any case.
    async fn end(mut self, client: Option<&Client>, end: End) {
        let last_acks = async {
            while !self.commits.is_empty() {
                let durable = self.commits.durable().await;
                // Without a client there is nothing to acknowledge.
                let version = client.map_or(Version::V3, |client| client.version);
                if self.acknowledge(version, durable).await.is_err() {
                    break;
                }
            }
        };
        drop(timeout(LAST_ACKS_DEADLINE, last_acks).await);
        if let End::Refused(fault) = end {
            self.shared.refused_for(self.address, client.map_or(("", None), Client::who), &fault);
            if let Some(client) = client {
                drop(self.write(&encode::disconnect(client.version, fault.reason)).await);
            }
        }
        if !self.is_torn {
            drop(timeout(STALL_TIMEOUT, self.stream.shutdown()).await);
        }
        // After the deadline the rest is still counted when it is durable.
        self.commits.count_later();
    }
}

impl Client {
    /// Appends its will as one batch, as a PUBLISH of the client.
    pub(crate) fn publish_will(&self, held: &HeldWill, shared: &Shared, commits: &mut Commits<Ack>) {
        let registry = shared.ingest.registry.load();
        let mut in_flight = InFlight::new(PacketIds::default(), usize::MAX);
        let mut read = OneRead::new(self.terms(shared), &mut in_flight, Intake::new(&registry, &shared.topics, now()));
        read.will(&held.will);
        commits.append(read.intake, vec![], held.will.payload.len());
    }

    fn terms(&self, shared: &Shared) -> Terms<'_> {
        Terms {
            version: self.version,
            largest_answer: self.largest_answer,
            identity: &self.identity,
            max_payload: shared.max_payload,
            too_large: shared.too_large,
            subscriptions: shared.subscriptions,
            has_capacity: shared.ingest.budget.has_capacity(),
        }
    }

    /// The client id and the user.
    fn who(&self) -> Who<'_> {
        (self.connected.client_id(), self.identity.name.as_deref())
    }

    /// Resolves when another connection, of any process, has the session.
    fn taken_over(&self) -> BoxFuture<'static, ()> {
        self.session.as_ref().map_or_else(|| std::future::pending().boxed(), |session| session.taken_over())
    }
}

/// The monotonic clock's time at a wall clock's, as the two stand now; `None`: too far away to be counted.
fn at_wall_time(time: Timestamp) -> Option<Instant> {
    let now = now();
    if time > now { Instant::now().checked_add(time.distance(now)) } else { Some(Instant::now()) }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        None => std::future::pending().await,
        Some(deadline) => sleep_until(deadline).await,
    }
}
