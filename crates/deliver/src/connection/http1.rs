//! A connection of HTTP/1.1: one request at a time.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
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
    task::JoinHandle,
    time::{timeout, timeout_at},
};

use super::{
    ByteStream, Deadline, MAX_HEADER_BYTES, RequestBody, SendError, Transport,
    meter::{Mark, Meter, Metered},
};
use crate::{no_response, route::Route, stream::TlsRefusal};

/// How many headers a response may have; more are a malformed answer.
const MAX_HEADERS: usize = 256;

/// A connection that isn't ready for the next request by then never may be: its server answered without having read the last one.
const READY: Duration = Duration::from_secs(1);

/// How long a connection that failed may take to hand out what it hasn't read.
const UNREAD: Duration = Duration::from_millis(500);

/// A connection that ends with its owner.
#[derive(Debug)]
pub(crate) struct Http1 {
    requests: SendRequest<RequestBody>,
    task: Task,
    pub(super) meter: Arc<Meter>,
    pub(super) is_reused: bool,
    /// The way that it took.
    pub(crate) route: Route,
    /// Why the server refused the client after the handshake, if it did.
    refusal: TlsRefusal,
}

/// The task that a connection lives in. By itself it ends only when its server has read the whole request, which some never do. It returns what it
/// read and hyper didn't take.
#[derive(Debug)]
struct Task(JoinHandle<Bytes>);

impl Http1 {
    /// The connection lives in a task of its own, until it is dropped or the server closes it.
    pub(super) async fn open(transport: Transport<impl ByteStream>) -> Result<Self, NoResponse> {
        let Transport { stream, route, refusal, permit, slot } = transport;
        let (stream, meter) = Metered::new(stream, permit, slot);
        let lost = |error: hyper::Error| NoResponse::ConnectionLost(error.to_string().into());
        let (requests, mut connection) = builder().handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let task = tokio::spawn(async move {
            // How it ends is told to the attempt that sent a request on it.
            drop(poll_fn(|cx| connection.poll_without_shutdown(cx)).await);
            let parts = connection.into_parts();
            let mut stream = parts.io.into_inner();
            if parts.read_buf.is_empty() {
                drop(stream.shutdown().await);
            }
            parts.read_buf
        });
        Ok(Self { requests, task: Task(task), meter, is_reused: false, route, refusal })
    }

    pub(super) async fn send(
        mut self,
        request: Request<RequestBody>,
        deadline: &mut Deadline,
    ) -> Result<(Response<Incoming>, Self), SendError> {
        if !self.requests.is_ready() && !matches!(timeout(READY, self.requests.ready()).await, Ok(Ok(()))) {
            return Err(Box::pin(self.not_sent()).await);
        }
        let mark = self.meter.mark();
        match timeout_at(deadline.begin(), self.requests.try_send_request(request)).await {
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

    /// Whether a request can go out on it, after it has rested for this long.
    pub(crate) fn is_of_use(&self, rested: Duration) -> bool {
        !self.requests.is_closed() && (rested < READY || self.requests.is_ready())
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
        match timeout(UNREAD, &mut self.task.0).await {
            Ok(Ok(unread)) => unread,
            Ok(Err(_)) | Err(_) => Bytes::new(),
        }
    }
}

/// Tolerant of header lines that aren't HTTP, as browsers are (docs/responses.md): none of them changes where a response ends.
fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .preserve_header_case(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    builder
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
