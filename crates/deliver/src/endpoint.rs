//! A webhook's endpoint: attempts on it, and requests that go again within an attempt because the server didn't process them.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::FutureExt;
use pushline_model::{LocalFailureKind, MessageId, NoResponse, Outcome, Webhook};
use tokio::time::{sleep, timeout_at};

use crate::{
    DeliverError, Network,
    access_tokens::AccessTokens,
    compression,
    connection::{Deadline, Protocol, SendError},
    kept_headers::response_headers,
    network::ConnectError,
    pool::{Checkout, Origin, Sharer},
    request::{HeaderCaseCache, Template},
    response::{Drain, Remainder},
};

#[cfg(test)]
mod held_test;
#[cfg(test)]
mod http1_test;
#[cfg(test)]
mod http2_test;
#[cfg(test)]
mod scripted_server;

/// How long to wait before a request goes again that the server didn't process: at most this often in an attempt.
const NOT_PROCESSED: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(500)];

/// Where a webhook's messages go. The caller bounds how many attempts run at once.
#[derive(Debug)]
pub(crate) struct Endpoint {
    webhook: Arc<Webhook>,
    network: Arc<Network>,
    template: Template,
    tokens: Option<Arc<AccessTokens>>,
    sharer: Sharer,
    drain: Drain,
}

/// How often the request of an attempt went again, without counting as an attempt.
#[derive(Debug, Default)]
struct Repeats {
    stale: bool,
    not_processed: usize,
    http11_required: bool,
}

impl Endpoint {
    pub(crate) fn new(webhook: Arc<Webhook>, network: Arc<Network>, header_cases: &mut HeaderCaseCache) -> Result<Self, DeliverError> {
        let tokens = AccessTokens::of(&webhook).map(Arc::new);
        let template = Template::new(&webhook, tokens.clone(), header_cases)?;
        let identity = network.identity(&webhook.tls).map_err(|error| DeliverError::TlsFile { webhook: webhook.name.clone(), error })?;
        let sharer = network.pool().join(Origin::of(&webhook), identity);
        let drain = Drain::new(Arc::clone(sharer.host()), Arc::clone(&network), webhook.concurrency);
        Ok(Self { webhook, network, template, tokens, sharer, drain })
    }

    /// One attempt (docs/document.md, Outcome). `is_first`: of its message. A retry goes out on a new connection: the server may be well, and what lies
    /// between may not.
    ///
    /// A panic ends the attempt and nothing else: it is a local failure, so the message waits and is sent again. No state is left half changed by it,
    /// since an attempt shares only its connections and counters. A panic anywhere else in delivery ends the process.
    pub(crate) async fn attempt(&self, id: MessageId, body: Bytes, is_first: bool) -> Outcome {
        let Ok(outcome) = AssertUnwindSafe(self.authorized_attempt(id, body, !is_first)).catch_unwind().await else {
            return self.local_failure(LocalFailureKind::Panic, &format!("an attempt of webhook {:?} panicked", self.webhook.name));
        };
        if outcome.answered() || outcome.no_response().is_some() {
            self.sharer.set_unresponsive(!outcome.answered());
        }
        outcome
    }

    async fn authorized_attempt(&self, id: MessageId, body: Bytes, is_fresh: bool) -> Outcome {
        let body = compression::encode(self.webhook.compression, body).await;
        match &self.tokens {
            None => self.attempt_once(id, body, is_fresh).await,
            // On the heap, as it is rare.
            Some(tokens) => Box::pin(tokens.attempt(&self.network, || self.attempt_once(id, body.clone(), is_fresh))).await,
        }
    }

    async fn attempt_once(&self, id: MessageId, body: Bytes, mut is_fresh: bool) -> Outcome {
        let (mut deadline, mut repeats) = (Deadline::new(self.webhook.timeout), Repeats::default());
        let mut refused_on = None;
        loop {
            let checkout = match refused_on.take().and_then(|open| self.sharer.further_stream(&open)) {
                Some(checkout) => checkout,
                None => match self.sharer.connection(&self.network, &self.webhook.url, is_fresh).await {
                    Ok(checkout) => checkout,
                    Err(error) => return self.without_connection(error),
                },
            };
            let http2 = checkout.connection.http2();
            let is_reused = checkout.connection.is_reused();
            self.network.count_connection(checkout.connection.protocol(), is_reused);
            let failed = match self.send(checkout, id, body.clone(), &mut deadline).await {
                Ok(outcome) => return outcome,
                // No attempt was made.
                Err(SendError::NotSent) if is_reused => continue,
                Err(failed) => failed,
            };
            match failed {
                SendError::Stale(_) if !repeats.stale => {
                    (repeats.stale, is_fresh) = (true, true);
                    deadline = Deadline::new(self.webhook.timeout);
                    self.sharer.host().clear();
                }
                SendError::Http11Required if !repeats.http11_required && self.sharer.host().require_http1() => {
                    repeats.http11_required = true
                }
                SendError::NotProcessed(_) if repeats.not_processed < NOT_PROCESSED.len() => {
                    let pause = NOT_PROCESSED[repeats.not_processed];
                    repeats.not_processed += 1;
                    // A server that takes no further stream takes no further connection.
                    refused_on = http2;
                    if timeout_at(deadline.begin(), sleep(pause)).await.is_err() {
                        return Outcome::NoResponse(NoResponse::Timeout);
                    }
                }
                last => return Outcome::NoResponse(last.into()),
            }
        }
    }

    /// Connects as a first attempt does, and sends nothing.
    pub(crate) async fn reach(&self) -> Result<Protocol, Outcome> {
        let connection = self.sharer.connection(&self.network, &self.webhook.url, true).await;
        connection.map(|checkout| checkout.connection.protocol()).map_err(|error| self.without_connection(error))
    }

    pub(crate) fn webhook(&self) -> &Webhook {
        &self.webhook
    }

    fn without_connection(&self, error: ConnectError) -> Outcome {
        match error {
            ConnectError::Blocked(what) => Outcome::BlockedAddress { what },
            ConnectError::NoResponse(why) => Outcome::NoResponse(why),
            ConnectError::Local(kind, detail) => self.local_failure(kind, &detail),
        }
    }

    fn local_failure(&self, kind: LocalFailureKind, detail: &str) -> Outcome {
        Outcome::LocalFailure(self.network.local_failures().failed(kind, detail))
    }

    /// Sends the request. The status decides as soon as it has arrived.
    pub(crate) async fn send(
        &self,
        Checkout { permit, connection }: Checkout,
        id: MessageId,
        body: Bytes,
        deadline: &mut Deadline,
    ) -> Result<Outcome, SendError> {
        // A clock before 1970 counts as 1970.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let request = self.template.request(connection.protocol(), id, now, body);
        let (response, connection) = connection.send(request, deadline).await?;
        let (status, headers) = (response.status(), response_headers(response.headers()));
        let mut remainder = Remainder::new(response, Checkout { permit, connection });
        let outcome = match (status.is_success(), status.as_u16()) {
            (true, status) => Outcome::Accepted { status },
            (false, status) => Outcome::ErrorResponse { status, response: remainder.beginning().await, headers },
        };
        self.drain.finish(remainder);
        Ok(outcome)
    }
}
