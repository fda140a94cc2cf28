//! A look at a webhook's way for operators, outside of delivery: can its server be reached, and does it accept a push?

use std::sync::Arc;

use bytes::Bytes;
use pushline_batch::{Body, CutRules};
use pushline_model::{MessageId, Outcome, Packet, Webhook};

use crate::{DeliverError, Network, endpoint::Endpoint, request::HeaderCaseCache};

/// A webhook that is looked at.
#[derive(Debug)]
pub struct Probe(Endpoint);

impl Probe {
    /// Prepares the requests.
    ///
    /// # Errors
    /// As delivery's start: the webhook's secret, headers or `tls` are of no use.
    pub fn new(webhook: Arc<Webhook>, network: Arc<Network>) -> Result<Self, DeliverError> {
        Endpoint::new(webhook, network, &mut HeaderCaseCache::default()).map(Self)
    }

    /// Connects as an attempt does: name, egress guard, TCP, TLS. Sends nothing. Returns the protocol: `http/1.1` or `h2`.
    ///
    /// # Errors
    /// The outcome that an attempt would have.
    pub async fn reach(&self) -> Result<&'static str, Outcome> {
        let protocol = self.0.reach().await?;
        Ok(std::str::from_utf8(protocol.alpn()).expect("ALPN names are ASCII"))
    }

    /// Makes one attempt with a message of its own, which holds this packet alone.
    pub async fn push(&self, packet: &Packet<'_>) -> Outcome {
        let mut body = Body::default();
        body.push(&CutRules::of(self.0.webhook()), packet);
        let body: Bytes = body.seal(self.0.webhook().always_array).bytes();
        self.0.attempt(MessageId(fastrand::u128(..).to_be_bytes()), body, true).await
    }
}
