//! The receiver: answers 200, counts packets, and tells how old those were that carry their time. A process of its own, so that its work isn't
//! counted as the sender's.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
    /// The same of the first packet of each message, which opened its window or came later into it.
    first_ages: Mutex<Vec<u64>>,
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

    /// The same of the first packet of each message.
    pub(crate) async fn percentile_of_first(&self, of_100: usize) -> Result<u64> {
        number(self.address, &format!("/percentile-of-first/{of_100}")).await
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
