//! Webhook handles: where a group's messages go, and what all partition tasks of the process share about it.

use std::sync::Arc;

use hashbrown::HashMap;
use pushline_batch::CutRules;
use pushline_model::{GroupId, Registry, Webhook};

use crate::{
    budgets::{Budgets, WebhookBudgets},
    suspension::Suspension,
};

/// A webhook as lanes see it: its definition, and its part of the budgets.
#[derive(Debug)]
pub struct WebhookHandle {
    /// Its definition.
    pub webhook: Arc<Webhook>,
    /// How its messages are cut.
    pub(crate) rules: CutRules,
    /// The hash of `rules`.
    pub(crate) rules_hash: u64,
    pub(crate) budgets: WebhookBudgets,
}

/// A registry snapshot with a handle for each webhook.
#[derive(Debug)]
pub struct Webhooks {
    registry: Arc<Registry>,
    by_name: HashMap<String, Arc<WebhookHandle>>,
    budgets: Arc<Budgets>,
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
    /// The first snapshot of a process.
    #[must_use]
    pub fn new(registry: Arc<Registry>, budgets: &Arc<Budgets>) -> Self {
        Self { registry: Arc::default(), by_name: HashMap::new(), budgets: Arc::clone(budgets) }.reload(registry)
    }

    /// For a registry that was read again: a webhook that is the same keeps its handle, one that changed keeps its part of the budgets. Nothing changes
    /// until the new one is published, with [`Self::end_suspensions`].
    #[must_use]
    pub fn reload(&self, registry: Arc<Registry>) -> Self {
        let handle = |webhook: &Arc<Webhook>| {
            let before = self.by_name.get(webhook.name.as_str());
            if let Some(same) = before.filter(|before| before.webhook == *webhook) {
                return (webhook.name.clone(), Arc::clone(same));
            }
            let budgets = before.map_or_else(|| self.budgets.of_webhook(), |before| before.budgets.clone());
            let rules = CutRules::of(webhook);
            let rules_hash = rules.hash();
            (webhook.name.clone(), Arc::new(WebhookHandle { webhook: Arc::clone(webhook), rules, rules_hash, budgets }))
        };
        let by_name = registry.webhooks().iter().map(handle).collect();
        Self { registry, by_name, budgets: Arc::clone(&self.budgets) }
    }

    /// This registry takes the place of `before`. A webhook whose URL changed has another server, which hasn't asked to be left alone. Returns the webhooks
    /// that were suspended.
    pub fn end_suspensions(&self, before: &Self) -> Vec<&str> {
        let moved = |handle: &&Arc<WebhookHandle>| {
            let before = before.by_name.get(handle.webhook.name.as_str());
            before.is_some_and(|before| before.webhook.url != handle.webhook.url) && handle.budgets.suspension.end_now()
        };
        self.by_name.values().filter(moved).map(|handle| handle.webhook.name.as_str()).collect()
    }

    /// Where a group's messages go; `None`: this process knows no webhook of the group.
    pub(crate) fn of(&self, group: &GroupId) -> Option<Arc<WebhookHandle>> {
        let webhook = self.registry.group(group.key())?.webhook.as_ref()?;
        Some(Arc::clone(self.by_name.get(&webhook.name).expect("the registry lists each webhook that a group has")))
    }

    /// Whether there is a webhook of this name.
    #[must_use]
    pub fn has(&self, webhook: &str) -> bool {
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

    /// The webhook that has this suspension.
    pub(crate) fn suspended_by(&self, suspension: &Arc<Suspension>) -> Option<&Arc<WebhookHandle>> {
        self.by_name.values().find(|handle| Arc::ptr_eq(&handle.budgets.suspension, suspension))
    }

    /// How many webhooks are suspended.
    pub(crate) fn suspended(&self) -> usize {
        self.by_name.values().filter(|handle| handle.budgets.suspension.is_on()).count()
    }

    /// How many webhooks are unresponsive.
    pub(crate) fn unresponsive(&self) -> usize {
        self.by_name.values().filter(|handle| handle.is_unresponsive()).count()
    }

    /// The handles of all webhooks, in any order.
    pub fn handles(&self) -> impl Iterator<Item = &Arc<WebhookHandle>> {
        self.by_name.values()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use pushline_model::RegistryBuilder;

    use super::*;

    fn registry(hosts: [&str; 2]) -> Arc<Registry> {
        let mut builder = RegistryBuilder::default();
        for (name, host) in ["a", "b"].into_iter().zip(hosts) {
            builder.webhook(Webhook::new(name, format!("https://{host}.example/").parse().unwrap())).unwrap();
        }
        Arc::new(builder.build())
    }

    #[test]
    fn a_suspension_ends_when_the_registry_with_another_url_is_published_and_not_before() {
        let before = Webhooks::new(registry(["one", "one"]), &Budgets::new(1 << 20));
        let suspension = Arc::clone(&before.by_name["a"].budgets.suspension);
        suspension.extend(Instant::now() + Duration::from_secs(3600));
        let after = before.reload(registry(["two", "two"]));
        assert!(suspension.is_on());
        assert_eq!((after.end_suspensions(&before), suspension.is_on()), (vec!["a"], false));
    }
}
