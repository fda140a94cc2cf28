//! A server that a test tells how to serve each connection, and endpoints on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pushline_model::{DescriptorBudget, MessageId, Outcome, Webhook};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::Endpoint;
use crate::{Egress, Network, request::HeaderCaseCache};

/// A response of HTTP/1.1 that accepts a request.
pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// What becomes of an attempt that is answered so.
pub(super) const ACCEPTED: Outcome = Outcome::Accepted { status: 200 };

/// Such a server, on a free port. It ends with the test.
pub(super) struct Server {
    pub(super) port: u16,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// `serve` gets each connection and its number, from 1 on.
    pub(super) async fn start<S: Future<Output = ()> + Send + 'static>(serve: impl Fn(usize, TcpStream) -> S + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, connections) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(serve(counted.fetch_add(1, Ordering::Relaxed) + 1, stream));
            }
        });
        Self { port, connections, accepting }
    }

    /// How many connections were made.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// An endpoint on it, on a network of its own.
    pub(super) fn endpoint(&self, change: impl FnOnce(&mut Webhook)) -> Endpoint {
        self.endpoint_on(&network(1000), change)
    }

    pub(super) fn endpoint_on(&self, network: &Arc<Network>, change: impl FnOnce(&mut Webhook)) -> Endpoint {
        let mut webhook = Webhook::new("w", format!("http://127.0.0.1:{}/push", self.port).parse().unwrap());
        change(&mut webhook);
        Endpoint::new(Arc::new(webhook), Arc::clone(network), &mut HeaderCaseCache::default()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A server that answers each request of HTTP/1.1 with these bytes.
pub(super) async fn answers(bytes: &'static [u8]) -> Server {
    Server::start(move |_, mut stream| async move { while read_request(&mut stream).await && stream.write_all(bytes).await.is_ok() {} })
        .await
}

/// A network that reaches this machine, with this many connections to a host at the most.
pub(super) fn network(per_host: usize) -> Arc<Network> {
    let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    Network::within(egress, DescriptorBudget::unlimited(), per_host).unwrap()
}

/// An attempt of a new message, or of one that had attempts before. Its body is `ABC`.
pub(super) async fn attempt(endpoint: &Endpoint, is_first: bool) -> Outcome {
    let attempt = endpoint.attempt(MessageId([7; 16]), "ABC".into(), is_first);
    timeout(Duration::from_secs(30), attempt).await.expect("an attempt ends long before")
}

/// Reads a request of HTTP/1.1. Returns false at the end of the connection.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\nABC") {
        if !stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
            return false;
        }
    }
    true
}

/// Waits until this many connections rest.
pub(super) async fn until_resting(network: &Network, count: usize) {
    let rest = async {
        while network.pool().resting() != count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), rest).await.expect("responses are drained within seconds");
}

/// The time goes on at once.
pub(super) async fn advance(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

/// Two webhooks of a host that may have eight connections: the server never answers the first one, which has more messages than that. The other one
/// gets its answers meanwhile. `serve` is told whether its connection is the first one's.
pub(super) async fn beside_a_webhook_that_hangs<S: Future<Output = ()> + Send + 'static>(
    change: impl Fn(&mut Webhook),
    serve: impl Fn(bool, TcpStream) -> S + Send + 'static,
) {
    // Three: it has fewer than are free, and a fourth of eight isn't counted.
    let may_take = 3;
    let server = Server::start(move |number, stream| serve(number <= may_take, stream)).await;
    let network = network(8);
    let [hanging, healthy] = [(); 2].map(|()| server.endpoint_on(&network, &change));
    let hang = futures_util::future::join_all([(); 16].map(|()| attempt(&hanging, true)));
    let answered = async {
        while server.connections() < may_take {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        futures_util::future::join_all([(); 16].map(|()| attempt(&healthy, true))).await
    };
    tokio::select! {
        _ = hang => panic!("nothing of it is answered"),
        outcomes = answered => assert!(outcomes.iter().all(|outcome| *outcome == ACCEPTED), "{outcomes:?}"),
    }
    assert!(server.connections() > may_take);
}
