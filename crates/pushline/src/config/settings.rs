//! Everything in the file but webhooks and groups: one type a section, each field with its default and its range.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZero,
    path::{Path, PathBuf},
    thread::available_parallelism,
    time::Duration,
};

use pushline_model::{
    Secret, TopicPattern, Url,
    units::{CountIn, DAY, DurationIn, SECOND, SizeIn},
};
use serde::{Deserialize, Serialize};

use super::{
    brokers::Broker,
    listeners::Listener,
    values::{self, AddressRange, Properties},
};
use crate::role::Role;

/// Ten years: the longest that anything is kept.
const LONGEST: u64 = 3650 * DAY;

/// Threads beyond these gain nothing without being asked for: two move more packets than most disks take.
const MOST_THREADS: usize = 8;

/// The whole file but `[[webhooks]]` and `[[groups]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// How long a shutdown waits for what is in flight.
    #[serde(with = "DurationIn::<0, DAY>")]
    pub(crate) shutdown_grace: Duration,
    pub(crate) queue: QueueSettings,
    pub(crate) backlog: Backlog,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) mqtt: Mqtt,
    pub(crate) admin: AdminSettings,
    pub(crate) egress: EgressSettings,
    pub(crate) metrics: Metrics,
    pub(crate) runtime: RuntimeSettings,
}

/// `[queue]`. What belongs to the other kind is checked all the same, and then left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct QueueSettings {
    pub(crate) kind: QueueKind,
    /// Absolute once it is read.
    #[serde(deserialize_with = "values::path")]
    pub(crate) dir: PathBuf,
    /// At least four segments of the log.
    #[serde(with = "SizeIn::<{ 256 << 20 }, { u64::MAX }>")]
    pub(crate) max_bytes: u64,
    /// Below, nothing is acknowledged until there is space again.
    #[serde(with = "SizeIn::<0, { u64::MAX }>")]
    pub(crate) min_free: u64,
    pub(crate) kafka: Option<Kafka>,
}

/// `queue.kind`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum QueueKind {
    /// In a folder, for one process.
    #[default]
    Embedded,
    /// On Apache Kafka, for many.
    Kafka,
}

/// The queue that was chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Queue<'a> {
    /// In a folder, for one process.
    Embedded { dir: &'a Path, max_bytes: u64, min_free: u64 },
    /// On Apache Kafka, for many.
    Kafka(&'a Kafka),
}

/// `[queue.kafka]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kafka {
    #[serde(deserialize_with = "values::brokers")]
    pub(crate) brokers: String,
    #[serde(default = "topic_prefix", deserialize_with = "values::topic_prefix")]
    pub(crate) topic_prefix: String,
    /// It can't be changed later.
    #[serde(default = "partitions", with = "CountIn::<1, 10_000>")]
    pub(crate) partitions: u32,
    #[serde(default)]
    pub(crate) properties: Properties,
}

/// `[backlog]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Backlog {
    /// Packets that wait longer become dead letters.
    #[serde(with = "DurationIn::<SECOND, LONGEST>")]
    pub(crate) max_age: Duration,
}

/// `[dead_letters]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DeadLetters {
    /// Dead letters that are older are dropped.
    #[serde(with = "DurationIn::<SECOND, LONGEST>")]
    pub(crate) keep: Duration,
    #[serde(with = "SizeIn::<{ 16 << 20 }, { u64::MAX }>")]
    pub(crate) max_bytes: u64,
}

/// `[mqtt]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "MqttTable")]
pub(crate) struct Mqtt {
    /// Where devices connect: `[mqtt.listener]`, then `[[mqtt.listeners]]`. `listeners = []`: nowhere.
    pub(crate) listeners: Vec<Listener>,
    /// The brokers that packets come from.
    pub(crate) brokers: Vec<Broker>,
}

/// `[mqtt]` as it is written. A file that names neither listeners nor brokers has the default listener. `[mqtt.listener]` is a listener too: unlike those
/// of a list, its options can be set by environment variables.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MqttTable {
    listener: Option<Listener>,
    listeners: Option<Vec<Listener>>,
    brokers: Vec<Broker>,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AdminSettings {
    #[serde(deserialize_with = "values::address")]
    pub(crate) address: SocketAddr,
}

