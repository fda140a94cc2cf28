//! The egress proxy: every connection to a server is a tunnel through it (CONNECT, RFC 9110 §9.3.6), for http and https alike.
//!
//! Pushline looks the server's name up, asks the egress guard, and names the permitted *address* to the proxy. If the proxy looked the name up, the guard
//! would have seen another answer than the one that is dialled.

use std::{fmt, net::SocketAddr};

use base64_simd::STANDARD;
use pushline_model::{LocalFailureKind, NoResponse, Secret};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::network::ConnectError;

/// The longest head of an answer to CONNECT, in bytes.
const LONGEST_HEAD: usize = 16 << 10;

/// An HTTP proxy that the operator names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<Secret>,
}

/// What the proxy says of a tunnel.
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
    ///
    /// # Errors
    /// The server's fault where the proxy can't reach it or refuses it; else the proxy doesn't work, and that is a local failure.
    pub(crate) async fn open_tunnel(&self, stream: &mut TcpStream, target: SocketAddr, deadline: Instant) -> Result<(), ConnectError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = match timeout(left, self.ask(stream, target)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.broken(format!("it closed the connection: {error}"))),
            Err(_) => return Err(refused(format!("{target} didn't take the connection in time: the egress proxy gave no answer"))),
        };
        match answer {
            Answer::Open => Ok(()),
            Answer::Status(407) => {
                Err(self.broken("it wants other credentials (status 407): set username and password of [egress] proxy".to_owned()))
            }
            Answer::Status(status @ (403 | 405)) => {
                Err(refused(format!("the egress proxy refuses connections to {target} (status {status})")))
            }
            Answer::Status(status) => Err(refused(format!("the egress proxy can't connect to {target} (status {status})"))),
            Answer::NotHttp => Err(self.broken("its answer isn't HTTP".to_owned())),
        }
    }

    /// The proxy doesn't work.
    pub(crate) fn broken(&self, why: impl fmt::Display) -> ConnectError {
        ConnectError::Local(LocalFailureKind::Proxy, format!("egress proxy {}:{}: {why}", self.host, self.port))
    }

    async fn ask(&self, stream: &mut TcpStream, target: SocketAddr) -> std::io::Result<Answer> {
        let authorization = self.authorization.as_ref().map(|value| format!("Proxy-Authorization: {}\r\n", value.reveal()));
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", authorization.unwrap_or_default());
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

fn refused(why: String) -> ConnectError {
    ConnectError::NoResponse(NoResponse::Connect(why.into()))
}

/// Reads the status line (RFC 9112 §4). Any 2xx opens the tunnel.
fn answer(head: &[u8]) -> Answer {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let status = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 ")).and_then(|rest| rest.get(..3));
    match status.and_then(|status| std::str::from_utf8(status).ok()?.parse().ok()) {
        Some(200..=299) => Answer::Open,
        Some(status) => Answer::Status(status),
        None => Answer::NotHttp,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    /// The tunnel through a proxy that answers so in parts, and what is read behind the answer.
    async fn through(parts: &'static [&'static str]) -> (Result<(), ConnectError>, String, String) {
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
    async fn a_proxy_that_does_not_work_is_a_local_failure_and_a_server_that_it_does_not_reach_is_not() {
        for (parts, is_local, says) in [
            (&["HTTP/1.1 407 Who\r\n\r\n"][..], true, "credentials"),
            (&["SSH-2.0\r\n\r\n"][..], true, "isn't HTTP"),
            (&["HTTP/1.1 200"][..], true, "closed the connection"),
            (&["HTTP/1.1 403 No\r\n\r\n"][..], false, "refuses"),
            (&["HTTP/1.1 502 Bad\r\n\r\n"][..], false, "can't connect"),
            (&["HTTP/1.0 504 Late\r\n\r\n"][..], false, "can't connect"),
        ] {
            match through(parts).await.0 {
                Err(ConnectError::Local(LocalFailureKind::Proxy, told)) if is_local && told.contains(says) => {}
                Err(ConnectError::NoResponse(NoResponse::Connect(told))) if !is_local && told.contains(says) => {}
                other => panic!("{parts:?}: {other:?}"),
            }
        }
    }
}
