//! The listener that devices connect to.

mod client_ids;
mod connect;
mod connection;
mod disconnect_reason;
mod encode;
mod fields;
mod packets;
mod properties;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics::gauge;
use pushline_model::{DescriptorBudget, DescriptorPermit, DescriptorUse, TopicPattern};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{Ingest, IngestError, metrics as names, tasks::resume_panic};

use self::{
    client_ids::ClientIds,
    connection::{Connection, Shared},
    disconnect_reason::DisconnectReason,
};

/// The listener's options.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address to bind.
    pub address: SocketAddr,
    /// The topic patterns; the first one that matches a topic counts.
    pub topics: Vec<TopicPattern>,
    /// The largest payload, in bytes.
    pub max_payload_bytes: usize,
    /// The file descriptors of connections. New clients wait while devices have as many as they may.
    pub descriptors: Arc<DescriptorBudget>,
}

/// A bound listener. [`Listener::run`] serves it.
pub struct Listener {
    socket: TcpListener,
    descriptors: Arc<DescriptorBudget>,
    shared: Arc<Shared>,
}

/// The delay after an error of `accept`.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The system probes a connection that was silent for this long (RFC 9293 §3.8.4).
const KEEPALIVE_IDLE: Duration = Duration::from_mins(2);

/// How long connections may take to end at a shutdown.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(6);

impl Options {
    /// The default options for an address and topics.
    #[must_use]
    pub fn new(address: SocketAddr, topics: Vec<TopicPattern>) -> Self {
        Self { address, topics, max_payload_bytes: 256 << 10, descriptors: DescriptorBudget::unlimited() }
    }
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    /// [`IngestError::Bind`].
    pub async fn bind(options: Options, ingest: Arc<Ingest>) -> Result<Self, IngestError> {
        let socket = TcpListener::bind(options.address).await.map_err(|source| IngestError::Bind { address: options.address, source })?;
        let (topics, max_payload) = (options.topics, options.max_payload_bytes);
        let shared = Shared { ingest, topics, max_payload, client_ids: Arc::new(ClientIds::default()) };
        Ok(Self { socket, descriptors: options.descriptors, shared: Arc::new(shared) })
    }

    /// The bound address; for port 0, with the port that the system chose.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves clients until `stop`, then waits until each has its last acknowledgements.
    pub async fn run(self) {
        let ingest = Arc::clone(&self.shared.ingest);
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
                () = ingest.stopped() => break,
            };
            accepting.set(accept(&self.socket, &self.descriptors, &is_full));
            match accepted {
                Ok((stream, permit)) => {
                    if std::mem::take(&mut fails) {
                        info!("accepting connections works again");
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
                    sleep(ACCEPT_RETRY_DELAY).await;
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
        if timeout(SHUTDOWN_DEADLINE, all).await.is_err() {
            info!("some connections didn't close in time; their clients will send unacknowledged packets again");
        }
    }
}

/// Accepts a connection once a descriptor is free. Logs when none is.
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

/// Sets the options of an accepted socket: acknowledgements leave at once, and TCP probes notice a client that vanished, also without MQTT's keep-alive.
fn set_up(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
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
