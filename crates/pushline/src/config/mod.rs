//! The configuration: one TOML file, with overrides from the environment. A mistake is refused before anything starts, with its file, line and
//! field, and what would be right.

mod document;
mod fields;
mod section;
mod show;
#[cfg(test)]
mod tests;
mod units;
mod webhooks;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use pushline_deliver::Egress;
use pushline_model::{Registry, TopicPattern, Webhook};

pub(crate) use self::document::ConfigError;
use crate::role::Role;

use self::{
    document::PREFIX,
    fields::{OneOf, Parsed, Size},
    section::Section,
};

/// All of it, valid.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) settings: Settings,
    /// Webhooks and groups: what can be read again while it runs.
    pub(crate) registry: Registry,
    /// Variables that begin like Pushline's own and name no field.
    pub(crate) passed_over: Vec<String>,
}

/// Everything but webhooks and groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) queue: Queue,
    pub(crate) backlog_max_age: Duration,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) listener: Listener,
    pub(crate) admin: SocketAddr,
    pub(crate) egress_allow: Vec<ipnet::IpNet>,
    /// How long a shutdown waits for what is in flight.
    pub(crate) shutdown_grace: Duration,
}

/// `[queue]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Queue {
    /// In a folder, for one process.
    Embedded { dir: PathBuf, max_bytes: u64, min_free: u64 },
    /// On Apache Kafka, for many.
    Kafka(Kafka),
}

/// `[queue.kafka]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kafka {
    pub(crate) brokers: String,
    pub(crate) topic_prefix: String,
    pub(crate) partitions: u32,
    pub(crate) properties: BTreeMap<String, String>,
}

/// `[dead_letters]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetters {
    pub(crate) keep: Duration,
    pub(crate) max_bytes: u64,
}

/// `[mqtt.listener]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) topics: Vec<TopicPattern>,
    pub(crate) max_payload_bytes: u64,
}

/// A dead letter's response, attempts and names.
const AROUND: usize = 16 << 10;

/// MQTT 5 §1.5.4. That a message's packets have many such topics is not to be expected; a dead letter that doesn't fit isn't lost, it waits.
const TOPIC: usize = 64 << 10;

impl Config {
    /// Reads a file, and the environment of this process.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read the configuration {}", path.display()))?;
        let variables = variables().collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self::parse(path, &text, variables)?)
    }

    /// Reads a text as if it stood in a file.
    pub(crate) fn parse(path: &Path, text: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut root = document::parse(&path.display().to_string(), text, variables)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let settings = Settings {
            queue: queue(&mut root, folder)?,
            backlog_max_age: backlog(&mut root)?,
            dead_letters: dead_letters(&mut root)?,
            listener: mqtt(&mut root)?,
            admin: admin(&mut root)?,
            egress_allow: egress(&mut root)?,
            shutdown_grace: root.or("shutdown_grace", Duration::from_secs(10))?,
        };
        let registry = webhooks::registry(&mut root, folder)?;
        let config = Self { settings, registry, passed_over: root.passed_over() };
        root.finish()?;
        Ok(config)
    }

    /// Bytes of the largest record that may come to lie in the queue: a packet, or a dead letter or replay with all of a message's packets.
    pub(crate) fn largest_record(&self) -> usize {
        let packet = usize::try_from(self.settings.listener.max_payload_bytes).unwrap_or(usize::MAX);
        self.largest_message().max(packet + TOPIC + AROUND)
    }

    /// The same of dead letters and replays alone: what webhooks that are read again may change.
    pub(crate) fn largest_message(&self) -> usize {
        let message = |webhook: &Arc<Webhook>| webhook.max_body_bytes + webhook.max_packets.min(16) * TOPIC + AROUND;
        self.registry.webhooks().iter().map(message).max().unwrap_or_default()
    }

    pub(crate) fn egress(&self) -> Egress {
        Egress::new(self.settings.egress_allow.clone())
    }
}

