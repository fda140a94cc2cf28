//! The way to a server: resolve, ask the egress guard for each address, wait for a file descriptor, connect, and TLS where the URL wants it.
//!
//! All but the waits takes ten seconds at most. Proxies that the environment names (`HTTPS_PROXY`, …) don't count; `[egress] proxy` does.

#[cfg(test)]
mod egress_test;
#[cfg(test)]
mod proxy_test;
#[cfg(test)]
mod tls_test;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, SystemTime},
};

use metrics::{Counter, counter};
use pushline_model::{DescriptorBudget, DescriptorPermit, DescriptorUse, LocalFailureKind, NoResponse, Tls, Url};
use rustls::{RootCertStore, pki_types::CertificateDer};
use tokio::{
    net::TcpStream,
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    DeliverError, Egress,
    connection::{self, Connection, Protocol, Transport},
    dial,
    egress::{OffLimits, Refusal},
    local_failures::LocalFailures,
    lookups::{LookupFailure, Lookups},
    metrics::CONNECTIONS,
    no_response,
    own_addresses::OwnAddresses,
    pool::{ConnectionPermit, Pool},
    proxy::{self, NoTunnel, Proxy, ProxyCheck},
    route::Route,
    stream::Stream,
    tls::{Identities, Identity, InvalidTlsFile},
};

/// The time that resolving, connecting and TLS may take together (docs/document.md, Outcome).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest wait for a file descriptor; then the attempt is a local failure, and its place among its webhook's attempts is free for a while.
const DESCRIPTOR_WAIT: Duration = Duration::from_secs(10);

/// How many connections a host may have, unless the configuration tells otherwise: as many as one webhook's messages in flight at the most.
pub const CONNECTIONS_PER_HOST: usize = 1000;

/// How to reach servers: which addresses, whose certificates to trust, and how many connections.
pub struct Network {
    egress: Egress,
    own_addresses: OwnAddresses,
    lookups: Lookups,
    identities: Arc<Identities>,
    descriptors: Arc<DescriptorBudget>,
    pool: Pool,
    local_failures: Arc<LocalFailures>,
    proxy_check: ProxyCheck,
    /// Connections taken for an attempt, of HTTP/1.1 and of HTTP/2: new ones, and ones that were used before.
    connections: [[Counter; 2]; 2],
}

/// Why there is no connection.
#[derive(Debug, Clone)]
pub(crate) enum ConnectError {
    /// The egress guard permits none of the addresses.
    Blocked(String),
    /// The endpoint didn't take a connection.
    NoResponse(NoResponse),
    /// This machine couldn't make one. The text is for people.
    Local(LocalFailureKind, String),
}

/// What may be dialled for an attempt.
struct Permitted {
    /// The server's: one at least.
    addresses: Vec<SocketAddr>,
    /// The egress proxy's, if there is one.
    proxy: Vec<SocketAddr>,
}

impl Network {
    /// Trusts Mozilla's root certificates, and opens as many connections as it needs.
    ///
    /// # Errors
    /// [`DeliverError::SourceAddress`] when connections can't come from the address that they shall come from.
    pub fn new(egress: Egress) -> Result<Arc<Self>, DeliverError> {
        Self::within(egress, DescriptorBudget::unlimited(), CONNECTIONS_PER_HOST)
    }

    /// Trusts Mozilla's root certificates, and opens connections within a budget, this many to a host at the most.
    ///
    /// # Errors
    /// [`DeliverError::SourceAddress`] when connections can't come from the address that they shall come from.
    pub fn within(egress: Egress, descriptors: Arc<DescriptorBudget>, per_host: usize) -> Result<Arc<Self>, DeliverError> {
        Self::build(egress, Vec::new(), descriptors, per_host)
    }

