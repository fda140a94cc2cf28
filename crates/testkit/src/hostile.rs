//! A receiver that behaves as badly as servers do. It speaks to sockets itself: no HTTP library would let it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// A way to behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hostile {
    /// Accepts, and closes the connection each time.
    AcceptsAndCloses,
    /// 204 without a body.
    NoContent,
    /// 100 Continue, then 102 Processing, then 200.
    Informational,
    /// 200, and a body without end.
    EndlessBody,
    /// 200, and closes in the middle of the body.
    TruncatedBody,
    /// 302 to itself.
    Redirects,
    /// 500 with ten megabytes.
    HugeError,
    /// 413 before it has read the body.
    AnswersEarly,
    /// 413, reads no body ever, and keeps the connection open.
    NeverReads,
    /// Reads and says nothing.
    Hangs,
    /// A status line, then one byte of a header now and then.
    DripsHeaders,
    /// Headers without end.
    EndlessHeaders,
    /// Not HTTP.
    Garbage,
    /// A Content-Length that is no number.
    BadLength,
    /// 101 Switching Protocols.
    Switches,
    /// Closes without an answer.
    ClosesSilently,
    /// Resets the connection.
    Resets,
    /// Nobody listens.
    Refuses,
}

impl Hostile {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::AcceptsAndCloses,
        Self::NoContent,
        Self::Informational,
        Self::EndlessBody,
        Self::TruncatedBody,
        Self::Redirects,
        Self::HugeError,
        Self::AnswersEarly,
        Self::NeverReads,
        Self::Hangs,
        Self::DripsHeaders,
        Self::EndlessHeaders,
        Self::Garbage,
        Self::BadLength,
        Self::Switches,
        Self::ClosesSilently,
        Self::Resets,
        Self::Refuses,
    ];

    /// What the document says of it: `None`, accepted; else the cause of the dead letter and its status. With how many attempts.
    #[must_use]
    pub fn expected(self) -> (Option<(&'static str, Option<u64>)>, usize) {
        match self {
            Self::AcceptsAndCloses | Self::NoContent | Self::Informational | Self::EndlessBody | Self::TruncatedBody => (None, 1),
            Self::Redirects => (Some(("error_response", Some(302))), 1),
            Self::HugeError => (Some(("error_response", Some(500))), 1),
            Self::AnswersEarly | Self::NeverReads => (Some(("error_response", Some(413))), 1),
            Self::Hangs
            | Self::DripsHeaders
            | Self::EndlessHeaders
            | Self::Garbage
            | Self::BadLength
            | Self::Switches
            | Self::ClosesSilently
            | Self::Resets
            | Self::Refuses => (Some(("no_response", None)), 3),
        }
    }
}

/// Such a receiver, on a free port.
#[derive(Debug)]
pub struct HostileReceiver {
    address: SocketAddr,
    attempts: Arc<Mutex<HashMap<String, usize>>>,
    accepting: Option<JoinHandle<()>>,
    /// Of the one that refuses: a port that is bound is nobody else's.
    _bound: Option<TcpSocket>,
}

impl HostileReceiver {
    /// Listens.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(hostile: Hostile) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be had");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        let attempts = Arc::new(Mutex::new(HashMap::new()));
        if hostile == Hostile::Refuses {
            return Self { address, attempts, accepting: None, _bound: Some(socket) };
        }
        let socket = socket.listen(1024).expect("nobody else listens there");
        let counted = Arc::clone(&attempts);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                let counted = Arc::clone(&counted);
                // A connection's end is what it is about.
                connections.spawn(async move { drop(serve(hostile, stream, &counted).await) });
            }
        });
        Self { address, attempts, accepting: Some(accepting), _bound: None }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/push", self.address)
    }

    /// How many requests came with each `webhook-id`.
    #[must_use]
    pub fn attempts(&self) -> HashMap<String, usize> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HostileReceiver {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(hostile: Hostile, mut stream: TcpStream, attempts: &Mutex<HashMap<String, usize>>) -> std::io::Result<()> {
    loop {
        let with_body = !matches!(hostile, Hostile::AnswersEarly | Hostile::NeverReads);
        let Some((id, _)) = read_request(&mut stream, with_body).await? else { return Ok(()) };
        *attempts.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default() += 1;
        match hostile {
            Hostile::AcceptsAndCloses => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await?;
                return Ok(());
            }
            Hostile::NoContent => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?,
            Hostile::Informational => {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n").await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
            }
            Hostile::EndlessBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
                loop {
                    stream.write_all(b"400\r\n").await?;
                    stream.write_all(&[b'x'; 1024]).await?;
                    stream.write_all(b"\r\n").await?;
                }
            }
            Hostile::TruncatedBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nnot all").await?;
                return Ok(());
            }
            Hostile::Redirects => stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /push\r\nContent-Length: 0\r\n\r\n").await?,
            Hostile::HugeError => {
                stream.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 10000000\r\n\r\n").await?;
                stream.write_all(&vec![b'x'; 10_000_000]).await?;
            }
            Hostile::AnswersEarly => {
                stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await?;
                // It goes on reading for a moment, or the answer would be lost with a reset.
                sleep(Duration::from_millis(100)).await;
                return Ok(());
            }
            Hostile::NeverReads => {
                stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await?;
                std::future::pending().await
            }
            Hostile::Hangs => std::future::pending().await,
            Hostile::DripsHeaders => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ").await?;
                loop {
                    stream.write_all(b"x").await?;
                    sleep(Duration::from_millis(50)).await;
                }
            }
            Hostile::EndlessHeaders => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
                loop {
                    stream.write_all(b"X-More: and more and more and more\r\n").await?;
                }
            }
            Hostile::Garbage => stream.write_all(b"220 mail.example ESMTP ready\r\n").await?,
            Hostile::BadLength => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n").await?,
            Hostile::Switches => {
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tea\r\nConnection: upgrade\r\n\r\n").await?
            }
            Hostile::ClosesSilently | Hostile::Refuses => return Ok(()),
            Hostile::Resets => {
                stream.set_zero_linger()?;
                return Ok(());
            }
        }
    }
}

/// Reads a request's head, and its body if wanted. Returns its `webhook-id` and the body; `None` at the end of the connection.
pub(crate) async fn read_request(stream: &mut TcpStream, with_body: bool) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break String::from_utf8_lossy(&bytes[..end]).into_owned();
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|(_, value)| value.to_owned())
    };
    let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    while with_body && bytes.len() < head.len() + 4 + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    let body = bytes.split_off(head.len() + 4);
    Ok(header("webhook-id").map(|id| (id, body)))
}
