//! MQTT to the queue: the listener that devices connect to. The listener acknowledges a packet only when the queue has made it durable.
//!
//! | what | where |
//! |---|---|
//! | decoding control packets (pure) | `listener/packets.rs`, CONNECT in `connect.rs`, `properties.rs`, `fields.rs` |
//! | why a client is refused or closed | `listener/disconnect_reason.rs` |
//! | encoding the listener's answers (pure) | `listener/encode.rs` |
//! | what becomes of the packets of one read (pure) | `listener/one_read.rs` |
//! | what listeners and broker subscriptions share | `ingest.rs` |
//! | records and dead letters of one read (pure) | `intake.rs` |
//! | what makes packets durable and acknowledges them afterwards | `commits.rs` |
//! | what lies between a socket and MQTT: PROXY protocol, TLS, WebSocket | `listener/entrance.rs` |
//! | who decides about a login, and who may publish what | `listener/access/` |
//! | how fast connections come, and one client is read (pure) | `listener/even_rate.rs` |
//! | what becomes of a will | `listener/will.rs` |
//! | who is connected, and who was refused | `listener/devices.rs`, `listener/refused_clients.rs` |
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

#[cfg(any(test, feature = "fuzzing"))]
pub use crate::listener::fuzzing;
pub use crate::{
    ingest::Ingest,
    listener::{
        Clients, Device, Devices, InvalidOption, InvalidTopicRule, JwtAlgorithm, JwtOptions, Limits, Listener, LoginEndpointOptions,
        Options, RefusedClient, RefusedClients, Selection, ServerTlsFiles, Subscriptions, TooLarge, TopicRule, hash_password,
    },
    subscriber::{BrokerHealth, BrokerOptions, ClientConfigs, ProtocolVersion, Subscriber, filters, overlapping},
};

/// Why the listener can't start.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The address can't be bound.
    #[error("can't listen on {address} ([[mqtt.listeners]] address)")]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// A file that an option names is of no use.
    #[error("listener {address}: {source}")]
    Option {
        /// The configured address.
        address: SocketAddr,
        /// The option, and what is wrong.
        source: InvalidOption,
    },
}
