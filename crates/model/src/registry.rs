//! Which group a device is in, and which webhook a group has: an immutable snapshot, shared by `Arc` and swapped whole.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::{GroupId, Iccid, Invalid, Webhook};

/// The snapshot. A device costs about 40 bytes: sixteen of ICCID, four of group, and the table's spare capacity.
#[derive(Debug, Default)]
pub struct Registry {
    groups: Vec<Group>,
    by_key: HashMap<GroupId, u32>,
    organisations: HashMap<Box<str>, Members>,
    webhooks: Vec<Arc<Webhook>>,
}

/// A group and where its messages go.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its key in the log.
    pub id: GroupId,
    /// `None`: its packets become dead letters `no_webhook`.
    pub webhook: Option<Arc<Webhook>>,
}

/// Where a device's packets go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route<'a> {
    /// To this group, which has a webhook.
    Group(&'a Group),
    /// To this group, which has none.
    NoWebhook(&'a Group),
    /// No group lists the device, and the organisation has no default group.
    Unrouted,
}

/// An organisation's devices, packed without padding.
#[derive(Debug, Default)]
struct Members {
    default: Option<u32>,
    devices: HashMap<Iccid, u32>,
}

// === impl Registry ===

impl Registry {
    /// The group of a device: the one that lists it, else its organisation's default.
    pub(crate) fn route(&self, org: &str, iccid: &Iccid) -> Route<'_> {
        let Some(members) = self.organisations.get(org) else { return Route::Unrouted };
        self.at(members.devices.get(iccid).copied().or(members.default))
    }

    /// A group that a topic names itself. `key` is `organisation/name`.
    pub(crate) fn route_to(&self, key: &str) -> Route<'_> {
        self.at(self.by_key.get(key).copied())
    }

    /// A group by its key.
    #[must_use]
    pub fn group(&self, key: &str) -> Option<&Group> {
        self.by_key.get(key).map(|&index| &self.groups[index as usize])
    }

    /// All groups, in the order they were added.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// All webhooks, used or not.
    #[must_use]
    pub fn webhooks(&self) -> &[Arc<Webhook>] {
        &self.webhooks
    }

    /// Whether devices that no group lists belong to this one.
    #[must_use]
    pub fn is_default(&self, group: &GroupId) -> bool {
        let default = self.organisations.get(group.org()).and_then(|members| members.default);
        default.is_some_and(|index| self.groups[index as usize].id == *group)
    }

    /// The devices that each group lists, in the order of [`Self::groups`]. It visits every device.
    #[must_use]
    pub fn members(&self) -> Vec<Vec<Iccid>> {
        let mut members = vec![Vec::new(); self.groups.len()];
        for (iccid, index) in self.organisations.values().flat_map(|members| &members.devices) {
            members[*index as usize].push(*iccid);
        }
        members
    }

    /// How many devices are listed.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.organisations.values().map(|members| members.devices.len()).sum()
    }

    fn at(&self, index: Option<u32>) -> Route<'_> {
        match index.map(|index| &self.groups[index as usize]) {
            None => Route::Unrouted,
            Some(group) if group.webhook.is_some() => Route::Group(group),
            Some(group) => Route::NoWebhook(group),
        }
    }
}

/// Makes a [`Registry`], refusing what clashes.
#[derive(Debug, Default)]
pub struct RegistryBuilder {
    registry: Registry,
    webhooks: HashMap<String, Arc<Webhook>>,
}

impl RegistryBuilder {
    /// Adds a webhook.
    ///
    /// # Errors
    /// The first that [`Webhook::validate`] finds; [`Invalid::Duplicate`] for a name that is taken.
    pub fn webhook(&mut self, webhook: Webhook) -> Result<(), Invalid> {
        if let Some(first) = webhook.validate().into_iter().next() {
            return Err(first.problem);
        }
        if self.webhooks.contains_key(&webhook.name) {
            return Err(Invalid::Duplicate { what: "webhook", name: webhook.name });
        }
        let webhook = Arc::new(webhook);
        self.webhooks.insert(webhook.name.clone(), Arc::clone(&webhook));
        self.registry.webhooks.push(webhook);
        Ok(())
    }

