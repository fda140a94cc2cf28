//! Which webhook a group's messages go to, and what all partition tasks of the process share about it.

use std::sync::Arc;

use hashbrown::HashMap;
use pushline_model::{GroupId, Registry, Webhook};

use crate::room::{Room, Share};

/// A webhook as lanes see it: its definition, and its share of the room.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) webhook: Arc<Webhook>,
    pub(crate) share: Arc<Share>,
}

/// A registry snapshot with a share for each webhook.
#[derive(Debug)]
pub(crate) struct Outlets {
    registry: Arc<Registry>,
    by_webhook: HashMap<String, Arc<Outlet>>,
    room: Arc<Room>,
}

impl Outlets {
    pub(crate) fn new(registry: Arc<Registry>, room: &Arc<Room>) -> Self {
        let outlet = |webhook: &Arc<Webhook>| Arc::new(Outlet { webhook: Arc::clone(webhook), share: room.share() });
        let by_webhook = registry.webhooks().iter().map(|webhook| (webhook.name.clone(), outlet(webhook))).collect();
        Self { registry, by_webhook, room: Arc::clone(room) }
    }

    /// Where a group's messages go; `None`: nowhere that this process knows.
    pub(crate) fn of(&self, group: &GroupId) -> Option<Arc<Outlet>> {
        let webhook = self.registry.group(group.key())?.webhook.as_ref()?;
        self.by_webhook.get(&webhook.name).cloned()
    }

    /// The webhooks that became suspect since that many suspicions, which is brought up to date.
    pub(crate) fn suspected_since(&self, suspicions: &mut u64) -> Vec<Arc<Outlet>> {
        let since = std::mem::replace(suspicions, self.room.suspicions());
        if since == *suspicions {
            return Vec::new();
        }
        self.by_webhook.values().filter(|outlet| outlet.share.suspected_after(since)).cloned().collect()
    }

    /// How many webhooks are suspect.
    pub(crate) fn suspects(&self) -> usize {
        self.by_webhook.values().filter(|outlet| outlet.share.is_suspect()).count()
    }

    #[cfg(test)]
    pub(crate) fn shares(&self) -> impl Iterator<Item = &Arc<Share>> {
        self.by_webhook.values().map(|outlet| &outlet.share)
    }
}
