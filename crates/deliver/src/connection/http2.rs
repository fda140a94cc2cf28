//! A connection of HTTP/2: as many streams at a time as its server permits. The pool counts them, so that none waits inside the library.
//!
//! One task serves the connection with all that hyper would spawn for it: a message costs no wake-up between tasks of a connection, no GOAWAY comes
//! between two steps by which hyper begins a stream, and the socket is closed with the task.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

use http::{Request, Response, StatusCode};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use pushline_model::NoResponse;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    ByteStream, Deadline, MAX_HEADER_BYTES, RequestBody, SendError, Transport,
    body::Released,
    meter::{Meter, Metered},
};
use crate::{no_response, pool::HostHandle, route::Route, stream::TlsRefusal};

/// How many streams a connection carries, whatever its server permits: more would wait for each other in one TCP connection.
const MAX_STREAMS: usize = 100;

/// How much a server may send of one response before it is read, in bytes: ten thousand hostile servers can't fill the memory.
const STREAM_WINDOW: u32 = 64 << 10;

/// The same for all responses of a connection together.
const CONNECTION_WINDOW: u32 = 256 << 10;

/// How often a server is asked for a sign of life while a response is due.
const PING: Duration = Duration::from_secs(20);

/// How long a connection that carries no more streams may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

/// A connection. It ends when it is dropped: by its pool and by its last stream.
#[derive(Debug)]
pub(crate) struct Http2 {
    requests: SendRequest<RequestBody>,
    /// How many streams it may carry at a time; `None` once it has ended.
    limit: watch::Receiver<Option<usize>>,
    is_retired: AtomicBool,
    pub(super) meter: Arc<Meter>,
    /// The way that it took.
    pub(crate) route: Route,
    /// Why the server refused the client after the handshake, if it did.
    refusal: TlsRefusal,
    host: HostHandle,
}

/// A stream that the pool has counted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Http2Stream {
    pub(crate) connection: Arc<Http2>,
    /// Whether another stream came first.
    pub(super) is_reused: bool,
    /// Whether the request's body has gone, once there is a request.
    body: Option<Released>,
}

/// Where hyper leaves the futures that a connection consists of: one for its bytes, and some for each stream.
#[derive(Clone, Default)]
struct Started(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

/// These futures, once they run.
#[derive(Default)]
struct Running {
    started: Started,
    futures: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// Opens a connection, with its first stream.
pub(super) async fn open(transport: Transport<impl ByteStream>, deadline: Instant) -> Result<Http2Stream, NoResponse> {
    let Transport { stream, route, refusal, permit, connection_permit } = transport;
    let host = connection_permit.host();
    let (stream, meter) = Metered::new(stream, permit, connection_permit);
    let failed = |error: &hyper::Error| {
        let of_tls = || refusal.get().map(no_response::of_refusal);
        meter.flood().or_else(of_tls).unwrap_or_else(|| no_response::of_request(error, &[]))
    };
    let running = Running::default();
    let handshake = builder(running.started.clone()).handshake(TokioIo::new(stream));
    let (requests, connection) = match timeout_at(deadline, handshake).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(no_stream()),
    };
    let (publish, mut limit) = watch::channel(Some(0));
    let task = tokio::spawn(serve(connection, running, publish, host.clone()));
    // Nothing is sent before the server's SETTINGS have come: they say how many streams it takes.
    let granted = timeout_at(deadline, limit.wait_for(|limit| *limit != Some(0))).await;
    match granted.map(|limit| limit.is_ok_and(|limit| limit.is_some())) {
        Ok(true) => {}
        Ok(false) => {
            drop(limit);
            return Err(match task.await {
                Ok(Err(error)) => failed(&error),
                Ok(Ok(())) | Err(_) => no_response::of_early_end(),
            });
        }
        Err(_) => {
            task.abort();
            return Err(no_stream());
        }
    }
    let connection = Http2 { requests, limit, is_retired: AtomicBool::new(false), meter, route, refusal, host };
    Ok(Http2Stream { connection: Arc::new(connection), is_reused: false, body: None })
}

fn no_stream() -> NoResponse {
    NoResponse::Connect("the server permitted no HTTP/2 stream within the connect limit".into())
}

/// Drives a connection and publishes how many streams its server permits, until its sender is dropped or it has failed. Then ends it.
async fn serve<S: ByteStream>(
    mut connection: http2::Connection<TokioIo<Metered<S>>, RequestBody, Started>,
    mut running: Running,
    publish: watch::Sender<Option<usize>>,
    host: HostHandle,
) -> hyper::Result<()> {
    let ended = poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        _ = running.poll(cx);
        let limit = polled.is_pending().then(|| connection.current_max_send_streams().min(MAX_STREAMS));
        if publish.send_if_modified(|published| std::mem::replace(published, limit) != limit) {
            host.limit_changed();
        }
        polled
    })
    .await;
    drop(connection);
    // Streams that the server still answers may go on after it has said goodbye.
    let mut unused = pin!(publish.closed());
    poll_fn(|cx| {
        _ = running.poll(cx);
        unused.as_mut().poll(cx)
    })
    .await;
    drop(timeout(GOODBYE, poll_fn(|cx| running.poll(cx))).await);
    ended
}

