//! A webhook receiver: answers each push as it is told to, and hands it on.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};

/// A receiver that is listening. Dropping it closes the socket and its connections.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// How to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// With this status,
    pub status: u16,
    /// after this time,
    pub delay: Duration,
    /// or never,
    pub hang: bool,
    /// each n-th push, from the first on; the others are answered with 200 at once.
    pub every: u64,
}

/// A push that arrived.
#[derive(Debug, Clone)]
pub struct Push {
    /// Counted from 1.
    pub number: u64,
    /// The path it was sent to.
    pub path: String,
    /// Its headers; names in lower case.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The status it is answered with; `None`: it isn't.
    pub status: Option<u16>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { status: 200, delay: Duration::ZERO, hang: false, every: 1 }
    }
}

impl Push {
    /// A header as text; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Receiver {
    /// Listens. Each push is handed to `receive` before it is answered.
    ///
    /// # Errors
    /// When the address can't be listened on.
    pub async fn start(address: SocketAddr, behaviour: Behaviour, receive: impl Fn(Push) + Send + Sync + 'static) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        let (receive, pushes) = (Arc::new(receive), Arc::new(AtomicU64::new(0)));
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = socket.accept().await else {
                    // Such as no descriptor left: it passes.
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                while connections.try_join_next().is_some() {}
                drop(stream.set_nodelay(true));
                let (receive, pushes) = (Arc::clone(&receive), Arc::clone(&pushes));
                let service = service_fn(move |request| answer(request, behaviour, Arc::clone(&receive), Arc::clone(&pushes)));
                // How a connection ends is its client's business.
                connections.spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
            }
        });
        Ok(Self { address, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    behaviour: Behaviour,
    receive: Arc<impl Fn(Push)>,
    pushes: Arc<AtomicU64>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(response(400)) };
    let number = pushes.fetch_add(1, Ordering::Relaxed) + 1;
    let chosen = number.is_multiple_of(behaviour.every.max(1));
    let status = match chosen {
        true if behaviour.hang => None,
        true => Some(behaviour.status),
        false => Some(200),
    };
    receive(Push { number, path: head.uri.path().to_owned(), headers: head.headers, body: body.to_bytes(), status });
    if chosen {
        sleep(behaviour.delay).await;
    }
    match status {
        None => std::future::pending().await,
        Some(status) => Ok(response(status)),
    }
}

fn response(status: u16) -> Response<Full<Bytes>> {
    let body = if status < 400 { "" } else { "the sample receiver was told to answer so\n" };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
