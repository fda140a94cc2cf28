//! The bytes of a connection, counted: what was read since a request began, and when the last byte was written. A server that sends 1 MiB without
//! advancing a response loses its connection.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use pushline_model::{DescriptorPermit, NoResponse};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::pool::ConnectionPermit;

/// How much a server may send without advancing a response, in bytes: floods of SETTINGS, of PING, of 1xx responses.
const WITHOUT_ADVANCING: u64 = 1 << 20;

/// A connection that ends without a response byte this soon after the last byte of its request was closed before the server read the request.
const CLOSED_BEFORE: Duration = Duration::from_secs(1);

/// A connection's byte stream, with the right to its descriptor and its place among its host's connections.
#[derive(Debug)]
pub(super) struct Metered<S> {
    // Fields are dropped in this order: the socket is closed before its permits are given back.
    stream: S,
    meter: Arc<Meter>,
    _permit: DescriptorPermit,
    _connection_permit: ConnectionPermit,
}

/// What was counted.
#[derive(Debug)]
pub(crate) struct Meter {
    opened: Instant,
    read: AtomicU64,
    /// How much had been read when a response last advanced.
    read_when_advanced: AtomicU64,
    /// When the last byte was written, in microseconds since the connection was opened.
    written_at: AtomicU64,
    /// The server sent too much without advancing a response.
    is_flooded: AtomicBool,
}

/// How much had been read from a connection when a request began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(u64);

impl<S> Metered<S> {
    pub(super) fn new(stream: S, permit: DescriptorPermit, connection_permit: ConnectionPermit) -> (Self, Arc<Meter>) {
        let meter = Arc::new(Meter {
            opened: Instant::now(),
            read: AtomicU64::new(0),
            read_when_advanced: AtomicU64::new(0),
            written_at: AtomicU64::new(0),
            is_flooded: AtomicBool::new(false),
        });
        (Self { stream, meter: Arc::clone(&meter), _permit: permit, _connection_permit: connection_permit }, meter)
    }

    /// Notes when bytes were written.
    fn written(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.meter.written_at.store(micros(self.meter.opened.elapsed()), Relaxed);
        }
        polled
    }
}

impl Meter {
    /// When the connection was opened.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// A response has advanced.
    pub(crate) fn advanced(&self) {
        self.read_when_advanced.store(self.read.load(Relaxed), Relaxed);
    }

    /// A request begins.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.read.load(Relaxed))
    }

    /// How many bytes were read since a request began.
    pub(super) fn read_since(&self, request: Mark) -> u64 {
        self.read.load(Relaxed) - request.0
    }

    /// Whether the connection has ended, just now, as one does that its server closed before it read the request.
    pub(super) fn was_closed_before(&self, request: Mark) -> bool {
        self.read.load(Relaxed) == request.0 && self.has_just_written()
    }

    /// Whether the last byte was written so lately that its reader may have closed the connection before.
    pub(super) fn has_just_written(&self) -> bool {
        micros(self.opened.elapsed()).saturating_sub(self.written_at.load(Relaxed)) < micros(CLOSED_BEFORE)
    }

    /// Why the connection was ended because of what the server sent, if it was.
    pub(super) fn flood(&self) -> Option<NoResponse> {
        let is_flooded = self.is_flooded.load(Relaxed);
        is_flooded.then(|| NoResponse::Malformed("the server sent 1 MiB without advancing a response".into()))
    }

    /// Counts what was read. An error if that is too much.
    fn count(&self, bytes: u64) -> io::Result<()> {
        let read = self.read.fetch_add(bytes, Relaxed) + bytes;
        if read - self.read_when_advanced.load(Relaxed) > WITHOUT_ADVANCING {
            self.is_flooded.store(true, Relaxed);
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was given up"));
        }
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("no connection lives for half a million years")
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        Poll::Ready(this.meter.count((buffer.filled().len() - before) as u64))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(polled)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.written(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
