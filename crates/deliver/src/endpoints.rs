//! Endpoints of webhooks: a registry snapshot with what its webhooks need to be sent to.
//!
//! The core knows a webhook by its [`WebhookHandle`]. It sends nothing, so it knows no endpoint.

use std::sync::Arc;

use hashbrown::HashMap;
use pushline_lanes::{Budgets, WebhookHandle, Webhooks};
use pushline_model::Registry;

use crate::{DeliverError, Network, endpoint::Endpoint, request::HeaderCaseCache};

/// A registry snapshot with an endpoint for each webhook.
#[derive(Debug)]
pub(crate) struct Endpoints {
    webhooks: Arc<Webhooks>,
    by_name: HashMap<String, WebhookEndpoint>,
    network: Arc<Network>,
}

#[derive(Debug)]
struct WebhookEndpoint {
    /// The definition that it was made from.
    handle: Arc<WebhookHandle>,
    endpoint: Arc<Endpoint>,
}

impl Endpoints {
    /// # Errors
    /// [`DeliverError`] when a webhook's requests can't be prepared.
    pub(crate) fn new(registry: Arc<Registry>, budgets: &Arc<Budgets>, network: &Arc<Network>) -> Result<Self, DeliverError> {
        Self::with(Webhooks::new(registry, budgets), &HashMap::new(), network)
    }

    /// For a registry that was read again: a webhook that is the same keeps its endpoint. Nothing changes until the new one is published, with
    /// [`Webhooks::end_suspensions`].
    ///
    /// # Errors
    /// [`DeliverError`] when a webhook's requests can't be prepared.
    pub(crate) fn reload(&self, registry: Arc<Registry>) -> Result<Self, DeliverError> {
        Self::with(self.webhooks.reload(registry), &self.by_name, &self.network)
    }

    fn with(webhooks: Webhooks, before: &HashMap<String, WebhookEndpoint>, network: &Arc<Network>) -> Result<Self, DeliverError> {
        let mut header_cases = HeaderCaseCache::default();
        let entry = |handle: &Arc<WebhookHandle>| {
            let name = &handle.webhook.name;
            let same = before.get(name.as_str()).filter(|before| Arc::ptr_eq(&before.handle, handle));
            let endpoint = match same {
                Some(same) => Arc::clone(&same.endpoint),
                None => Arc::new(Endpoint::new(Arc::clone(&handle.webhook), Arc::clone(network), &mut header_cases)?),
            };
            Ok((name.clone(), WebhookEndpoint { handle: Arc::clone(handle), endpoint }))
        };
        let by_name = webhooks.handles().map(entry).collect::<Result<_, DeliverError>>()?;
        Ok(Self { webhooks: Arc::new(webhooks), by_name, network: Arc::clone(network) })
    }

    /// What the core knows of the same snapshot.
    pub(crate) fn webhooks(&self) -> &Arc<Webhooks> {
        &self.webhooks
    }

    /// Where messages of a webhook of this snapshot go.
    pub(crate) fn of(&self, handle: &Arc<WebhookHandle>) -> &Arc<Endpoint> {
        let found = self.by_name.get(handle.webhook.name.as_str()).filter(|found| Arc::ptr_eq(&found.handle, handle));
        &found.expect("the core starts attempts under the snapshot that it was given last").endpoint
    }
}

#[cfg(test)]
mod tests {
    use pushline_model::{RegistryBuilder, Tls, Webhook};

    use super::*;
    use crate::Egress;

    fn registry(webhooks: [Webhook; 2]) -> Arc<Registry> {
        let mut builder = RegistryBuilder::default();
        webhooks.into_iter().for_each(|webhook| builder.webhook(webhook).unwrap());
        Arc::new(builder.build())
    }

    fn webhook(name: &str, host: &str) -> Webhook {
        Webhook::new(name, format!("https://{host}.example/").parse().unwrap())
    }

    fn handle<'a>(endpoints: &'a Endpoints, name: &str) -> &'a Arc<WebhookHandle> {
        endpoints.webhooks.handles().find(|handle| handle.webhook.name == name).unwrap()
    }

    #[tokio::test]
    async fn a_registry_is_refused_if_requests_of_one_webhook_can_not_be_prepared() {
        let (budgets, network) = (Budgets::new(1 << 20), Network::new(Egress::default()).unwrap());
        let before = Endpoints::new(registry([webhook("a", "one"), webhook("b", "one")]), &budgets, &network).unwrap();
        let mut unusable = webhook("b", "one");
        unusable.tls = Tls { ca_file: Some("/nonexistent".into()), ..Tls::default() };
        before.reload(registry([webhook("a", "two"), unusable])).unwrap_err();
    }

    #[tokio::test]
    async fn a_webhook_that_stays_the_same_keeps_its_endpoint_over_a_reload() {
        let (budgets, network) = (Budgets::new(1 << 20), Network::new(Egress::default()).unwrap());
        let before = Endpoints::new(registry([webhook("a", "one"), webhook("b", "one")]), &budgets, &network).unwrap();
        let after = before.reload(registry([webhook("a", "two"), webhook("b", "one")])).unwrap();
        let is_kept = |name| Arc::ptr_eq(before.of(handle(&before, name)), after.of(handle(&after, name)));
        assert_eq!((is_kept("a"), is_kept("b")), (false, true));
        assert_eq!(handle(&after, "a").webhook.url, "https://two.example/".parse().unwrap());
    }
}
