//! A bare client of hyper that posts bodies as large as Pushline's messages: what is possible with the same protocol and the same receiver.

use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};

use crate::{counter::Counter, protocol::Version, tls};

/// Posts one request after the other: on a connection of its own, or as a stream of one that all share.
enum Poster {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Messages a second of so many requests at once, until the last one was answered.
pub(crate) async fn post(receiver: &Counter, messages: u64, max_packets: usize, concurrency: usize) -> Result<f64> {
    let packet =
        format!("{{\"ICCID\":897612653856700000,\"Timestamp\":\"2023-10-16T09:17:32.1233516Z\",\"Payload\":\"{}\"}}", "p".repeat(200));
    let packets_of_one = vec![packet; max_packets].join(",");
    let body = Bytes::from(if max_packets == 1 { packets_of_one } else { format!("[{packets_of_one}]") });
    let uri = format!("{}://{}/push", receiver.protocol.scheme(), receiver.address);
    let began = Instant::now();
    let mut posters = JoinSet::new();
    let mut shared = None;
    for _ in 0..concurrency {
        let poster = match &shared {
            Some(requests) => Poster::Http2(http2::SendRequest::clone(requests)),
            None => Poster::connect(receiver).await?,
        };
        if let Poster::Http2(requests) = &poster {
            shared = Some(requests.clone());
        }
        posters.spawn(poster.post(uri.clone(), body.clone(), messages / concurrency as u64));
    }
    while let Some(ended) = posters.join_next().await {
        ended??;
    }
    Ok(messages as f64 / began.elapsed().as_secs_f64())
}

impl Poster {
    async fn connect(receiver: &Counter) -> Result<Self> {
        let stream = TcpStream::connect(receiver.address).await?;
        stream.set_nodelay(true)?;
        match receiver.tls_folder() {
            None => Self::on(stream, receiver.protocol.version).await,
            Some(folder) => {
                let connector = tls::connector(folder, receiver.protocol.version)?;
                Self::on(connector.connect(receiver.address.ip().into(), stream).await?, receiver.protocol.version).await
            }
        }
    }

    async fn on(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, version: Version) -> Result<Self> {
        let stream = TokioIo::new(stream);
        Ok(match version {
            Version::Http1 => {
                let (requests, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection);
                Self::Http1(requests)
            }
            Version::Http2 => {
                let (requests, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Self::Http2(requests)
            }
        })
    }

    async fn post(mut self, uri: String, body: Bytes, messages: u64) -> Result<()> {
        let authority = uri.split('/').nth(2).unwrap_or_default().to_owned();
        for _ in 0..messages {
            let request = match self {
                // Where HTTP/2 has the URI alone.
                Self::Http1(_) => Request::post("/push").header("host", &authority),
                Self::Http2(_) => Request::post(&uri),
            };
            let request = request.header("content-type", "application/json; charset=utf-8").body(Full::new(body.clone()))?;
            self.send(request).await?.into_body().collect().await?;
        }
        Ok(())
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(requests) => {
                requests.ready().await?;
                requests.send_request(request).await
            }
            Self::Http2(requests) => {
                requests.ready().await?;
                requests.send_request(request).await
            }
        }
    }
}
