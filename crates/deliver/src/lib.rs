//! The queue to the webhooks: partition tasks, which drive the delivery core of `pushline-lanes`, and the HTTP sender with its outcomes.
//!
//! | what | where |
//! |---|---|
//! | the driver of the core: the only `select!` of a partition | `partition.rs`, and in `partition/` what takes longer |
//! | waking the tasks of the process | `wakeups.rs` |
//! | what a replayed dead letter becomes | `replay.rs` |
//! | which addresses may be dialled (pure) | `egress.rs`; the table of special-purpose addresses is `special_purpose.rs` |
//! | the addresses of this machine | `own_addresses.rs` |
//! | one attempt on one endpoint | `endpoint.rs`; those of a registry snapshot: `endpoints.rs` |
//! | looking names up, and whether a name still has an address | `lookups.rs`, `lookup_threads.rs`, `recent_addresses.rs` (pure) |
//! | dialling: Happy Eyeballs | `dial.rs` |
//! | the egress proxy | `proxy.rs` |
//! | TLS: identities, their files, handshakes at once | `tls.rs`, `tls/` |
//! | the bytes of a connection | `stream.rs` |
//! | the way that a connection took | `route.rs` |
//! | a connection of HTTP/1.1, or a stream of HTTP/2 | `connection.rs`, and a file for each in `connection/`; `meter.rs` counts bytes and ends a connection |
//! | the connections of the process, and who gets which | `pool.rs`, and those of a host in `pool/host.rs` |
//! | what is read of a response after its status | `response.rs`; the headers that are kept: `kept_headers.rs` |
//! | what this machine lacks, and never blames on an endpoint | `local_failures.rs` |
//! | which webhooks fail, for the log and by option for metrics | `webhook_health.rs` |
//! | TLS sessions to resume, of each server name | `tls_sessions.rs` |
//! | whether the name servers of this machine answer | `name_servers.rs` |
//! | whether files have changed since they were read | `file_watch.rs` |
//! | why an endpoint gave no response (pure) | `no_response.rs` |

mod access_tokens;
mod compression;
mod connection;
mod deliver;
mod dial;
mod egress;
mod endpoint;
mod endpoints;
mod file_watch;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod kept_headers;
mod local_failures;
mod lookup_threads;
mod lookups;
mod losses;
pub mod metrics;
mod name_servers;
#[cfg(test)]
mod namespace;
mod network;
mod no_response;
mod own_addresses;
mod partition;
mod pool;
mod probe;
mod proxy;
mod recent_addresses;
mod refused_ticks;
mod replay;
mod request;
mod response;
mod route;
mod signature;
mod special_purpose;
mod stream;
mod tls;
mod token_request;
mod wakeups;
mod webhook_health;

use pushline_queue::QueueError;

pub use crate::{
    deliver::{Deliver, Options},
    egress::Egress,
    file_watch::FileWatch,
    local_failures::LocalFailures,
    lookup_threads::LOOKUP_THREADS,
    losses::Losses,
    network::{CONNECTIONS_PER_HOST, Network},
    probe::Probe,
    proxy::Proxy,
    refused_ticks::RefusedTicks,
    replay::{DeadLetterLog, count_replays_without_id, replay},
    tls::{CertificateExpiry, InvalidTlsFile, TlsFiles},
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
    #[error("can't set up TLS")]
    Tls(#[from] rustls::Error),
    /// A file of a webhook's `tls` is of no use.
    #[error("webhook {webhook:?}: {error}")]
    TlsFile {
        /// Its name.
        webhook: String,
        /// Which file, and what is wrong with it.
        error: InvalidTlsFile,
    },
    /// This machine hasn't the address that connections shall come from.
    #[error("[egress] source_address = \"{address}\" can't be used on this machine: {error}")]
    SourceAddress {
        /// The address.
        address: std::net::IpAddr,
        /// What the system says.
        error: std::io::Error,
    },
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
