//! A receiver that a test tells how to answer each request, knowing on which connection it came. It speaks to sockets itself, so that closing without
//! an answer is an answer too.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::{inbox::payloads_of, request::read_request};

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Counted from 1.
    pub connection: usize,
    /// Its `webhook-id`.
    pub id: String,
    /// Its packets' payloads.
    pub payloads: Vec<String>,
    /// Its body as it came.
    pub body: Vec<u8>,
}

/// Such a receiver, on a free port. Dropping it closes the socket and its connections.
#[derive(Debug)]
pub struct ScriptedReceiver {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl ScriptedReceiver {
    /// Listens. `answer` gives the status that a request is answered with, or `None`: the connection is closed.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start<A>(answer: impl Fn(Arrival) -> A + Send + Sync + 'static) -> Self
    where
        A: Future<Output = Option<u16>> + Send,
    {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        let (answer, connections) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                let (answer, connection) = (Arc::clone(&answer), count.fetch_add(1, Ordering::Relaxed) + 1);
                // How a connection ends is its client's business.
                serving.spawn(async move { drop(serve(stream, connection, &*answer).await) });
            }
        });
        Self { address, connections, accepting }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/push", self.address)
    }

    /// How many connections were made.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for ScriptedReceiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve<A: Future<Output = Option<u16>>>(
    mut stream: TcpStream,
    connection: usize,
    answer: &impl Fn(Arrival) -> A,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some((id, body)) = read_request(&mut stream, true).await? {
        let Some(status) = answer(Arrival { connection, id, payloads: payloads_of(&body), body }).await else { break };
        stream.write_all(format!("HTTP/1.1 {status} Told\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
    }
    Ok(())
}
