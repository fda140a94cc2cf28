//! Types of single values that only this process's own configuration has.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ipnet::IpNet;
use pushline_model::{TopicPattern, Url};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error, MapAccess, Visitor},
};

/// A range of addresses; a single address is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub(crate) struct AddressRange(pub(crate) IpNet);

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let single = || text.parse().ok().map(|address: IpAddr| IpNet::from(address));
        let range = text.parse().ok().or_else(single);
        range.map(Self).ok_or_else(|| format!("{text:?} is no range of addresses, such as \"10.0.0.0/8\" or \"::1\""))
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.0.to_string()
    }
}

impl<'de> Deserialize<'de> for AddressRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text("a range such as \"10.0.0.0/8\"", str::parse))
    }
}

/// An address with a port.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let read =
        |text: &str| text.parse().map_err(|_| format!("{text:?} is no address with a port, such as \"127.0.0.1:1883\" or \"[::]:1883\""));
    deserializer.deserialize_str(Text("an address such as \"127.0.0.1:1883\"", read))
}

/// An [`address`] that may be left out.
pub(super) fn optional_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    address(deserializer).map(Some)
}

/// `egress.source_address`.
pub(super) fn ip_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let read =
        |text: &str| text.parse().map(Some).map_err(|_| format!("{text:?} is no address, such as \"198.51.100.7\" or \"2001:db8::7\""));
    deserializer.deserialize_str(Text("an address such as \"198.51.100.7\"", read))
}

/// `egress.proxy.url`.
pub(super) fn proxy_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let refusal = |text: &str| format!("{text:?} is no proxy: write it as http://host:port");
    let read = |text: &str| match text.parse::<Url>() {
        Ok(url) if !url.is_https() && url.path_and_query() == "/" => Ok(url),
        _ if text.contains('@') => Err("user and password don't belong in it: proxy = { url = …, username = …, password = … }".to_owned()),
        _ => Err(refusal(text)),
    };
    deserializer.deserialize_str(Text("a URL such as \"http://10.0.0.5:3128\"", read))
}

/// A path.
pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let read = |text: &str| if text.is_empty() { Err("a path can't be empty".to_owned()) } else { Ok(text.into()) };
    deserializer.deserialize_str(Text("a path", read))
}

/// `queue.kafka.brokers`.
pub(super) fn brokers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let read = |text: &str| {
        if text.trim().is_empty() {
            return Err("it is empty: host:port, several with commas".to_owned());
        }
        match text.split(',').map(str::trim).find(|broker| !is_broker(broker)) {
            Some(broker) => Err(format!("{broker:?} is no broker: write host:port, several with commas")),
            None => Ok(text.to_owned()),
        }
    };
    deserializer.deserialize_str(Text("a text", read))
}

/// `host`, `host:port`, or an IPv6 address in brackets. Which protocol is spoken is a property.
fn is_broker(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
        Some(address) => address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && !host.contains([':', '/', '@', ' ']),
    };
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// `queue.kafka.topic_prefix`: Kafka's own rule for topic names, which are at most 249 long.
pub(super) fn topic_prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let read = |text: &str| {
        let is_prefix = (1..=200).contains(&text.len()) && text.bytes().all(is_name);
        if is_prefix { Ok(text.to_owned()) } else { Err("1 to 200 letters, digits, dots, underscores or hyphens".to_owned()) }
    };
    deserializer.deserialize_str(Text("a text", read))
}

/// The topics of a listener or broker that names none.
pub(super) fn default_topics() -> Vec<TopicPattern> {
    vec!["{org}/{iccid}".parse().expect("the default is a topic pattern")]
}

/// `topics` of a listener or broker: at least one pattern.
pub(super) fn topics<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TopicPattern>, D::Error> {
    let topics = Vec::deserialize(deserializer)?;
    if topics.is_empty() {
        return Err(D::Error::custom("it is empty: without a pattern every packet is unrouted; expected [\"{org}/{iccid}\"]"));
    }
    Ok(topics)
}

/// `mqtt.brokers.client_id`: a text of MQTT (MQTT 5 §1.5.4).
pub(super) fn client_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let read = |text: &str| {
        let is_id = (1..=200).contains(&text.len()) && !text.chars().any(char::is_control);
        if is_id {
            Ok(text.to_owned())
        } else {
            Err("1 to 200 bytes without control characters; {hostname} stands for this machine's name".to_owned())
        }
    };
    deserializer.deserialize_str(Text("a text such as \"pushline-0\"", read))
}

/// `mqtt.brokers.shared_group` (MQTT 5 §4.8.2).
pub(super) fn shared_group<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let read = |text: &str| {
        let is_name = (1..=200).contains(&text.len()) && !text.contains(['/', '+', '#']) && !text.chars().any(char::is_control);
        if is_name { Ok(Some(text.to_owned())) } else { Err("1 to 200 bytes without / + # and control characters".to_owned()) }
    };
    deserializer.deserialize_str(Text("a text such as \"pushline\"", read))
}

/// Reads a text with a function that refuses in words. The first part says what is expected in place of another type.
struct Text<F>(&'static str, F);

impl<T, F: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.1(text).map_err(E::custom)
    }
}

/// `queue.kafka.properties`: librdkafka checks each as it is read, so that a mistake has its line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties(pub(crate) BTreeMap<String, String>);

impl Properties {
    /// What is wrong with the properties in the light of each other: the property, where it is one, and the mistake. The clients are made for that,
    /// and none is connected.
    #[cfg(feature = "kafka")]
    pub(super) fn validate(&self) -> Option<(Option<&str>, String)> {
        pushline_queue::kafka::check_properties(&self.0).err().map(|invalid| (invalid.property, invalid.problem))
    }

    #[cfg(not(feature = "kafka"))]
    pub(super) fn validate(&self) -> Option<(Option<&str>, String)> {
        None
    }

    /// The same with `***` in place of what librdkafka keeps secret.
    pub(super) fn redacted(&self) -> Self {
        let is_secret = |name: &str| ["password", "secret", "key.pem", "token", "jaas"].iter().any(|word| name.contains(word));
        let shown = |(name, value): (&String, &String)| {
            let value = if is_secret(name) { pushline_model::Secret::HIDDEN } else { value };
            (name.clone(), value.to_owned())
        };
        Self(self.0.iter().map(shown).collect())
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.0)
    }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PropertiesVisitor)
    }
}

struct PropertiesVisitor;

impl<'de> Visitor<'de> for PropertiesVisitor {
    type Value = Properties;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table: { name = \"value\" }")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Properties, A::Error> {
        let mut properties = BTreeMap::new();
        while let Some(name) = table.next_key::<String>()? {
            let value = table.next_value_seed(ValueOf(&name))?;
            properties.insert(name, value);
        }
        Ok(Properties(properties))
    }
}

/// Reads the value of the property of this name.
struct ValueOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for ValueOf<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(Text("a text", |value: &str| {
            #[cfg(feature = "kafka")]
            pushline_queue::kafka::check_property(self.0, value)?;
            #[cfg(not(feature = "kafka"))]
            let _ = self.0;
            Ok(value.to_owned())
        }))
    }
}
