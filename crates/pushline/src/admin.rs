//! The admin server: metrics, health, dead letters, for operators and monitoring. It answers from the first moment of the process to its last one.
//!
//! | path | method | response |
//! |---|---|---|
//! | `/healthz` | GET | 200 while the process lives |
//! | `/readyz` | GET | 200, or 503 with the reason |
//! | `/metrics` | GET | the Prometheus text format |
//! | `/dead-letters`, `/unrouted` | GET | a page of JSON lines, `dead_letters.rs` |
//! | `/dead-letters/replay`, `/unrouted/replay` | POST | what a page of replays did, `replay.rs` |
//! | `/devices`, `/devices/refused` | GET | who is connected, who was refused and why: JSON lines, `devices.rs` |
//! | `/devices/disconnect` | POST | how many clients were disconnected |
//! | `/losses/acknowledge` | POST | how many lost offsets an operator has acknowledged |
//!
//! HEAD works wherever GET does. `web_guard.rs` keeps web pages out, `server.rs` bounds connections.
//!
//! `[metrics] address` is a second address that has the first three paths alone: monitoring reaches neither payloads nor anything that changes something.

mod dead_letters;
mod devices;
pub(crate) mod replay;
mod response;
mod server;
mod web_guard;

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwapOption;
use axum::{
    Router,
    extract::{DefaultBodyLimit, RawQuery, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use futures_util::FutureExt;
use pushline_deliver::{DeadLetterLog, LocalFailures, Losses, RefusedTicks};
use pushline_ingest::{BrokerHealth, Clients};
use pushline_queue::{Queue, Stalled};
use tokio::{net::TcpListener, task::JoinSet};

use self::{replay::Replays, response::text};
use crate::{config::Settings, scrape::Scrape};

/// Bytes of a request's body. No request needs one so far.
const MAX_BODY: usize = 64 << 10;

/// A running admin server.
pub(crate) struct Admin {
    address: SocketAddr,
    /// Where monitoring alone is answered.
    metrics_address: Option<SocketAddr>,
    shared: Arc<Shared>,
    /// A server for each address, and the recorder's upkeep. They end with this value.
    serving: JoinSet<()>,
}

/// What the handlers look at.
struct Shared {
    scrape: Scrape,
    /// Why the process isn't ready though nothing is wrong: it starts or shuts down. `None` in between.
    stage: ArcSwapOption<String>,
    /// Set once the process has started.
    services: OnceLock<Services>,
}

/// A request came before the process had started: 503 with what the start is waiting for.
struct Starting(String);

/// The parts of a started process that requests are about.
pub(crate) struct Services {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) replays: Replays,
    /// What the log has lost, where this process delivers.
    pub(crate) losses: Option<Arc<Losses>>,
    /// What this machine lacks for attempts, where this process delivers.
    pub(crate) local_failures: Option<Arc<LocalFailures>>,
    /// The partitions whose ticks Kafka refuses, where this process delivers.
    pub(crate) refused_ticks: Option<Arc<RefusedTicks>>,
    /// The clients of the listeners, where this process has any.
    pub(crate) clients: Option<Arc<Clients>>,
    /// The MQTT brokers that packets come from; none, where this process takes no packets in.
    pub(crate) brokers: BrokerHealth,
}

impl Admin {
    /// Listens and answers. The process isn't ready yet.
    ///
    /// # Errors
    /// An address can't be listened on.
    pub(crate) async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared { scrape: Scrape::new()?, stage: ArcSwapOption::empty(), services: OnceLock::new() });
        let (mut serving, upkeep) = (JoinSet::new(), Arc::clone(&shared));
        serving.spawn(async move { upkeep.scrape.keep_up().await });
        let address = serve(&mut serving, settings.admin.address, "[admin] address", router(Arc::clone(&shared))).await?;
        let metrics_address = match settings.metrics.address {
            Some(address) => Some(serve(&mut serving, address, "[metrics] address", monitoring_router(Arc::clone(&shared))).await?),
            None => None,
        };
        let this = Self { address, metrics_address, shared, serving };
        this.starting("reading the configuration");
        Ok(this)
    }

    /// The address that is bound: where port 0 was asked for, the one that was free.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bound `[metrics] address`, if there is one.
    pub(crate) fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// `/readyz` says what the start is waiting for.
    pub(crate) fn starting(&self, step: &str) {
        self.shared.stage.store(Some(Arc::new(format!("starting: {step}"))));
    }

    /// The process has started: from now on its parts say whether it is ready.
    pub(crate) fn started(&self, services: Services) {
        assert!(self.shared.services.set(services).is_ok(), "a process starts once");
        self.shared.stage.store(None);
    }

    /// `/readyz` fails from now on, so that a load balancer sends nothing more.
    pub(crate) fn shutting_down(&self) {
        self.shared.stage.store(Some(Arc::new("shutting down".to_owned())));
    }

    /// Resolves when the server has ended by itself, which it does only by a panic.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match self.serving.join_next().await.expect("the servers run as long as the process") {
            Ok(()) => anyhow!("the admin server ended"),
            Err(error) => anyhow!(error).context("the admin server failed"),
        }
    }
}

