//! What monitoring sees of the configuration: whether the last reload was refused, and which webhooks and groups are in effect.

use std::{
    fmt::Write as _,
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

use metrics::gauge;
use pushline_model::Registry;
use sha2::{Digest, Sha256};

use crate::{
    config::Settings,
    metrics::{
        CONFIG_DEVICES, CONFIG_GROUPS, CONFIG_INFO, CONFIG_RELOAD_SUCCESSFUL, CONFIG_RELOAD_TIMESTAMP, CONFIG_WEBHOOKS, MAX_AGE_SECONDS,
    },
};

/// The hash that is shown as the one in effect. A family keeps each series that it ever had, so the one before is set to 0.
static SHOWN: Mutex<Option<String>> = Mutex::new(None);

/// Shows the options that figures are compared with.
pub(crate) fn started(settings: &Settings) {
    gauge!(MAX_AGE_SECONDS).set(settings.backlog.max_age.as_secs_f64());
}

/// Webhooks and groups take effect, at the start or by a reload.
pub(crate) fn in_effect(registry: &Registry) {
    gauge!(CONFIG_RELOAD_SUCCESSFUL).set(1.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    gauge!(CONFIG_RELOAD_TIMESTAMP).set(now);
    gauge!(CONFIG_WEBHOOKS).set(registry.webhooks().len() as f64);
    gauge!(CONFIG_GROUPS).set(registry.groups().len() as f64);
    gauge!(CONFIG_DEVICES).set(registry.devices() as f64);
    let hash = hash(registry);
    let mut shown = SHOWN.lock().expect("nothing panics while it shows a hash");
    if let Some(before) = shown.replace(hash.clone()) {
        gauge!(CONFIG_INFO, "hash" => before).set(0.0);
    }
    gauge!(CONFIG_INFO, "hash" => hash).set(1.0);
}

/// A reload was refused: what was in effect stays so.
pub(crate) fn refused() {
    gauge!(CONFIG_RELOAD_SUCCESSFUL).set(0.0);
}

/// The same for the same webhooks, groups and devices, in each process and each order of devices. Secrets aren't part of it.
fn hash(registry: &Registry) -> String {
    let mut hasher = Sha256::new();
    for webhook in registry.webhooks() {
        let text = toml::to_string(&webhook.redacted()).expect("a webhook is a table");
        hasher.update(text);
    }
    for (group, mut devices) in registry.groups().iter().zip(registry.members()) {
        let webhook = group.webhook.as_ref().map(|webhook| webhook.name.as_str());
        hasher.update(format!("\n{} {webhook:?} {}\n", group.id.key(), registry.is_default(&group.id)));
        devices.sort_unstable_by_key(|device| device.packed());
        devices.iter().for_each(|device| hasher.update(device.packed()));
    }
    hasher.finalize()[..8].iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}
