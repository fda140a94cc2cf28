//! A request's body: one buffer, and whether it is still held. An HTTP/2 server may answer and grant no window for the rest of a body: then the library
//! holds the rest, and its stream counts as open, until the connection ends.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A request's body.
pub(crate) struct RequestBody(Option<Bytes>);

/// Whether nothing holds a body any more: it was sent, or dropped.
#[derive(Debug)]
pub(super) struct Released(Arc<AtomicBool>);

/// The bytes of a body, until nothing holds them.
struct Held {
    bytes: Bytes,
    released: Arc<AtomicBool>,
}

impl RequestBody {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(Some(bytes))
    }

    /// Follows the bytes to their end.
    pub(super) fn watch(&mut self) -> Released {
        let released = Arc::<AtomicBool>::default();
        let hold = |bytes| Bytes::from_owner(Held { bytes, released: Arc::clone(&released) });
        self.0 = self.0.take().map(hold);
        Released(released)
    }
}

impl Released {
    pub(super) fn get(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Without the bytes: they may hold a client's secret.
impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestBody").field(&self.0.as_ref().map(Bytes::len)).finish()
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.released.store(true, Relaxed);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