impl Settings {
    /// The first part that differs and that this role reads, as the file names it.
    pub(crate) fn difference(&self, other: &Self, role: Role) -> Option<&'static str> {
        [
            ("[queue]", self.queue != other.queue),
            ("[backlog]", self.backlog_max_age != other.backlog_max_age),
            ("[dead_letters]", self.dead_letters != other.dead_letters),
            ("[mqtt.listener]", role != Role::Deliver && self.listener != other.listener),
            ("[admin]", self.admin != other.admin),
            ("[egress]", self.egress_allow != other.egress_allow),
            ("shutdown_grace", self.shutdown_grace != other.shutdown_grace),
        ]
        .into_iter()
        .find_map(|(name, differs)| differs.then_some(name))
    }
}

/// Pushline's own of this process's environment. What other programs put there may be any bytes.
fn variables() -> impl Iterator<Item = anyhow::Result<(String, String)>> {
    let own = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX));
    own.map(|(name, value)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(_) => bail!("environment variable {name}: its value isn't UTF-8"),
    })
}

/// A folder that isn't absolute lies beside the configuration file.
fn queue(root: &mut Section, folder: &Path) -> Result<Queue, ConfigError> {
    let Some(mut section) = root.section("queue")? else {
        return Ok(Queue::Embedded { dir: folder.join("pushline-data"), max_bytes: 10 << 30, min_free: 1 << 30 });
    };
    // What belongs to the other kind is checked all the same, and then left alone.
    let kind = section.or("kind", OneOf(Kind::Embedded))?.0;
    let dir = folder.join(section.or("dir", PathBuf::from("pushline-data"))?);
    let max_bytes = section.or("max_bytes", Size(10 << 30))?.0;
    if max_bytes < 256 << 20 {
        return Err(section.error("max_bytes", "a backlog needs at least 256MiB: four segments of the log"));
    }
    let min_free = section.or("min_free", Size(1 << 30))?.0;
    let kafka = section.section("kafka")?.map(kafka).transpose()?;
    let queue = match (kind, kafka) {
        (Kind::Embedded, _) => Queue::Embedded { dir, max_bytes, min_free },
        (Kind::Kafka, _) if !cfg!(feature = "kafka") => {
            return Err(section.error("kind", "this Pushline was built without Kafka: build it with the cargo feature kafka"));
        }
        (Kind::Kafka, Some(kafka)) => Queue::Kafka(kafka),
        (Kind::Kafka, None) => return Err(section.error("kafka", "it is missing: [queue.kafka] with brokers = \"host:9092\"")),
    };
    section.finish()?;
    Ok(queue)
}

/// `queue.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embedded,
    Kafka,
}

impl fields::Words for Kind {
    const WORDS: &'static [(&'static str, Self)] = &[("embedded", Self::Embedded), ("kafka", Self::Kafka)];
}

fn kafka(mut section: Section) -> Result<Kafka, ConfigError> {
    let brokers: String = section.require("brokers")?;
    if brokers.trim().is_empty() {
        return Err(section.error("brokers", "it is empty: host:port, several with commas"));
    }
    let topic_prefix = section.or("topic_prefix", "pushline".to_owned())?;
    // Kafka's own rule for topic names, which are at most 249 long.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=200).contains(&topic_prefix.len()) || !topic_prefix.bytes().all(is_name) {
        return Err(section.error("topic_prefix", "1 to 200 letters, digits, dots, underscores or hyphens"));
    }
    let partitions = section.or("partitions", 16u32)?;
    if !(1..=10_000).contains(&partitions) {
        return Err(section.error("partitions", "1 to 10000: it can't be changed later"));
    }
    let properties = properties(&mut section)?;
    section.finish()?;
    Ok(Kafka { brokers, topic_prefix, partitions, properties })
}

/// Each is shown to librdkafka, so that a mistake is told here.
fn properties(section: &mut Section) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut properties = BTreeMap::new();
    for (name, value, place) in section.texts("properties")? {
        #[cfg(feature = "kafka")]
        if let Err(problem) = pushline_queue::kafka::check_property(&name, &value) {
            return Err(ConfigError { place, field: format!("queue.kafka.properties.{name}"), problem });
        }
        #[cfg(not(feature = "kafka"))]
        let _ = place;
        properties.insert(name, value);
    }
    Ok(properties)
}

