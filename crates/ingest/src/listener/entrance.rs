//! A client's way to its CONNECT: the address that a load balancer names, TLS, WebSocket. And whether a client that is in would still be let in.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;

use super::{
    DisconnectReason,
    access::{Access, ClientIdentity, Denied},
    certificate_name::name_of,
    connect::Connect,
    limits::Seat,
    proxy_protocol,
    stream::Stream,
    tls::ServerTls,
    websocket,
};

/// What lies between a listener's socket and MQTT.
pub(crate) struct Entrance {
    /// The load balancers: connections from these addresses begin with a header of the PROXY protocol.
    pub(crate) proxies: Vec<IpNet>,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) has_websocket: bool,
    pub(crate) access: Access,
    /// The largest control packet, in bytes.
    pub(crate) largest_packet: usize,
}

/// A connection whose bytes are MQTT from now on.
pub(crate) struct Entered {
    pub(crate) stream: Stream,
    /// The client's address.
    pub(crate) address: SocketAddr,
    /// What the client has shown: its own certificate is the first.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
}

/// Why a connection didn't get in.
#[derive(Debug)]
pub(crate) enum NotEntered {
    /// The client closed the connection: a load balancer's check does so.
    Left,
    Refused {
        /// The client's address, as far as it is known.
        address: SocketAddr,
        reason: DisconnectReason,
        /// The cause, for people.
        detail: String,
    },
}

impl NotEntered {
    /// CONNECT, or what comes before it, came too late.
    pub(crate) fn too_late(address: SocketAddr) -> Self {
        Self::of(address, DisconnectReason::ConnectTimeout)
    }

    fn of(address: SocketAddr, reason: DisconnectReason) -> Self {
        Self::Refused { address, reason, detail: reason.describe().to_owned() }
    }

    fn failed(address: SocketAddr, reason: DisconnectReason, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Left,
            _ => Self::Refused { address, reason, detail: error.to_string() },
        }
    }
}

impl Entrance {
    /// Leads a connection in. The seat counts it for the client's address.
    ///
    /// # Errors
    /// Why it didn't get in.
    pub(crate) async fn enter(&self, mut tcp: TcpStream, peer: SocketAddr, seat: &mut Seat) -> Result<Entered, NotEntered> {
        let failed = |address, reason| move |error: io::Error| NotEntered::failed(address, reason, &error);
        let mut address = peer;
        if self.proxies.iter().any(|range| range.contains(&peer.ip().to_canonical())) {
            let named = proxy_protocol::read(&mut tcp).await.map_err(failed(peer, DisconnectReason::NoProxyHeader))?;
            address = named.unwrap_or(peer);
        }
        seat.belongs_to(address.ip().to_canonical()).map_err(|reason| NotEntered::of(address, reason))?;
        let (mut stream, mut certificates) = (Stream::Tcp(tcp), Vec::new());
        if let Some(tls) = &self.tls {
            let encrypted = tls.acceptor().accept(stream).await.map_err(failed(address, DisconnectReason::TlsFailed))?;
            certificates = encrypted.get_ref().1.peer_certificates().map_or(Vec::new(), <[_]>::to_vec);
            stream = Stream::Layered(Box::new(encrypted));
        }
        if self.has_websocket {
            let messages =
                websocket::accept(stream, self.largest_packet).await.map_err(failed(address, DisconnectReason::WebSocketFailed))?;
            stream = Stream::Layered(Box::new(messages));
        }
        Ok(Entered { stream, address, certificates })
    }

    /// The files that are read again when they change.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let tls = self.tls.iter().flat_map(ServerTls::files).map(Path::to_path_buf);
        tls.chain(self.access.files().map(Path::to_path_buf)).collect()
    }

    /// Reads the files again. It blocks.
    ///
    /// # Errors
    /// What is wrong with one: it and those behind it stay as they were.
    pub(crate) fn read_again(&self) -> Result<(), String> {
        self.tls.as_ref().map_or(Ok(()), ServerTls::read_again).map_err(|invalid| invalid.to_string())?;
        self.access.read_again()
    }

    /// Finds out who a client is.
    ///
    /// # Errors
    /// Why it isn't let in.
    pub(crate) async fn identify(
        &self,
        connect: &Connect,
        certificates: &[CertificateDer<'_>],
        address: IpAddr,
    ) -> Result<ClientIdentity, Denied> {
        let name = certificates.first().and_then(name_of);
        self.access.identify(connect, name.as_deref(), address).await
    }

    /// Whether a connected client would still be let in, now that files were read again.
    pub(crate) fn is_current(&self, identity: &ClientIdentity, certificates: &[CertificateDer<'_>]) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.is_accepted(certificates)) && self.access.is_current(identity)
    }
}
