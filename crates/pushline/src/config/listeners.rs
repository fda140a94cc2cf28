//! `[[mqtt.listeners]]`: where devices connect, how, and who may. `logins.rs` has who decides about logins.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use pushline_ingest::{InvalidOption, Limits, Options, ServerTlsFiles, TopicRule};
use pushline_model::{
    ByteRate, Rate, TopicPattern,
    units::{CountIn, DAY, DurationIn, SizeIn},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{
    logins::{Jwt, LoginEndpoint},
    values::{self, AddressRange},
};

/// The most connections and the like that can be asked for.
const MANY: u64 = 10_000_000;

/// One of `[[mqtt.listeners]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Listener {
    #[serde(deserialize_with = "values::address")]
    pub(crate) address: SocketAddr,
    #[serde(deserialize_with = "values::topics")]
    pub(crate) topics: Vec<TopicPattern>,
    #[serde(with = "SizeIn::<1, { 128 << 20 }>")]
    pub(crate) max_payload_bytes: usize,
    too_large: TooLarge,
    subscriptions: Subscriptions,
    /// Absolute once it is read.
    #[serde(deserialize_with = "some_path")]
    users_file: Option<PathBuf>,
    /// What a client may publish to; empty: everything.
    allow_topics: Vec<Rule>,
    /// The load balancers, whose connections begin with a header of the PROXY protocol.
    proxy_protocol: Vec<AddressRange>,
    websocket: bool,
    #[serde(with = "CountIn::<1, MANY>")]
    max_connections: usize,
    #[serde(with = "CountIn::<1, MANY>")]
    max_connections_per_address: usize,
    #[serde(with = "CountIn::<1, MANY>")]
    max_handshakes: usize,
    connect_rate: Option<Rate>,
    /// MQTT 5 §3.1.3.1: a server takes ids of 23 bytes.
    #[serde(with = "SizeIn::<23, 65_535>")]
    max_client_id_bytes: usize,
    #[serde(with = "SizeIn::<1, { 1 << 40 }>")]
    max_will_bytes: usize,
    #[serde(with = "SizeIn::<1, { 1 << 30 }>")]
    max_unacknowledged_bytes: usize,
    #[serde(with = "CountIn::<1, 65_535>")]
    receive_maximum: u16,
    #[serde(with = "DurationIn::<0, { 365 * DAY }>")]
    max_session_expiry: Duration,
    #[serde(with = "CountIn::<0, { 100 * MANY }>")]
    max_sessions: usize,
    packet_rate: Option<Rate>,
    byte_rate: Option<ByteRate>,
    tls: Option<ListenerTls>,
    jwt: Option<Jwt>,
    login_endpoint: Option<LoginEndpoint>,
}

/// `too_large`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TooLarge {
    /// The connection is closed.
    #[default]
    Refuse,
    /// The packet becomes a dead letter and is acknowledged.
    DeadLetter,
}

/// `subscriptions`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Subscriptions {
    /// Granted, and silent.
    #[default]
    Accept,
    Refuse,
}

/// `tls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerTls {
    #[serde(deserialize_with = "values::path")]
    cert_file: PathBuf,
    #[serde(deserialize_with = "values::path")]
    key_file: PathBuf,
    #[serde(default, deserialize_with = "some_path")]
    client_ca_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "some_path")]
    client_crl_file: Option<PathBuf>,
}

/// One of `allow_topics`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule(TopicRule);

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

fn some_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    values::path(deserializer).map(Some)
}

impl Default for Listener {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            address: (Ipv4Addr::LOCALHOST, 1883).into(),
            topics: values::default_topics(),
            max_payload_bytes: 256 << 10,
            too_large: TooLarge::default(),
            subscriptions: Subscriptions::default(),
            users_file: None,
            allow_topics: Vec::new(),
            proxy_protocol: Vec::new(),
            websocket: false,
            max_connections: limits.connections,
            max_connections_per_address: limits.connections_per_address,
            max_handshakes: limits.handshakes,
            connect_rate: limits.connect_rate,
            max_client_id_bytes: limits.client_id_bytes,
            max_will_bytes: limits.will_bytes,
            max_unacknowledged_bytes: limits.unacknowledged_bytes,
            receive_maximum: limits.receive_maximum,
            max_session_expiry: limits.session_expiry,
            max_sessions: limits.sessions,
            packet_rate: limits.packet_rate,
            byte_rate: limits.byte_rate,
            tls: None,
            jwt: None,
            login_endpoint: None,
        }
    }
}

