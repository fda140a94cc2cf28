//! A response whose status has arrived: how much of its body is read, and whether its connection can be used again (docs/responses.md).
//!
//! The status decides at once. What is read after it serves the connection, and the dead letter of an error response.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::{Body, Incoming};
use pushline_model::RESPONSE_KEPT;
use tokio::time::timeout;

use crate::{
    Network,
    connection::{Connection, Protocol},
    pool::{Checkout, Host, IDLE},
};

/// How much of a response's body is read so that its connection can be used again, in bytes.
const DRAINED: usize = 64 << 10;

/// How long that may take, and how long while requests wait for the host's connections.
const DRAIN: Duration = Duration::from_secs(3);
const DRAIN_WHILE_AWAITED: Duration = Duration::from_millis(100);

/// How long a request may go on after its response has ended: some servers answer before they have read it, or never read it. The message has its
/// outcome then, and nothing counts the body that the connection holds.
const UNSENT: Duration = Duration::from_millis(100);

/// How long the beginning of an error response's body may take.
const BEGINNING: Duration = Duration::from_secs(2);

/// A connection is closed this long before its server closes it: what is sent meanwhile is lost.
const BEFORE_THE_SERVER: Duration = Duration::from_secs(1);

/// A response's body, and the connection that it comes on.
#[derive(Debug)]
pub(crate) struct Remainder {
    body: Incoming,
    checkout: Checkout,
    /// How long the connection may rest once the body has ended; zero: it is closed.
    rest_at_most: Duration,
    read: usize,
    has_ended: bool,
}

/// Reads the rest of a webhook's responses, beside its next messages.
#[derive(Debug)]
pub(crate) struct Drain {
    host: Arc<Host>,
    network: Arc<Network>,
    /// How many are read at once.
    at_once: usize,
    active: Arc<AtomicUsize>,
}

/// One response whose rest is read, until it is dropped.
struct Active(Arc<AtomicUsize>);

impl Remainder {
    pub(crate) fn new(response: Response<Incoming>, checkout: Checkout) -> Self {
        let rest_at_most = match checkout.connection.protocol() {
            Protocol::Http1 => rest_at_most(response.status(), response.headers()),
            Protocol::Http2 => IDLE,
        };
        let body = response.into_body();
        let has_ended = body.is_end_stream();
        Self { body, checkout, rest_at_most, read: 0, has_ended }
    }

    /// The beginning of the body: [`RESPONSE_KEPT`] bytes, or fewer where it ends before, breaks off or takes too long.
    pub(crate) async fn beginning(&mut self) -> Vec<u8> {
        let mut kept = Vec::new();
        if !self.has_ended {
            // Too late is no error: what has come is kept.
            drop(timeout(BEGINNING, self.read(RESPONSE_KEPT, &mut kept)).await);
        }
        kept
    }

    /// Reads until `kept` holds this many bytes, or the body ends.
    async fn read(&mut self, wanted: usize, kept: &mut Vec<u8>) {
        while kept.len() < wanted {
            let Some(data) = self.next().await else { return };
            kept.extend_from_slice(&data[..data.len().min(wanted - kept.len())]);
        }
    }

    /// The next part of the body. `None`: it has ended, or broken off.
    async fn next(&mut self) -> Option<bytes::Bytes> {
        let (body, connection) = (&mut self.body, &mut self.checkout.connection);
        while let Some(frame) = poll_fn(|cx| connection.poll_with(cx, |cx| Pin::new(&mut *body).poll_frame(cx))).await {
            let Ok(frame) = frame else {
                self.rest_at_most = Duration::ZERO;
                return None;
            };
            connection.meter().advanced();
            if let Ok(data) = frame.into_data() {
                self.read += data.len();
                self.has_ended = body.is_end_stream();
                return Some(data);
            }
        }
        self.has_ended = true;
        None
    }

    /// Reads the rest of the body. Returns whether the connection can be used again then.
    async fn drain(&mut self) -> bool {
        while !self.has_ended && self.read <= DRAINED && self.next().await.is_some() {}
        let connection = &mut self.checkout.connection;
        self.has_ended && (connection.is_ready() || timeout(UNSENT, connection.ready()).await == Ok(true))
    }
}

