//! What an operator can choose for a listener.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use pushline_model::{DescriptorBudget, TopicPattern};

use super::{
    access::{Access, JwtOptions, LoginEndpointOptions, Logins, TopicRule},
    entrance::Entrance,
    limits::Limits,
    packets,
    tls::{ServerTls, ServerTlsFiles},
};

/// A listener's options.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address to bind.
    pub address: SocketAddr,
    /// The topic patterns; the first one that matches a topic counts.
    pub topics: Vec<TopicPattern>,
    /// The largest payload, in bytes.
    pub max_payload_bytes: usize,
    /// What becomes of a larger one.
    pub too_large: TooLarge,
    /// How SUBSCRIBE is answered.
    pub subscriptions: Subscriptions,
    /// With it, clients connect by TLS.
    pub tls: Option<ServerTlsFiles>,
    /// With it, a client may log in with a token as its password.
    pub jwt: Option<JwtOptions>,
    /// With it, a client may be a user of the file, with its password.
    pub users_file: Option<PathBuf>,
    /// With it, the end point decides about every client that neither has a token nor is a user of the file.
    pub login_endpoint: Option<LoginEndpointOptions>,
    /// What a client may publish to, unless its own login has rules; empty: everything.
    pub allow_topics: Vec<TopicRule>,
    /// The addresses of load balancers: their connections begin with a header of the PROXY protocol, version 1 or 2.
    pub proxy_protocol: Vec<IpNet>,
    /// Whether clients speak MQTT over WebSocket.
    pub websocket: bool,
    /// How many connections there may be, and of what size.
    pub limits: Limits,
    /// The file descriptors of connections. New clients wait while devices have as many as they may.
    pub descriptors: Arc<DescriptorBudget>,
}

/// How SUBSCRIBE is answered. Pushline sends nothing to devices, either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscriptions {
    /// Granted, and silent. Some libraries hang up when they are refused, and connect again for ever.
    Accept,
    /// Each filter is refused.
    Refuse,
}

/// What becomes of a packet whose payload is larger than the listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLarge {
    /// Its connection is closed. A client with a store sends it again first thing, and what stands behind it never comes.
    Refuse,
    /// It becomes a dead letter `too_large` and is acknowledged. A payload up to this many bytes is kept whole; of a larger one nothing is.
    DeadLetter(usize),
}

impl TooLarge {
    /// The largest payload that is read whole, in bytes.
    pub(crate) fn largest_read(self, max_payload: usize) -> usize {
        match self {
            Self::Refuse => max_payload,
            Self::DeadLetter(kept) => kept.max(max_payload),
        }
    }
}

/// A file that an option names and that is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidOption {
    /// The option, such as `tls.cert_file`.
    pub field: &'static str,
    /// What is wrong with the file, and what would be right.
    pub problem: String,
}

impl Options {
    /// The default options for an address and topics.
    #[must_use]
    pub fn new(address: SocketAddr, topics: Vec<TopicPattern>) -> Self {
        Self {
            address,
            topics,
            max_payload_bytes: 256 << 10,
            too_large: TooLarge::Refuse,
            subscriptions: Subscriptions::Accept,
            tls: None,
            jwt: None,
            users_file: None,
            login_endpoint: None,
            allow_topics: Vec::new(),
            proxy_protocol: Vec::new(),
            websocket: false,
            limits: Limits::default(),
            descriptors: DescriptorBudget::unlimited(),
        }
    }

    /// Reads the files, to see whether they are of use. It blocks.
    ///
    /// # Errors
    /// The first file that isn't.
    pub fn check_files(&self) -> Result<(), InvalidOption> {
        self.entrance().map(drop)
    }

    /// Reads the files. It blocks.
    pub(crate) fn entrance(&self) -> Result<Entrance, InvalidOption> {
        let tls = self.tls.clone().map(ServerTls::read).transpose();
        let logins = Logins { jwt: self.jwt.clone(), users_file: self.users_file.clone(), endpoint: self.login_endpoint.clone() };
        Ok(Entrance {
            proxies: self.proxy_protocol.clone(),
            tls: tls?,
            has_websocket: self.websocket,
            access: Access::read(logins, &self.allow_topics)?,
            largest_packet: packets::packet_limit(self.too_large.largest_read(self.max_payload_bytes)),
        })
    }
}
