//! The destinations of all webhooks, by name.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use pushline_model::{MessageId, NoResponse, Outcome, Registry, Webhook};

use crate::{DeliverError, Network, destination::Destination};

/// Where attempts go. One for each webhook, with its connections.
#[derive(Debug)]
pub(crate) struct Destinations(HashMap<String, Destination>);

impl Destinations {
    pub(crate) fn new(registry: &Registry, network: &Arc<Network>) -> Result<Self, DeliverError> {
        let destination = |webhook: &Arc<Webhook>| Ok((webhook.name.clone(), Destination::new(Arc::clone(webhook), Arc::clone(network))?));
        registry.webhooks().iter().map(destination).collect::<Result<_, DeliverError>>().map(Self)
    }

    /// One attempt.
    pub(crate) async fn attempt(&self, webhook: &Webhook, id: MessageId, body: Bytes) -> Outcome {
        match self.0.get(webhook.name.as_str()) {
            Some(destination) => destination.attempt(id, body).await,
            None => Outcome::NoResponse(NoResponse::Connect),
        }
    }
}