impl Drain {
    /// `at_once`: how many responses may be read at once; of others the connection is closed.
    pub(crate) fn new(host: Arc<Host>, network: Arc<Network>, at_once: usize) -> Self {
        Self { host, network, at_once, active: Arc::default() }
    }

    /// Reads the rest of a response, so that its connection can be used again. Waits for nothing: mostly all of it has arrived with the status.
    pub(crate) fn finish(&self, mut remainder: Remainder) {
        if let Some(can_be_used) = remainder.drain().now_or_never() {
            return if can_be_used {
                release(&self.host, &self.network, remainder)
            };
        }
        let active = Active(Arc::clone(&self.active));
        if self.active.fetch_add(1, Ordering::Relaxed) >= self.at_once {
            return;
        }
        let (host, network) = (Arc::clone(&self.host), Arc::clone(&self.network));
        tokio::spawn(async move {
            let _active = active;
            let at_most = if host.is_awaited() { DRAIN_WHILE_AWAITED } else { DRAIN };
            if timeout(at_most, remainder.drain()).await == Ok(true) {
                release(&host, &network, remainder);
            }
        });
    }
}

/// The connection can be used again.
fn release(host: &Arc<Host>, network: &Network, remainder: Remainder) {
    let Remainder { body, checkout: Checkout { permit, connection }, rest_at_most, .. } = remainder;
    // First the body: a stream of HTTP/2 has ended when both are gone.
    drop(body);
    match connection {
        Connection::Http1(connection) if !network.is_short_of_descriptors() && network.is_current(&connection.route) => {
            host.put(connection, permit, rest_at_most);
        }
        // In this order: the next request that gets a stream is chosen without this one.
        other => {
            drop(permit);
            drop(other);
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a connection of HTTP/1.1 may rest after a response with this head.
///
/// Zero where the server closes it, and where its end isn't certain: a 204 or 304 that announces a body (some servers send one), and two ways to tell the length (RFC 9112 §6.3).
fn rest_at_most(status: StatusCode, headers: &HeaderMap) -> Duration {
    let (length, is_coded) = (headers.get(header::CONTENT_LENGTH), headers.contains_key(header::TRANSFER_ENCODING));
    let announces_a_body = is_coded || length.is_some_and(|length| length.as_bytes().trim_ascii() != b"0");
    let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let is_closed = headers.get_all(header::CONNECTION).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    if is_closed || has_none && announces_a_body || is_coded && length.is_some() { Duration::ZERO } else { keep_alive(headers) }
}

/// How long a connection may rest, by `Keep-Alive: timeout=5, max=100` (seconds; RFC 2068 §19.7.1.1, and what servers send today).
fn keep_alive(headers: &HeaderMap) -> Duration {
    let all = headers.get_all("keep-alive").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let timeout = all.filter_map(|part| part.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"));
    let seconds = timeout.and_then(|(_, seconds)| seconds.trim().parse().ok());
    seconds.map_or(IDLE, |seconds| IDLE.min(Duration::from_secs(seconds).saturating_sub(BEFORE_THE_SERVER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_rests_unless_the_server_closes_it_or_the_end_of_the_response_is_not_certain() {
        let rest = |status: u16, fields: &[(&'static str, &'static str)]| {
            let headers = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            rest_at_most(StatusCode::from_u16(status).unwrap(), &headers)
        };
        assert_eq!(rest(200, &[("content-length", "5")]), IDLE);
        assert_eq!(rest(200, &[("transfer-encoding", "chunked")]), IDLE);
        assert_eq!(rest(204, &[("content-length", "0")]), IDLE);
        assert_eq!(rest(200, &[("keep-alive", "timeout=5")]), Duration::from_secs(4));
        for (status, fields) in [
            (200, &[("connection", "Close")][..]),
            (200, &[("content-length", "5"), ("transfer-encoding", "chunked")]),
            (204, &[("content-length", "5")]),
            (304, &[("transfer-encoding", "chunked")]),
        ] {
            assert_eq!(rest(status, fields), Duration::ZERO, "{status} {fields:?}");
        }
    }
}