    /// Trusts these root certificates too.
    ///
    /// # Errors
    /// [`DeliverError::Tls`] when one of them is none, and as [`Self::new`].
    pub fn believing(egress: Egress, more: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Arc<Self>, DeliverError> {
        let more: Vec<_> = more.into_iter().collect();
        more.iter().try_for_each(|root| RootCertStore::empty().add(root.clone()))?;
        Self::build(egress, more, DescriptorBudget::unlimited(), CONNECTIONS_PER_HOST)
    }

    fn build(
        egress: Egress,
        more_roots: Vec<CertificateDer<'static>>,
        descriptors: Arc<DescriptorBudget>,
        per_host: usize,
    ) -> Result<Arc<Self>, DeliverError> {
        if let Some(address) = egress.source_address {
            UdpSocket::bind((address, 0)).map_err(|error| DeliverError::SourceAddress { address, error })?;
        }
        Ok(Arc::new(Self {
            egress,
            own_addresses: OwnAddresses::default(),
            lookups: Lookups::of_the_system(descriptors.lookups()),
            identities: Arc::new(Identities::new(more_roots)),
            descriptors,
            pool: Pool::new(per_host),
            local_failures: Arc::default(),
            proxy_check: ProxyCheck::default(),
            connections: ["http/1.1", "h2"]
                .map(|protocol| ["false", "true"].map(|reused| counter!(CONNECTIONS, "protocol" => protocol, "reused" => reused))),
        }))
    }

    /// The local failures of the process's attempts.
    pub(crate) fn local_failures(&self) -> &Arc<LocalFailures> {
        &self.local_failures
    }

    /// The connections of all hosts.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether attempts wait for a file descriptor: then no connection is kept idle.
    pub(crate) fn is_short_of_descriptors(&self) -> bool {
        self.descriptors.is_awaited(DescriptorUse::Push)
    }

    /// A connection was taken for an attempt.
    pub(crate) fn count_connection(&self, protocol: Protocol, reused: bool) {
        let place = match protocol {
            Protocol::Http1 => 0,
            Protocol::Http2 => 1,
        };
        self.connections[place][usize::from(reused)].increment(1);
    }

    /// Closes the connections that no attempt will use again, and reads the files of identities again where they have changed, beside everything else.
    pub(crate) fn look_after_connections(&self) {
        let identities = Arc::clone(&self.identities);
        spawn_blocking(move || identities.refresh(SystemTime::now()));
        self.pool.close_idle();
        self.pool.retire(|route| self.is_current(route));
    }

    /// What a webhook shows to its server, and how it recognises it. Webhooks with an equal `tls` share it.
    ///
    /// # Errors
    /// A file of its `tls` is of no use.
    pub(crate) fn identity(&self, tls: &Tls) -> Result<Arc<Identity>, InvalidTlsFile> {
        self.identities.of(tls)
    }

    /// Whether a connection's way would be taken again: its address hasn't left its name, and its certificates haven't been replaced. If not, it takes
    /// no further request. A name is looked up when it is time for that; the answer counts for later calls.
    pub(crate) fn is_current(&self, route: &Route) -> bool {
        let has_address = route.name.as_ref().is_none_or(|name| self.lookups.still_has(&route.host, name, route.address));
        has_address && route.identity.as_ref().is_none_or(|(identity, generation)| identity.is_current(*generation))
    }

    /// A new connection to where a URL points, of one of these protocols: the first one that the server speaks. Without TLS it is the first.
    pub(crate) async fn connect(
        &self,
        url: &Url,
        identity: &Arc<Identity>,
        offers: &[Protocol],
        connection_permit: ConnectionPermit,
    ) -> Result<Connection, ConnectError> {
        let began = Instant::now();
        let host = url.host();
        let is_literal = host.parse::<IpAddr>().is_ok();
        let name = (!is_literal).then(|| self.lookups.recent(host));
        let Permitted { addresses, proxy } = self.permitted(url, began + CONNECT_TIMEOUT).await?;
        let waiting = Instant::now();
        let permit = self.descriptor().await?;
        let deadline = began + CONNECT_TIMEOUT + waiting.elapsed();
        let (stream, address) = match &self.egress.proxy {
            None => self.dial(&addresses, deadline).await?,
            Some(named) => self.dial_through(named, &proxy, &addresses, deadline).await?,
        };
        let mut route = Route { host: host.into(), address, name, identity: None };
        if !url.is_https() {
            let transport = Transport::new(Stream::Plain(stream), route, permit, connection_permit);
            return connection::open(transport, offers[0], deadline).await.map_err(ConnectError::NoResponse);
        }
        let waiting = Instant::now();
        let handshake = self.identities.handshakes.acquire(host, url.port()).await;
        let deadline = deadline + waiting.elapsed();
        match timeout_at(deadline, identity.handshake(host, offers, stream)).await {
            Ok((generation, Ok(stream))) => {
                handshake.succeeded();
                route.identity = Some((Arc::clone(identity), generation));
                let protocol = connection::negotiated(stream.get_ref().1.alpn_protocol(), offers)?;
                let transport = Transport::new(Stream::tls(stream), route, permit, connection_permit);
                connection::open(transport, protocol, deadline).await.map_err(ConnectError::NoResponse)
            }
            Ok((_, Err(error))) => Err(ConnectError::NoResponse(no_response::of_handshake(&error))),
            Err(_) => Err(ConnectError::NoResponse(NoResponse::Tls("the handshake didn't end in time".into()))),
        }
    }

    async fn dial(&self, addresses: &[SocketAddr], deadline: Instant) -> Result<(TcpStream, IpAddr), ConnectError> {
        let spare = || self.descriptors.try_acquire(DescriptorUse::Push);
        let stream = dial::first_of(addresses, deadline, self.egress.source_address, spare).await?;
        let peer = stream.peer_addr().map_or_else(|_| addresses[0].ip(), |peer| peer.ip());
        self.local_failures.reached(peer);
        Ok((stream, peer))
    }

    /// Through the proxy, the addresses are tried one after the other: each needs a tunnel of its own.
    async fn dial_through(
        &self,
        named: &Proxy,
        proxy: &[SocketAddr],
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<(TcpStream, IpAddr), ConnectError> {
        let mut last = None;
        for (tried, address) in addresses.iter().enumerate() {
            let until = Instant::now() + dial::part_of(deadline, addresses.len() - tried);
            let (mut stream, _) = match self.dial(proxy, until).await {
                Err(ConnectError::NoResponse(why)) => return Err(named.broken(why.cause())),
                dialled => dialled?,
            };
            let no_tunnel = match named.open_tunnel(&mut stream, *address, until).await {
                Ok(()) => return Ok((stream, address.ip())),
                Err(no_tunnel) => no_tunnel,
            };
            drop(stream);
            match no_tunnel {
                NoTunnel::Broken(why) => return Err(named.broken(why)),
                NoTunnel::Unclear(why) if !self.proxy_check.works(self.ask_proxy(named, proxy)).await => return Err(named.broken(why)),
                NoTunnel::Server(why) | NoTunnel::Unclear(why) => last = Some(why),
            }
        }
        let why = last.expect("there is an address, and each failed");
        Err(ConnectError::NoResponse(NoResponse::Connect(why.into())))
    }

    /// Whether the proxy works when it is asked for nothing but an answer of its own.
    async fn ask_proxy(&self, named: &Proxy, proxy: &[SocketAddr]) -> bool {
        let deadline = Instant::now() + proxy::CHECK_TIMEOUT;
        match self.dial(proxy, deadline).await {
            Ok((mut stream, _)) => named.answers(&mut stream, deadline).await,
            Err(_) => false,
        }
    }

    /// The addresses of a URL's host that the egress guard permits: one at least. They are dialled as they are, and the name isn't looked up again.
    async fn permitted(&self, url: &Url, deadline: Instant) -> Result<Permitted, ConnectError> {
        let found = self.resolve(url.host(), url.port(), deadline).await?;
        let proxy = match &self.egress.proxy {
            None => Vec::new(),
            Some(named) => self.resolve(named.host(), named.port(), deadline).await.map_err(|error| match error {
                ConnectError::NoResponse(why) => named.broken(why.cause()),
                local => local,
            })?,
        };
        let off_limits = OffLimits { own: self.own_addresses.get(), proxy: proxy.iter().map(SocketAddr::ip).collect() };
        let (mut addresses, mut refused) = (Vec::new(), Vec::new());
        for address in found {
            match self.egress.refusal(address.ip(), &off_limits) {
                None => addresses.push(address),
                Some(why) => refused.push((address.ip(), why)),
            }
        }
        if addresses.is_empty() { Err(blocked(&refused)) } else { Ok(Permitted { addresses, proxy }) }
    }

    /// A literal is its own address.
    async fn resolve(&self, host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, ConnectError> {
        if let Ok(literal) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(literal, port)]);
        }
        match self.lookups.addresses(host, port, deadline).await {
            Ok(addresses) => Ok(addresses),
            Err(LookupFailure::Local(kind, detail)) => Err(ConnectError::Local(kind, detail)),
            Err(failure) => Err(self.unresolved(host, &failure).await),
        }
    }

