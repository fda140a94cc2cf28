//! A server that plays a row of docs/hostile-receiver.md, by the row's name.
//!
//! | what | where |
//! |---|---|
//! | the listening server, and what it saw | `mod.rs` |
//! | its byte stream, and the ways to end it | `wire.rs` |
//! | its certificates, and the rows about handshakes | `tls.rs` |
//! | what it does when it has read a request | `step.rs` |
//! | the rows that mean the same over HTTP/1.1 and HTTP/2 | `shared_rows.rs` |
//! | the others, over HTTP/1.1 | `http1.rs` |
//! | the others, over HTTP/2 | `http2_rows.rs`, frame by frame with `http2.rs` and `frames.rs` |
//!
//! It speaks to sockets itself: no HTTP library would let it.

mod frames;
mod http1;
mod http2;
mod http2_rows;
mod shared_rows;
mod step;
mod tls;
mod wire;

use std::{
    collections::BTreeSet,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
};

pub use self::tls::CertificateAuthority;
use self::tls::Handshake;

/// What a server receives without reading, in bytes: less than a large body.
const RECEIVE_BUFFER: u32 = 64 << 10;

/// A column of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostileProtocol {
    /// HTTP/1.1 over TCP.
    Http1,
    /// HTTP/1.1 over TLS.
    Http1Tls,
    /// HTTP/2 over TCP, by prior knowledge.
    Http2,
    /// HTTP/2 over TLS, by ALPN.
    Http2Tls,
}

impl HostileProtocol {
    /// All of them, in the tables' order.
    pub const ALL: [Self; 4] = [Self::Http1, Self::Http1Tls, Self::Http2, Self::Http2Tls];

    /// Whether it is over TLS.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Http1Tls | Self::Http2Tls)
    }

    /// Whether it is HTTP/2.
    #[must_use]
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }
}

impl fmt::Display for HostileProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "http1",
            Self::Http1Tls => "http1-tls",
            Self::Http2 => "http2",
            Self::Http2Tls => "http2-tls",
        })
    }
}

/// Such a server, on a free port. Dropping it closes the socket and its connections.
#[derive(Debug)]
pub struct HostileServer {
    protocol: HostileProtocol,
    address: SocketAddr,
    seen: Arc<Seen>,
    accepting: Option<JoinHandle<()>>,
    /// Of the one that refuses: no other process gets a port that is bound.
    _bound: Option<TcpSocket>,
}

/// What a row is played with.
#[derive(Debug)]
struct Play {
    row: String,
    protocol: HostileProtocol,
    address: SocketAddr,
    /// The webhook's timeout.
    timeout: Duration,
    seen: Arc<Seen>,
}

/// What a server saw.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
    ids: Mutex<BTreeSet<String>>,
    violations: Mutex<Vec<String>>,
}

impl HostileServer {
    /// Listens and plays a row on each connection. `timeout` is the webhook's, for the rows that are about it.
    ///
    /// # Panics
    /// When the row isn't known, or no port is free.
    pub async fn start(row: &str, protocol: HostileProtocol, timeout: Duration, authority: &CertificateAuthority) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be had");
        socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("the size is valid");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        let seen = Arc::new(Seen::default());
        if row == "refuses" {
            return Self { protocol, address, seen, accepting: None, _bound: Some(socket) };
        }
        let play = Arc::new(Play { row: row.to_owned(), protocol, address, timeout, seen: Arc::clone(&seen) });
        assert!(play.is_known(), "no hostile row {row:?} over {protocol}");
        let socket = socket.listen(1024).expect("no other process listens there");
        let handshake = Handshake::of(row, protocol, authority);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                let (play, handshake) = (Arc::clone(&play), handshake.clone());
                // A connection's end is what it is about.
                connections.spawn(async move { drop(serve(stream, &handshake, &play).await) });
            }
        });
        Self { protocol, address, seen, accepting: Some(accepting), _bound: None }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.protocol.is_tls() { "https" } else { "http" };
        format!("{scheme}://{}/push", self.address)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have begun.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::Relaxed)
    }

    /// The `webhook-id`s of the requests over HTTP/1.1.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<String> {
        self.seen.ids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a client did that HTTP/2 forbids it, such as a stream beyond the limit.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.seen.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HostileServer {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

impl Play {
    /// Whether the server answers, or doesn't, when it has read the header section.
    fn answers_before_body(&self) -> bool {
        matches!(
            self.row.as_str(),
            "never-reads"
                | "response-before-request-end"
                | "413-before-request-end"
                | "413-and-never-reads"
                | "never-a-window-update"
                | "window-zero"
        )
    }

    fn is_known(&self) -> bool {
        tls::knows(&self.row) || if self.protocol.is_http2() { http2::knows(self) } else { http1::knows(self) }
    }
}

impl Seen {
    fn request(&self, id: Option<String>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).extend(id);
    }

    fn violation(&self, what: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

async fn serve(stream: TcpStream, handshake: &Handshake, play: &Play) -> io::Result<()> {
    let connection = play.seen.connections.fetch_add(1, Ordering::Relaxed) + 1;
    stream.set_nodelay(true)?;
    let Some((mut wire, is_http2)) = handshake.run(stream).await? else { return Ok(()) };
    let end = match is_http2 && play.row != "speaks-http1" {
        true => http2::play(&mut wire, play, connection).await,
        false => http1::play(&mut wire, play).await,
    };
    wire.end(end?).await
}
