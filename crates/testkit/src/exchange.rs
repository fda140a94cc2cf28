//! A receiver of plain HTTP/1.1 that gives a test each request as it came and sends back what the test says, byte for byte.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRequest {
    /// Its request line and headers, as text.
    pub section: String,
    /// Its body, as long as its `Content-Length` says.
    pub body: Vec<u8>,
}

/// Such a receiver, on a free port. Dropping it closes the socket and its connections.
#[derive(Debug)]
pub struct RawReceiver {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl RawRequest {
    /// The value of its first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.section.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    async fn read(stream: &mut TcpStream) -> std::io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        };
        let body = bytes.split_off(end);
        let mut request = Self { section: String::from_utf8_lossy(&bytes).into_owned(), body };
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while request.body.len() < length {
            if stream.read_buf(&mut request.body).await? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(request))
    }
}

impl RawReceiver {
    /// Listens. `answer` gives the whole response to each request.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(answer: impl Fn(RawRequest) -> String + Send + Sync + 'static) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        let answer = Arc::new(answer);
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                let answer = Arc::clone(&answer);
                // How a connection ends is its client's business.
                serving.spawn(async move { drop(serve(stream, &*answer).await) });
            }
        });
        Self { address, accepting }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for RawReceiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, answer: &impl Fn(RawRequest) -> String) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(request) = RawRequest::read(&mut stream).await? {
        stream.write_all(answer(request).as_bytes()).await?;
    }
    Ok(())
}
