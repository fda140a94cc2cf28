//! Where a packet belongs, by its topic: for the listener, and for the replay of an unrouted packet after the configuration was mended. There is
//! no other way to it, so both always agree. Pure.

use crate::{Group, GroupId, Iccid, Registry, TopicPattern, registry::Route, topics::Named};

/// Where a packet belongs, or why nowhere.
#[derive(Debug, Clone, Copy)]
pub enum Routed<'a> {
    /// From this device to this group, which has a webhook.
    Group(&'a Group, Iccid),
    /// From this device to this group, which has none.
    NoWebhook(&'a Group, Iccid),
    /// From a device that no group wants, or to a group that isn't there.
    Unwanted {
        /// The organisation that the topic names.
        org: &'a str,
        /// The device.
        iccid: Iccid,
    },
    /// No pattern matches the topic.
    Unnamed,
}

/// The first pattern that matches counts. A group in the topic overrides the registry's, and where it isn't there, no other takes its place: that
/// would be another customer's.
#[must_use]
pub fn route<'a>(topic: &'a str, patterns: &[TopicPattern], registry: &'a Registry) -> Routed<'a> {
    let Some(named) = patterns.iter().find_map(|pattern| pattern.read(topic)) else { return Routed::Unnamed };
    let Named { org, iccid, group } = named;
    let route = match group {
        None => registry.route(org, &iccid),
        Some(group) => by_name(org, group, registry),
    };
    match route {
        Route::Group(group) => Routed::Group(group, iccid),
        Route::NoWebhook(group) => Routed::NoWebhook(group, iccid),
        Route::Unrouted => Routed::Unwanted { org, iccid },
    }
}

fn by_name<'a>(org: &str, group: &str, registry: &'a Registry) -> Route<'a> {
    let id = org.parse().ok().and_then(|org| GroupId::new(&org, group).ok());
    id.map_or(Route::Unrouted, |id| registry.route_to(id.key()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RegistryBuilder, Webhook};

    #[test]
    fn a_group_in_the_topic_overrides_the_registry_and_never_falls_back() {
        let mut builder = RegistryBuilder::default();
        builder.webhook(Webhook::new("w", "http://a.example/".parse().unwrap())).unwrap();
        builder.group("mti/line".parse().unwrap(), Some("w"), true).unwrap();
        builder.group("mti/other".parse().unwrap(), Some("w"), false).unwrap();
        builder.group("mti/bare".parse().unwrap(), None, false).unwrap();
        builder.device(&"mti/other".parse().unwrap(), "2".parse().unwrap()).unwrap();
        let registry = builder.build();
        let patterns = ["{org}/{iccid}".parse().unwrap(), "g/{org}/{group}/{iccid}".parse().unwrap()];
        for (topic, expected) in [
            ("mti/1", "1 to mti/line"),
            ("mti/2", "2 to mti/other"),
            ("g/mti/line/2", "2 to mti/line"),
            ("g/mti/bare/2", "2 to mti/bare, which has no webhook"),
            ("g/mti/none/2", "2 of mti to nobody"),
            ("g/mti/no+name/2", "2 of mti to nobody"),
            ("x/1", "1 of x to nobody"),
            ("nonsense", "unnamed"),
        ] {
            let routed = match route(topic, &patterns, &registry) {
                Routed::Group(group, iccid) => format!("{iccid} to {}", group.id),
                Routed::NoWebhook(group, iccid) => format!("{iccid} to {}, which has no webhook", group.id),
                Routed::Unwanted { org, iccid } => format!("{iccid} of {org} to nobody"),
                Routed::Unnamed => "unnamed".to_owned(),
            };
            assert_eq!(routed, expected, "{topic}");
        }
    }
}
