//! How an attempt ended: in one of the three ways that the document knows.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// One attempt's end (DESIGN.md, *Outcome*).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A 2xx status arrived. The message is settled.
    Accepted {
        /// The status.
        status: u16,
    },
    /// Any other final status arrived. Not retried, unless the webhook's `retry_on_status` names it.
    ErrorResponse {
        /// The status.
        status: u16,
        /// The first [`RESPONSE_KEPT`](crate::RESPONSE_KEPT) bytes of the body.
        response: Vec<u8>,
    },
    /// Nothing final arrived. Retried.
    NoResponse(NoResponse),
    /// No address of the host may be dialled. Not retried.
    BlockedAddress {
        /// What was blocked, for the operator.
        what: String,
    },
}

/// Why nothing final arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NoResponse {
    /// The time ran out. The next attempt follows at once.
    Timeout,
    /// The host's name has no address.
    Dns,
    /// Nobody listens there, or the network says no.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The connection broke before a status arrived.
    ConnectionLost,
    /// What arrived isn't HTTP, or a 101.
    Malformed,
}

impl NoResponse {
    /// As metrics and dead letters name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::ConnectionLost => "connection_lost",
            Self::Malformed => "malformed",
        }
    }
}

impl fmt::Display for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One line of a dead letter's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began, by the wall clock.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// The status, where one arrived.
    pub status: Option<u16>,
    /// Why there was none.
    pub no_response: Option<NoResponse>,
}