impl Listener {
    /// The same with each path resolved.
    pub(super) fn with_paths(mut self, resolve: &dyn Fn(&Path) -> PathBuf) -> Self {
        let tls = self
            .tls
            .as_mut()
            .map(|tls| [Some(&mut tls.cert_file), Some(&mut tls.key_file), tls.client_ca_file.as_mut(), tls.client_crl_file.as_mut()]);
        for path in tls.into_iter().flatten().chain([self.users_file.as_mut()]).flatten() {
            *path = resolve(path);
        }
        self.jwt = self.jwt.map(|jwt| jwt.with_paths(resolve));
        self.login_endpoint = self.login_endpoint.map(|endpoint| endpoint.with_paths(resolve));
        self
    }

    /// What no single field can be wrong with, and what is wrong with the files: the field, and the mistake.
    pub(super) fn validate(&self) -> Option<InvalidOption> {
        let invalid = |field, problem: &str| Some(InvalidOption { field, problem: problem.to_owned() });
        let has_client_ca = self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        if self.tls.as_ref().is_some_and(|tls| tls.client_crl_file.is_some()) && !has_client_ca {
            return invalid("tls.client_crl_file", "it needs client_ca_file beside it");
        }
        if let Some(claim) = self.allow_topics.iter().find_map(|rule| rule.0.claim()).filter(|_| self.jwt.is_none()) {
            return invalid("allow_topics", &format!("{{{claim}}} needs jwt: it stands for a claim of the client's token"));
        }
        let has_logins = self.users_file.is_some() || self.jwt.is_some() || self.login_endpoint.is_some();
        if !has_logins && !has_client_ca && self.allow_topics.iter().any(|rule| rule.0.names_the_client()) {
            let problem = "{user} needs users_file, jwt, login_endpoint or tls.client_ca_file: without them no client has a name";
            return invalid("allow_topics", problem);
        }
        if let Some(problem) = self.login_endpoint.as_ref().and_then(LoginEndpoint::mistake) {
            return invalid("login_endpoint", &problem);
        }
        self.options(0).check_files().err()
    }

    /// The same as options of the listener. `largest_dead_payload`: bytes of a payload that fits into a dead letter of its own.
    pub(crate) fn options(&self, largest_dead_payload: usize) -> Options {
        Options {
            max_payload_bytes: self.max_payload_bytes,
            too_large: match self.too_large {
                TooLarge::Refuse => pushline_ingest::TooLarge::Refuse,
                TooLarge::DeadLetter => pushline_ingest::TooLarge::DeadLetter(largest_dead_payload),
            },
            subscriptions: match self.subscriptions {
                Subscriptions::Accept => pushline_ingest::Subscriptions::Accept,
                Subscriptions::Refuse => pushline_ingest::Subscriptions::Refuse,
            },
            tls: self.tls.clone().map(|ListenerTls { cert_file, key_file, client_ca_file, client_crl_file }| ServerTlsFiles {
                cert_file,
                key_file,
                client_ca_file,
                client_crl_file,
            }),
            jwt: self.jwt.as_ref().map(Jwt::options),
            users_file: self.users_file.clone(),
            login_endpoint: self.login_endpoint.as_ref().map(LoginEndpoint::options),
            allow_topics: self.allow_topics.iter().map(|rule| rule.0.clone()).collect(),
            proxy_protocol: self.proxy_protocol.iter().map(|range| range.0).collect(),
            websocket: self.websocket,
            limits: Limits {
                connections: self.max_connections,
                connections_per_address: self.max_connections_per_address,
                handshakes: self.max_handshakes,
                connect_rate: self.connect_rate,
                client_id_bytes: self.max_client_id_bytes,
                will_bytes: self.max_will_bytes,
                unacknowledged_bytes: self.max_unacknowledged_bytes,
                receive_maximum: self.receive_maximum,
                session_expiry: self.max_session_expiry,
                sessions: self.max_sessions,
                packet_rate: self.packet_rate,
                byte_rate: self.byte_rate,
            },
            ..Options::new(self.address, self.topics.clone())
        }
    }
}
