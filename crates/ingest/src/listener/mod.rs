//! The listeners that devices connect to.

mod access;
mod certificate_name;
mod connect;
mod connection;
mod delayed_will;
mod devices;
mod disconnect_reason;
mod encode;
mod entrance;
mod even_rate;
mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod in_flight;
mod limits;
mod one_read;
mod options;
mod packets;
mod properties;
mod proxy_protocol;
mod reconnects;
mod refused_clients;
mod shared;
mod stream;
mod tls;
mod watched_files;
mod websocket;
mod will;

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
use pushline_model::{DescriptorBudget, DescriptorPermit, DescriptorUse};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{Ingest, IngestError, metrics as names, tasks::resume_panic};

pub use self::{
    access::{InvalidTopicRule, JwtAlgorithm, JwtOptions, LoginEndpointOptions, TopicRule, hash_password},
    devices::{Device, Devices, Selection},
    limits::Limits,
    options::{InvalidOption, Options, Subscriptions, TooLarge},
    refused_clients::{RefusedClient, RefusedClients},
    tls::ServerTlsFiles,
};

use self::{
    delayed_will::DelayedWill,
    disconnect_reason::DisconnectReason,
    even_rate::EvenRate,
    limits::{Seat, Seats},
    reconnects::Reconnects,
    shared::Shared,
};

/// The clients of a process: those that are connected, and the last that were refused. All its listeners share one.
#[derive(Debug, Default)]
pub struct Clients {
    /// The connected ones.
    pub devices: Arc<Devices>,
    /// The refused ones.
    pub refused: RefusedClients,
    /// Those that connect again and again.
    reconnects: Reconnects,
}

/// A bound listener. [`Listener::run`] serves it.
pub struct Listener {
    socket: TcpListener,
    descriptors: Arc<DescriptorBudget>,
    read_again: watch::Sender<()>,
    shared: Arc<Shared>,
}

/// Connections that wait for `accept`: as many as the system allows (`net.core.somaxconn`). It drops a client's SYN beyond them, and the client sends the next one
/// only after 1, 3, 7, 15 s and so on: then devices that all connect again at once would be away for half a minute.
const BACKLOG: u32 = 65_535;

/// The delay after an error of `accept`.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How much of the connect rate that was left over can be used at once.
const CONNECT_CAUGHT_UP: Duration = Duration::from_millis(100);

/// The system probes a connection that was silent for this long (RFC 9293 §3.8.4).
const KEEPALIVE_IDLE: Duration = Duration::from_mins(2);

/// How long connections may take to end at a shutdown.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(6);

impl Listener {
    /// Binds the address, and reads the files that the options name.
    ///
    /// # Errors
    /// [`IngestError::Bind`], [`IngestError::Option`].
    pub async fn bind(options: Options, ingest: Arc<Ingest>, clients: Arc<Clients>) -> Result<Self, IngestError> {
        let (address, descriptors) = (options.address, Arc::clone(&options.descriptors));
        let (shared, read_again) = Shared::new(options, ingest, clients).map_err(|source| IngestError::Option { address, source })?;
        let socket = listen(address).map_err(|source| IngestError::Bind { address, source })?;
        Ok(Self { socket, descriptors, read_again, shared: Arc::new(shared) })
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
        let Self { socket, descriptors, read_again, shared } = self;
        // It ends with this function.
        let mut watching = JoinSet::new();
        watching.spawn(watched_files::watch(Arc::clone(&shared.entrance), read_again));
        let (ingest, seats, mut connections) =
            (Arc::clone(&shared.ingest), Seats::new(shared.limits.clone()), JoinSet::<Option<DelayedWill>>::new());
        let mut rate = shared.limits.connect_rate.map(|rate| EvenRate::new(rate, CONNECT_CAUGHT_UP, Instant::now().into_std()));
        // It ends with this function too: the process stops.
        let mut delayed_wills = JoinSet::new();
        let (mut fails, is_full) = (false, AtomicBool::new(false));
        // It keeps its place in line for a descriptor while connections end.
        let mut accepting = Box::pin(accept(&socket, &descriptors, &is_full, None));
        loop {
            let accepted = tokio::select! {
                accepted = &mut accepting => accepted,
                Some(ended) = connections.join_next() => {
                    if let Some(will) = resume_panic(ended).flatten() {
                        delayed_wills.spawn(will.wait());
                    }
                    log_end_of_limit(connections.len(), &descriptors, &is_full);
                    continue;
                }
                Some(ended) = delayed_wills.join_next() => {
                    _ = resume_panic(ended);
                    continue;
                }
                () = ingest.stopped() => break,
            };
            rate.iter_mut().for_each(|rate| rate.happened(1, Instant::now().into_std()));
            accepting.set(accept(&socket, &descriptors, &is_full, rate.as_ref().map(|rate| rate.due().into())));
            match accepted {
                Ok((stream, peer, permit)) => {
                    if std::mem::take(&mut fails) {
                        info!("accepting connections works again");
                    }
                    match seats.take() {
                        Ok(seat) => drop(connections.spawn(serve(stream, peer, permit, seat, Arc::clone(&shared)))),
                        Err(reason) => shared.refused(peer, ("", None), reason, None, reason.describe()),
                    }
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
        drop(socket);
        let all = async {
            while let Some(ended) = connections.join_next().await {
                _ = resume_panic(ended);
            }
        };
        if timeout(SHUTDOWN_DEADLINE, all).await.is_err() {
            info!("some connections didn't close in time; their clients will send unacknowledged packets again");
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A listener that was just stopped leaves connections in TIME-WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves a connection and counts it. The descriptor is given back when the socket is closed. Returns a will that is published later.
async fn serve(stream: TcpStream, peer: SocketAddr, permit: DescriptorPermit, seat: Seat, shared: Arc<Shared>) -> Option<DelayedWill> {
    let open = gauge!(names::CONNECTIONS);
    open.increment(1.0);
    let will = connection::serve(stream, peer, shared, seat).await;
    open.decrement(1.0);
    drop(permit);
    will
}

/// Accepts a connection once a descriptor is free, and not before `due`. Logs when no descriptor is free.
async fn accept(
    socket: &TcpListener,
    descriptors: &Arc<DescriptorBudget>,
    is_full: &AtomicBool,
    due: Option<Instant>,
) -> io::Result<(TcpStream, SocketAddr, DescriptorPermit)> {
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
    if let Some(due) = due {
        sleep_until(due).await;
    }
    let (stream, peer) = socket.accept().await?;
    Ok((set_up(stream)?, peer, permit))
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
