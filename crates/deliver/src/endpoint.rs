//! A webhook's endpoint: its connections, and attempts on them.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pushline_model::{LocalFailureKind, MessageId, NoResponse, Outcome, RESPONSE_KEPT, Webhook};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    DeliverError, Network,
    connection::Sender,
    idle_connections::{IDLE, IdleConnections, READY},
    network::ConnectError,
    no_response,
    request::{HeaderCaseCache, Template},
    tls::Identity,
};

/// How much of a response's body is read so that its connection can be used again, in bytes.
const DRAINED: usize = 64 << 10;

/// A connection is closed this long before its server closes it: what is sent meanwhile is lost.
const BEFORE_THE_SERVER: Duration = Duration::from_secs(1);

/// Where a webhook's messages go. The caller bounds how many attempts run at once.
#[derive(Debug)]
pub(crate) struct Endpoint {
    webhook: Arc<Webhook>,
    network: Arc<Network>,
    template: Template,
    identity: Arc<Identity>,
    idle: Arc<IdleConnections>,
}

impl Endpoint {
    pub(crate) fn new(webhook: Arc<Webhook>, network: Arc<Network>, header_cases: &mut HeaderCaseCache) -> Result<Self, DeliverError> {
        let template = Template::new(&webhook, header_cases)?;
        let identity = network.identity(&webhook)?;
        let idle = network.idle().join();
        Ok(Self { webhook, network, template, identity, idle })
    }

    /// One attempt (docs/document.md, Outcome).
    ///
    /// A panic ends the attempt and nothing else: it is a local failure, so the message waits and is sent again. No state is left half changed by it,
    /// since an attempt shares only its idle connections and counters. A panic anywhere else in delivery ends the process.
    pub(crate) async fn attempt(&self, id: MessageId, body: Bytes) -> Outcome {
        match AssertUnwindSafe(self.attempt_once(id, body)).catch_unwind().await {
            Ok(outcome) => outcome,
            Err(_) => self.local_failure(LocalFailureKind::Panic, &format!("an attempt of webhook {:?} panicked", self.webhook.name)),
        }
    }

    async fn attempt_once(&self, id: MessageId, body: Bytes) -> Outcome {
        loop {
            let reused = std::iter::from_fn(|| self.idle.take()).find(|sender| self.network.is_current(&sender.route));
            self.network.count_connection(reused.is_some());
            let (sender, is_reused) = match reused {
                Some(sender) => (sender, true),
                // On the heap: it is three times as large as all the rest of an attempt, and rare.
                None => match Box::pin(self.network.connect(&self.webhook.url, &self.identity)).await {
                    Ok(sender) => (sender, false),
                    Err(ConnectError::Blocked(what)) => return Outcome::BlockedAddress { what },
                    Err(ConnectError::NoResponse(why)) => return Outcome::NoResponse(why),
                    Err(ConnectError::Local(kind, detail)) => return self.local_failure(kind, &detail),
                },
            };
            let refusal = sender.refusal.clone();
            match self.send(sender, id, body.clone()).await {
                Some(outcome) => return outcome,
                // A connection that was kept alive was closed or stuck, and nothing of the request left: no attempt was made.
                None if is_reused => {}
                None => {
                    if let Some(refusal) = refusal.get() {
                        return Outcome::NoResponse(no_response::of_refusal(refusal));
                    }
                    return Outcome::NoResponse(NoResponse::ConnectionLost(
                        "the server closed the connection before the request was sent".into(),
                    ));
                }
            }
        }
    }

    fn local_failure(&self, kind: LocalFailureKind, detail: &str) -> Outcome {
        Outcome::LocalFailure(self.network.local_failures().failed(kind, detail))
    }

