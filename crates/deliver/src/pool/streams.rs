//! A host's connections of HTTP/2: which of them a request gets a stream of, and which take no more.

use std::sync::{Arc, atomic::AtomicUsize};

use tokio::time::Instant;

use super::{IDLE, OLDEST, Resting};
use crate::{
    connection::{Http2, Http2Stream},
    route::Route,
};

/// The connections of HTTP/2 that take streams.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Shared>);

#[derive(Debug)]
struct Shared {
    connection: Arc<Http2>,
    streams: usize,
    /// While it carries no stream.
    resting: Option<Resting>,
}

impl Streams {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A connection was opened, with its first stream.
    pub(super) fn opened(&mut self, connection: &Arc<Http2>) {
        self.0.push(Shared { connection: Arc::clone(connection), streams: 1, resting: None });
    }

    /// A stream of the first connection that has one to give. Those that give none any more are closed.
    pub(super) fn take(&mut self, now: Instant, closed: &mut Vec<Arc<Http2>>) -> Option<Http2Stream> {
        let mut place = 0;
        while let Some(shared) = self.0.get_mut(place) {
            let takes_none = shared.streams == 0 && shared.connection.limit() == 0;
            if takes_none || !shared.is_of_use(now) {
                closed.push(self.0.swap_remove(place).connection);
                continue;
            }
            if shared.streams < shared.connection.limit() {
                return Some(shared.begin());
            }
            place += 1;
        }
        None
    }

    /// A further stream of this connection, unless it takes none.
    pub(super) fn further(&mut self, connection: &Arc<Http2>) -> Option<Http2Stream> {
        let shared = self.0.iter_mut().find(|shared| Arc::ptr_eq(&shared.connection, connection))?;
        (!connection.is_retired() && shared.streams < connection.limit()).then(|| shared.begin())
    }

    /// A stream of a connection has ended. The connection is closed if it takes no more, or if it is to give way once it carries none.
    pub(super) fn end(&mut self, connection: &Arc<Http2>, gives_way: bool, resting: &Arc<AtomicUsize>) -> Option<Arc<Http2>> {
        let place = self.0.iter().position(|shared| Arc::ptr_eq(&shared.connection, connection))?;
        let shared = &mut self.0[place];
        shared.streams -= 1;
        if connection.is_retired() || shared.streams == 0 && gives_way {
            return Some(self.0.swap_remove(place).connection);
        }
        shared.resting = (shared.streams == 0).then(|| Resting::new(resting));
        None
    }

    /// Takes out the one that was opened first, whether it carries streams or not.
    pub(super) fn first(&mut self) -> Option<Arc<Http2>> {
        (!self.0.is_empty()).then(|| self.0.remove(0).connection)
    }

    /// Takes out all.
    pub(super) fn all(&mut self) -> impl Iterator<Item = Arc<Http2>> {
        self.0.drain(..).map(|shared| shared.connection)
    }

    /// Takes out those that begin no more streams.
    pub(super) fn out_of_use(&mut self, now: Instant) -> impl Iterator<Item = Arc<Http2>> {
        self.extract(move |shared| !shared.is_of_use(now))
    }

    /// Takes out those that were told to begin no more streams.
    pub(super) fn retired(&mut self) -> impl Iterator<Item = Arc<Http2>> {
        self.extract(|shared| shared.connection.is_retired())
    }

    /// Takes out those whose way wouldn't be taken again.
    pub(super) fn off_route(&mut self, is_current: impl Fn(&Route) -> bool) -> impl Iterator<Item = Arc<Http2>> {
        self.extract(move |shared| !is_current(&shared.connection.route))
    }

    /// Takes out those that rest since then, or longer.
    pub(super) fn resting_until(&mut self, latest: Instant) -> impl Iterator<Item = Arc<Http2>> {
        self.extract(move |shared| shared.rests_since().is_some_and(|since| since <= latest))
    }

    /// Since when those rest that carry no stream.
    pub(super) fn resting_since(&self) -> impl Iterator<Item = Instant> {
        self.0.iter().filter_map(Shared::rests_since)
    }

    fn extract(&mut self, is_out: impl Fn(&Shared) -> bool) -> impl Iterator<Item = Arc<Http2>> {
        self.0.extract_if(.., move |shared| is_out(shared)).map(|shared| shared.connection)
    }
}

impl Shared {
    fn begin(&mut self) -> Http2Stream {
        self.streams += 1;
        self.resting = None;
        Http2Stream::new(&self.connection)
    }

    /// Whether a new stream may begin on it, if its server permits one more.
    fn is_of_use(&self, now: Instant) -> bool {
        let is_young = now.duration_since(self.connection.meter().opened()) < OLDEST;
        let is_idle = self.rests_since().is_some_and(|since| now.duration_since(since) >= IDLE);
        is_young && !is_idle && !self.connection.is_retired()
    }

    fn rests_since(&self) -> Option<Instant> {
        self.resting.as_ref().map(|resting| resting.since)
    }
}
