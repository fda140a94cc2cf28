//! What a host lends: each is given back by being dropped, and what it frees goes to the next request of the fair queue.

use std::sync::{Arc, Weak};

use super::{
    fair_queue::SharerKey,
    host::{Host, State},
};
use crate::connection::Http2;

/// A request of a webhook that its host carries, until this is dropped.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    host: Weak<Host>,
    sharer: SharerKey,
}

/// One of the connections that a host may have, until it is dropped: with the connection's socket.
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Weak<Host>);

/// The host of a connection, which doesn't keep it.
#[derive(Debug, Clone)]
pub(crate) struct HostHandle(Weak<Host>);

/// A connection that is being opened, until this is dropped.
#[derive(Debug)]
pub(super) struct Opening(Weak<Host>);

impl RequestPermit {
    /// Of a request that has begun.
    pub(super) fn new(host: &Arc<Host>, sharer: SharerKey) -> Self {
        Self { host: Arc::downgrade(host), sharer }
    }

    /// Of no host: for a connection outside a pool.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_none() -> Self {
        Self { host: Weak::new(), sharer: SharerKey::default() }
    }

    /// Ends it under its host's lock, which a drop would take.
    pub(super) fn end(mut self, state: &mut State) {
        if std::mem::take(&mut self.host).strong_count() > 0 {
            state.requests.end(self.sharer);
        }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        let Some(host) = self.host.upgrade() else { return };
        host.change(|state, closed| {
            state.requests.end(self.sharer);
            host.serve(state, closed);
        });
    }
}

impl ConnectionPermit {
    /// Of a connection that the host counts.
    pub(super) fn new(host: &Arc<Host>) -> Self {
        Self(Arc::downgrade(host))
    }

    /// Of no host: for a connection outside a pool.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_none() -> Self {
        Self(Weak::new())
    }

    /// The host that its connection belongs to.
    pub(crate) fn host(&self) -> HostHandle {
        HostHandle(Weak::clone(&self.0))
    }
}

impl Opening {
    /// Of a connection that the host counts among those that are being opened.
    pub(super) fn new(host: &Arc<Host>) -> Self {
        Self(Arc::downgrade(host))
    }
}

impl HostHandle {
    /// A stream of a connection has ended.
    pub(crate) fn stream_ended(&self, connection: &Arc<Http2>) {
        let Some(host) = self.0.upgrade() else { return };
        host.change(|state, closed| {
            let gives_way = state.awaits_an_end(host.limit);
            closed.http2.extend(state.streams.end(connection, gives_way, &host.resting));
            host.serve(state, closed);
        });
    }

    /// A connection takes more streams, or has ended.
    pub(crate) fn limit_changed(&self) {
        let Some(host) = self.0.upgrade() else { return };
        host.change(|state, closed| {
            closed.http2.extend(state.streams.retired());
            host.serve(state, closed);
        });
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let Some(host) = self.0.upgrade() else { return };
        host.change(|state, closed| {
            state.connections -= 1;
            host.serve(state, closed);
        });
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(host) = self.0.upgrade() else { return };
        host.change(|state, closed| {
            state.opening -= 1;
            host.serve(state, closed);
        });
    }
}