fn backlog(root: &mut Section) -> Result<Duration, ConfigError> {
    let default = Duration::from_hours(72);
    let Some(mut section) = root.section("backlog")? else { return Ok(default) };
    let max_age = section.or("max_age", default)?;
    if max_age < Duration::from_secs(1) {
        return Err(section.error("max_age", "at least 1s: packets that wait longer become dead letters"));
    }
    section.finish()?;
    Ok(max_age)
}

fn dead_letters(root: &mut Section) -> Result<DeadLetters, ConfigError> {
    let default = DeadLetters { keep: Duration::from_hours(14 * 24), max_bytes: 5 << 30 };
    let Some(mut section) = root.section("dead_letters")? else { return Ok(default) };
    let keep = section.or("keep", default.keep)?;
    if keep < Duration::from_secs(1) {
        return Err(section.error("keep", "at least 1s: dead letters that are older are dropped"));
    }
    let max_bytes = section.or("max_bytes", Size(default.max_bytes))?.0;
    if max_bytes < 16 << 20 {
        return Err(section.error("max_bytes", "at least 16MiB"));
    }
    section.finish()?;
    Ok(DeadLetters { keep, max_bytes })
}

fn mqtt(root: &mut Section) -> Result<Listener, ConfigError> {
    let Some(mut mqtt) = root.section("mqtt")? else { return listener(None) };
    let section = mqtt.section("listener")?;
    if let Some(broker) = mqtt.sections("brokers")?.first() {
        return Err(
            broker.error_here("this version takes packets in by its own listener only: take [[mqtt.brokers]] out and use [mqtt.listener]")
        );
    }
    mqtt.finish()?;
    listener(section)
}

fn listener(section: Option<Section>) -> Result<Listener, ConfigError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
    let Some(mut section) = section else {
        let topics = "{org}/{iccid}".parse().into_iter().collect();
        return Ok(Listener { address, topics, max_payload_bytes: 256 << 10 });
    };
    let address = section.or("address", address)?;
    let topics = section.list::<Parsed<TopicPattern>>("topics")?;
    let topics: Vec<TopicPattern> = topics
        .map_or_else(|| "{org}/{iccid}".parse().into_iter().collect(), |topics| topics.into_iter().map(|Parsed(topic)| topic).collect());
    if topics.is_empty() {
        return Err(section.error("topics", "it is empty: without a pattern every packet is unrouted; expected [\"{org}/{iccid}\"]"));
    }
    let max_payload_bytes = section.or("max_payload_bytes", Size(256 << 10))?.0;
    if !(1..=128 << 20).contains(&max_payload_bytes) {
        return Err(section.error("max_payload_bytes", "1 to 128MiB"));
    }
    section.finish()?;
    Ok(Listener { address, topics, max_payload_bytes })
}

fn admin(root: &mut Section) -> Result<SocketAddr, ConfigError> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9090));
    let Some(mut section) = root.section("admin")? else { return Ok(default) };
    let address = section.or("address", default)?;
    section.finish()?;
    Ok(address)
}

fn egress(root: &mut Section) -> Result<Vec<ipnet::IpNet>, ConfigError> {
    let Some(mut section) = root.section("egress")? else { return Ok(Vec::new()) };
    let allow = section.list::<Range>("allow")?.unwrap_or_default();
    section.finish()?;
    Ok(allow.into_iter().map(|Range(range)| range).collect())
}

/// A range of addresses; a single address is a range of one.
struct Range(ipnet::IpNet);

impl fields::Field for Range {
    const EXPECTED: &'static str = "a range such as \"10.0.0.0/8\"";

    fn text(text: &str) -> Result<Self, String> {
        let single = || text.parse().ok().map(|address: std::net::IpAddr| ipnet::IpNet::from(address));
        let range = text.parse().ok().or_else(single);
        range.map(Self).ok_or_else(|| format!("{text:?} is no range of addresses, such as \"10.0.0.0/8\" or \"::1\""))
    }
}
