//! The effective configuration, as `check` prints it: every default filled in, secrets hidden. It can be read again.

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, SystemTime},
};

use pushline_model::{Registry, Webhook};
use serde::Serialize;

use super::{Config, registry::GroupTable};
use crate::stdout::counted;

/// A certificate that expires within this time is a warning.
pub(crate) const EXPIRES_SOON: Duration = Duration::from_hours(30 * 24);

/// One table of `[[webhooks]]`.
#[derive(Serialize)]
struct OneWebhook {
    webhooks: [Webhook; 1],
}

/// One table of `[[groups]]`.
#[derive(Serialize)]
struct OneGroup {
    groups: [GroupTable; 1],
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, registry, certificates, warnings, named_files: _ } = self;
        write(f, &settings.redacted())?;
        for webhook in registry.webhooks() {
            f.write_str("\n")?;
            write(f, &OneWebhook { webhooks: [webhook.redacted()] })?;
        }
        for (group, mut devices) in registry.groups().iter().zip(registry.members()) {
            // The table that they come from has no order, and two lists are to be compared.
            devices.sort_by_cached_key(ToString::to_string);
            let webhook = group.webhook.as_ref().map(|webhook| webhook.name.as_str());
            f.write_str("\n")?;
            write(f, &OneGroup { groups: [GroupTable::new(&group.id, webhook, registry.is_default(&group.id), devices)] })?;
        }
        let counts = [(registry.webhooks().len(), "webhook"), (registry.groups().len(), "group"), (registry.devices(), "device")];
        writeln!(f, "\n# {}", counts.map(|(count, thing)| counted(count, thing)).join(", "))?;
        let dropped = dropped_by_nginx(registry);
        if !dropped.is_empty() {
            let names = dropped.into_iter().collect::<Vec<_>>().join(", ");
            writeln!(f, "# nginx drops headers whose name has a _ unless underscores_in_headers is on: {names}")?;
        }
        let now = SystemTime::now();
        for (webhook, expiry) in certificates {
            let warning = if expiry.at <= now + EXPIRES_SOON { "warning: " } else { "" };
            writeln!(f, "# {warning}webhook {webhook:?}: {}", expiry.describe(now))?;
        }
        warnings.iter().try_for_each(|warning| writeln!(f, "# warning: {warning}"))
    }
}

/// The names of custom headers that nginx doesn't pass on by default, each once.
fn dropped_by_nginx(registry: &Registry) -> BTreeSet<&str> {
    let headers = registry.webhooks().iter().flat_map(|webhook| &webhook.headers);
    headers.map(|header| header.name().as_str()).filter(|name| name.contains('_')).collect()
}

fn write(f: &mut fmt::Formatter<'_>, part: &impl Serialize) -> fmt::Result {
    f.write_str(&toml::to_string(part).map_err(|_| fmt::Error)?)
}