/// Binds an address and answers there. Returns the bound address; `option` names it in the error.
async fn serve(serving: &mut JoinSet<()>, address: SocketAddr, option: &str, router: Router) -> anyhow::Result<SocketAddr> {
    let socket = TcpListener::bind(address).await.with_context(|| format!("can't listen on {address} ({option})"))?;
    let address = socket.local_addr()?;
    serving.spawn(server::serve(socket, router, server::REQUEST_HEAD));
    Ok(address)
}

impl Shared {
    /// # Errors
    /// What the start is waiting for.
    fn services(&self) -> Result<&Services, Starting> {
        self.services.get().ok_or_else(|| {
            let stage = self.stage.load();
            Starting(stage.as_ref().map_or_else(|| "starting".to_owned(), |stage| stage.as_str().to_owned()))
        })
    }

    /// The answer to a request about clients.
    fn of_clients(&self, answer: impl FnOnce(&Clients) -> Response) -> Result<Response, Starting> {
        Ok(match &self.services()?.clients {
            Some(clients) => answer(clients),
            None => text(StatusCode::NOT_FOUND, "this process has no clients: ask the admin server of an ingest process\n"),
        })
    }

    fn metrics(&self) -> String {
        let is_stalled = self.services.get().is_some_and(|services| services.queue.stalled().is_some());
        self.scrape.render(self.readiness().is_ok(), is_stalled)
    }

    /// # Errors
    /// Why the process isn't ready.
    fn readiness(&self) -> Result<(), String> {
        if let Some(stage) = self.stage.load().as_ref() {
            return Err(stage.as_str().to_owned());
        }
        let services = self.services.get().expect("a process without its parts is starting");
        if let Some(Stalled(why)) = services.queue.stalled() {
            return Err(why);
        }
        if let Some(why) = services.local_failures.as_ref().and_then(|failures| failures.reason()) {
            return Err(why);
        }
        if let Some(why) = services.refused_ticks.as_ref().and_then(|refused| refused.reason()) {
            return Err(why);
        }
        if let Some(why) = services.brokers.reason() {
            return Err(why);
        }
        match services.losses.as_ref().map_or(0, |losses| losses.unacknowledged()) {
            0 => Ok(()),
            lost => Err(format!("the log lost {lost} offsets that weren't settled; acknowledge the loss: POST /losses/acknowledge")),
        }
    }
}

impl IntoResponse for Starting {
    fn into_response(self) -> Response {
        text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", self.0))
    }
}

fn router(shared: Arc<Shared>) -> Router {
    // Payloads are read here, and things are changed: a web page in an operator's browser may do neither.
    let guarded = Router::new()
        .route("/dead-letters", read_only(get(list_dead_letters)))
        .route("/unrouted", read_only(get(list_unrouted)))
        .route("/dead-letters/replay", post_only(post(replay_dead_letters)))
        .route("/unrouted/replay", post_only(post(replay_unrouted)))
        .route("/devices", read_only(get(list_devices)))
        .route("/devices/refused", read_only(get(list_refused)))
        .route("/devices/disconnect", post_only(post(disconnect_devices)))
        .route("/losses/acknowledge", post_only(post(acknowledge_losses)))
        .route_layer(from_fn(web_guard::refuse_web_pages));
    let paths = "the admin server has /metrics, /healthz, /readyz, /dead-letters[/replay], /unrouted[/replay], \
                 /devices[/refused|/disconnect] and /losses/acknowledge\n";
    layers(monitoring().merge(guarded), paths).with_state(shared)
}

