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
    network::ConnectError,
    pool::{Checkout, Origin, Sharer},
    request::{HeaderCaseCache, Template},
    response::{Drain, Remainder},
    retry_after::response_headers,
};

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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use pushline_model::{DescriptorBudget, DescriptorUse, LocalFailure};
    use tokio::time::timeout;

    use super::*;
    use crate::{Egress, pool::IDLE};

    /// A connection that isn't ready for the next request by then is closed.
    const READY: Duration = Duration::from_secs(1);

    /// More than the buffers of two sockets take.
    const LARGE: usize = 32 << 20;

    /// A body that is counted while it is held.
    struct Counted(Arc<AtomicUsize>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            static BYTES: [u8; LARGE] = [b'x'; LARGE];
            &BYTES
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A server that says this to each connection at once, and never reads.
    async fn deaf(says: &'static str) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = endpoint(&listener);
        tokio::spawn(async move {
            let mut streams = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                // Not before its request has begun.
                stream.peek(&mut [0]).await.unwrap();
                stream.write_all(says.as_bytes()).await.unwrap();
                streams.push(stream);
            }
        });
        endpoint
    }

    fn endpoint(listener: &TcpListener) -> Endpoint {
        let mut webhook = Webhook::new("w", format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap());
        webhook.timeout = Duration::from_millis(300);
        let network = Network::new(Egress::new(vec!["127.0.0.0/8".parse().unwrap()])).unwrap();
        Endpoint::new(Arc::new(webhook), network, &mut HeaderCaseCache::default()).unwrap()
    }

    /// Whether a connection is closed once its server has answered with this header and it was idle for a time, and for `more` time.
    async fn is_closed_after(header: &str, rest: Duration, more: Duration) -> (bool, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = endpoint(&listener);
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"ABC") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{header}Content-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
            stream
        };
        let (mut stream, outcome) = tokio::join!(server, endpoint.attempt(MessageId([7; 16]), "ABC".into(), true));
        assert_eq!(outcome, Outcome::Accepted { status: 200 });
        let mut is_closed_in = async |time| {
            tokio::time::pause();
            tokio::time::advance(time).await;
            tokio::time::resume();
            endpoint.network.pool().close_idle();
            matches!(timeout(Duration::from_millis(300), stream.read_u8()).await, Ok(Err(_)))
        };
        (is_closed_in(rest).await, is_closed_in(more).await)
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_before_its_server_closes_it() {
        // Far more than a busy machine takes.
        let more = Duration::from_secs(20);
        let at_most = Duration::from_secs(39);
        assert_eq!(is_closed_after("", IDLE - more, more).await, (false, true));
        assert_eq!(is_closed_after("Keep-Alive: max=100, Timeout = 40\r\n", at_most - more, more).await, (false, true));
        assert_eq!(is_closed_after("Keep-Alive: timeout=3600\r\n", IDLE - more, more).await, (false, true));
        assert_eq!(is_closed_after("Keep-Alive: timeout=soon\r\n", IDLE - more, more).await, (false, true));
        assert_eq!(is_closed_after("Keep-Alive: timeout=1\r\n", Duration::ZERO, more).await, (true, true));
    }

    /// How many bodies are held after three attempts, and their outcomes.
    async fn held_after_three(endpoint: &Endpoint, bodies: &Arc<AtomicUsize>) -> (usize, Vec<Outcome>) {
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            bodies.fetch_add(1, Ordering::Relaxed);
            let body = Bytes::from_owner(Counted(Arc::clone(bodies)));
            outcomes.push(endpoint.attempt(MessageId([7; 16]), body, true).await);
        }
        (left(bodies, 1).await, outcomes)
    }

    /// How many are held, once so few are or a while has passed.
    async fn left(bodies: &AtomicUsize, few: usize) -> usize {
        let is_few = async {
            while bodies.load(Ordering::Relaxed) > few {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        drop(timeout(Duration::from_secs(2), is_few).await);
        bodies.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_connection_whose_server_answers_without_reading_ends_with_its_attempt() {
        let (endpoint, bodies) = (deaf("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await, Arc::default());
        let (held, outcomes) = held_after_three(&endpoint, &bodies).await;
        assert_eq!(outcomes, vec![Outcome::Accepted { status: 200 }; 3]);
        assert!(held <= 1, "{held}: the last one may still be used again");
        tokio::time::pause();
        tokio::time::advance(READY).await;
        tokio::time::resume();
        endpoint.network.pool().close_idle();
        assert_eq!(left(&bodies, 0).await, 0);
    }

    #[tokio::test]
    async fn a_connection_whose_server_says_nothing_ends_with_its_attempt() {
        let (endpoint, bodies) = (deaf("").await, Arc::default());
        let (_, outcomes) = held_after_three(&endpoint, &bodies).await;
        assert_eq!(outcomes, vec![Outcome::NoResponse(NoResponse::Timeout); 3]);
        assert_eq!(left(&bodies, 0).await, 0);
    }

    fn network(descriptors: &Arc<DescriptorBudget>) -> Arc<Network> {
        Network::within(Egress::new(vec!["127.0.0.0/8".parse().unwrap()]), Arc::clone(descriptors), 10).unwrap()
    }

    /// An endpoint on this network whose server accepts everything and keeps its connections.
    async fn accepting(network: &Arc<Network>) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let webhook = Webhook::new("w", format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                        if request.ends_with(b"ABC") {
                            request.clear();
                            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                        }
                    }
                });
            }
        });
        Endpoint::new(Arc::new(webhook), Arc::clone(network), &mut HeaderCaseCache::default()).unwrap()
    }

    #[tokio::test]
    async fn an_idle_connection_gives_way_to_a_push_to_another_endpoint() {
        let network = network(&DescriptorBudget::of(0, 1));
        let (first, second) = (accepting(&network).await, accepting(&network).await);
        for endpoint in [&first, &second, &first, &first] {
            let outcome = timeout(Duration::from_secs(5), endpoint.attempt(MessageId([7; 16]), "ABC".into(), true)).await;
            assert_eq!(outcome, Ok(Outcome::Accepted { status: 200 }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_finds_no_descriptor_is_a_local_failure_and_the_next_one_that_does_goes_out() {
        let descriptors = DescriptorBudget::of(0, 1);
        let network = network(&descriptors);
        let endpoint = accepting(&network).await;
        let held = descriptors.try_acquire(DescriptorUse::Push).unwrap();
        let outcome = endpoint.attempt(MessageId([7; 16]), "ABC".into(), true).await;
        assert!(matches!(outcome, Outcome::LocalFailure(LocalFailure { kind: LocalFailureKind::FileDescriptors, .. })), "{outcome:?}");
        assert!(network.local_failures().reason().is_some());
        drop(held);
        tokio::time::resume();
        assert_eq!(endpoint.attempt(MessageId([7; 16]), "ABC".into(), true).await, Outcome::Accepted { status: 200 });
    }
}
