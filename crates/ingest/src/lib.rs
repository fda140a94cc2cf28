//! MQTT to the queue: the listener that devices connect to. A packet is acknowledged only when the queue says that it is durable.
//!
//! | what | where |
//! |---|---|
//! | reading control packets (pure) | `packets.rs` |
//! | records, unrouted and PUBACKs of one read (pure) | `intake.rs` |
//! | the only `select!` of a connection | `connection.rs` |

mod answers;
mod budget;
mod connection;
mod intake;
mod listener;
pub mod metrics;
mod packets;
mod sessions;

use std::{io, net::SocketAddr};

pub use crate::listener::{Listener, Options};

/// Why packets can't be taken in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The address can't be listened on.
    #[error("can't listen on {address} ([mqtt.listener] address): {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a client is turned away or its connection closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not MQTT, or not as MQTT wants it.
    Malformed,
    /// MQTT, but not at this moment.
    Protocol,
    /// No CONNECT in time.
    NoConnect,
    /// A version that isn't 3.1, 3.1.1 or 5.
    Version,
    /// An empty client id that asks for a session.
    ClientId,
    TooLarge,
    /// A topic name that can't be one.
    Topic,
    /// An alias, though none was offered.
    TopicAlias,
    Qos2,
    /// Another connection has the same client id.
    TakenOver,
    KeepAlive,
    /// Too much is read and not yet durable: storage is away or slow.
    Full,
    /// What was read can't be stored.
    Storage,
    ShuttingDown,
}

impl Refusal {
    /// As the metrics name it.
    fn result(self) -> &'static str {
        match self {
            Self::Malformed => "refused_malformed",
            Self::Protocol => "refused_protocol",
            Self::NoConnect => "refused_no_connect",
            Self::Version => "refused_version",
            Self::ClientId => "refused_client_id",
            Self::TooLarge => "refused_too_large",
            Self::Topic => "refused_topic",
            Self::TopicAlias => "refused_topic_alias",
            Self::Qos2 => "refused_qos2",
            Self::TakenOver => "refused_taken_over",
            Self::KeepAlive => "refused_keep_alive",
            Self::Full => "refused_unavailable",
            Self::Storage => "refused_storage",
            Self::ShuttingDown => "refused_shutting_down",
        }
    }
}