    /// Adds a group. The webhook must have been added before.
    ///
    /// # Errors
    /// [`Invalid::Duplicate`] for a group that is there already or a second default of one organisation, [`Invalid::Missing`] for a
    /// webhook that isn't.
    pub fn group(&mut self, id: GroupId, webhook: Option<&str>, default: bool) -> Result<(), Invalid> {
        let webhook = webhook.map(|name| self.find(name)).transpose()?;
        let index = u32::try_from(self.registry.groups.len()).expect("four billion groups don't fit in memory");
        if self.registry.by_key.contains_key(id.key()) {
            return Err(Invalid::Duplicate { what: "group", name: id.key().to_owned() });
        }
        let members = self.registry.organisations.entry(id.org().into()).or_default();
        if default && members.default.is_some() {
            return Err(Invalid::Duplicate { what: "default group of organisation", name: id.org().to_owned() });
        }
        members.default = members.default.or(default.then_some(index));
        self.registry.by_key.insert(id.clone(), index);
        self.registry.groups.push(Group { id, webhook });
        Ok(())
    }

    /// Puts a device into a group that was added before.
    ///
    /// # Errors
    /// [`Invalid::Duplicate`] for a device that is in a group of its organisation already, [`Invalid::Missing`] for a group that isn't there.
    pub fn device(&mut self, group: &GroupId, iccid: Iccid) -> Result<(), Invalid> {
        let missing = || Invalid::Missing { what: "group", name: group.key().to_owned() };
        let index = *self.registry.by_key.get(group.key()).ok_or_else(missing)?;
        let members = self.registry.organisations.get_mut(group.org()).ok_or_else(missing)?;
        let twice = |_| Invalid::Duplicate { what: "device", name: format!("{}/{iccid}", group.org()) };
        members.devices.try_insert(iccid, index).map(drop).map_err(twice)
    }

    /// The group that lists a device of an organisation.
    #[must_use]
    pub fn group_of(&self, org: &str, iccid: &Iccid) -> Option<&GroupId> {
        let index = self.registry.organisations.get(org)?.devices.get(iccid)?;
        Some(&self.registry.groups[*index as usize].id)
    }

    /// The snapshot.
    #[must_use]
    pub fn build(mut self) -> Registry {
        self.registry.organisations.values_mut().for_each(|members| members.devices.shrink_to_fit());
        self.registry
    }

    fn find(&self, name: &str) -> Result<Arc<Webhook>, Invalid> {
        self.webhooks.get(name).cloned().ok_or_else(|| Invalid::Missing { what: "webhook", name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        let mut builder = RegistryBuilder::default();
        builder.webhook(Webhook::new("w", "http://a.example/".parse().unwrap())).unwrap();
        let (one, other, bare): (GroupId, GroupId, GroupId) =
            ("mti/one".parse().unwrap(), "mti/other".parse().unwrap(), "x/bare".parse().unwrap());
        builder.group(one.clone(), Some("w"), false).unwrap();
        builder.group(other, Some("w"), true).unwrap();
        builder.group(bare.clone(), None, false).unwrap();
        builder.device(&one, "1".parse().unwrap()).unwrap();
        builder.device(&bare, "1".parse().unwrap()).unwrap();
        assert!(matches!(builder.device(&one, "1".parse().unwrap()), Err(Invalid::Duplicate { what: "device", .. })));
        assert!(matches!(builder.group(one, None, false), Err(Invalid::Duplicate { what: "group", .. })));
        assert!(matches!(builder.group("mti/third".parse().unwrap(), None, true), Err(Invalid::Duplicate { .. })));
        assert!(matches!(builder.group("mti/fourth".parse().unwrap(), Some("v"), false), Err(Invalid::Missing { .. })));
        builder.build()
    }

    #[test]
    fn a_device_goes_to_its_group_else_to_the_default_else_nowhere() {
        let registry = registry();
        let name = |org: &str, iccid: &str| match registry.route(org, &iccid.parse().unwrap()) {
            Route::Group(group) => format!("to {}", group.id),
            Route::NoWebhook(group) => format!("to {}, which has no webhook", group.id),
            Route::Unrouted => "unrouted".to_owned(),
        };
        assert_eq!(name("mti", "1"), "to mti/one");
        assert_eq!(name("mti", "2"), "to mti/other");
        assert_eq!(name("x", "1"), "to x/bare, which has no webhook");
        assert_eq!(name("x", "2"), "unrouted");
        assert_eq!(name("y", "1"), "unrouted");
    }

    #[test]
    fn a_topic_may_name_the_group_itself() {
        let registry = registry();
        assert!(matches!(registry.route_to("mti/one"), Route::Group(..)));
        assert!(matches!(registry.route_to("x/bare"), Route::NoWebhook(..)));
        assert!(matches!(registry.route_to("mti/unknown"), Route::Unrouted));
    }

    #[test]
    fn a_device_costs_about_forty_bytes() {
        // A table's entry, its control byte, and the spare capacity of a table between a half and seven eighths full.
        assert_eq!(size_of::<(Iccid, u32)>(), 20);
    }
}
