//! `[[mqtt.brokers]]`: MQTT brokers that packets come from.

use std::{collections::HashSet, time::Duration};

use pushline_deliver::TlsFiles;
use pushline_ingest::{BrokerOptions, ClientConfigs, ProtocolVersion};
use pushline_model::{
    BrokerUrl, Secret, Tls, TopicPattern,
    units::{CountIn, DAY, DurationIn, SizeIn},
};
use serde::{Deserialize, Serialize};

use super::{source::Source, values};

/// What stands for this machine's name in a client id.
const HOST_NAME: &str = "{hostname}";

/// One table of `[[mqtt.brokers]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Broker {
    pub(crate) url: BrokerUrl,
    #[serde(default)]
    pub(crate) version: Version,
    #[serde(default)]
    pub(crate) username: Option<String>,
    #[serde(default)]
    pub(crate) password: Option<Secret>,
    /// Names the session at the broker: the same after a restart, and another one for each process.
    #[serde(default = "client_id", deserialize_with = "values::client_id")]
    pub(crate) client_id: String,
    #[serde(default = "values::default_topics", deserialize_with = "values::topics")]
    pub(crate) topics: Vec<TopicPattern>,
    #[serde(default, deserialize_with = "values::shared_group")]
    pub(crate) shared_group: Option<String>,
    #[serde(default = "connections", with = "CountIn::<1, 1000>")]
    pub(crate) connections: u16,
    /// How long the broker keeps packets for a connection that is down.
    #[serde(default = "session_expiry", with = "DurationIn::<0, { 365 * DAY }>")]
    pub(crate) session_expiry: Duration,
    #[serde(default = "receive_maximum", with = "CountIn::<1, 65_535>")]
    pub(crate) receive_maximum: u16,
    #[serde(default = "max_payload_bytes", with = "SizeIn::<1, { 128 << 20 }>")]
    pub(crate) max_payload_bytes: usize,
    #[serde(default, skip_serializing_if = "Tls::is_default")]
    pub(crate) tls: Tls,
}

/// `version`: which MQTT the broker speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Version {
    #[serde(rename = "3.1.1")]
    V3,
    #[default]
    #[serde(rename = "5")]
    V5,
}

fn client_id() -> String {
    format!("pushline-{HOST_NAME}")
}

fn connections() -> u16 {
    1
}

fn session_expiry() -> Duration {
    Duration::from_hours(24)
}

fn receive_maximum() -> u16 {
    1000
}

fn max_payload_bytes() -> usize {
    256 << 10
}

impl Broker {
    /// The same with the paths of its files resolved.
    pub(super) fn with_paths(mut self, source: &Source) -> Self {
        self.tls = std::mem::take(&mut self.tls).with_paths(|path| source.path(path));
        self
    }

    /// How the subscriber takes packets from it. `max_dead_letter_bytes`: the largest payload that a dead letter can hold.
    pub(crate) fn options(&self, max_dead_letter_bytes: usize) -> BrokerOptions {
        let tls = self.tls.clone();
        let configs = || {
            ClientConfigs::new(move || TlsFiles::read(&tls).and_then(|files| files.client_config(&tls)).map_err(|error| error.to_string()))
        };
        BrokerOptions {
            name: self.url.to_string(),
            host: self.url.host().to_owned(),
            port: self.url.port(),
            version: match self.version {
                Version::V3 => ProtocolVersion::V3,
                Version::V5 => ProtocolVersion::V5,
            },
            tls: self.url.is_tls().then(configs),
            credentials: self.username.clone().map(|username| (username, self.password.clone().unwrap_or_else(|| Secret::new("")))),
            client_id: self.client_id(),
            topics: self.topics.clone(),
            shared_group: self.shared_group.clone(),
            connections: self.connections,
            session_expiry: self.session_expiry,
            receive_maximum: self.receive_maximum,
            max_payload_bytes: self.max_payload_bytes,
            max_dead_letter_bytes,
        }
    }

    fn client_id(&self) -> String {
        let system = rustix::system::uname();
        self.client_id.replace(HOST_NAME, &system.nodename().to_string_lossy())
    }

    /// What no single field can be wrong with.
    fn mistake(&self) -> Option<String> {
        if self.connections > 1 && self.shared_group.is_none() {
            return Some(
                "connections needs shared_group beside it: without one each packet would come once for each connection".to_owned(),
            );
        }
        if self.password.is_some() && self.username.is_none() {
            return Some("password needs username beside it".to_owned());
        }
        if let Some((first, second)) = pushline_ingest::overlapping(&self.topics) {
            return Some(format!("topics overlap: a packet whose topic matches both {first} and {second} could come twice"));
        }
        if !self.url.is_tls() && !self.tls.is_default() {
            return Some("the URL begins with mqtt://, so TLS isn't used: write mqtts://".to_owned());
        }
        self.tls
            .validate_pair()
            .err()
            .map(|invalid| invalid.to_string())
            .or_else(|| TlsFiles::read(&self.tls).err().map(|error| error.to_string()))
    }
}

/// Mistakes of the brokers that no single field has, each with the broker that it is about.
pub(super) fn mistakes(brokers: &[Broker]) -> Vec<String> {
    let mut sessions: HashSet<(&str, u16, String)> = HashSet::new();
    let mut mistakes = Vec::new();
    for broker in brokers {
        let problem = broker.mistake().or_else(|| {
            let is_new = sessions.insert((broker.url.host(), broker.url.port(), broker.client_id()));
            (!is_new).then(|| {
                format!("client_id {:?} is another entry's too: the broker would close one connection for the other", broker.client_id)
            })
        });
        mistakes.extend(problem.map(|problem| format!("{}: {problem}", broker.url)));
    }
    mistakes
}
