//! A connection: what lives in its task, and how requests go out on it.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pushline_model::{DescriptorPermit, NoResponse};
use tokio::{io::AsyncWriteExt, task::JoinHandle, time::timeout};

use crate::{
    network::ConnectError,
    route::Route,
    stream::{Stream, TlsRefusal},
};

/// How many headers a response may have; more are a malformed answer.
const MAX_HEADERS: usize = 256;

/// The largest header section of a response, in bytes; a larger one is a malformed answer.
const MAX_HEADER_BYTES: usize = 128 << 10;

/// How long a connection that failed may take to hand out what it hasn't read.
const UNREAD: Duration = Duration::from_millis(500);

/// Sends requests on one connection, which ends with it.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) requests: SendRequest<Full<Bytes>>,
    /// The way that the connection took.
    pub(crate) route: Route,
    /// Why the server refused the client after the handshake, if it did.
    pub(crate) refusal: TlsRefusal,
    connection: Connection,
}

/// The task that a connection lives in. By itself it ends only when its server has read the whole request, which some never do. It returns what it
/// read and hyper didn't take.
#[derive(Debug)]
struct Connection(JoinHandle<Bytes>);

impl Sender {
    /// What the server sent and hyper didn't take, once the connection has failed.
    pub(crate) async fn unread(mut self) -> Bytes {
        drop(self.requests);
        match timeout(UNREAD, &mut self.connection.0).await {
            Ok(Ok(unread)) => unread,
            Ok(Err(_)) | Err(_) => Bytes::new(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The connection lives in a task of its own, until its sender is dropped or the server closes it.
pub(crate) async fn open(stream: Stream, route: Route, permit: DescriptorPermit) -> Result<Sender, ConnectError> {
    let refusal = stream.refusal();
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true).max_headers(MAX_HEADERS).max_buf_size(MAX_HEADER_BYTES);
    let lost = |error: hyper::Error| ConnectError::NoResponse(NoResponse::ConnectionLost(error.to_string().into()));
    let (requests, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let task = tokio::spawn(async move {
        // Locals are dropped in the reverse order: the socket is closed before its descriptor is given back.
        let _permit = permit;
        let mut connection = connection;
        // How it ends is told to the attempt that sent a request on it.
        drop(poll_fn(|cx| connection.poll_without_shutdown(cx)).await);
        let parts = connection.into_parts();
        let mut stream = parts.io.into_inner();
        if parts.read_buf.is_empty() {
            drop(stream.shutdown().await);
        }
        parts.read_buf
    });
    Ok(Sender { requests, route, refusal, connection: Connection(task) })
}
