//! Dialling: resolve, ask the egress guard for each address, connect, and TLS where the URL wants it, within ten seconds.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use metrics::{Counter, counter};
use pushline_model::{NoResponse, Url};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{DeliverError, Egress, lookups::Lookups, metrics::CONNECTIONS};

/// Connecting with TLS has a limit of its own (DESIGN.md, *Outcome*).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How many headers a response may have; more are a malformed answer.
const MAX_HEADERS: usize = 256;

/// How much of a response's header section is read before it is a malformed answer, in bytes.
const MAX_HEADER_BYTES: usize = 128 << 10;

/// How to reach servers: which addresses, and whose certificates to believe.
pub struct Network {
    egress: Egress,
    lookups: Lookups,
    tls: TlsConnector,
    /// Connections taken for an attempt: new ones, and ones that were used before.
    connections: [Counter; 2],
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// Every address is one that may not be dialled.
    Blocked(String),
    No(NoResponse),
}

/// Sends requests on one connection, which ends with it.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) requests: SendRequest<Full<Bytes>>,
    _connection: Connection,
}

/// The task that a connection lives in. Left to itself it ends only when its server has read the whole request, which some never do.
#[derive(Debug)]
struct Connection(AbortHandle);

impl Network {
    /// Believes Mozilla's root certificates.
    ///
    /// # Errors
    /// [`DeliverError::Tls`] when TLS can't be set up.
    pub fn new(egress: Egress) -> Result<Arc<Self>, DeliverError> {
        Self::believing(egress, [])
    }

    /// Believes these root certificates too.
    ///
    /// # Errors
    /// [`DeliverError::Tls`] when one of them is none, or TLS can't be set up.
    pub fn believing(egress: Egress, more: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Arc<Self>, DeliverError> {
        let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        for root in more {
            roots.add(root)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connections = ["false", "true"].map(|reused| counter!(CONNECTIONS, "protocol" => "http/1.1", "reused" => reused));
        Ok(Arc::new(Self { egress, lookups: Lookups::of_the_system(), tls: Arc::new(config).into(), connections }))
    }

    /// A connection was taken for an attempt.
    pub(crate) fn count_connection(&self, reused: bool) {
        self.connections[usize::from(reused)].increment(1);
    }

    /// A new connection to where a URL points.
    pub(crate) async fn connect(&self, url: &Url) -> Result<Sender, ConnectError> {
        timeout(CONNECT_TIMEOUT, self.dial(url)).await.unwrap_or(Err(ConnectError::No(NoResponse::Connect)))
    }

    async fn dial(&self, url: &Url) -> Result<Sender, ConnectError> {
        let stream = self.tcp(url).await?;
        if !url.is_https() {
            return handshake(stream).await;
        }
        let no_tls = |_| ConnectError::No(NoResponse::Tls);
        let name = ServerName::try_from(url.host().to_owned()).map_err(|_| ConnectError::No(NoResponse::Tls))?;
        handshake(self.tls.connect(name, stream).await.map_err(no_tls)?).await
    }

    async fn tcp(&self, url: &Url) -> Result<TcpStream, ConnectError> {
        let addresses = self.resolve(url).await.ok_or(ConnectError::No(NoResponse::Dns))?;
        let permitted: Vec<SocketAddr> = addresses.iter().filter(|address| self.egress.permits(address.ip())).copied().collect();
        if permitted.is_empty() {
            let addresses: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            return Err(ConnectError::Blocked(format!("{} may not be dialled: add its range to [egress] allow", addresses.join(", "))));
        }
        first_of(&permitted, CONNECT_TIMEOUT).await.ok_or(ConnectError::No(NoResponse::Connect))
    }

    /// A literal is its own address. `None`: there is no address.
    async fn resolve(&self, url: &Url) -> Option<Vec<SocketAddr>> {
        if let Ok(literal) = url.host().parse::<IpAddr>() {
            return Some(vec![SocketAddr::new(literal, url.port())]);
        }
        self.lookups.addresses(url.host(), url.port()).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("egress", &self.egress).finish_non_exhaustive()
    }
}

/// Dials one address after the other. Each has a part of the time: one that swallows what it is sent leaves some for the next.
async fn first_of(addresses: &[SocketAddr], within: Duration) -> Option<TcpStream> {
    let each = within / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    for address in addresses {
        if let Ok(Ok(stream)) = timeout(each, TcpStream::connect(address)).await
            && stream.set_nodelay(true).is_ok()
        {
            return Some(stream);
        }
    }
    None
}

/// The connection lives in a task of its own, until its sender is dropped or the server closes it.
async fn handshake(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Sender, ConnectError> {
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true).max_headers(MAX_HEADERS).max_buf_size(MAX_HEADER_BYTES);
    let (requests, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|_| ConnectError::No(NoResponse::ConnectionLost))?;
    // How it ends is told to whoever sent a request on it.
    let task = tokio::spawn(async move { drop(connection.await) });
    Ok(Sender { requests, _connection: Connection(task.abort_handle()) })
}

#[cfg(test)]
mod tests {
    use pushline_model::Outcome;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
    };

    use super::*;

    /// A server of https for one request at a time, and the certificate that it shows.
    async fn server() -> (SocketAddr, CertificateDer<'static>) {
        let shown = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = shown.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(shown.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
        let (acceptor, listener) = (tokio_rustls::TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that doesn't believe the certificate hangs up.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"ABC") {
                    assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
                }
                stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        (address, certificate)
    }

    #[tokio::test]
    async fn https_is_spoken_to_who_proves_who_he_is_and_to_nobody_else() {
        let (address, certificate) = server().await;
        let url = format!("https://localhost:{}/push", address.port()).parse().unwrap();
        let webhook = Arc::new(pushline_model::Webhook::new("w", url));
        let egress = || Egress::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let attempt = async |network| {
            let endpoint =
                crate::endpoint::Endpoint::new(Arc::clone(&webhook), network, &mut crate::request::HeaderCaseCache::default()).unwrap();
            endpoint.attempt(pushline_model::MessageId([7; 16]), "ABC".into()).await
        };
        let stranger = attempt(Network::new(egress()).unwrap()).await;
        assert_eq!(stranger, Outcome::NoResponse(NoResponse::Tls));
        let known = attempt(Network::believing(egress(), [certificate]).unwrap()).await;
        assert_eq!(known, Outcome::Accepted { status: 204 });
    }

    /// An address that takes no connection and refuses none: its queue is full.
    async fn swallows() -> (SocketAddr, (TcpListener, Vec<TcpStream>)) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
        }
        (address, (listener, waiting))
    }

    #[tokio::test]
    async fn an_address_that_swallows_what_it_is_sent_leaves_time_for_the_next() {
        let (swallows, _held) = swallows().await;
        let answers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [swallows, answers.local_addr().unwrap()];
        let within = Duration::from_secs(4);
        let dialled = timeout(within, first_of(&addresses, within)).await;
        assert_eq!(dialled.unwrap().unwrap().peer_addr().unwrap(), addresses[1]);
    }
}