/// `[egress]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EgressSettings {
    /// Private ranges that may be dialled.
    pub(crate) allow: Vec<AddressRange>,
    /// How many connections a host may have, idle ones included.
    #[serde(with = "CountIn::<1, 100_000>")]
    pub(crate) connections_per_host: usize,
    /// The address of this machine that connections to endpoints come from.
    #[serde(deserialize_with = "values::ip_address")]
    pub(crate) source_address: Option<IpAddr>,
    pub(crate) proxy: Option<ProxySettings>,
}

/// `[egress] proxy`: connections to endpoints are tunnels through it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProxySettings {
    #[serde(deserialize_with = "values::proxy_url")]
    pub(crate) url: Url,
    /// Without a colon (RFC 7617).
    #[serde(default)]
    pub(crate) username: Option<String>,
    #[serde(default)]
    pub(crate) password: Option<Secret>,
}

/// `[metrics]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Where metrics and health are answered too, and nothing else.
    #[serde(deserialize_with = "values::optional_address")]
    pub(crate) address: Option<SocketAddr>,
    /// Whether deliver counts outcomes for each webhook too.
    pub(crate) per_webhook: bool,
}

/// `[runtime]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RuntimeSettings {
    /// The threads that run everything but what blocks.
    #[serde(with = "CountIn::<1, 1024>")]
    pub(crate) threads: usize,
}

impl Default for RuntimeSettings {
    /// The processors that this process may use, at most [`MOST_THREADS`]: a node of 64 cores that sets no limit doesn't mean 64 threads.
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, NonZero::get);
        Self { threads: processors.min(MOST_THREADS) }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shutdown_grace: Duration::from_secs(10),
            queue: QueueSettings::default(),
            backlog: Backlog::default(),
            dead_letters: DeadLetters::default(),
            mqtt: Mqtt::default(),
            admin: AdminSettings::default(),
            egress: EgressSettings::default(),
            metrics: Metrics::default(),
            runtime: RuntimeSettings::default(),
        }
    }
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self { allow: Vec::new(), connections_per_host: pushline_deliver::CONNECTIONS_PER_HOST, source_address: None, proxy: None }
    }
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self { kind: QueueKind::default(), dir: "pushline-data".into(), max_bytes: 10 << 30, min_free: 1 << 30, kafka: None }
    }
}

fn topic_prefix() -> String {
    "pushline".to_owned()
}

fn partitions() -> u32 {
    16
}

impl Default for Backlog {
    fn default() -> Self {
        Self { max_age: Duration::from_hours(72) }
    }
}

impl Default for DeadLetters {
    fn default() -> Self {
        Self { keep: Duration::from_hours(14 * 24), max_bytes: 5 << 30 }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        MqttTable::default().into()
    }
}

impl From<MqttTable> for Mqtt {
    fn from(MqttTable { listener, listeners, brokers }: MqttTable) -> Self {
        let is_named = listener.is_some() || listeners.is_some() || !brokers.is_empty();
        let default = (!is_named).then(Listener::default);
        Self { listeners: listener.into_iter().chain(listeners.into_iter().flatten()).chain(default).collect(), brokers }
    }
}

impl Mqtt {
    /// The topic patterns of all listeners, then of all brokers, each once.
    pub(crate) fn topics(&self) -> Vec<TopicPattern> {
        let of_listeners = self.listeners.iter().flat_map(|listener| &listener.topics);
        let of_brokers = self.brokers.iter().flat_map(|broker| &broker.topics);
        let mut topics: Vec<TopicPattern> = Vec::new();
        for topic in of_listeners.chain(of_brokers) {
            if !topics.contains(topic) {
                topics.push(topic.clone());
            }
        }
        topics
    }

    /// Bytes of the largest payload that may come in.
    pub(crate) fn largest_payload(&self) -> usize {
        let of_listeners = self.listeners.iter().map(|listener| listener.max_payload_bytes);
        of_listeners.chain(self.brokers.iter().map(|broker| broker.max_payload_bytes)).max().unwrap_or(0)
    }
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { address: (Ipv4Addr::LOCALHOST, 9090).into() }
    }
}

