//! One webhook's server: its connections, and attempts on them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use metrics::counter;
use pushline_model::{MessageId, NoResponse, Outcome, RESPONSE_KEPT, Webhook};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    DeliverError, Network, metrics as names,
    network::{ConnectError, Sender},
    request::{Cases, Template},
};

/// How much of a response's body is read, so that its connection can be used again.
const DRAINED: usize = 64 << 10;

/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(50);

/// A connection that isn't ready for the next request by then never may be: its server answered without having read the last one.
const READY: Duration = Duration::from_secs(1);

/// Where a webhook's messages go. How many attempts run at once is for the caller to bound.
#[derive(Debug)]
pub(crate) struct Destination {
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
}

impl Destination {
    pub(crate) fn new(webhook: Arc<Webhook>, network: Arc<Network>, cases: &mut Cases) -> Result<Self, DeliverError> {
        let template = Template::new(&webhook, cases)?;
        Ok(Self { webhook, network, template, idle: Mutex::default() })
    }

    /// One attempt (DESIGN.md, *Outcome*).
    pub(crate) async fn attempt(&self, id: MessageId, body: Bytes) -> Outcome {
        loop {
            let reused = self.take_idle();
            counter!(names::CONNECTIONS, "protocol" => "http/1.1", "reused" => if reused.is_some() { "true" } else { "false" })
                .increment(1);
            let (sender, is_reused) = match reused {
                Some(sender) => (sender, true),
                None => match self.network.connect(&self.webhook.url).await {
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
        if !matches!(timeout(READY, sender.ready()).await, Ok(Ok(()))) {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = self.template.request(id, now, body);
        let deadline = Instant::now() + self.webhook.timeout;
        match timeout_at(deadline, sender.try_send_request(request)).await {
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
        let status = response.status();
        let mut kept = Vec::new();
        let wanted = if status.is_success() { 0 } else { RESPONSE_KEPT };
        if let Ok(true) = timeout_at(deadline, drain(response.into_body(), wanted, &mut kept)).await {
            self.put_idle(sender);
        }
        let status = status.as_u16();
        if (200..300).contains(&status) { Outcome::Accepted { status } } else { Outcome::ErrorResponse { status, response: kept } }
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Idle { sender, since }) = idle.pop() {
            if !sender.is_closed() && since.elapsed() < IDLE {
                return Some(sender);
            }
        }
        None
    }

    fn put_idle(&self, sender: Sender) {
        if !sender.is_closed() {
            let now = Instant::now();
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < IDLE);
            idle.push(Idle { sender, since: now });
        }
    }
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
