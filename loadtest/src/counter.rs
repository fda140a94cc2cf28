//! The receiver: answers 200, counts packets, and tells how old those were that carry their time. A process of its own, so that its work isn't
//! counted as the sender's.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::Child,
};

use crate::{gateways::now_micros, number, process, until};

/// What was received.
#[derive(Debug, Default)]
struct Received {
    packets: AtomicU64,
    /// Microseconds from publishing until here, of packets that carry their time.
    ages: Mutex<Vec<u64>>,
}

/// A running counter.
pub(crate) struct Counter {
    pub(crate) address: SocketAddr,
    _child: Child,
}

impl Counter {
    pub(crate) async fn start() -> Result<Self> {
        let mut child = process::this(&["counter"])?;
        let output = child.stdout.take().context("its output is piped")?;
        let line = BufReader::new(output).lines().next_line().await?.context("it tells its address")?;
        Ok(Self { address: line.parse()?, _child: child })
    }

    /// How many packets were counted.
    pub(crate) async fn count(&self) -> Result<u64> {
        number(self.address, "/").await
    }

    /// So many of 100 packets that carry their time were at most so many microseconds old.
    pub(crate) async fn percentile(&self, of_100: usize) -> Result<u64> {
        number(self.address, &format!("/percentile/{of_100}")).await
    }

    /// Forgets the ages so far.
    pub(crate) async fn forget_ages(&self) -> Result<()> {
        number(self.address, "/forget").await.map(drop)
    }

    /// Waits until so many packets were counted.
    pub(crate) async fn until(&self, packets: u64) -> Result<()> {
        until(|| async { Ok(self.count().await? >= packets) }).await
    }
}

/// Prints its address and serves.
pub(crate) async fn serve() -> Result<()> {
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", socket.local_addr()?);
    let received = Arc::new(Received::default());
    loop {
        let (stream, _) = socket.accept().await?;
        stream.set_nodelay(true)?;
        let received = Arc::clone(&received);
        let service = service_fn(move |request| answer(request, Arc::clone(&received)));
        tokio::spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
    }
}

async fn answer(request: Request<Incoming>, received: Arc<Received>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::GET {
        let path = request.uri().path();
        let number = match path.strip_prefix("/percentile/").and_then(|of_100| of_100.parse().ok()) {
            Some(of_100) => received.percentile(of_100),
            None if path == "/forget" => received.forget_ages(),
            None => received.packets.load(Ordering::Relaxed),
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
        if time_of(body).is_some() {
            let now = now_micros();
            let ages = body.split(|byte| *byte == b'{').skip(1).filter_map(time_of).map(|at| now.saturating_sub(at));
            self.ages.lock().unwrap_or_else(PoisonError::into_inner).extend(ages);
        }
    }

    /// Returns how many it forgot.
    fn forget_ages(&self) -> u64 {
        std::mem::take(&mut *self.ages.lock().unwrap_or_else(PoisonError::into_inner)).len() as u64
    }

    fn percentile(&self, of_100: usize) -> u64 {
        let mut ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        ages.sort_unstable();
        ages.get(ages.len() * of_100 / 100).copied().unwrap_or_default()
    }
}

/// When the first packet of a body was published, where it says so.
fn time_of(body: &[u8]) -> Option<u64> {
    const BEFORE: &[u8] = b"\"Payload\":\"";
    let start = body.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let digits = body.get(start..)?.strip_prefix(b"T")?.get(..16)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