impl QueueSettings {
    /// The queue that `kind` names.
    pub(crate) fn chosen(&self) -> Queue<'_> {
        match self.kind {
            QueueKind::Embedded => Queue::Embedded { dir: &self.dir, max_bytes: self.max_bytes, min_free: self.min_free },
            QueueKind::Kafka => Queue::Kafka(self.kafka.as_ref().expect("a configuration of kind kafka without [queue.kafka] is refused")),
        }
    }

    fn validate(&self) -> Option<Misfit<'_>> {
        match (self.kind, &self.kafka) {
            (QueueKind::Embedded, _) => None,
            (QueueKind::Kafka, _) if !cfg!(feature = "kafka") => {
                Some((vec!["queue", "kind"], "this Pushline was built without Kafka: build it with the cargo feature kafka".to_owned()))
            }
            (QueueKind::Kafka, None) => {
                Some((vec!["queue", "kafka"], "it is missing: [queue.kafka] with brokers = \"host:9092\"".to_owned()))
            }
            (QueueKind::Kafka, Some(kafka)) => kafka
                .properties
                .validate()
                .map(|(property, problem)| (["queue", "kafka", "properties"].into_iter().chain(property).collect(), problem)),
        }
    }
}

impl EgressSettings {
    fn validate(&self) -> Option<Misfit<'_>> {
        let proxy = self.proxy.as_ref()?;
        let problem = match (&proxy.username, &proxy.password) {
            (Some(_), None) => "username needs password beside it, or password_file = \"path\"",
            (None, Some(_)) => "password needs username beside it",
            (Some(username), _) if username.contains(':') || username.chars().any(char::is_control) => {
                "a user name can't hold a colon or a control character"
            }
            _ => return None,
        };
        Some((vec!["egress", "proxy"], problem.to_owned()))
    }
}

/// Whether two addresses can't be listened on at once. The system chooses another port for each 0.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let is_one = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    is_one && one.port() == other.port() && one.port() != 0
}

/// What no single field can be wrong with: the path to the field that is to be changed, and the mistake.
type Misfit<'a> = (Vec<&'a str>, String);

impl Settings {
    /// Everything that is wrong with fields in the light of others.
    pub(super) fn validate(&self) -> Vec<Misfit<'_>> {
        [self.queue.validate(), self.egress.validate(), self.validate_admin_address(), self.validate_metrics_address()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn validate_admin_address(&self) -> Option<Misfit<'_>> {
        let devices = self.device_address_like(self.admin.address)?;
        Some((vec!["admin", "address"], format!("devices connect to {devices}: give each an address of its own")))
    }

    fn validate_metrics_address(&self) -> Option<Misfit<'_>> {
        let (address, admin) = (self.metrics.address?, self.admin.address);
        let other = match self.device_address_like(address) {
            Some(devices) => format!("devices connect to {devices}"),
            None if clash(address, admin) => format!("admin.address is {admin}, and has metrics and health already"),
            None => return None,
        };
        Some((vec!["metrics", "address"], format!("{other}: give each an address of its own")))
    }

    fn device_address_like(&self, address: SocketAddr) -> Option<SocketAddr> {
        self.mqtt.listeners.iter().map(|listener| listener.address).find(|devices| clash(*devices, address))
    }

    /// The first part that differs and that this role reads, as the file names it.
    pub(crate) fn difference(&self, other: &Self, role: Role) -> Option<String> {
        let parts = |settings: &Self| toml::Table::try_from(settings).expect("settings are a table");
        let (ours, theirs) = (parts(self), parts(other));
        let (name, value) = ours
            .iter()
            .filter(|(name, _)| *name != "mqtt" || role != Role::Deliver)
            .find(|(name, value)| theirs.get(*name) != Some(value))?;
        Some(if value.is_table() { format!("[{name}]") } else { name.clone() })
    }

    /// The same with secrets hidden.
    pub(super) fn redacted(&self) -> Self {
        let mut settings = self.clone();
        if let Some(kafka) = &mut settings.queue.kafka {
            kafka.properties = kafka.properties.redacted();
        }
        settings
    }
}
