//! A connection: HTTP/1.1, which one request has to itself, or a stream of HTTP/2.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::body::Incoming;
use pushline_model::{DescriptorPermit, NoResponse};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

pub(crate) use self::{
    body::RequestBody,
    http1::Http1,
    http2::{Http2, Http2Stream},
    meter::Meter,
};
use crate::{
    network::ConnectError,
    pool::ConnectionPermit,
    route::Route,
    stream::{Stream, TlsRefusal},
};

mod body;
mod http1;
mod http2;
mod meter;

/// The largest header section of a response, in bytes; a larger one is a malformed answer.
const MAX_HEADER_BYTES: usize = 128 << 10;

/// What a connection's bytes come from: a socket, TLS, or a pipe in memory.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for S {}

/// The byte stream to a server, and what stays with it until its socket is closed.
#[derive(Debug)]
pub(crate) struct Transport<S> {
    pub(crate) stream: S,
    /// The way that it took.
    pub(crate) route: Route,
    /// Why the server refused the client after the handshake, if it did.
    pub(crate) refusal: TlsRefusal,
    pub(crate) permit: DescriptorPermit,
    pub(crate) connection_permit: ConnectionPermit,
}

/// What a request goes out on.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1(Http1),
    Http2(Http2Stream),
}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// How long a status may take: from the request's first byte on.
#[derive(Debug)]
pub(crate) struct Deadline {
    timeout: Duration,
    at: Option<Instant>,
}

/// Why no status came back.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Nothing of the request left this machine.
    NotSent,
    /// The server had closed a connection that was kept open, or had sent more on it than the response before. The request may go again, once.
    Stale(NoResponse),
    /// The server says that it didn't process the stream (RFC 9113 §8.7).
    NotProcessed(NoResponse),
    /// The server says that it wants HTTP/1.1 (RFC 9113 §7).
    Http11Required,
    /// Nothing final arrived.
    NoResponse(NoResponse),
}

impl Transport<Stream> {
    pub(crate) fn new(stream: Stream, route: Route, permit: DescriptorPermit, connection_permit: ConnectionPermit) -> Self {
        let refusal = stream.refusal();
        Self { stream, route, refusal, permit, connection_permit }
    }
}

impl Connection {
    /// Sends a request. Returns its response as soon as the status has arrived, and the connection that its body comes on.
    pub(crate) async fn send(
        self,
        request: Request<RequestBody>,
        deadline: &mut Deadline,
    ) -> Result<(Response<Incoming>, Self), SendError> {
        match self {
            Self::Http1(connection) => {
                let (response, connection) = connection.send(request, deadline).await?;
                Ok((response, Self::Http1(connection)))
            }
            Self::Http2(stream) => {
                let (response, stream) = stream.send(request, deadline).await?;
                Ok((response, Self::Http2(stream)))
            }
        }
    }

    /// Polls for what happens on the connection. One of HTTP/1.1 moves meanwhile; one of HTTP/2 has a task of its own.
    pub(crate) fn poll_with<T>(&mut self, cx: &mut Context<'_>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        match self {
            Self::Http1(connection) => connection.poll_with(cx, poll),
            Self::Http2(_) => poll(cx),
        }
    }

    /// Whether the connection has sent its whole request, so that another can go out once the response has ended.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_ready(),
            Self::Http2(_) => true,
        }
    }

    /// Waits for that. Returns false if it never will be.
    pub(crate) async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(connection) => connection.ready().await,
            Self::Http2(_) => true,
        }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::Http1(_) => Protocol::Http1,
            Self::Http2(_) => Protocol::Http2,
        }
    }

    /// Whether an earlier request went out on it.
    pub(crate) fn is_reused(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_reused,
            Self::Http2(stream) => stream.is_reused,
        }
    }

    /// The connection of HTTP/2 that it is a stream of.
    pub(crate) fn http2(&self) -> Option<Arc<Http2>> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(stream) => Some(Arc::clone(&stream.connection)),
        }
    }

    pub(crate) fn meter(&self) -> &Meter {
        match self {
            Self::Http1(connection) => &connection.meter,
            Self::Http2(stream) => &stream.connection.meter,
        }
    }
}

impl Protocol {
    /// Its name in ALPN (RFC 7301 §6).
    pub(crate) fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// The protocol that a server chose of those that it was offered. One that chose none speaks HTTP/1.1.
pub(crate) fn negotiated(alpn: Option<&[u8]>, offers: &[Protocol]) -> Result<Protocol, ConnectError> {
    let chosen = alpn.unwrap_or(Protocol::Http1.alpn());
    let is_chosen = |protocol: &&Protocol| protocol.alpn() == chosen;
    offers
        .iter()
        .find(is_chosen)
        .copied()
        .ok_or_else(|| ConnectError::NoResponse(NoResponse::Tls("the server doesn't speak HTTP/2 (ALPN)".into())))
}

impl Deadline {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, at: None }
    }

    /// The request begins. One that goes again keeps the time that is left.
    pub(crate) fn begin(&mut self) -> Instant {
        *self.at.get_or_insert_with(|| Instant::now() + self.timeout)
    }
}

/// Where the request doesn't go again.
impl From<SendError> for NoResponse {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotSent => Self::ConnectionLost("the server closed the connection before the request was sent".into()),
            SendError::Http11Required => Self::ConnectionLost("the server requires HTTP/1.1 (HTTP_1_1_REQUIRED)".into()),
            SendError::Stale(why) | SendError::NotProcessed(why) | SendError::NoResponse(why) => why,
        }
    }
}

/// Opens a connection on a byte stream: by the deadline, a request can go out on it.
pub(crate) async fn open(transport: Transport<impl ByteStream>, protocol: Protocol, deadline: Instant) -> Result<Connection, NoResponse> {
    match protocol {
        Protocol::Http1 => Http1::open(transport).await.map(Connection::Http1),
        Protocol::Http2 => http2::open(transport, deadline).await.map(Connection::Http2),
    }
}
