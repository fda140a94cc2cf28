//! A webhook receiver that answers each push as configured, and hands the push to a callback.

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

/// A listening receiver. Dropping it closes its socket and its connections.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// How a receiver answers: every `every`-th push with `status` after `delay`, or never; the others with 200 at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// The status of the response, from 100 to 999.
    pub status: u16,
    /// How long the response takes.
    pub delay: Duration,
    /// Whether there is no response at all.
    pub hang: bool,
    /// Which pushes: 1 means all, 3 means the third, the sixth and so on.
    pub every: u64,
}

/// A push that has arrived.
#[derive(Debug, Clone)]
pub struct Push {
    /// Counted from 1.
    pub number: u64,
    /// The path of its URL.
    pub path: String,
    /// Its headers, with names in lower case.
    pub headers: HeaderMap,
    /// Its body, whole.
    pub body: Bytes,
    /// The status of its response, or `None` where it gets no response.
    pub status: Option<u16>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { status: 200, delay: Duration::ZERO, hang: false, every: 1 }
    }
}

impl Push {
    /// A header's value; an empty text where there is none or the value isn't ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

impl Receiver {
    /// Listens. Each push is handed to `receive` before it is answered.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub async fn start(address: SocketAddr, behaviour: Behaviour, receive: impl Fn(Push) + Send + Sync + 'static) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        let (receive, pushes) = (Arc::new(receive), Arc::new(AtomicU64::new(0)));
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = socket.accept().await else {
                    // Such as too many open files, which passes.
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

    /// The address that is bound: where port 0 was asked for, the one that was free.
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
    let body = if status < 400 { "" } else { "the sample receiver is configured to fail\n" };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status has three digits");
    response
}