fn builder(started: Started) -> http2::Builder<Started> {
    let mut builder = http2::Builder::new(started);
    builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(0)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).expect("128 KiB fit"))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Started {
    fn execute(&self, future: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(future));
    }
}

impl Running {
    /// Ready once none is left.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.futures.extend(self.started.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
        while let Some(()) = std::task::ready!(self.futures.poll_next_unpin(cx)) {}
        Poll::Ready(())
    }
}

impl Http2 {
    /// How many streams it may carry at a time.
    pub(crate) fn limit(&self) -> usize {
        self.limit.borrow().unwrap_or(0)
    }

    /// Whether no new stream may begin.
    pub(crate) fn is_retired(&self) -> bool {
        self.is_retired.load(Relaxed) || self.requests.is_closed()
    }

    /// No new stream begins on it.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, Relaxed);
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }
}

impl Http2Stream {
    /// A further stream of a connection, that the pool has counted.
    pub(crate) fn new(connection: &Arc<Http2>) -> Self {
        Self { connection: Arc::clone(connection), is_reused: true, body: None }
    }

    pub(super) async fn send(
        mut self,
        mut request: Request<RequestBody>,
        deadline: &mut Deadline,
    ) -> Result<(Response<Incoming>, Self), SendError> {
        let mut requests = self.connection.requests.clone();
        self.body = Some(request.body_mut().watch());
        match timeout_at(deadline.begin(), requests.try_send_request(request)).await {
            // The stream is reset. The connection may lead to no server any more.
            Err(_) => {
                self.connection.retire();
                Err(SendError::NoResponse(NoResponse::Timeout))
            }
            Ok(Err(error)) if error.message().is_some() => {
                self.connection.retire();
                Err(SendError::NotSent)
            }
            Ok(Err(error)) => Err(self.failed(error.error())),
            Ok(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Err(SendError::NoResponse(no_response::of_switching_protocols()))
            }
            Ok(Ok(response)) => {
                self.connection.meter.advanced();
                Ok((response, self))
            }
        }
    }

    fn failed(&self, error: &hyper::Error) -> SendError {
        if let Some(refusal) = self.connection.refusal.get() {
            self.connection.retire();
            return SendError::NoResponse(no_response::of_refusal(refusal));
        }
        if let Some(flood) = self.connection.meter.flood() {
            self.connection.retire();
            return SendError::NoResponse(flood);
        }
        let why = no_response::of_request(error, &[]);
        let Some(cause) = no_response::h2_error(error) else {
            self.connection.retire();
            return self.broken(why);
        };
        let is_of_the_server = cause.is_remote();
        if !cause.is_reset() {
            self.connection.retire();
        }
        match cause.reason() {
            Some(h2::Reason::HTTP_1_1_REQUIRED) if is_of_the_server => SendError::Http11Required,
            Some(h2::Reason::REFUSED_STREAM) if is_of_the_server => SendError::NotProcessed(why),
            // The library ends only streams with it that are beyond the last one that the server names.
            Some(_) if is_of_the_server && cause.is_go_away() => SendError::NotProcessed(why),
            _ if cause.get_io().is_some() => self.broken(why),
            _ => SendError::NoResponse(why),
        }
    }

    /// Of a connection that broke. What was read meanwhile says nothing of the request: it may be of other streams, or of the connection itself.
    fn broken(&self, why: NoResponse) -> SendError {
        let is_stale = self.is_reused && self.connection.meter.has_just_written() && matches!(why, NoResponse::ConnectionLost(_));
        if is_stale { SendError::Stale(why) } else { SendError::NoResponse(why) }
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        // For the library the stream is still open, and counts: the body waits for a window, and only the end of the connection ends that.
        if self.body.as_ref().is_some_and(|body| !body.get()) {
            self.connection.retire();
        }
        self.connection.host.stream_ended(&self.connection);
    }
}