    /// `None`: the request never left.
    async fn send(&self, mut sender: Sender, id: MessageId, body: Bytes) -> Option<Outcome> {
        if !matches!(timeout(READY, sender.requests.ready()).await, Ok(Ok(()))) {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the wall clock is past 1970").as_secs();
        let request = self.template.request(id, now, body);
        let deadline = Instant::now() + self.webhook.timeout;
        match timeout_at(deadline, sender.requests.try_send_request(request)).await {
            Err(_) => Some(Outcome::NoResponse(NoResponse::Timeout)),
            Ok(Err(error)) if error.message().is_some() => None,
            Ok(Err(error)) => {
                let refusal = sender.refusal.clone();
                let why = no_response::of_request(error.error(), &sender.unread().await);
                Some(Outcome::NoResponse(refusal.get().map_or(why, no_response::of_refusal)))
            }
            // No request asked for another protocol (RFC 9110 §15.2.2).
            Ok(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Some(Outcome::NoResponse(no_response::of_switching_protocols()))
            }
            Ok(Ok(response)) => Some(self.receive(sender, response, deadline).await),
        }
    }

    /// The status has arrived and decides. The body is read so that the connection can be used again, up to [`DRAINED`] bytes.
    async fn receive(&self, sender: Sender, response: Response<Incoming>, deadline: Instant) -> Outcome {
        let (status, at_most) = (response.status(), idle_at_most(response.headers()));
        let mut kept = Vec::new();
        let wanted = if status.is_success() { 0 } else { RESPONSE_KEPT };
        let is_at_its_end = matches!(timeout_at(deadline, drain(response.into_body(), wanted, &mut kept)).await, Ok(true));
        if is_at_its_end && !self.network.is_short_of_descriptors() {
            self.idle.put(sender, at_most);
        }
        let status = status.as_u16();
        if (200..300).contains(&status) { Outcome::Accepted { status } } else { Outcome::ErrorResponse { status, response: kept } }
    }

    /// Closes the connections that won't be used again.
    pub(crate) fn close_idle(&self) {
        self.idle.close_idle(|route| self.network.is_current(route));
    }
}

/// How long a connection may rest, by `Keep-Alive: timeout=5, max=100` (seconds; RFC 2068 §19.7.1.1, and what servers send today).
fn idle_at_most(headers: &HeaderMap) -> Duration {
    let all = headers.get_all("keep-alive").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let timeout = all.filter_map(|part| part.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"));
    let seconds = timeout.and_then(|(_, seconds)| seconds.trim().parse().ok());
    seconds.map_or(IDLE, |seconds| IDLE.min(Duration::from_secs(seconds).saturating_sub(BEFORE_THE_SERVER)))
}

/// Reads a body to its end. Returns false if it is too long or breaks off.
async fn drain(mut body: Incoming, wanted: usize, kept: &mut Vec<u8>) -> bool {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        if let Some(data) = frame.data_ref() {
            read += data.len();
            let missing = wanted.saturating_sub(kept.len()).min(data.len());
            kept.extend_from_slice(&data[..missing]);
        }
        if read > DRAINED {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use pushline_model::{DescriptorBudget, DescriptorUse, LocalFailure};

    use super::*;
    use crate::Egress;

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
        let (mut stream, outcome) = tokio::join!(server, endpoint.attempt(MessageId([7; 16]), "ABC".into()));
        assert_eq!(outcome, Outcome::Accepted { status: 200 });
        let mut is_closed_in = async |time| {
            tokio::time::pause();
            tokio::time::advance(time).await;
            tokio::time::resume();
            endpoint.close_idle();
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
            outcomes.push(endpoint.attempt(MessageId([7; 16]), body).await);
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
        endpoint.close_idle();
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
        Network::within(Egress::new(vec!["127.0.0.0/8".parse().unwrap()]), Arc::clone(descriptors)).unwrap()
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
            let outcome = timeout(Duration::from_secs(5), endpoint.attempt(MessageId([7; 16]), "ABC".into())).await;
            assert_eq!(outcome, Ok(Outcome::Accepted { status: 200 }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_finds_no_descriptor_is_a_local_failure_and_the_next_one_that_does_goes_out() {
        let descriptors = DescriptorBudget::of(0, 1);
        let network = network(&descriptors);
        let endpoint = accepting(&network).await;
        let held = descriptors.try_acquire(DescriptorUse::Push).unwrap();
        let outcome = endpoint.attempt(MessageId([7; 16]), "ABC".into()).await;
        assert!(matches!(outcome, Outcome::LocalFailure(LocalFailure { kind: LocalFailureKind::FileDescriptors, .. })), "{outcome:?}");
        assert!(network.local_failures().reason().is_some());
        drop(held);
        tokio::time::resume();
        assert_eq!(endpoint.attempt(MessageId([7; 16]), "ABC".into()).await, Outcome::Accepted { status: 200 });
    }
}
