//! The queue to the webhooks: partition tasks with their lanes, and the HTTP sender with its outcomes.
//!
//! | what | where |
//! |---|---|
//! | what is decided about a partition (pure) | `core.rs`, and a file for each rule in `core/` |
//! | the driver: the only `select!` of a partition | `partition.rs`, and in `partition/` what takes longer |
//! | where a partition starts again (pure) | `checkpoint.rs` |
//! | what all partitions share | `memory_budget.rs`, `concurrency_limit.rs`, `circuit_breaker.rs`, `wakeup.rs`; `budgets.rs` holds them |
//! | what follows from an outcome (pure) | `outcome.rs` |
//! | which addresses may be dialled (pure) | `egress.rs` |
//! | one attempt on one endpoint | `endpoint.rs` |
//! | dialling: addresses in turn, and the byte stream that comes of it | `dial.rs` |
//! | a connection of HTTP/1.1, or a stream of HTTP/2 | `connection.rs`, and a file for each in `connection/`; `meter.rs` counts bytes and ends a connection |
//! | the connections of the process, and who gets which | `pool.rs`, and those of a host in `pool/host.rs` |
//! | what is read of a response after its status | `response.rs` |
//! | what this machine lacks, and never blames on an endpoint | `local_failures.rs` |
//! | which webhooks fail, for the log and by option for metrics | `webhook_health.rs` |
//! | TLS sessions to resume, of each server name | `tls_sessions.rs` |
//! | whether the name servers of this machine answer | `name_servers.rs` |
//! | why an endpoint gave no response (pure) | `no_response.rs` |

mod budgets;
mod checkpoint;
mod circuit_breaker;
mod concurrency_limit;
mod connection;
mod core;
mod deliver;
mod dial;
mod egress;
mod endpoint;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod local_failures;
mod lookups;
mod losses;
mod memory_budget;
pub mod metrics;
mod name_servers;
mod network;
mod no_response;
mod outcome;
mod partition;
mod pool;
mod refused_ticks;
mod request;
mod response;
mod signature;
mod tls_sessions;
mod wakeup;
mod webhook_health;
mod webhooks;

use pushline_queue::QueueError;

pub use crate::{
    deliver::{Deliver, Options},
    egress::Egress,
    local_failures::LocalFailures,
    losses::Losses,
    network::{CONNECTIONS_PER_HOST, Network},
    refused_ticks::RefusedTicks,
};

/// Whether a text is a signing secret of Standard Webhooks: `whsec_` and base64 of 24 to 64 bytes.
#[must_use]
pub fn is_signing_secret(secret: &pushline_model::Secret) -> bool {
    signature::SigningKey::new(secret).is_ok()
}

/// Why delivering can't begin.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// TLS can't be set up.
    #[error("can't set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A webhook's secret isn't one of Standard Webhooks.
    #[error("a signing secret is whsec_ followed by base64 of 24 to 64 bytes")]
    SigningSecret,
    /// A webhook's headers can't be put together.
    #[error("the headers or the path of webhook {webhook:?} can't be written in a request")]
    Headers {
        /// Its name.
        webhook: String,
    },
    /// The queue's checkpoint can't be read.
    #[error(transparent)]
    Queue(#[from] QueueError),
}
