//! One webhook's server: its connections, and attempts on them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pushline_model::{MessageId, NoResponse, Outcome, RESPONSE_KEPT, Webhook};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    DeliverError, Network,
    network::{ConnectError, Sender},
    request::{HeaderCaseCache, Template},
};

/// How much of a response's body is read, so that its connection can be used again.
const DRAINED: usize = 64 << 10;

/// A connection that nobody used for so long is closed, sooner where its server says that it closes it sooner.
const IDLE: Duration = Duration::from_secs(50);

/// So long before its server does: what is sent while a server closes its connection is lost.
const BEFORE_THE_SERVER: Duration = Duration::from_secs(1);

/// A connection that isn't ready for the next request by then never may be: its server answered without having read the last one.
const READY: Duration = Duration::from_secs(1);

/// Where a webhook's messages go. How many attempts run at once is for the caller to bound.
#[derive(Debug)]
pub(crate) struct Endpoint {
    webhook: Arc<Webhook>,
    network: Arc<Network>,
    template: Template,
    /// The one used last is taken first.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
    at_most: Duration,
}

impl Endpoint {
    pub(crate) fn new(webhook: Arc<Webhook>, network: Arc<Network>, header_cases: &mut HeaderCaseCache) -> Result<Self, DeliverError> {
        let template = Template::new(&webhook, header_cases)?;
        Ok(Self { webhook, network, template, idle: Mutex::default() })
    }

    /// One attempt (DESIGN.md, *Outcome*).
    pub(crate) async fn attempt(&self, id: MessageId, body: Bytes) -> Outcome {
        loop {
            let reused = self.take_idle();
            self.network.count_connection(reused.is_some());
            let (sender, is_reused) = match reused {
                Some(sender) => (sender, true),
                // Apart, for it is three times as large as all the rest of an attempt, and rare.
                None => match Box::pin(self.network.connect(&self.webhook.url)).await {
                    Ok(sender) => (sender, false),
                    Err(ConnectError::Blocked(what)) => return Outcome::BlockedAddress { what },
                    Err(ConnectError::No(why)) => return Outcome::NoResponse(why),
                },
            };
            match self.send(sender, id, body.clone()).await {
                Some(outcome) => return outcome,
                // A connection that was kept alive was closed or stuck, and nothing of the request left: no attempt was made.
                None if is_reused => {}
                None => return Outcome::NoResponse(NoResponse::ConnectionLost),
            }
        }
    }

    /// `None`: the request never left.
    async fn send(&self, mut sender: Sender, id: MessageId, body: Bytes) -> Option<Outcome> {
        if !matches!(timeout(READY, sender.requests.ready()).await, Ok(Ok(()))) {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = self.template.request(id, now, body);
        let deadline = Instant::now() + self.webhook.timeout;
        match timeout_at(deadline, sender.requests.try_send_request(request)).await {
            Err(_) => Some(Outcome::NoResponse(NoResponse::Timeout)),
            Ok(Err(error)) if error.message().is_some() => None,
            Ok(Err(error)) => Some(Outcome::NoResponse(why(error.error()))),
            // Nobody asked for another protocol (RFC 9110 §15.2.2).
            Ok(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => Some(Outcome::NoResponse(NoResponse::Malformed)),
            Ok(Ok(response)) => Some(self.receive(sender, response, deadline).await),
        }
    }

    /// The status has arrived and decides. The body is read so that the connection can be used again, as far as that is worth it.
    async fn receive(&self, sender: Sender, response: Response<Incoming>, deadline: Instant) -> Outcome {
        let (status, at_most) = (response.status(), idle_at_most(response.headers()));
        let mut kept = Vec::new();
        let wanted = if status.is_success() { 0 } else { RESPONSE_KEPT };
        if let Ok(true) = timeout_at(deadline, drain(response.into_body(), wanted, &mut kept)).await {
            self.put_idle(sender, at_most);
        }
        let status = status.as_u16();
        if (200..300).contains(&status) { Outcome::Accepted { status } } else { Outcome::ErrorResponse { status, response: kept } }
    }

    fn take_idle(&self) -> Option<Sender> {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(last) = idle.pop() {
            if last.is_of_use(now) {
                return Some(last.sender);
            }
        }
        None
    }

    fn put_idle(&self, sender: Sender, at_most: Duration) {
        if !sender.requests.is_closed() && !at_most.is_zero() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(Idle { sender, since: Instant::now(), at_most });
        }
    }

    /// Closes the connections that nobody will use again.
    pub(crate) fn close_idle(&self) {
        let now = Instant::now();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).retain(|idle| idle.is_of_use(now));
    }
}

impl Idle {
    fn is_of_use(&self, now: Instant) -> bool {
        let (requests, rested) = (&self.sender.requests, now.duration_since(self.since));
        !requests.is_closed() && rested < self.at_most && (rested < READY || requests.is_ready())
    }
}

/// How long a connection may rest, by `Keep-Alive: timeout=5, max=100` (seconds; RFC 2068 §19.7.1.1, and what servers send today).
fn idle_at_most(headers: &HeaderMap) -> Duration {
    let all = headers.get_all("keep-alive").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let timeout = all.filter_map(|part| part.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"));
    let seconds = timeout.and_then(|(_, seconds)| seconds.trim().parse().ok());
    seconds.map_or(IDLE, |seconds| IDLE.min(Duration::from_secs(seconds).saturating_sub(BEFORE_THE_SERVER)))
}

/// Reads a body to its end. `false`: it is too long, or it broke off.
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

fn why(error: &hyper::Error) -> NoResponse {
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        NoResponse::Malformed
    } else {
        NoResponse::ConnectionLost
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::Egress;

    /// More than the buffers of two sockets take.
    const LARGE: usize = 32 << 20;

    /// A body that is counted for as long as anybody holds it.
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

    /// Whether a connection is closed once its server has answered with this header and nobody has used it for a time, and for so much longer.
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
    async fn a_connection_that_nobody_uses_is_closed_before_its_server_closes_it() {
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
}