    /// A name that doesn't exist is the endpoint's fault. A lookup that failed is only if the name servers of this machine answer.
    async fn unresolved(&self, host: &str, failure: &LookupFailure) -> ConnectError {
        if *failure != LookupFailure::NoSuchName {
            if !self.local_failures.gets_out() {
                return ConnectError::Local(LocalFailureKind::Route, format!("no route to a name server for {host}"));
            }
            if !self.lookups.name_servers_answer().await {
                return ConnectError::Local(LocalFailureKind::NameServers, format!("can't look up {host}"));
            }
        }
        ConnectError::NoResponse(failure.no_response(host))
    }

    /// Waits for a file descriptor. Idle connections give way.
    async fn descriptor(&self) -> Result<DescriptorPermit, ConnectError> {
        if let Some(permit) = self.descriptors.try_acquire(DescriptorUse::Push) {
            return Ok(permit);
        }
        // In line first: what gives way is for the first that waits.
        let mut acquire = self.descriptors.acquire(DescriptorUse::Push);
        let permit = timeout(DESCRIPTOR_WAIT, async {
            if let Some(permit) = futures_util::FutureExt::now_or_never(&mut acquire) {
                return permit;
            }
            self.pool.give_way();
            acquire.await
        });
        permit.await.map_err(|_| {
            let limit = self.descriptors.limit(DescriptorUse::Push);
            ConnectError::Local(
                LocalFailureKind::FileDescriptors,
                format!("connections to endpoints may take {limit}, and none became free"),
            )
        })
    }
}

/// The egress guard refuses all addresses of a name.
fn blocked(refused: &[(IpAddr, Refusal)]) -> ConnectError {
    let each: Vec<String> = refused.iter().map(|(address, why)| format!("{address}: {}", why.what())).collect();
    let is_only_the_proxy = refused.iter().all(|(_, why)| *why == Refusal::Proxy);
    let advice = if is_only_the_proxy { "no option permits it" } else { "to permit its range, add it to [egress] allow" };
    ConnectError::Blocked(format!("the egress guard refuses {}; {advice}", each.join(", ")))
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("egress", &self.egress).finish_non_exhaustive()
    }
}
