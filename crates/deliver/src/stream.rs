//! The bytes of a connection, and the alert with which a server ends TLS.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// The bytes of a connection.
#[derive(Debug)]
pub(crate) enum Stream {
    /// http
    Plain(TcpStream),
    /// https
    Tls(Box<TlsStream<TcpStream>>, TlsRefusal),
}

/// Why TLS failed once the handshake was over: with TLS 1.3 a server looks at the client's certificate only then. Each holder of a
/// clone learns it, though the error that reaches them may be that of a write.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsRefusal(Arc<OnceLock<rustls::Error>>);

impl TlsRefusal {
    /// What failed, if anything did: mostly an alert has arrived.
    pub(crate) fn get(&self) -> Option<&rustls::Error> {
        self.0.get()
    }

    fn note(&self, error: &io::Error) {
        if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            _ = self.0.set(error.clone());
        }
    }
}

impl Stream {
    /// A connection over TLS.
    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(stream), TlsRefusal::default())
    }

    /// Where the server's refusal will be found.
    pub(crate) fn refusal(&self) -> TlsRefusal {
        match self {
            Self::Plain(_) => TlsRefusal::default(),
            Self::Tls(_, refusal) => refusal.clone(),
        }
    }

    /// A server that refuses the client sends an alert and closes the connection. What is written then fails, and the alert lies unread.
    fn after_write<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let (Self::Tls(stream, refusal), Poll::Ready(Err(_))) = (self, &result) {
            let mut unread = [0; 1024];
            loop {
                let mut buffer = ReadBuf::new(&mut unread);
                match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(Err(error)) => break refusal.note(&error),
                    Poll::Ready(Ok(())) => break,
                    // The alert is about to arrive, or the end: the write is tried again then, and fails again.
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
        result
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream, refusal) => Pin::new(stream).poll_read(cx, buffer).map_err(|error| {
                refusal.note(&error);
                error
            }),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match this {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream, _) => Pin::new(stream).poll_write(cx, bytes),
        };
        this.after_write(cx, written)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match this {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        this.after_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream, _) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match this {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        };
        this.after_write(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
