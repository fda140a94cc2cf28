//! The admin address: metrics, health, dead letters.

pub(crate) mod response;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use pushline_deliver::Losses;
use pushline_queue::{Queue, Stalled};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::{interval, sleep},
};

use self::response::text;
use crate::{
    dead_letters,
    replay::{Replays, Routing},
};

/// Buckets of everything that is measured in seconds, from a fast disk to the document's 90 s.
const SECONDS: [f64; 16] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 90.0];

/// Buckets of packets in a message.
const PACKETS: [f64; 6] = [1.0, 2.0, 5.0, 9.0, 10.0, 100.0];

/// After an error of `accept` it is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A server of the admin address.
pub(crate) struct Admin {
    address: SocketAddr,
    serving: JoinHandle<()>,
    upkeep: JoinHandle<()>,
}

/// What is asked for.
#[derive(Clone)]
struct Answers {
    metrics: PrometheusHandle,
    queue: Arc<dyn Queue>,
    /// What the log has lost, where this process delivers.
    losses: Option<Arc<Losses>>,
    replays: Replays,
}

/// Metrics of the whole process go to one recorder.
pub(crate) fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_message_packets".into()), &PACKETS)?;
    let handle = builder.install_recorder().context("can't install the metrics recorder")?;
    pushline_queue::metrics::describe();
    pushline_ingest::metrics::describe();
    pushline_deliver::metrics::describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

impl Admin {
    /// Listens and answers until it is stopped.
    pub(crate) async fn start(
        address: SocketAddr,
        metrics: PrometheusHandle,
        queue: Arc<dyn Queue>,
        routing: Routing,
        losses: Option<Arc<Losses>>,
    ) -> anyhow::Result<Self> {
        let socket = TcpListener::bind(address).await.with_context(|| format!("can't listen on {address} ([admin] address)"))?;
        let address = socket.local_addr()?;
        let kept = metrics.clone();
        let upkeep = tokio::spawn(async move {
            let mut seconds = interval(Duration::from_secs(5));
            loop {
                seconds.tick().await;
                kept.run_upkeep();
            }
        });
        let replays = Replays::new(Arc::clone(&queue), routing);
        let answers = Answers { metrics, queue, losses, replays };
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                // A connection that can't be accepted is the client's loss; the next may be, but with too many open files not at once.
                let Ok((stream, _)) = socket.accept().await else {
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                };
                while connections.try_join_next().is_some() {}
                let answers = answers.clone();
                let service = service_fn(move |request| {
                    let answers = answers.clone();
                    async move { Ok::<_, Infallible>(answers.answer(&request).await) }
                });
                connections.spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
            }
        });
        Ok(Self { address, serving, upkeep })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn stop(&self) {
        self.serving.abort();
        self.upkeep.abort();
    }
}

impl Answers {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => text(StatusCode::OK, self.metrics.render()),
            (&Method::GET, "/healthz") => text(StatusCode::OK, "alive\n"),
            (&Method::GET, "/readyz") => self.readiness(),
            (&Method::GET, path @ ("/dead-letters" | "/unrouted")) => {
                let log = if path == "/unrouted" { self.queue.unrouted() } else { self.queue.dead_letters() };
                dead_letters::answer(&log, request.uri().query().unwrap_or_default()).await
            }
            (&Method::POST, path @ ("/dead-letters/replay" | "/unrouted/replay")) => {
                let log = if path.starts_with("/unrouted") { self.queue.unrouted() } else { self.queue.dead_letters() };
                self.replays.answer(log, request.uri().query().unwrap_or_default()).await
            }
            (&Method::POST, "/losses/acknowledge") => {
                let offsets = self.losses.as_ref().map_or(0, |losses| losses.acknowledge());
                text(StatusCode::OK, format!("{offsets} lost offsets acknowledged\n"))
            }
            (_, "/metrics" | "/healthz" | "/readyz" | "/dead-letters" | "/unrouted") => text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n"),
            (_, "/dead-letters/replay" | "/unrouted/replay" | "/losses/acknowledge") => text(StatusCode::METHOD_NOT_ALLOWED, "POST only\n"),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /healthz, /readyz, /dead-letters[/replay], /unrouted[/replay] and /losses/acknowledge\n",
            ),
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        if let Some(Stalled(why)) = self.queue.stalled() {
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
        }
        match self.losses.as_ref().map_or(0, |losses| losses.unacknowledged()) {
            0 => text(StatusCode::OK, "ready\n"),
            lost => {
                let why = format!("the log has lost {lost} offsets that hadn't settled; say that you know it: POST /losses/acknowledge\n");
                text(StatusCode::SERVICE_UNAVAILABLE, why)
            }
        }
    }
}
