//! How an attempt ended: in one of the three ways that the document knows, or without having been made (docs/document.md, Outcome).
//!
//! An outcome is asked by its methods. Only the retry policy and the sender, which makes it, look at its variants.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// One attempt's end.
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
        /// Headers that say more than the status.
        headers: ResponseHeaders,
    },
    /// Nothing final arrived. Retried.
    NoResponse(NoResponse),
    /// The egress guard permits no address of the host. Not retried.
    BlockedAddress {
        /// The addresses and the option that permits them, for the operator.
        what: String,
    },
    /// This machine couldn't make the attempt, so the endpoint isn't to blame. It counts as no attempt: the message keeps its body and waits.
    LocalFailure(LocalFailure),
}

/// What a dead letter keeps of a response's headers, as the server sent it: at most [`RESPONSE_KEPT`](crate::RESPONSE_KEPT) bytes each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseHeaders {
    /// Where the server would have the request sent (RFC 9110 §10.2.2). Pushline never follows it.
    pub location: Option<Box<str>>,
    /// When the server would have it sent again (RFC 9110 §10.2.3).
    pub retry_after: Option<Box<str>>,
}

/// Why nothing final arrived: a class for metrics and decisions, and a cause for people.
///
/// Causes are one line without credentials, such as "the certificate is for a.example, not for b.example".
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NoResponse {
    /// The time ran out after the request began. The next attempt follows at once.
    Timeout,
    /// The host's name has no address, or no name server told it.
    Dns(Box<str>),
    /// No address of the host took a connection.
    Connect(Box<str>),
    /// The TLS handshake failed.
    Tls(Box<str>),
    /// The connection broke before a status arrived.
    ConnectionLost(Box<str>),
    /// What arrived isn't HTTP, or a 101.
    Malformed(Box<str>),
    /// The token end point granted no access token, so no request was made.
    Token(Box<str>),
}

/// Why this machine couldn't make an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalFailure {
    /// What is missing.
    pub kind: LocalFailureKind,
    /// How long the process waits before it tries again. It grows while failures of this kind go on.
    pub retry_after: Duration,
}

/// What this machine lacks for an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalFailureKind {
    /// No file descriptor is free in the process or in the system.
    FileDescriptors,
    /// No local port is free for a connection to the endpoint's address.
    Ports,
    /// This machine no longer has the address that connections shall come from.
    SourceAddress,
    /// No memory, or no buffer of the network stack.
    Memory,
    /// This machine has no route to the endpoint's address.
    Route,
    /// No name server of this machine answers.
    NameServers,
    /// No thread is free to look a name up: names that no server answers for hold all that it may use.
    LookupThreads,
    /// The egress proxy can't be reached or doesn't work.
    Proxy,
    /// The system forbids the connection: a local firewall or a security policy.
    Forbidden,
    /// The attempt panicked, which is a bug of Pushline.
    Panic,
}

impl Outcome {
    /// The status that arrived, if one did.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Accepted { status } | Self::ErrorResponse { status, .. } => Some(*status),
            Self::NoResponse(_) | Self::BlockedAddress { .. } | Self::LocalFailure(_) => None,
        }
    }

    /// The label in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::ErrorResponse { .. } => "error_response",
            Self::NoResponse(_) => "no_response",
            Self::BlockedAddress { .. } => "blocked_address",
            Self::LocalFailure(_) => "local_failure",
        }
    }

    /// Whether a 2xx status arrived.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }

    /// Whether the server answered: with acceptance or with an error response.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.status().is_some()
    }

    /// Whether this machine couldn't make the attempt. Then it counts as none.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::LocalFailure(_))
    }

    /// Why nothing final arrived, where that is the outcome.
    #[must_use]
    pub fn no_response(&self) -> Option<&NoResponse> {
        if let Self::NoResponse(why) = self { Some(why) } else { None }
    }

    /// What a dead letter keeps as the response: the beginning of the body, or which addresses were blocked; and headers.
    #[must_use]
    pub fn into_response(self) -> (Vec<u8>, ResponseHeaders) {
        match self {
            Self::ErrorResponse { response, headers, .. } => (response, headers),
            Self::BlockedAddress { what } => (what.into_bytes(), ResponseHeaders::default()),
            Self::Accepted { .. } | Self::NoResponse(_) | Self::LocalFailure(_) => (Vec::new(), ResponseHeaders::default()),
        }
    }
}

