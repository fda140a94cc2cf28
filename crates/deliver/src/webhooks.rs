//! Webhook handles: where a group's messages go, and what all partition tasks of the process share about it.

use std::sync::Arc;

use hashbrown::HashMap;
use pushline_batch::CutRules;
use pushline_model::{GroupId, Registry, Webhook};

use crate::{
    DeliverError, Network,
    budgets::{Budgets, WebhookBudgets},
    endpoint::Endpoint,
    request::HeaderCaseCache,
};

/// A webhook as lanes see it: its definition, its part of the budgets, and its endpoint.
#[derive(Debug)]
pub(crate) struct WebhookHandle {
    pub(crate) webhook: Arc<Webhook>,
    /// How its messages are cut.
    pub(crate) rules: CutRules,
    /// The hash of `rules`.
    pub(crate) rules_hash: u64,
    pub(crate) budgets: WebhookBudgets,
    pub(crate) endpoint: Endpoint,
}

/// A registry snapshot with a handle for each webhook.
#[derive(Debug)]
pub(crate) struct Webhooks {
    registry: Arc<Registry>,
    by_name: HashMap<String, Arc<WebhookHandle>>,
    budgets: Arc<Budgets>,
    network: Arc<Network>,
}

impl WebhookHandle {
    /// Whether a lane of it may begin a message.
    pub(crate) fn may_begin(&self) -> bool {
        self.budgets.may_begin()
    }

    pub(crate) fn is_unresponsive(&self) -> bool {
        self.budgets.breaker.is_unresponsive()
    }
}

impl Webhooks {
    /// # Errors
    /// [`DeliverError`] when a webhook's requests can't be prepared.
    pub(crate) fn new(registry: Arc<Registry>, budgets: &Arc<Budgets>, network: &Arc<Network>) -> Result<Self, DeliverError> {
        let none = Self { registry: Arc::default(), by_name: HashMap::new(), budgets: Arc::clone(budgets), network: Arc::clone(network) };
        none.reload(registry)
    }

    /// For a registry that was read again: a webhook that is the same keeps its handle, one that changed keeps its part of the budgets.
    ///
    /// # Errors
    /// [`DeliverError`] when a webhook's requests can't be prepared.
    pub(crate) fn reload(&self, registry: Arc<Registry>) -> Result<Self, DeliverError> {
        let mut header_cases = HeaderCaseCache::default();
        let handle = |webhook: &Arc<Webhook>| {
            let before = self.by_name.get(webhook.name.as_str());
            if let Some(same) = before.filter(|before| before.webhook == *webhook) {
                return Ok((webhook.name.clone(), Arc::clone(same)));
            }
            let budgets = before.map_or_else(|| self.budgets.of_webhook(), |before| before.budgets.clone());
            if before.is_some_and(|before| before.webhook.url != webhook.url) {
                budgets.suspension.end_now();
            }
            let endpoint = Endpoint::new(Arc::clone(webhook), Arc::clone(&self.network), &mut header_cases)?;
            let rules = CutRules::of(webhook);
            let rules_hash = rules.hash();
            Ok((webhook.name.clone(), Arc::new(WebhookHandle { webhook: Arc::clone(webhook), rules, rules_hash, budgets, endpoint })))
        };
        let by_name = registry.webhooks().iter().map(handle).collect::<Result<_, DeliverError>>()?;
        Ok(Self { registry, by_name, budgets: Arc::clone(&self.budgets), network: Arc::clone(&self.network) })
    }

    /// Where a group's messages go; `None`: this process knows no webhook of the group.
    pub(crate) fn of(&self, group: &GroupId) -> Option<Arc<WebhookHandle>> {
        let webhook = self.registry.group(group.key())?.webhook.as_ref()?;
        Some(Arc::clone(self.by_name.get(&webhook.name).expect("the registry lists each webhook that a group has")))
    }

    /// Whether there is a webhook of this name.
    pub(crate) fn has(&self, webhook: &str) -> bool {
        self.by_name.contains_key(webhook)
    }

    /// The webhooks whose breaker opened after that many openings of the process.
    pub(crate) fn opened_after(&self, openings: u64) -> impl Iterator<Item = &Arc<WebhookHandle>> {
        self.by_name.values().filter(move |handle| handle.budgets.breaker.opened_after(openings))
    }

    /// The webhooks whose suspension began after that many of the process.
    pub(crate) fn suspended_after(&self, begun: u64) -> impl Iterator<Item = &Arc<WebhookHandle>> {
        self.by_name.values().filter(move |handle| handle.budgets.suspension.began_after(begun))
    }

    /// How many webhooks are suspended.
    pub(crate) fn suspended(&self) -> usize {
        self.by_name.values().filter(|handle| handle.budgets.suspension.is_on()).count()
    }

    /// How many webhooks are unresponsive.
    pub(crate) fn unresponsive(&self) -> usize {
        self.by_name.values().filter(|handle| handle.is_unresponsive()).count()
    }

    #[cfg(test)]
    pub(crate) fn handles(&self) -> impl Iterator<Item = &Arc<WebhookHandle>> {
        self.by_name.values()
    }
}
