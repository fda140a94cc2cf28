//! The way to a server: resolve, ask the egress guard for each address, wait for a file descriptor, connect, and TLS where the URL wants it.
//!
//! All but the wait takes ten seconds at most.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use metrics::{Counter, counter};
use pushline_model::{DescriptorBudget, DescriptorPermit, DescriptorUse, LocalFailureKind, NoResponse, Url};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    DeliverError, Egress,
    connection::{self, Connection, Protocol},
    dial::{self, Stream},
    local_failures::LocalFailures,
    lookups::{LookupFailure, Lookups},
    metrics::CONNECTIONS,
    no_response,
    pool::{Pool, Slot},
    tls_sessions::TlsSessions,
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
    lookups: Lookups,
    tls: TlsConnector,
    descriptors: Arc<DescriptorBudget>,
    pool: Pool,
    local_failures: Arc<LocalFailures>,
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

impl Network {
    /// Trusts Mozilla's root certificates, and opens as many connections as it needs.
    ///
    /// # Errors
    /// [`DeliverError::Tls`] when TLS can't be set up.
    pub fn new(egress: Egress) -> Result<Arc<Self>, DeliverError> {
        Self::within(egress, DescriptorBudget::unlimited(), CONNECTIONS_PER_HOST)
    }

    /// Trusts Mozilla's root certificates, and opens connections within a budget, this many to a host at the most.
    ///
    /// # Errors
    /// [`DeliverError::Tls`] when TLS can't be set up.
    pub fn within(egress: Egress, descriptors: Arc<DescriptorBudget>, per_host: usize) -> Result<Arc<Self>, DeliverError> {
        Self::build(egress, [], descriptors, per_host)
    }

