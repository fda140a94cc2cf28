//! A connection's bytes, plain or in TLS, and the ways to end it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy, sink, split},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::server::TlsStream;

/// How long a server that closes early goes on reading: without that, its answer would be lost with a reset.
const LINGER: Duration = Duration::from_millis(200);

/// A connection's bytes.
#[derive(Debug)]
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How a server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In order: `close_notify` where there is TLS, and FIN.
    Close,
    /// The same, when the client has had time to read the answer.
    Linger,
    /// FIN without `close_notify`.
    Abrupt,
    /// RST.
    Reset,
    /// Not at all: it reads until the client closes.
    Never,
    /// Not at all, and it reads nothing more.
    Deaf,
}

impl Wire {
    /// The socket below TLS.
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    pub(super) async fn end(mut self, how: End) -> io::Result<()> {
        match how {
            End::Close => self.shutdown().await,
            End::Linger => {
                self.flush().await?;
                drop(timeout(LINGER, copy(&mut self, &mut sink())).await);
                self.shutdown().await
            }
            End::Abrupt => Ok(()),
            End::Reset => self.tcp().set_zero_linger(),
            End::Never => copy(&mut self, &mut sink()).await.map(drop),
            End::Deaf => std::future::pending().await,
        }
    }

    /// Sends these bytes again and again, `times` times at most, and reads what comes meanwhile, until the client closes.
    pub(super) async fn flood(&mut self, bytes: &[u8], times: usize) -> io::Result<()> {
        let (mut read, mut write) = split(self);
        let send = async {
            for _ in 0..times {
                write.write_all(bytes).await?;
            }
            std::future::pending().await
        };
        tokio::select! {
            sent = send => sent,
            read = async { copy(&mut read, &mut sink()).await } => read.map(drop),
        }
    }

    /// Sends these bytes one by one, again and again, and reads what comes meanwhile, until the client closes.
    pub(super) async fn drip(&mut self, bytes: &[u8], each: Duration) -> io::Result<()> {
        let (mut read, mut write) = split(self);
        let send = async {
            loop {
                write.write_all(bytes).await?;
                write.flush().await?;
                tokio::time::sleep(each).await;
            }
        };
        tokio::select! {
            sent = send => sent,
            read = async { copy(&mut read, &mut sink()).await } => read.map(drop),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
