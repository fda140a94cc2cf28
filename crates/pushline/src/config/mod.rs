//! The configuration: one TOML file, with overrides from the environment. Pushline refuses a configuration with mistakes before anything starts, and
//! reports each mistake with its file, line and field, and what would be right.

mod brokers;
mod deserialize;
mod examples;
mod files;
mod listeners;
mod logins;
mod mistakes;
mod print;
mod read;
mod refusal;
mod registry;
mod settings;
mod source;
mod syntax;
#[cfg(test)]
mod tests;
mod values;
mod warnings;

use std::{path::Path, sync::Arc};

use anyhow::bail;
use pushline_deliver::{Egress, FileWatch, Proxy};
use pushline_ingest::InvalidOption;
use pushline_model::{Registry, Webhook};
use toml::{Spanned, de::DeValue};

pub(crate) use self::{
    files::Unreadable,
    mistakes::Mistakes,
    print::EXPIRES_SOON,
    registry::Certificates,
    settings::{Kafka, Queue, RuntimeSettings, Settings},
};

use self::{
    files::TextError,
    mistakes::Collector,
    read::Table,
    source::{PREFIX, Source},
};

/// All of it, valid.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) settings: Settings,
    /// Webhooks and groups: what can be read again while the process runs.
    pub(crate) registry: Registry,
    /// What expires of the certificates that webhooks name.
    pub(crate) certificates: Certificates,
    /// What is no mistake, and probably not meant either.
    pub(crate) warnings: Vec<String>,
    /// The files that the configuration names and that were read with it: devices, secrets.
    pub(crate) named_files: FileWatch,
}

/// Bytes of a dead letter beside its packets: the response, the attempts, the names.
const DEAD_LETTER_OVERHEAD: usize = 16 << 10;

/// Bytes of the longest topic (MQTT 5 §1.5.4). [`Config::largest_message`] counts at most 16 of them; a dead letter that doesn't fit waits.
const LONGEST_TOPIC: usize = 64 << 10;

impl Config {
    /// Reads a file, everything that it names, and the environment of this process.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = files::read_text(path).map_err(|error| match error {
            TextError::Unreadable(error) => anyhow::Error::new(error),
            TextError::NotText(problem) => anyhow::Error::msg(problem),
        })?;
        let variables = variables().collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self::parse(path, &text, variables)?)
    }

    /// Reads a text as if it stood in a file.
    pub(crate) fn parse(path: &Path, text: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        let mut mistakes = Collector::default();
        let (source, root) = Source::parse(path, text, variables, &mut mistakes);
        let mut root = root.unwrap_or_default();
        let (registry, certificates) = registry::read(&mut root, &source, &mut mistakes);
        let mut document = Table::new(String::new(), Spanned::new(0..0, DeValue::Table(root)), &source);
        let mut passed_over = Vec::new();
        let settings = document.read(&mut mistakes, |offset| {
            let variable = source.variable(offset).filter(|name| !name.contains("__"));
            passed_over.extend(variable.map(str::to_owned));
            variable.is_some()
        });
        let mut settings: Settings = settings.unwrap_or_default();
        for (path, problem) in settings.validate().into_iter().filter(|(path, _)| !document.is_mended_within(path)) {
            document.mistake(&mut mistakes, &path, problem);
        }
        let mut warnings = warnings::of(&document, &settings, &registry);
        warnings.extend(warnings::of_variables(&passed_over));
        settings.queue.dir = source.path(&settings.queue.dir);
        settings.mqtt.listeners =
            settings.mqtt.listeners.into_iter().map(|listener| listener.with_paths(&|path| source.path(path))).collect();
        for (number, listener) in settings.mqtt.listeners.iter().enumerate() {
            if let Some(InvalidOption { field, problem }) = listener.validate() {
                document.mistake_of_listener(&mut mistakes, number, field, problem);
            }
        }
        settings.mqtt.brokers = std::mem::take(&mut settings.mqtt.brokers).into_iter().map(|broker| broker.with_paths(&source)).collect();
        for problem in brokers::mistakes(&settings.mqtt.brokers) {
            document.mistake(&mut mistakes, &["mqtt", "brokers"], problem);
        }
        drop(document);
        let named_files = mistakes.finish(source.into_named_files())?;
        Ok(Self { settings, registry, certificates, warnings, named_files })
    }

    /// Bytes of the largest record that may come to lie in the queue: a packet, or a dead letter or replay with all of a message's packets.
    pub(crate) fn largest_record(&self) -> usize {
        self.largest_message().max(self.settings.mqtt.largest_payload() + LONGEST_TOPIC + DEAD_LETTER_OVERHEAD)
    }

    /// Bytes of the largest payload that certainly fits into a dead letter of its own.
    pub(crate) fn largest_dead_payload(&self) -> usize {
        self.largest_record() - LONGEST_TOPIC - DEAD_LETTER_OVERHEAD
    }

    /// The same of dead letters and replays alone: what webhooks that are read again may change. 0 without webhooks.
    pub(crate) fn largest_message(&self) -> usize {
        let message = |webhook: &Arc<Webhook>| webhook.max_body_bytes + webhook.max_packets.min(16) * LONGEST_TOPIC + DEAD_LETTER_OVERHEAD;
        self.registry.webhooks().iter().map(message).max().unwrap_or(0)
    }

    pub(crate) fn egress(&self) -> Egress {
        let settings = &self.settings.egress;
        let mut egress = Egress::new(settings.allow.iter().map(|range| range.0).collect());
        if let Some(address) = settings.source_address {
            egress = egress.dialling_from(address);
        }
        if let Some(named) = &settings.proxy {
            let proxy = Proxy::new(named.url.host(), named.url.port());
            egress = egress.through(match (&named.username, &named.password) {
                (Some(username), Some(password)) => proxy.with_credentials(username, password),
                _ => proxy,
            });
        }
        egress
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
