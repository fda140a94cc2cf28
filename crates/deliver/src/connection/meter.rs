//! The bytes of a connection, counted: what was read since a request began, and when the last byte was written. A server that sends 1 MiB without
//! advancing a response loses its connection, and a switch ends the connection from outside.
//!
//! The switch is what ends HTTP/2: hyper hands the socket to a task that it spawns itself, which a deaf server keeps alive for ever.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use pushline_model::{DescriptorPermit, NoResponse};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::pool::Slot;

/// How much a server may send without advancing a response, in bytes: floods of SETTINGS, of PING, of 1xx responses.
const WITHOUT_ADVANCING: u64 = 1 << 20;

/// A connection that ends without a response byte this soon after the last byte of its request was closed before the server read the request.
const CLOSED_BEFORE: Duration = Duration::from_secs(1);

/// A connection's byte stream, with the right to its descriptor and its place among its host's connections.
#[derive(Debug)]
pub(super) struct Metered<S> {
    // Fields are dropped in this order: the socket is closed before its descriptor and its slot are given back.
    stream: S,
    meter: Arc<Meter>,
    _permit: DescriptorPermit,
    _slot: Slot,
    /// Bytes were read since the reader last waited.
    has_read: bool,
}

/// What was counted, and the switch.
#[derive(Debug)]
pub(crate) struct Meter {
    opened: Instant,
    read: AtomicU64,
    /// How much had been read when a response last advanced.
    read_when_advanced: AtomicU64,
    /// When the last byte was written, in microseconds since the connection was opened.
    written_at: AtomicU64,
    is_cut: AtomicBool,
    /// The server sent too much without advancing a response.
    is_flooded: AtomicBool,
    has_ended: AtomicBool,
    /// Who waits for the socket, to be woken by the switch.
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// The connection's task: it is woken when the library has taken what was read, and when the socket is closed.
    observer: AtomicWaker,
}

/// How much had been read from a connection when a request began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(u64);

impl<S> Metered<S> {
    pub(super) fn new(stream: S, permit: DescriptorPermit, slot: Slot) -> (Self, Arc<Meter>) {
        let meter = Arc::new(Meter {
            opened: Instant::now(),
            read: AtomicU64::new(0),
            read_when_advanced: AtomicU64::new(0),
            written_at: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            is_flooded: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            observer: AtomicWaker::new(),
        });
        (Self { stream, meter: Arc::clone(&meter), _permit: permit, _slot: slot, has_read: false }, meter)
    }

    /// Notes the result of a write, or who waits for it.
    fn written(&self, cx: &Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Ready(_) => self.meter.written_at.store(micros(self.meter.opened.elapsed()), Relaxed),
            Poll::Pending => return self.meter.wait(&self.meter.writer, cx).map(|()| Err(cut())),
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

    /// Ends the connection: its socket is closed as soon as the task that holds it is polled.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Relaxed);
        self.reader.wake();
        self.writer.wake();
    }

    /// The task that polls next is woken when something was read, and when the socket is closed.
    pub(super) fn observe(&self, cx: &Context<'_>) {
        self.observer.register(cx.waker());
    }

    /// Whether the socket is closed.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Relaxed)
    }

    /// Ready once the switch is thrown.
    fn wait(&self, waker: &AtomicWaker, cx: &Context<'_>) -> Poll<()> {
        waker.register(cx.waker());
        if self.is_cut.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Counts what was read. An error if that is too much.
    fn count(&self, bytes: u64) -> io::Result<()> {
        let read = self.read.fetch_add(bytes, Relaxed) + bytes;
        if read - self.read_when_advanced.load(Relaxed) > WITHOUT_ADVANCING {
            self.is_flooded.store(true, Relaxed);
            self.cut();
            return Err(cut());
        }
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("no connection lives for half a million years")
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was given up")
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.meter.is_cut.load(Relaxed) {
            return Poll::Ready(Err(cut()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let read = buffer.filled().len() - before;
                this.has_read |= read > 0;
                Poll::Ready(this.meter.count(read as u64))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                // The library asks for more, so it has taken what came before.
                if std::mem::take(&mut this.has_read) {
                    this.meter.observer.wake();
                }
                this.meter.wait(&this.meter.reader, cx).map(|()| Err(cut()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, polled)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_flush(cx) {
            Poll::Pending => this.meter.wait(&this.meter.writer, cx).map(|()| Err(cut())),
            ready => ready,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_shutdown(cx) {
            Poll::Pending => this.meter.wait(&this.meter.writer, cx).map(|()| Err(cut())),
            ready => ready,
        }
    }
}

impl<S> Drop for Metered<S> {
    fn drop(&mut self) {
        self.meter.has_ended.store(true, Relaxed);
        self.meter.observer.wake();
    }
}
