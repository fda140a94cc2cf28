//! Which webhook a group's messages go to, and what all partition tasks of the process share about it.

use std::sync::Arc;

use hashbrown::HashMap;
use pushline_model::{GroupId, Registry, Webhook};

use crate::{
    DeliverError, Network,
    endpoint::Endpoint,
    request::HeaderCaseCache,
    room::{Room, Share},
};

/// A webhook as lanes see it: its definition, its share of the room, and where attempts go.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) webhook: Arc<Webhook>,
    pub(crate) share: Arc<Share>,
    pub(crate) endpoint: Endpoint,
}

/// A registry snapshot with an outlet for each webhook.
#[derive(Debug)]
pub(crate) struct Outlets {
    registry: Arc<Registry>,
    by_webhook: HashMap<String, Arc<Outlet>>,
    room: Arc<Room>,
    network: Arc<Network>,
}

impl Outlets {
    pub(crate) fn new(registry: Arc<Registry>, room: &Arc<Room>, network: &Arc<Network>) -> Result<Self, DeliverError> {
        let none = Self { registry: Arc::default(), by_webhook: HashMap::new(), room: Arc::clone(room), network: Arc::clone(network) };
        none.read_again(registry)
    }

    /// For a registry that was read again: a webhook that is the same keeps its outlet, one that changed keeps its share of the room.
    pub(crate) fn read_again(&self, registry: Arc<Registry>) -> Result<Self, DeliverError> {
        let mut header_cases = HeaderCaseCache::default();
        let outlet = |webhook: &Arc<Webhook>| {
            let before = self.by_webhook.get(webhook.name.as_str());
            if let Some(same) = before.filter(|before| before.webhook == *webhook) {
                return Ok((webhook.name.clone(), Arc::clone(same)));
            }
            let share = before.map_or_else(|| self.room.share(), |before| Arc::clone(&before.share));
            let endpoint = Endpoint::new(Arc::clone(webhook), Arc::clone(&self.network), &mut header_cases)?;
            Ok((webhook.name.clone(), Arc::new(Outlet { webhook: Arc::clone(webhook), share, endpoint })))
        };
        let by_webhook = registry.webhooks().iter().map(outlet).collect::<Result<_, DeliverError>>()?;
        Ok(Self { registry, by_webhook, room: Arc::clone(&self.room), network: Arc::clone(&self.network) })
    }

    /// Where a group's messages go; `None`: nowhere that this process knows.
    pub(crate) fn of(&self, group: &GroupId) -> Option<Arc<Outlet>> {
        let webhook = self.registry.group(group.key())?.webhook.as_ref()?;
        self.by_webhook.get(&webhook.name).cloned()
    }

    /// Whether there is a webhook of this name.
    pub(crate) fn has(&self, webhook: &str) -> bool {
        self.by_webhook.contains_key(webhook)
    }

    /// How often any webhook became suspect, since the process began.
    pub(crate) fn suspicions(&self) -> u64 {
        self.room.suspicions()
    }

    /// The webhooks that became suspect since that many suspicions, which is brought up to date.
    pub(crate) fn suspected_since(&self, suspicions: &mut u64) -> Vec<Arc<Outlet>> {
        let since = std::mem::replace(suspicions, self.room.suspicions());
        if since == *suspicions {
            return Vec::new();
        }
        self.by_webhook.values().filter(|outlet| outlet.share.suspected_after(since)).cloned().collect()
    }

    /// Closes the connections that nobody will use again.
    pub(crate) fn close_idle(&self) {
        self.by_webhook.values().for_each(|outlet| outlet.endpoint.close_idle());
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