/// What `[metrics] address` answers.
fn monitoring_router(shared: Arc<Shared>) -> Router {
    layers(monitoring(), "this address has /metrics, /healthz and /readyz; [admin] address has the rest\n").with_state(shared)
}

fn monitoring() -> Router<Arc<Shared>> {
    Router::new()
        .route("/metrics", read_only(get(async |State(shared): State<Arc<Shared>>| text(StatusCode::OK, shared.metrics()))))
        .route("/healthz", read_only(get(async || text(StatusCode::OK, "alive\n"))))
        .route("/readyz", read_only(get(readiness)))
}

/// Answers every method but GET and HEAD with 405 (RFC 9110 §15.5.6).
fn read_only<S: Clone + Send + Sync + 'static>(path: MethodRouter<S>) -> MethodRouter<S> {
    path.fallback(async || text(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n"))
}

/// Answers every method but POST with 405.
fn post_only<S: Clone + Send + Sync + 'static>(path: MethodRouter<S>) -> MethodRouter<S> {
    path.fallback(async || text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n"))
}

/// What holds for every path. `paths` answers a path that isn't there.
fn layers<S: Clone + Send + Sync + 'static>(router: Router<S>, paths: &'static str) -> Router<S> {
    router.fallback(async move || text(StatusCode::NOT_FOUND, paths)).layer(DefaultBodyLimit::max(MAX_BODY)).layer(from_fn(answer_panics))
}

/// A panic ends its request and nothing else. The hook has logged it.
async fn answer_panics(request: Request, next: Next) -> Response {
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    response.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "the request failed by a panic: the log has its place\n"))
}

async fn readiness(State(shared): State<Arc<Shared>>) -> Response {
    match shared.readiness() {
        Ok(()) => text(StatusCode::OK, "ready\n"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn list_dead_letters(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Result<Response, Starting> {
    Ok(dead_letters::list(&shared.services()?.queue.dead_letters(), &query.unwrap_or_default()).await)
}

async fn list_unrouted(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Result<Response, Starting> {
    Ok(dead_letters::list(&shared.services()?.queue.unrouted(), &query.unwrap_or_default()).await)
}

async fn replay_dead_letters(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Result<Response, Starting> {
    let services = shared.services()?;
    Ok(services.replays.replay(DeadLetterLog::Groups, &query.unwrap_or_default()).await)
}

async fn replay_unrouted(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Result<Response, Starting> {
    let services = shared.services()?;
    Ok(services.replays.replay(DeadLetterLog::Unrouted, &query.unwrap_or_default()).await)
}

async fn list_devices(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Result<Response, Starting> {
    shared.of_clients(|clients| devices::list(clients, &query.unwrap_or_default()))
}

async fn list_refused(State(shared): State<Arc<Shared>>) -> Result<Response, Starting> {
    shared.of_clients(devices::refused)
}

async fn disconnect_devices(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Result<Response, Starting> {
    shared.of_clients(|clients| devices::disconnect(clients, &query.unwrap_or_default()))
}

async fn acknowledge_losses(State(shared): State<Arc<Shared>>) -> Result<Response, Starting> {
    Ok(match &shared.services()?.losses {
        Some(losses) => text(StatusCode::OK, format!("acknowledged the loss of {} offsets\n", losses.acknowledge())),
        None => text(
            StatusCode::NOT_FOUND,
            "this process delivers nothing, so it tracks no losses: ask the admin server of a deliver process\n",
        ),
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower_service::Service;

    use super::*;

    #[tokio::test]
    async fn a_request_that_panics_is_answered_with_500_and_the_next_one_as_ever() {
        async fn panics() {
            panic!("as it was told to");
        }
        let mut router = layers(Router::new().route("/panics", get(panics)).route("/healthz", get(async || "alive")), "").with_state(());
        for (path, status) in [("/panics", 500), ("/healthz", 200)] {
            let response = router.call(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
        }
    }
}
