//! The receiver: answers 200 and counts packets. A process of its own, so that its work isn't counted as the sender's.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
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

use crate::{number, process, until};

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

    /// Waits until so many packets were counted.
    pub(crate) async fn until(&self, packets: u64) -> Result<()> {
        until(|| async { Ok(number(self.address, "/").await? >= packets) }).await
    }
}

/// Prints its address and serves.
pub(crate) async fn serve() -> Result<()> {
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", socket.local_addr()?);
    let packets = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, _) = socket.accept().await?;
        stream.set_nodelay(true)?;
        let packets = Arc::clone(&packets);
        let service = service_fn(move |request| answer(request, Arc::clone(&packets)));
        tokio::spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
    }
}

async fn answer(request: Request<Incoming>, packets: Arc<AtomicU64>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::GET {
        return Ok(Response::new(packets.load(Ordering::Relaxed).to_string().into()));
    }
    if let Ok(body) = request.into_body().collect().await {
        // Each packet has one brace that opens; these payloads have none.
        let count = body.to_bytes().iter().filter(|byte| **byte == b'{').count();
        packets.fetch_add(count as u64, Ordering::Relaxed);
    }
    Ok(Response::new(Full::default()))
}
