//! MQTT to the queue: the listener that devices connect to. The listener acknowledges a packet only when the queue has made it durable.
//!
//! | what | where |
//! |---|---|
//! | decoding control packets (pure) | `listener/packets.rs` |
//! | encoding the listener's answers (pure) | `listener/encode.rs` |
//! | what listeners and broker subscriptions share | `ingest.rs` |
//! | records and dead letters of one read (pure) | `intake.rs` |
//! | what makes packets durable and acknowledges them afterwards | `commits.rs` |
//! | the only `select!` of a connection | `listener/connection.rs` |
//! | accepting connections | `listener/mod.rs` |
//! | taking packets from a broker | `subscriber/mod.rs` |

mod budget;
mod commits;
mod ingest;
mod intake;
mod listener;
mod log_limit;
#[cfg(test)]
mod manual_queue;
pub mod metrics;
mod subscriber;
mod tasks;

use std::{io, net::SocketAddr};

pub use crate::{
    ingest::Ingest,
    listener::{Listener, Options},
    subscriber::{BrokerHealth, BrokerOptions, ClientConfigs, ProtocolVersion, Subscriber, filters, overlapping},
};

/// Why the listener can't start.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The address can't be bound.
    #[error("can't listen on {address} ([mqtt.listener] address): {source}")]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// Why the listener refuses a client or closes its connection. The names are those of MQTT 5's reason codes where there is one (§2.4);
/// MQTT 3.1.1 closes the connection without a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DisconnectReason {
    /// The bytes aren't MQTT, or break its format.
    MalformedPacket,
    /// The packet is MQTT, but the protocol doesn't allow it at this moment.
    ProtocolError,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// The version isn't 3.1, 3.1.1 or 5.
    UnsupportedProtocolVersion,
    /// An empty client id asks for a session (MQTT 3.1.1 only).
    ClientIdentifierNotValid,
    PacketTooLarge,
    /// The topic name is empty, or contains a wildcard or NUL.
    TopicNameInvalid,
    /// The client used a topic alias, and CONNACK allowed none.
    TopicAliasInvalid,
    QosNotSupported,
    /// Another connection took over the client id.
    SessionTakenOver,
    KeepAliveTimeout,
    /// The budget for packets that aren't durable yet is used up: storage is away or slow.
    ServerBusy,
    /// The queue couldn't store what the client sent.
    StorageFailed,
    ServerShuttingDown,
}

impl DisconnectReason {
    /// The value of the metrics' label `result`.
    fn label(self) -> &'static str {
        match self {
            Self::MalformedPacket => "refused_malformed",
            Self::ProtocolError => "refused_protocol",
            Self::ConnectTimeout => "refused_no_connect",
            Self::UnsupportedProtocolVersion => "refused_version",
            Self::ClientIdentifierNotValid => "refused_client_id",
            Self::PacketTooLarge => "refused_too_large",
            Self::TopicNameInvalid => "refused_topic",
            Self::TopicAliasInvalid => "refused_topic_alias",
            Self::QosNotSupported => "refused_qos2",
            Self::SessionTakenOver => "refused_taken_over",
            Self::KeepAliveTimeout => "refused_keep_alive",
            Self::ServerBusy => "refused_unavailable",
            Self::StorageFailed => "refused_storage",
            Self::ServerShuttingDown => "refused_shutting_down",
        }
    }
}