/// For a log line: "HTTP status 401", "tls: the certificate has expired".
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { status } | Self::ErrorResponse { status, .. } => write!(f, "HTTP status {status}"),
            Self::NoResponse(why) => why.fmt(f),
            Self::BlockedAddress { what } => write!(f, "blocked address: {what}"),
            Self::LocalFailure(failure) => failure.kind.fmt(f),
        }
    }
}

impl NoResponse {
    /// The class, as metrics and dead letters name it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Dns(_) => "dns",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::ConnectionLost(_) => "connection_lost",
            Self::Malformed(_) => "malformed",
            Self::Token(_) => "token",
        }
    }

    /// The cause, for people.
    #[must_use]
    pub fn cause(&self) -> &str {
        match self {
            Self::Timeout => "no status arrived within the webhook's timeout",
            Self::Dns(cause)
            | Self::Connect(cause)
            | Self::Tls(cause)
            | Self::ConnectionLost(cause)
            | Self::Malformed(cause)
            | Self::Token(cause) => cause,
        }
    }
}

/// Class and cause.
impl fmt::Display for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.cause())
    }
}

impl LocalFailureKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::FileDescriptors,
        Self::Ports,
        Self::SourceAddress,
        Self::Memory,
        Self::Route,
        Self::NameServers,
        Self::LookupThreads,
        Self::Proxy,
        Self::Forbidden,
        Self::Panic,
    ];

    /// The label in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FileDescriptors => "file_descriptors",
            Self::Ports => "ports",
            Self::SourceAddress => "source_address",
            Self::Memory => "memory",
            Self::Route => "route",
            Self::NameServers => "name_servers",
            Self::LookupThreads => "lookup_threads",
            Self::Proxy => "proxy",
            Self::Forbidden => "forbidden",
            Self::Panic => "panic",
        }
    }
}

/// What is missing, and what to do about it.
impl fmt::Display for LocalFailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileDescriptors => "no file descriptors: raise the limit of open files (RLIMIT_NOFILE)",
            Self::Ports => "no local ports: widen net.ipv4.ip_local_port_range, or send over fewer new connections",
            Self::SourceAddress => "no source address: give this machine the address of [egress] source_address, or change the option",
            Self::Memory => "no memory for a connection: give the machine more, or connect fewer devices",
            Self::Route => "no route: check this machine's network",
            Self::NameServers => "no name server answers: check /etc/resolv.conf and the network",
            Self::LookupThreads => "no threads for lookups: no server answers for many names; a higher limit of open files (RLIMIT_NOFILE) permits more threads",
            Self::Proxy => "the egress proxy doesn't work: check it, and [egress] proxy",
            Self::Forbidden => "this machine forbids the connection: check its firewall and security policy",
            Self::Panic => "an attempt panicked: please report this bug with its log lines",
        })
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

impl Attempt {
    /// What an outcome leaves in a dead letter's history.
    #[must_use]
    pub fn new(at: Timestamp, took: Duration, outcome: &Outcome) -> Self {
        Self { at, took, status: outcome.status(), no_response: outcome.no_response().cloned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_tells_whether_the_server_answered_and_with_what() {
        let local = Outcome::LocalFailure(LocalFailure { kind: LocalFailureKind::Ports, retry_after: Duration::ZERO });
        let lost = Outcome::NoResponse(NoResponse::ConnectionLost("reset by the server".into()));
        let error = Outcome::ErrorResponse { status: 401, response: b"who?".to_vec(), headers: ResponseHeaders::default() };
        let answers = [&Outcome::Accepted { status: 204 }, &error, &lost, &local].map(|outcome| (outcome.answered(), outcome.status()));
        assert_eq!(answers, [(true, Some(204)), (true, Some(401)), (false, None), (false, None)]);
        assert!(local.is_local() && !lost.is_local());
        assert_eq!((error.to_string(), lost.to_string()), ("HTTP status 401".into(), "connection_lost: reset by the server".into()));
        assert_eq!(error.into_response().0, b"who?");
    }
}
