//! The egress proxy: every connection to a server is a tunnel through it (CONNECT, RFC 9110 §9.3.6), for http and https alike.
//!
//! Pushline looks the server's name up, asks the egress guard, and names the permitted *address* to the proxy. If the proxy looked the name up, the guard
//! would have seen another answer than the one that is dialled.
//!
//! | the proxy answers | what it means |
//! |---|---|
//! | 2xx | the tunnel is open |
//! | 403, 502, 504 | the server's: the proxy refuses it, or can't reach it |
//! | 405, 407, 429, no HTTP, nothing and closes | local: the proxy doesn't work |
//! | another status; nothing in time | the server's if the proxy answers when it is asked about itself (`OPTIONS *`); else local |
//!
//! The last row: proxies that work answer 500 or 503 for a server that refuses, and are silent while one swallows what it is sent.

use std::{fmt, net::SocketAddr, time::Duration};

use base64_simd::STANDARD;
use pushline_model::{LocalFailureKind, Secret};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::network::ConnectError;

/// The longest head of an answer to CONNECT, in bytes.
const LONGEST_HEAD: usize = 16 << 10;

/// How long the proxy may take to answer when it is asked about itself.
pub(crate) const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// For how long such an answer counts: many attempts fail together.
const CHECK_COUNTS: Duration = Duration::from_secs(1);

/// An HTTP proxy that the operator names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<Secret>,
}

/// Why there is no tunnel. The texts are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoTunnel {
    /// The proxy doesn't work.
    Broken(String),
    /// The proxy refuses the server, or can't reach it.
    Server(String),
    /// One of the two.
    Unclear(String),
}

/// Whether the proxy works, found out once for all attempts that ask at the same time.
#[derive(Debug, Default)]
pub(crate) struct ProxyCheck(Mutex<Option<(Instant, bool)>>);

/// What the proxy answers.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Open,
    Status(u16),
    NotHttp,
}

