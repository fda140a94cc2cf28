//! A receiver that many webhooks share.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use pushline_testkit::payloads_of;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};

/// Requests to `/hang` are never answered, all others at once.
pub(super) struct SharedReceiver {
    address: SocketAddr,
    arrived: Arc<Arrived>,
    _serving: JoinSet<()>,
}

/// Payloads by path, in the order in which they arrived.
type Arrived = Mutex<HashMap<String, Vec<String>>>;

impl SharedReceiver {
    pub(super) async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(4096).unwrap();
        let (address, arrived) = (listener.local_addr().unwrap(), Arc::<Arrived>::default());
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&arrived)));
        Self { address, arrived, _serving: serving }
    }

    pub(super) fn url(&self, path: &str) -> String {
        self.url_at("127.0.0.1", path)
    }

    /// By another name of this machine.
    pub(super) fn url_at(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}/{path}", self.port())
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The payloads that came to a path.
    pub(super) fn arrived(&self, path: &str) -> Vec<String> {
        self.arrived.lock().unwrap().get(&format!("/{path}")).cloned().unwrap_or_default()
    }
}

async fn serve(listener: TcpListener, arrived: Arc<Arrived>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        while connections.try_join_next().is_some() {}
        let arrived = Arc::clone(&arrived);
        connections.spawn(async move {
            stream.set_nodelay(true).unwrap();
            let service = service_fn(|request| answer(request, Arc::clone(&arrived)));
            // How a connection ends is its client's business.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(request: Request<Incoming>, arrived: Arc<Arrived>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/hang" {
        std::future::pending::<()>().await;
    }
    let Ok(body) = request.into_body().collect().await else { return Ok(Response::default()) };
    arrived.lock().unwrap().entry(path).or_default().extend(payloads_of(&body.to_bytes()));
    Ok(Response::default())
}
