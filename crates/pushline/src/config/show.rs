//! The effective configuration, for people: every default filled in, secrets hidden.

use std::fmt;

use pushline_model::{Auth, Group, Iccid, Webhook};

use super::{
    Config, Kafka, Queue, Settings,
    fields::Words,
    units::{duration, size},
};

const HIDDEN: &str = "\"***\"";

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, registry, passed_over } = self;
        let Settings { queue, backlog_max_age, dead_letters, listener, admin, egress_allow, shutdown_grace } = settings;
        writeln!(f, "shutdown_grace = {:?}\n", duration(*shutdown_grace))?;
        show_queue(f, queue)?;
        writeln!(f, "[backlog]\nmax_age = {:?}\n", duration(*backlog_max_age))?;
        writeln!(f, "[dead_letters]\nkeep = {:?}\nmax_bytes = {:?}\n", duration(dead_letters.keep), size(dead_letters.max_bytes))?;
        let topics = list(listener.topics.iter().map(|topic| format!("{:?}", topic.to_string())));
        writeln!(f, "[mqtt.listener]\naddress = \"{}\"\ntopics = {topics}", listener.address)?;
        writeln!(f, "max_payload_bytes = {:?}\n", size(listener.max_payload_bytes))?;
        writeln!(f, "[admin]\naddress = \"{admin}\"\n")?;
        writeln!(f, "[egress]\nallow = {}", list(egress_allow.iter().map(|range| format!("\"{range}\""))))?;
        for webhook in registry.webhooks() {
            show_webhook(f, webhook)?;
        }
        for (group, members) in registry.groups().iter().zip(registry.members()) {
            show_group(f, group, registry.is_default(&group.id), &members)?;
        }
        writeln!(f, "\n# {} webhooks, {} groups, {} devices", registry.webhooks().len(), registry.groups().len(), registry.devices())?;
        if !passed_over.is_empty() {
            writeln!(f, "# passed over, since they name no field: {}", passed_over.join(", "))?;
        }
        Ok(())
    }
}

fn show_queue(f: &mut fmt::Formatter<'_>, queue: &Queue) -> fmt::Result {
    match queue {
        Queue::Embedded { dir, max_bytes, min_free } => {
            writeln!(f, "[queue]\nkind = \"embedded\"\ndir = {dir:?}")?;
            writeln!(f, "max_bytes = {:?}\nmin_free = {:?}\n", size(*max_bytes), size(*min_free))
        }
        Queue::Kafka(Kafka { brokers, topic_prefix, partitions, properties }) => {
            writeln!(
                f,
                "[queue]\nkind = \"kafka\"\n\n[queue.kafka]\nbrokers = {brokers:?}\ntopic_prefix = {topic_prefix:?}\npartitions = {partitions}"
            )?;
            let is_secret = |name: &str| ["password", "secret", "key.pem", "token", "jaas"].iter().any(|word| name.contains(word));
            let property = |(name, value): (&String, &String)| {
                if is_secret(name) { format!("{name:?} = {HIDDEN}") } else { format!("{name:?} = {value:?}") }
            };
            writeln!(f, "properties = {{ {} }}\n", properties.iter().map(property).collect::<Vec<_>>().join(", "))
        }
    }
}

fn show_webhook(f: &mut fmt::Formatter<'_>, webhook: &Webhook) -> fmt::Result {
    writeln!(f, "\n[[webhooks]]\nname = {:?}", webhook.name)?;
    if !webhook.description.is_empty() {
        writeln!(f, "description = {:?}", webhook.description)?;
    }
    // What stands behind a question mark often is a token.
    let url = webhook.url.as_str().split_once('?').map_or(webhook.url.as_str().to_owned(), |(url, _)| format!("{url}?***"));
    writeln!(f, "url = {url:?}")?;
    match &webhook.auth {
        Auth::None => writeln!(f, "auth = {{ kind = \"none\" }}")?,
        Auth::Basic { username, .. } => writeln!(f, "auth = {{ kind = \"basic\", username = {username:?}, password = {HIDDEN} }}")?,
        Auth::Bearer { .. } => writeln!(f, "auth = {{ kind = \"bearer\", token = {HIDDEN} }}")?,
        Auth::ApiKey { header, .. } => writeln!(f, "auth = {{ kind = \"api_key\", header = {:?}, key = {HIDDEN} }}", header.as_str())?,
    }
    writeln!(f, "auth_headers = {:?}", word(webhook.auth_headers))?;
    // Customers put keys and tokens there, under names that nobody foresees.
    let headers = webhook.headers.iter().map(|header| format!("{:?} = {HIDDEN}", header.name().as_str()));
    writeln!(f, "headers = {{ {} }}", headers.collect::<Vec<_>>().join(", "))?;
    writeln!(f, "send = {:?}\niccid = {:?}\npayload = {:?}", word(webhook.send), word(webhook.iccid), word(webhook.payload))?;
    writeln!(f, "timeout = {:?}\nretries = {}", duration(webhook.timeout), webhook.retries)?;
    writeln!(f, "retry_delays = {}", list(webhook.retry_delays.iter().map(|delay| format!("{:?}", duration(*delay)))))?;
    writeln!(f, "retry_on_status = {}", list(webhook.retry_on_status.iter().map(u16::to_string)))?;
    writeln!(f, "window = {:?}\nmax_packets = {}", duration(webhook.window), webhook.max_packets)?;
    writeln!(f, "max_body_bytes = {:?}", size(webhook.max_body_bytes as u64))?;
    writeln!(f, "concurrency = {}\norder = {:?}\nalways_array = {}", webhook.concurrency, word(webhook.order), webhook.always_array)?;
    if webhook.secret.is_some() {
        writeln!(f, "secret = {HIDDEN}")?;
    }
    Ok(())
}

fn show_group(f: &mut fmt::Formatter<'_>, group: &Group, is_default: bool, members: &[Iccid]) -> fmt::Result {
    writeln!(f, "\n[[groups]]\norg = {:?}\nname = {:?}", group.id.org(), group.id.name())?;
    group.webhook.iter().try_for_each(|webhook| writeln!(f, "webhook = {:?}", webhook.name))?;
    writeln!(f, "default = {is_default}")?;
    // The table that they come from has no order, and two lists are to be compared.
    let mut devices: Vec<String> = members.iter().map(|iccid| format!("\"{iccid}\"")).collect();
    devices.sort_unstable();
    writeln!(f, "devices = {}", list(devices.into_iter()))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn word<T: Words + PartialEq>(value: T) -> &'static str {
    T::WORDS.iter().find(|(_, other)| *other == value).map_or("", |(word, _)| word)
}