    /// Trusts these root certificates too.
    ///
    /// # Errors
    /// [`DeliverError::Tls`] when one of them is none, or TLS can't be set up.
    pub fn believing(egress: Egress, more: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Arc<Self>, DeliverError> {
        Self::build(egress, more, DescriptorBudget::unlimited(), CONNECTIONS_PER_HOST)
    }

    fn build(
        egress: Egress,
        more_roots: impl IntoIterator<Item = CertificateDer<'static>>,
        descriptors: Arc<DescriptorBudget>,
        per_host: usize,
    ) -> Result<Arc<Self>, DeliverError> {
        let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        for root in more_roots {
            roots.add(root)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::store(Arc::new(TlsSessions::default()));
        let connections = ["http/1.1", "h2"]
            .map(|protocol| ["false", "true"].map(|reused| counter!(CONNECTIONS, "protocol" => protocol, "reused" => reused)));
        let lookups = Lookups::of_the_system(descriptors.lookups());
        let (tls, local_failures) = (Arc::new(config).into(), Arc::default());
        Ok(Arc::new(Self { egress, lookups, tls, descriptors, pool: Pool::new(per_host), local_failures, connections }))
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

    /// Closes the connections that no attempt will use again, and looks up again where the names of the others lead.
    pub(crate) fn look_after_connections(self: &Arc<Self>) {
        self.pool.close_idle();
        for host in self.pool.due_for_a_lookup() {
            let network = Arc::clone(self);
            tokio::spawn(async move {
                let (name, port) = host.name_and_port();
                // A name that can't be looked up now says nothing of its server.
                if let Ok(addresses) = network.lookups.addresses(name, port).await {
                    host.leads_to(addresses.into_iter().map(|address| address.ip().to_canonical()).collect());
                }
            });
        }
    }

    /// A connection was taken for an attempt.
    pub(crate) fn count_connection(&self, protocol: Protocol, reused: bool) {
        let place = match protocol {
            Protocol::Http1 => 0,
            Protocol::Http2 => 1,
        };
        self.connections[place][usize::from(reused)].increment(1);
    }

    /// A new connection to where a URL points, of one of these protocols: the first one that the server speaks. Without TLS it is the first.
    pub(crate) async fn connect(&self, url: &Url, offers: &[Protocol], slot: Slot) -> Result<Connection, ConnectError> {
        let began = Instant::now();
        let addresses = self.permitted(url, began + CONNECT_TIMEOUT).await?;
        let waiting = Instant::now();
        let permit = self.descriptor().await?;
        let deadline = began + CONNECT_TIMEOUT + waiting.elapsed();
        let stream = dial::first_of(&addresses, deadline).await?;
        let peer = stream.peer_addr().ok().map(|peer| peer.ip());
        if let Some(peer) = peer {
            self.local_failures.reached(peer);
        }
        let (stream, protocol) = if url.is_https() {
            let stream = self.handshake(url, offers, stream, deadline).await?;
            let protocol = connection::negotiated(stream.get_ref().1.alpn_protocol(), offers)?;
            (Stream::Tls(Box::new(stream)), protocol)
        } else {
            (Stream::Plain(stream), offers[0])
        };
        connection::open(stream, peer, protocol, permit, slot, deadline).await
    }

    async fn handshake(
        &self,
        url: &Url,
        offers: &[Protocol],
        stream: TcpStream,
        deadline: Instant,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let name = ServerName::try_from(url.host().to_owned())
            .map_err(|_| ConnectError::NoResponse(NoResponse::Tls(format!("{} can't be the name of a certificate", url.host()).into())))?;
        let offers = offers.iter().map(|protocol| protocol.alpn().to_vec()).collect();
        match timeout_at(deadline, self.tls.with_alpn(offers).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(ConnectError::NoResponse(no_response::of_handshake(&error))),
            Err(_) => Err(ConnectError::NoResponse(NoResponse::Tls("the handshake didn't end in time".into()))),
        }
    }

    /// The addresses of a URL's host that the egress guard permits: one at least.
    async fn permitted(&self, url: &Url, deadline: Instant) -> Result<Vec<SocketAddr>, ConnectError> {
        let addresses = self.resolve(url, deadline).await?;
        let permitted: Vec<SocketAddr> = addresses.iter().filter(|address| self.egress.permits(address.ip())).copied().collect();
        if permitted.is_empty() {
            let addresses: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            return Err(ConnectError::Blocked(format!("{} may not be dialled: add its range to [egress] allow", addresses.join(", "))));
        }
        Ok(permitted)
    }

    /// A literal is its own address.
    async fn resolve(&self, url: &Url, deadline: Instant) -> Result<Vec<SocketAddr>, ConnectError> {
        let host = url.host();
        if let Ok(literal) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(literal, url.port())]);
        }
        let found = timeout_at(deadline, self.lookups.addresses(host, url.port())).await.unwrap_or(Err(LookupFailure::TimedOut));
        match found {
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

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("egress", &self.egress).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use pushline_model::Outcome;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server of https for one request at a time, that shows this certificate and speaks this protocol by ALPN.
    async fn server(certificate: &Certified, alpn: &[u8]) -> SocketAddr {
        let key = rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![certificate.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        let (acceptor, listener) = (tokio_rustls::TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that doesn't trust the certificate closes the connection.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"ABC") {
                    assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
                }
                stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        address
    }

    type Certified = rcgen::CertifiedKey<rcgen::KeyPair>;

    /// A self-signed certificate of a name that is valid in these years.
    fn certificate(name: &str, years: std::ops::Range<i32>) -> Certified {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(years.start, 1, 1), rcgen::date_time_ymd(years.end, 1, 1));
        let signing_key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&signing_key).unwrap();
        rcgen::CertifiedKey { cert, signing_key }
    }

    /// An attempt on `https://localhost` at this port, by a client that trusts these certificates.
    async fn attempt(address: SocketAddr, trusted: Vec<CertificateDer<'static>>) -> Outcome {
        let url = format!("https://localhost:{}/push", address.port()).parse().unwrap();
        let webhook = Arc::new(pushline_model::Webhook::new("w", url));
        let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let network = Network::believing(egress, trusted).unwrap();
        let endpoint = crate::endpoint::Endpoint::new(webhook, network, &mut crate::request::HeaderCaseCache::default()).unwrap();
        endpoint.attempt(pushline_model::MessageId([7; 16]), "ABC".into(), true).await
    }

    #[tokio::test]
    async fn https_is_spoken_to_a_server_that_proves_its_name_and_a_refusal_says_why() {
        let (http, other) = (b"http/1.1".as_slice(), b"spdy/3.1".as_slice());
        let expected = [
            (certificate("localhost", 2020..2090), true, http, None),
            (certificate("localhost", 2020..2090), false, http, Some("unknown issuer")),
            (certificate("other.example", 2020..2090), true, http, Some("the certificate is for other.example, not for localhost")),
            (certificate("localhost", 2020..2021), true, http, Some("the certificate expired at 2021-01-01")),
            (certificate("localhost", 2080..2090), true, http, Some("the certificate isn't valid before 2080-01-01")),
            (certificate("localhost", 2020..2090), true, other, Some("speaks none of the protocols")),
        ];
        for (shown, is_trusted, alpn, cause) in expected {
            let trusted = if is_trusted { vec![shown.cert.der().clone()] } else { vec![] };
            match (attempt(server(&shown, alpn).await, trusted).await, cause) {
                (Outcome::Accepted { status: 204 }, None) => {}
                (Outcome::NoResponse(NoResponse::Tls(told)), Some(cause)) if told.contains(cause) => {}
                (outcome, cause) => panic!("{outcome:?} instead of {cause:?}"),
            }
        }
    }
}
