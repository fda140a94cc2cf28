//! rumqttc, as the subscriber sees it. Its modules for MQTT 5 and 3.1.1 are alike and have no common type; this is what the subscriber needs of either.
//!
//! The rules that both keep:
//!
//! - A client is one connection. It connects once, and after an error it is dropped with everything that it holds: rumqttc's own reconnecting keeps events
//!   and packet ids of the connection before, and an acknowledgement with such an id would acknowledge another packet.
//! - It publishes nothing, so that acknowledgements never wait for the broker's.
//! - It reads packets of any size that MQTT allows: a broker discards in silence what is larger than the client says.

mod v3;
mod v5;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use pushline_model::Secret;

pub(super) use self::{v3::ClientV3, v5::ClientV5};

/// How often the client pings a silent broker.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long connecting may take, CONNACK included.
const CONNECT_DEADLINE: u64 = 10;

/// The largest packet of MQTT, in bytes (MQTT 5 §2.1.4).
const LARGEST_PACKET: u32 = 268_435_460;

/// How many requests may wait for the client. Acknowledgements beyond it wait in the connection.
const REQUESTS: usize = 128;

/// rumqttc reserves memory for as many packets as it may have published and not acknowledged: 13 MiB by default. The subscriber publishes none.
const OUTGOING_INFLIGHT: u16 = 1;

/// A connection to a broker, in one protocol version.
pub(super) trait Client: Send + Sized {
    /// The other end of the client, to be used while it is polled.
    type Requests: Requests;

    /// A client that isn't connected yet.
    fn new(target: &Target) -> (Self, Self::Requests);

    /// Connects at the first call, later waits for the broker. It adds to `events` all that was read together, also what was read before an error.
    ///
    /// Not cancel safe: dropping the future while it connects gives the connection up.
    ///
    /// # Errors
    /// Why the connection is lost, for people.
    fn poll(&mut self, events: &mut Vec<Event>) -> impl Future<Output = Result<(), String>> + Send;

    /// The interval of pings that the broker asked for, or [`KEEP_ALIVE`].
    fn keep_alive(&self) -> Duration;
}

/// Requests to a client. None waits: `false` means that the client has to be polled first.
pub(super) trait Requests: Send {
    /// SUBSCRIBE, at QoS 1 and without retained packets where the version allows to say so.
    fn subscribe(&self, filters: &[String]) -> bool;

    /// PUBACK, or PUBREC where the broker sent at QoS 2 all the same.
    fn acknowledge(&self, ack: Ack) -> bool;

    /// DISCONNECT, behind all earlier requests.
    fn disconnect(&self) -> bool;
}

/// Where a client connects, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) client_id: String,
    pub(super) credentials: Option<(String, Secret)>,
    /// How long the broker keeps the session after the connection. MQTT 3.1.1 only tells zero from the rest.
    pub(super) session_expiry: Duration,
    /// How many packets the broker may send before the first is acknowledged. MQTT 5 only.
    pub(super) receive_maximum: u16,
}

/// What a client has read or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Connected {
        /// Whether the broker kept the session.
        session_present: bool,
        /// How long the broker will keep the session, where it says so.
        session_expiry: Option<Duration>,
    },
    /// SUBACK: for each filter the QoS that was granted, or why not.
    Subscribed(Vec<Result<u8, String>>),
    Published(Published),
    /// DISCONNECT was written, and all earlier requests before it.
    Disconnected,
}

/// A PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published {
    /// `None`: QoS 0.
    pub(super) ack: Option<Ack>,
    /// The broker says that it sent this packet before.
    pub(super) is_resent: bool,
    /// It is older than the subscription.
    pub(super) is_retained: bool,
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
}

/// What acknowledges a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) id: u16,
    pub(super) is_qos2: bool,
}
