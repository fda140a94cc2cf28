//! The receiver: answers 200, counts packets, and tells how old those were that carry their time. A process of its own, so that its work isn't
//! counted as the sender's.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader},
    net::TcpListener,
    process::Child,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    gateways::now_micros,
    number, process,
    protocol::{Protocol, Version},
    tls, until,
};

/// How many streams a connection of HTTP/2 may have.
const STREAMS: u32 = 256;

/// What was received.
#[derive(Debug, Default)]
struct Received {
    packets: AtomicU64,
    /// Microseconds from publishing until here, of packets that carry their time.
    ages: Mutex<Vec<u64>>,
    /// The same of the first packet of each message, which opened its window or came later into it.
    first_ages: Mutex<Vec<u64>>,
}

/// A running counter.
pub(crate) struct Counter {
    /// Where it takes packets.
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    /// Where it answers questions, always by plain HTTP/1.1.
    questions: SocketAddr,
    folder: TempDir,
    _child: Child,
}

impl Counter {
    pub(crate) async fn start() -> Result<Self> {
        Self::speaking(Protocol::PLAIN_HTTP1).await
    }

    pub(crate) async fn speaking(protocol: Protocol) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().display().to_string();
        let mut arguments = vec!["counter", protocol.version.name()];
        if protocol.is_tls {
            tls::write_certificate(folder.path())?;
            arguments.push(&path);
        }
        let mut child = process::this(&arguments)?;
        let output = child.stdout.take().context("its output is piped")?;
        let line = BufReader::new(output).lines().next_line().await?.context("it tells its addresses")?;
        let (address, questions) = line.split_once(' ').context("it tells two addresses")?;
        Ok(Self { address: address.parse()?, protocol, questions: questions.parse()?, folder, _child: child })
    }

    /// Where its certificate is, if it speaks TLS.
    pub(crate) fn tls_folder(&self) -> Option<&Path> {
        self.protocol.is_tls.then_some(self.folder.path())
    }

    /// How many packets were counted.
    pub(crate) async fn count(&self) -> Result<u64> {
        number(self.questions, "/").await
    }

    /// So many of 100 packets that carry their time were at most so many microseconds old.
    pub(crate) async fn percentile(&self, of_100: usize) -> Result<u64> {
        number(self.questions, &format!("/percentile/{of_100}")).await
    }

    /// The same of the first packet of each message.
    pub(crate) async fn percentile_of_first(&self, of_100: usize) -> Result<u64> {
        number(self.questions, &format!("/percentile-of-first/{of_100}")).await
    }

    /// Forgets the ages so far.
    pub(crate) async fn forget_ages(&self) -> Result<()> {
        number(self.questions, "/forget").await.map(drop)
    }

    /// Waits until so many packets were counted.
    pub(crate) async fn until(&self, packets: u64) -> Result<()> {
        until(|| async { Ok(self.count().await? >= packets) }).await
    }
}

/// Prints its addresses and serves. With TLS, its certificate is in a folder.
pub(crate) async fn serve(version: Version, tls_folder: Option<PathBuf>) -> Result<()> {
    let (packets, questions) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    println!("{} {}", packets.local_addr()?, questions.local_addr()?);
    let acceptor = tls_folder.map(|folder| tls::acceptor(&folder, version)).transpose()?;
    let received = Arc::new(Received::default());
    tokio::try_join!(listen(packets, version, acceptor, Arc::clone(&received)), listen(questions, Version::Http1, None, received))?;
    Ok(())
}

async fn listen(socket: TcpListener, version: Version, acceptor: Option<TlsAcceptor>, received: Arc<Received>) -> Result<()> {
    loop {
        let (stream, _) = socket.accept().await?;
        stream.set_nodelay(true)?;
        let (received, acceptor) = (Arc::clone(&received), acceptor.clone());
        tokio::spawn(async move {
            match acceptor {
                None => serve_connection(stream, version, received).await,
                Some(acceptor) => {
                    // A client whose handshake fails notices it itself.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    serve_connection(stream, version, received).await;
                }
            }
        });
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, version: Version, received: Arc<Received>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&received)));
    let stream = TokioIo::new(stream);
    match version {
        Version::Http1 => drop(http1::Builder::new().serve_connection(stream, service).await),
        Version::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            drop(builder.max_concurrent_streams(STREAMS).serve_connection(stream, service).await);
        }
    }
}

async fn answer(request: Request<Incoming>, received: Arc<Received>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::GET {
        let path = request.uri().path();
        let of_100 = |prefix| path.strip_prefix(prefix).and_then(|of_100| of_100.parse().ok());
        let number = if let Some(of_100) = of_100("/percentile/") {
            percentile(&received.ages, of_100)
        } else if let Some(of_100) = of_100("/percentile-of-first/") {
            percentile(&received.first_ages, of_100)
        } else if path == "/forget" {
            received.forget_ages()
        } else {
            received.packets.load(Ordering::Relaxed)
        };
        return Ok(Response::new(number.to_string().into()));
    }
    if let Ok(body) = request.into_body().collect().await {
        let body = body.to_bytes();
        received.note(&body);
    }
    Ok(Response::new(Full::default()))
}

impl Received {
    fn note(&self, body: &[u8]) {
        // Each packet has one brace that opens; these payloads have none.
        let count = body.iter().filter(|byte| **byte == b'{').count();
        self.packets.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(first) = time_of(body) {
            let now = now_micros();
            lock(&self.first_ages).push(now.saturating_sub(first));
            let ages = body.split(|byte| *byte == b'{').skip(1).filter_map(time_of).map(|at| now.saturating_sub(at));
            lock(&self.ages).extend(ages);
        }
    }

    /// Returns how many it forgot.
    fn forget_ages(&self) -> u64 {
        lock(&self.first_ages).clear();
        std::mem::take(&mut *lock(&self.ages)).len() as u64
    }
}

fn percentile(ages: &Mutex<Vec<u64>>, of_100: usize) -> u64 {
    let mut ages = lock(ages);
    ages.sort_unstable();
    ages.get(ages.len() * of_100 / 100).copied().unwrap_or_default()
}

fn lock(ages: &Mutex<Vec<u64>>) -> MutexGuard<'_, Vec<u64>> {
    ages.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When the first packet of a body was published, where it says so.
fn time_of(body: &[u8]) -> Option<u64> {
    const BEFORE: &[u8] = b"\"Payload\":\"";
    let start = body.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let digits = body.get(start..)?.strip_prefix(b"T")?.get(..16)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
