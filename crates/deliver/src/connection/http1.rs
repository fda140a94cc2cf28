//! A connection of HTTP/1.1: one request at a time. It has no task of its own: it moves while its request's attempt polls it, and while its pool looks
//! after those that rest. So a message costs no wake-up of another task.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, MaybeDone, maybe_done};
use http::{Request, Response, StatusCode};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use pushline_model::NoResponse;
use tokio::{
    io::AsyncWriteExt,
    time::{timeout, timeout_at},
};

use super::{
    ByteStream, Deadline, MAX_HEADER_BYTES, RequestBody, SendError, Transport,
    meter::{Mark, Meter, Metered},
};
use crate::{no_response, route::Route, stream::TlsRefusal};

/// How many headers a response may have; more are a malformed answer.
const MAX_HEADERS: usize = 256;

/// How long a connection that failed may take to hand out what it hasn't read.
const UNREAD: Duration = Duration::from_millis(500);

/// A connection that ends with its owner.
#[derive(Debug)]
pub(crate) struct Http1 {
    requests: SendRequest<RequestBody>,
    wire: Wire,
    pub(super) meter: Arc<Meter>,
    pub(super) is_reused: bool,
    /// The way that it took.
    pub(crate) route: Route,
    /// Why the server refused the client after the handshake, if it did.
    refusal: TlsRefusal,
}

/// What moves a connection's bytes while it is polled. By itself it ends only when its server has read the whole request, which some never do.
struct Wire(MaybeDone<BoxFuture<'static, Remains>>);

/// What remains of a connection that has ended by itself.
struct Remains {
    /// What was read from it and hyper didn't take.
    unread: Bytes,
    /// Closed with its owner and never while it is polled: its pool holds a lock then, which the socket's end takes.
    _socket: Box<dyn Send>,
}

impl Http1 {
    pub(super) async fn open(transport: Transport<impl ByteStream>) -> Result<Self, NoResponse> {
        let Transport { stream, route, refusal, permit, connection_permit } = transport;
        let (stream, meter) = Metered::new(stream, permit, connection_permit);
        let lost = |error: hyper::Error| NoResponse::ConnectionLost(error.to_string().into());
        let (requests, mut connection) = builder().handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let wire = async move {
            // How it ends is told to the attempt that sent a request on it.
            drop(poll_fn(|cx| connection.poll_without_shutdown(cx)).await);
            let parts = connection.into_parts();
            let mut stream = parts.io.into_inner();
            if parts.read_buf.is_empty() {
                drop(stream.shutdown().await);
            }
            Remains { unread: parts.read_buf, _socket: Box::new(stream) }
        };
        Ok(Self { requests, wire: Wire(maybe_done(Box::pin(wire))), meter, is_reused: false, route, refusal })
    }

    pub(super) async fn send(
        mut self,
        request: Request<RequestBody>,
        deadline: &mut Deadline,
    ) -> Result<(Response<Incoming>, Self), SendError> {
        let mark = self.meter.mark();
        let mut response = pin!(self.requests.try_send_request(request));
        let status = poll_fn(|cx| self.wire.poll_with(cx, |cx| response.as_mut().poll(cx)));
        match timeout_at(deadline.begin(), status).await {
            Err(_) => Err(SendError::NoResponse(NoResponse::Timeout)),
            // On the heap, as failures are large and rare.
            Ok(Err(error)) => Err(Box::pin(self.failed(error, mark)).await),
            // No request asked for another protocol (RFC 9110 §15.2.2).
            Ok(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Err(SendError::NoResponse(no_response::of_switching_protocols()))
            }
            Ok(Ok(response)) => {
                self.meter.advanced();
                self.is_reused = true;
                Ok((response, self))
            }
        }
    }

    /// Polls for what happens on the connection, and moves its bytes.
    pub(super) fn poll_with<T>(&mut self, cx: &mut Context<'_>, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.wire.poll_with(cx, poll)
    }

    /// Whether the next request can go out on it: the last one has gone and its response has ended, and the connection hasn't.
    pub(crate) fn is_ready(&self) -> bool {
        self.requests.is_ready() && !self.requests.is_closed()
    }

    /// Waits until the next request can go out on it. Returns false if none ever will.
    pub(super) async fn ready(&mut self) -> bool {
        poll_fn(|cx| self.wire.poll_with(cx, |cx| self.requests.poll_ready(cx))).await.is_ok()
    }

    /// Notices what its server did while it rested: closed it, or sent what no request asked for.
    pub(crate) fn look(&mut self) {
        self.wire.poll(&mut Context::from_waker(Waker::noop()));
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Why no status came back on a connection that ended.
    async fn failed(self, error: TrySendError<Request<RequestBody>>, mark: Mark) -> SendError {
        if error.message().is_some() {
            return self.not_sent().await;
        }
        if let Some(flood) = self.meter.flood() {
            return SendError::NoResponse(flood);
        }
        let refusal = self.refusal.clone();
        // What isn't HTTP on a connection that has carried a response is the rest of that response.
        let is_rest = error.error().is_parse() || error.error().is_parse_status();
        let is_stale = self.is_reused && (is_rest || self.meter.was_closed_before(mark));
        let meter = Arc::clone(&self.meter);
        let unread = self.unread().await;
        let is_whole = meter.read_since(mark) == unread.len() as u64;
        let why = no_response::of_request(error.error(), if is_whole { &unread } else { &[] });
        if let Some(refusal) = refusal.get() {
            return SendError::NoResponse(no_response::of_refusal(refusal));
        }
        if is_stale { SendError::Stale(why) } else { SendError::NoResponse(why) }
    }

    /// Why the request never left: some servers refuse the client after the handshake, or speak first.
    async fn not_sent(self) -> SendError {
        if let Some(refusal) = self.refusal.get() {
            return SendError::NoResponse(no_response::of_refusal(refusal));
        }
        let is_reused = self.is_reused;
        let unread = if is_reused { Bytes::new() } else { self.unread().await };
        no_response::of_greeting(&unread).map_or(SendError::NotSent, SendError::NoResponse)
    }

    /// What the server sent and hyper didn't take, once the connection has failed.
    async fn unread(mut self) -> Bytes {
        drop(self.requests);
        // A server may keep TLS from ending.
        drop(timeout(UNREAD, &mut self.wire.0).await);
        Pin::new(&mut self.wire.0).take_output().map(|ended| ended.unread).unwrap_or_default()
    }
}

impl Wire {
    fn poll(&mut self, cx: &mut Context<'_>) {
        // Its end is found by those that wait for a response.
        _ = Pin::new(&mut self.0).poll(cx);
    }

    /// Polls for what the wire brings, before and after its bytes have moved.
    fn poll_with<T>(&mut self, cx: &mut Context<'_>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if let ready @ Poll::Ready(_) = poll(cx) {
            return ready;
        }
        self.poll(cx);
        poll(cx)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

/// Tolerant of header lines that aren't HTTP, as browsers are (docs/responses.md): none of them changes where a response ends.
fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    builder
}