impl Proxy {
    /// A proxy without credentials.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, authorization: None }
    }

    /// The same with credentials (RFC 7617).
    #[must_use]
    pub fn with_credentials(self, username: &str, password: &Secret) -> Self {
        let pair = STANDARD.encode_to_string(format!("{username}:{}", password.reveal()));
        Self { authorization: Some(Secret::new(&format!("Basic {pair}"))), ..self }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Asks for a tunnel to an address. What the server sends through it stays unread.
    pub(crate) async fn open_tunnel(&self, stream: &mut TcpStream, target: SocketAddr, deadline: Instant) -> Result<(), NoTunnel> {
        let left = deadline.saturating_duration_since(Instant::now());
        match timeout(left, self.ask(stream, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"))).await {
            Ok(Ok(Answer::Open)) => Ok(()),
            Ok(Ok(Answer::Status(status))) => Err(NoTunnel::of(status, target)),
            Ok(Ok(Answer::NotHttp)) => Err(NoTunnel::Broken("its answer isn't HTTP".to_owned())),
            Ok(Err(error)) => Err(NoTunnel::Broken(format!("it closed the connection: {error}"))),
            Err(_) => Err(NoTunnel::Unclear(format!("{target} didn't take the connection in time: the egress proxy gave no answer"))),
        }
    }

    /// Asks the proxy about itself: with this limit it passes nothing on (RFC 9110 §7.6.2). One that works has an answer, whichever.
    pub(crate) async fn answers(&self, stream: &mut TcpStream, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = format!("OPTIONS * HTTP/1.1\r\nHost: {}:{}\r\nMax-Forwards: 0\r\n", self.host, self.port);
        match timeout(left, self.ask(stream, &request)).await {
            Ok(Ok(Answer::Open)) => true,
            Ok(Ok(Answer::Status(status))) => status < 500 && status != 429,
            Ok(Ok(Answer::NotHttp) | Err(_)) | Err(_) => false,
        }
    }

    /// The proxy doesn't work.
    pub(crate) fn broken(&self, why: impl fmt::Display) -> ConnectError {
        ConnectError::Local(LocalFailureKind::Proxy, format!("egress proxy {}:{}: {why}", self.host, self.port))
    }

    /// Sends a request's head, to which it adds its credentials, and reads the answer's.
    async fn ask(&self, stream: &mut TcpStream, head: &str) -> std::io::Result<Answer> {
        let authorization = self.authorization.as_ref().map(|value| format!("Proxy-Authorization: {}\r\n", value.reveal()));
        let request = format!("{head}{}\r\n", authorization.unwrap_or_default());
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        // What follows the head belongs to the server: it is looked at, and left where it is.
        while !head.ends_with(b"\r\n\r\n") {
            let mut next = [0; 1024];
            let seen = stream.peek(&mut next).await?;
            if seen == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let before = head.len();
            head.extend_from_slice(&next[..seen]);
            let end = head.windows(4).position(|window| window == b"\r\n\r\n").map_or(head.len(), |end| end + 4);
            head.truncate(end);
            stream.read_exact(&mut next[..end - before]).await?;
            if head.len() > LONGEST_HEAD {
                return Ok(Answer::NotHttp);
            }
        }
        Ok(answer(&head))
    }
}

impl NoTunnel {
    fn of(status: u16, target: SocketAddr) -> Self {
        match status {
            407 => Self::Broken("it wants other credentials (status 407): set username and password of [egress] proxy".to_owned()),
            405 => Self::Broken("it opens no tunnels (status 405): let it permit CONNECT".to_owned()),
            429 => Self::Broken("it permits no more tunnels at this time (status 429)".to_owned()),
            403 => Self::Server(format!("the egress proxy refuses connections to {target} (status 403)")),
            502 | 504 => Self::Server(format!("the egress proxy can't connect to {target} (status {status})")),
            status => Self::Unclear(format!("the egress proxy opens no tunnel to {target} (status {status})")),
        }
    }
}

impl ProxyCheck {
    /// `ask` is polled only where no answer counts now.
    pub(crate) async fn works(&self, ask: impl Future<Output = bool>) -> bool {
        let mut last = self.0.lock().await;
        if let Some((at, works)) = *last
            && at.elapsed() < CHECK_COUNTS
        {
            return works;
        }
        let works = ask.await;
        *last = Some((Instant::now(), works));
        works
    }
}

/// Reads the status line (RFC 9112 §4). Any 2xx opens the tunnel.
fn answer(head: &[u8]) -> Answer {
    let line = head.split(|byte| *byte == b'\r').next().expect("a split has a first part");
    let status = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 ")).and_then(|rest| rest.get(..3));
    match status.and_then(|status| std::str::from_utf8(status).ok()?.parse().ok()) {
        Some(200..=299) => Answer::Open,
        Some(status) => Answer::Status(status),
        None => Answer::NotHttp,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The tunnel through a proxy that answers so in parts, and what is read behind the answer.
    async fn through(parts: &'static [&'static str]) -> (Result<(), NoTunnel>, String, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            for part in parts {
                stream.write_all(part.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            String::from_utf8(request).unwrap()
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        let named = Proxy::new("proxy.example", 3128).with_credentials("u", &Secret::new("p"));
        let target = "[2606:4700::1]:443".parse().unwrap();
        let tunnel = named.open_tunnel(&mut stream, target, Instant::now() + Duration::from_secs(20)).await;
        let request = proxy.await.unwrap();
        let mut behind = String::new();
        stream.read_to_string(&mut behind).await.unwrap();
        (tunnel, request, behind)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_by_address_and_what_follows_the_answer_is_the_servers() {
        let (tunnel, request, behind) = through(&["HTTP/1.1 20", "0 Connection established\r\nVia: x\r\n", "\r\nSSH-2.0"]).await;
        assert!(tunnel.is_ok());
        assert_eq!(request, "CONNECT [2606:4700::1]:443 HTTP/1.1\r\nHost: [2606:4700::1]:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n");
        assert_eq!(behind, "SSH-2.0");
    }

    #[tokio::test]
    async fn an_answer_tells_whether_the_proxy_or_the_server_is_to_blame_where_it_can() {
        type Kind = fn(String) -> NoTunnel;
        for (parts, kind, says) in [
            (&["HTTP/1.1 407 Who\r\n\r\n"][..], NoTunnel::Broken as Kind, "credentials"),
            (&["HTTP/1.1 405 No\r\n\r\n"][..], NoTunnel::Broken, "CONNECT"),
            (&["HTTP/1.1 429 Slow\r\n\r\n"][..], NoTunnel::Broken, "429"),
            (&["SSH-2.0\r\n\r\n"][..], NoTunnel::Broken, "isn't HTTP"),
            (&["HTTP/1.1 200"][..], NoTunnel::Broken, "closed the connection"),
            (&["HTTP/1.1 403 No\r\n\r\n"][..], NoTunnel::Server, "refuses"),
            (&["HTTP/1.1 502 Bad\r\n\r\n"][..], NoTunnel::Server, "can't connect"),
            (&["HTTP/1.0 504 Late\r\n\r\n"][..], NoTunnel::Server, "can't connect"),
            (&["HTTP/1.1 400 What\r\n\r\n"][..], NoTunnel::Unclear, "400"),
            (&["HTTP/1.1 500 Oh\r\n\r\n"][..], NoTunnel::Unclear, "500"),
            (&["HTTP/1.1 503 Busy\r\n\r\n"][..], NoTunnel::Unclear, "503"),
        ] {
            let no_tunnel = through(parts).await.0.unwrap_err();
            let (NoTunnel::Broken(why) | NoTunnel::Server(why) | NoTunnel::Unclear(why)) = &no_tunnel;
            assert!(no_tunnel == kind(why.clone()) && why.contains(says), "{parts:?}: {no_tunnel:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_fail_together_ask_the_proxy_once() {
        let (check, asked) = (ProxyCheck::default(), std::cell::Cell::new(0));
        let works = || check.works(async { asked.replace(asked.get() + 1) == 0 });
        assert_eq!((works().await, works().await, asked.get()), (true, true, 1));
        tokio::time::advance(CHECK_COUNTS).await;
        assert_eq!((works().await, works().await, asked.get()), (false, false, 2));
    }
}
