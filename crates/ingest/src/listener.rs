//! The listener that devices connect to.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use metrics::gauge;
use pushline_model::{DescriptorBudget, DescriptorPermit, DescriptorUse, Registry, TopicPattern};
use pushline_queue::Queue;
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    IngestError,
    budget::Budget,
    connection::{Connection, Shared},
    metrics as names,
    sessions::Sessions,
};

/// How to listen.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub address: SocketAddr,
    /// Which topics are wanted; the first that matches counts.
    pub topics: Vec<TopicPattern>,
    /// The largest payload, in bytes.
    pub max_payload_bytes: usize,
    /// Bytes that may be read and not yet durable; beyond, sockets aren't read.
    pub unacknowledged_bytes: usize,
    /// The file descriptors of connections. New clients wait while devices have as many as they may.
    pub descriptors: Arc<DescriptorBudget>,
}

/// A socket that listens.
pub struct Listener {
    socket: TcpListener,
    descriptors: Arc<DescriptorBudget>,
    shared: Arc<Shared>,
}

/// After an error of `accept` (too many open files) it is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// After so long without a word the system asks whether the other side is still there (RFC 9293 §3.8.4).
const SILENT: Duration = Duration::from_mins(2);

/// How long connections may take to end at a shutdown.
const FAREWELL: Duration = Duration::from_secs(6);

impl Options {
    /// The defaults of DESIGN.md.
    #[must_use]
    pub fn new(address: SocketAddr, topics: Vec<TopicPattern>) -> Self {
        Self { address, topics, max_payload_bytes: 256 << 10, unacknowledged_bytes: 64 << 20, descriptors: DescriptorBudget::unlimited() }
    }
}

impl Listener {
    /// Binds the address. `stop` turns true once: nothing is taken in any more, what was is acknowledged.
    ///
    /// # Errors
    /// [`IngestError::Bind`].
    pub async fn bind(
        options: Options,
        queue: Arc<dyn Queue>,
        registry: Arc<ArcSwap<Registry>>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, IngestError> {
        let socket = TcpListener::bind(options.address).await.map_err(|source| IngestError::Bind { address: options.address, source })?;
        let unrouted = queue.unrouted();
        let budget = Budget::new(options.unacknowledged_bytes);
        let (topics, max_payload) = (options.topics, options.max_payload_bytes);
        let shared = Shared { queue, unrouted, registry, topics, max_payload, budget, sessions: Arc::new(Sessions::default()), stop };
        Ok(Self { socket, descriptors: options.descriptors, shared: Arc::new(shared) })
    }

    /// The address that is bound: where port 0 was asked for, the one that was free.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves clients until it is told to stop; then waits until each has its last acknowledgements.
    pub async fn run(self) {
        let mut stop = self.shared.stop.clone();
        let mut connections = JoinSet::new();
        let (mut fails, is_full) = (false, AtomicBool::new(false));
        // It keeps its place in line for a descriptor while connections end.
        let mut accepting = Box::pin(accept(&self.socket, &self.descriptors, &is_full));
        loop {
            let accepted = tokio::select! {
                accepted = &mut accepting => accepted,
                Some(ended) = connections.join_next() => {
                    resume_panic(ended);
                    log_end_of_limit(connections.len(), &self.descriptors, &is_full);
                    continue;
                }
                _ = stop.wait_for(|stop| *stop) => break,
            };
            accepting.set(accept(&self.socket, &self.descriptors, &is_full));
            match accepted {
                Ok((stream, permit)) => {
                    if std::mem::take(&mut fails) {
                        info!("connections are accepted again");
                    }
                    let shared = Arc::clone(&self.shared);
                    connections.spawn(async move {
                        // Dropped last: the descriptor is given back when the socket is closed.
                        let _permit = permit;
                        let open = gauge!(names::CONNECTIONS);
                        open.increment(1.0);
                        Connection::new(stream, shared).run().await;
                        open.decrement(1.0);
                    });
                }
                Err(error) => {
                    if !std::mem::replace(&mut fails, true) {
                        warn!(%error, "can't accept connections");
                    }
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        drop(accepting);
        drop(self.socket);
        let all = async {
            while let Some(ended) = connections.join_next().await {
                resume_panic(ended)
            }
        };
        if timeout(FAREWELL, all).await.is_err() {
            info!("some connections didn't end in time: what they weren't acknowledged they send again");
        }
    }
}

/// A connection, once there is a descriptor for it. Logs when there is none.
async fn accept(
    socket: &TcpListener,
    descriptors: &Arc<DescriptorBudget>,
    is_full: &AtomicBool,
) -> io::Result<(TcpStream, DescriptorPermit)> {
    let permit = match descriptors.try_acquire(DescriptorUse::Device) {
        Some(permit) => permit,
        None => {
            if !is_full.swap(true, Ordering::Relaxed) {
                let max = descriptors.limit(DescriptorUse::Device);
                warn!(max, "connection limit reached (limited by RLIMIT_NOFILE); new clients wait; raise the limit");
            }
            descriptors.acquire(DescriptorUse::Device).await
        }
    };
    let (stream, _) = socket.accept().await?;
    Ok((set_up(stream)?, permit))
}

/// Acknowledgements leave at once. Who is gone without a word is noticed, also where a client wants no keep-alive of MQTT's.
fn set_up(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, SILENT)?;
    Ok(stream)
}

/// Logs that the limit is over once an eighth is free: until then one client comes for each that leaves.
fn log_end_of_limit(connected: usize, descriptors: &DescriptorBudget, is_full: &AtomicBool) {
    let max = descriptors.limit(DescriptorUse::Device);
    let is_over = connected < max - max / 8 && !descriptors.is_full(DescriptorUse::Device);
    if is_over && is_full.swap(false, Ordering::Relaxed) {
        info!(connected, max, "new clients are accepted again");
    }
}

fn resume_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
