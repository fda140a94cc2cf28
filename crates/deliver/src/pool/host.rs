//! The connections of one origin: which one an attempt gets, and who waits for one.
//!
//! An attempt gets a connection of HTTP/1.1 that rests (the one used last), else a stream of a connection of HTTP/2, else a slot: the right to open a
//! connection. Attempts that find none of these wait in line. What becomes free goes to the first that can use it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicUsize},
    time::Duration,
};

use pushline_model::HttpVersion;
use tokio::{sync::oneshot, time::Instant};

use super::{IDLE, OLDEST, Origin, Resting};
use crate::{
    Network,
    connection::{Connection, Http1, Http2, Http2Stream, Protocol},
    network::ConnectError,
    route::Route,
    tls::Identity,
};

/// The connections of an origin.
#[derive(Debug)]
pub(crate) struct Host {
    origin: Origin,
    identity: Arc<Identity>,
    /// The most that it may have.
    limit: usize,
    resting: Arc<AtomicUsize>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Connections of HTTP/1.1 that rest: the one used last is the last.
    idle: Vec<Idle>,
    /// Connections of HTTP/2 that take streams.
    shared: Vec<Shared>,
    /// Slots that are out: connections that are open or being opened.
    slots: usize,
    /// Connections that are being opened.
    opening: usize,
    /// What the server spoke last; `None`: no handshake has ended yet.
    protocol: Option<Spoken>,
    /// The server wants no HTTP/2, though it offers it.
    wants_http1: bool,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Idle {
    connection: Http1,
    resting: Resting,
    at_most: Duration,
}

#[derive(Debug)]
struct Shared {
    connection: Arc<Http2>,
    streams: usize,
    /// While it carries no stream.
    resting: Option<Resting>,
}

/// What the server spoke, and how many requests a connection carries at a time.
#[derive(Debug, Clone, Copy)]
struct Spoken {
    protocol: Protocol,
    at_a_time: usize,
}

#[derive(Debug)]
struct Waiter {
    /// It wants a connection that no attempt has used.
    is_fresh: bool,
    answer: oneshot::Sender<Grant>,
}

/// What an attempt gets.
#[derive(Debug)]
enum Grant {
    Connection(Connection),
    /// The right to open a connection, and the duty to tell how that went.
    Open(Slot, Opening),
    /// The connection that it waited for couldn't be opened.
    Failed(ConnectError),
}

/// One of the connections that a host may have, until it is dropped: with the connection's socket.
#[derive(Debug)]
pub(crate) struct Slot(Weak<Host>);

/// The host of a connection, which doesn't keep it.
#[derive(Debug, Clone)]
pub(crate) struct HostHandle(Weak<Host>);

/// A connection that is being opened, until this is dropped.
#[derive(Debug)]
struct Opening(Weak<Host>);

/// What is closed once the lock is released: a connection that ends takes the lock itself.
#[derive(Debug, Default)]
struct Closed {
    http1: Vec<Http1>,
    http2: Vec<Arc<Http2>>,
    grants: Vec<Grant>,
}

impl Host {
    pub(super) fn new(origin: Origin, identity: Arc<Identity>, limit: usize, resting: Arc<AtomicUsize>) -> Arc<Self> {
        let speaks_only_http1 = origin.http_version == HttpVersion::Http1 || !origin.is_https && origin.http_version == HttpVersion::Auto;
        let state = State { protocol: speaks_only_http1.then_some(Spoken::HTTP1), ..State::default() };
        Arc::new(Self { origin, identity, limit, resting, state: Mutex::new(state) })
    }

    /// A connection for one request: one that is open, or a new one. `is_fresh`: one that no request has used.
    ///
    /// Waits where the host has as many as it may have. While it isn't known whether the server speaks HTTP/2, one attempt opens a connection and the
    /// others wait for it: they may share it.
    pub(crate) async fn connection(
        self: &Arc<Self>,
        network: &Network,
        url: &pushline_model::Url,
        is_fresh: bool,
    ) -> Result<Connection, ConnectError> {
        match self.checkout(is_fresh).await {
            Grant::Connection(connection) => Ok(connection),
            // On the heap: it is three times as large as all the rest of an attempt, and rare.
            Grant::Open(slot, opening) => Box::pin(self.open(network, url, slot, opening)).await,
            Grant::Failed(error) => Err(error),
        }
    }

    /// A further stream of a connection that is open, unless it takes none.
    pub(crate) fn further_stream(&self, connection: &Arc<Http2>) -> Option<Http2Stream> {
        self.change(|state, _| {
            let shared = state.shared.iter_mut().find(|shared| Arc::ptr_eq(&shared.connection, connection))?;
            if connection.is_retired() || shared.streams >= connection.limit() {
                return None;
            }
            shared.streams += 1;
            shared.resting = None;
            Some(Http2Stream::new(connection))
        })
    }

    async fn checkout(self: &Arc<Self>, is_fresh: bool) -> Grant {
        let answer = {
            let granted = self.change(|state, closed| match self.grant(state, is_fresh, state.waiting.len(), closed) {
                Some(grant) => Ok(grant),
                None => {
                    if is_fresh && state.slots >= self.limit {
                        state.yield_one(closed);
                    }
                    let (answer, granted) = oneshot::channel();
                    state.waiting.push_back(Waiter { is_fresh, answer });
                    Err(granted)
                }
            });
            match granted {
                Ok(grant) => return grant,
                Err(answer) => answer,
            }
        };
        answer.await.expect("a waiter is answered before its host is dropped, and it holds the host")
    }

    async fn open(
        self: &Arc<Self>,
        network: &Network,
        url: &pushline_model::Url,
        slot: Slot,
        opening: Opening,
    ) -> Result<Connection, ConnectError> {
        let opened = network.connect(url, &self.identity, self.offers(), slot).await;
        match &opened {
            Ok(connection) => self.change(|state, _| state.opened(connection)),
            Err(error) => self.change(|state, closed| state.failed(error, closed)),
        }
        drop(opening);
        opened
    }

    /// The protocols to offer to the server, the better one first.
    fn offers(&self) -> &'static [Protocol] {
        let wants_http1 = self.change(|state, _| state.wants_http1);
        match (self.origin.http_version, self.origin.is_https) {
            (HttpVersion::Http2, _) => &[Protocol::Http2],
            (HttpVersion::Auto, true) if !wants_http1 => &[Protocol::Http2, Protocol::Http1],
            (HttpVersion::Auto | HttpVersion::Http1, _) => &[Protocol::Http1],
        }
    }

    /// Takes a connection back on which a response has ended. It may rest for `at_most` this long.
    pub(crate) fn put(self: &Arc<Self>, connection: Http1, at_most: Duration) {
        self.change(|state, closed| {
            let is_of_use = connection.is_of_use(Duration::ZERO) && connection.meter().opened().elapsed() < OLDEST;
            if is_of_use && !at_most.is_zero() && !state.awaits_an_end() {
                state.idle.push(Idle { connection, resting: Resting::new(&self.resting), at_most });
                self.serve(state, closed);
            } else {
                closed.http1.push(connection);
            }
        });
    }

    /// The server had closed a connection that was kept open: the others, too, may be closed.
    pub(crate) fn clear(&self) {
        self.change(|state, closed| {
            closed.http1.extend(state.idle.drain(..).map(|idle| idle.connection));
            closed.http2.extend(state.shared.drain(..).map(|shared| shared.connection));
        });
    }

    /// The server wants HTTP/1.1. Returns whether it can be spoken.
    pub(crate) fn require_http1(&self) -> bool {
        self.change(|state, closed| {
            state.wants_http1 = true;
            state.protocol = Some(Spoken::HTTP1);
            closed.http2.extend(state.shared.drain(..).map(|shared| shared.connection));
        });
        self.origin.http_version != HttpVersion::Http2
    }

    /// Closes the connections that no attempt will use again.
    pub(super) fn close_idle(&self) {
        let now = Instant::now();
        self.change(|state, closed| state.close(closed, |connection| !connection.is_of_use(now)));
    }

    /// No request goes out any more on connections whose way wouldn't be taken again.
    pub(super) fn retire(&self, is_current: impl Fn(&Route) -> bool) {
        self.change(|state, closed| {
            let idle = state.idle.extract_if(.., |idle| !is_current(&idle.connection.route));
            closed.http1.extend(idle.map(|idle| idle.connection));
            let shared = state.shared.extract_if(.., |shared| !is_current(&shared.connection.route));
            closed.http2.extend(shared.map(|shared| shared.connection));
        });
    }

    /// Since when its connections rest.
    pub(super) fn resting_since(&self) -> Vec<Instant> {
        self.change(|state, _| {
            let idle = state.idle.iter().map(|idle| idle.resting.since);
            idle.chain(state.shared.iter().filter_map(|shared| Some(shared.resting.as_ref()?.since))).collect()
        })
    }

    /// Closes the connections that rest since then, or longer.
    pub(super) fn close_resting_since(&self, latest: Instant) {
        self.change(|state, closed| state.close(closed, |connection| connection.rests_since().is_some_and(|since| since <= latest)));
    }

    /// What an attempt gets now, with this many before it in line.
    fn grant(self: &Arc<Self>, state: &mut State, is_fresh: bool, before: usize, closed: &mut Closed) -> Option<Grant> {
        if !is_fresh && let Some(connection) = state.take(closed) {
            return Some(Grant::Connection(connection));
        }
        if state.will_be_shared(is_fresh, before) || state.slots >= self.limit {
            return None;
        }
        state.slots += 1;
        state.opening += 1;
        Some(Grant::Open(Slot(Arc::downgrade(self)), Opening(Arc::downgrade(self))))
    }

    /// Serves those that wait, in their order.
    fn serve(self: &Arc<Self>, state: &mut State, closed: &mut Closed) {
        while let Some(first) = state.waiting.pop_front() {
            if first.answer.is_closed() {
                continue;
            }
            let Some(grant) = self.grant(state, first.is_fresh, 0, closed) else {
                state.waiting.push_front(first);
                return;
            };
            // One that has gone meanwhile gives it back.
            closed.grants.extend(first.answer.send(grant).err());
        }
    }

    /// The only way to the state: what it closes is dropped once the lock is released.
    fn change<T>(&self, change: impl FnOnce(&mut State, &mut Closed) -> T) -> T {
        let mut closed = Closed::default();
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), &mut closed);
        drop(closed);
        result
    }
}

impl State {
    /// A connection that is open and takes a request.
    fn take(&mut self, closed: &mut Closed) -> Option<Connection> {
        let now = Instant::now();
        while let Some(last) = self.idle.pop() {
            if last.is_of_use(now) {
                return Some(Connection::Http1(last.connection));
            }
            closed.http1.push(last.connection);
        }
        let mut place = 0;
        while let Some(shared) = self.shared.get_mut(place) {
            if !shared.is_of_use(now) {
                closed.http2.push(self.shared.swap_remove(place).connection);
                continue;
            }
            if shared.streams < shared.connection.limit() {
                shared.streams += 1;
                shared.resting = None;
                return Some(Connection::Http2(Http2Stream::new(&shared.connection)));
            }
            place += 1;
        }
        None
    }

    /// Whether a connection that is being opened may take one more than those before it in line.
    fn will_be_shared(&self, is_fresh: bool, before: usize) -> bool {
        match self.protocol {
            None => self.opening > 0,
            Some(_) if is_fresh => false,
            Some(spoken) => self.opening.saturating_mul(spoken.at_a_time - 1) > before,
        }
    }

    /// Whether the first in line waits for a connection to end, so that it can open one.
    fn awaits_an_end(&self) -> bool {
        self.waiting.front().is_some_and(|first| first.is_fresh)
    }

    fn opened(&mut self, connection: &Connection) {
        self.protocol = Some(match connection {
            Connection::Http1(_) => Spoken::HTTP1,
            Connection::Http2(stream) => {
                self.shared.push(Shared { connection: Arc::clone(&stream.connection), streams: 1, resting: None });
                Spoken { protocol: Protocol::Http2, at_a_time: stream.connection.limit().max(1) }
            }
        });
    }

    /// Those that waited for a connection of their own wait for the next; those that would have shared it share its failure.
    fn failed(&mut self, error: &ConnectError, closed: &mut Closed) {
        let is_own = self.protocol.is_some_and(|spoken| spoken.protocol == Protocol::Http1);
        if is_own || self.opening > 1 {
            return;
        }
        for waiter in self.waiting.drain(..) {
            closed.grants.extend(waiter.answer.send(Grant::Failed(error.clone())).err());
        }
    }

    /// Closes the connection that rested longest; where all are busy, the first of HTTP/2 takes no more streams.
    fn yield_one(&mut self, closed: &mut Closed) {
        if !self.idle.is_empty() {
            closed.http1.push(self.idle.remove(0).connection);
        } else if !self.shared.is_empty() {
            closed.http2.push(self.shared.remove(0).connection);
        }
    }

    fn close(&mut self, closed: &mut Closed, mut is_closed: impl FnMut(&dyn Rests) -> bool) {
        let idle = self.idle.extract_if(.., |idle| is_closed(idle));
        closed.http1.extend(idle.map(|idle| idle.connection));
        let shared = self.shared.extract_if(.., |shared| is_closed(shared));
        closed.http2.extend(shared.map(|shared| shared.connection));
    }
}

/// A connection that waits for its next request.
trait Rests {
    fn is_of_use(&self, now: Instant) -> bool;
    /// `None`: it carries a request.
    fn rests_since(&self) -> Option<Instant>;
}

impl Rests for Idle {
    fn is_of_use(&self, now: Instant) -> bool {
        let rested = now.duration_since(self.resting.since);
        rested < self.at_most && now.duration_since(self.connection.meter().opened()) < OLDEST && self.connection.is_of_use(rested)
    }

    fn rests_since(&self) -> Option<Instant> {
        Some(self.resting.since)
    }
}

impl Rests for Shared {
    fn is_of_use(&self, now: Instant) -> bool {
        let is_young = now.duration_since(self.connection.meter().opened()) < OLDEST;
        let is_idle = self.rests_since().is_some_and(|since| now.duration_since(since) >= IDLE);
        is_young && !is_idle && !self.connection.is_retired()
    }

    fn rests_since(&self) -> Option<Instant> {
        self.resting.as_ref().map(|resting| resting.since)
    }
}

impl Spoken {
    const HTTP1: Self = Self { protocol: Protocol::Http1, at_a_time: 1 };
}

impl Slot {
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

impl HostHandle {
    /// A stream of a connection has ended.
    pub(crate) fn stream_ended(&self, connection: &Arc<Http2>) {
        let Some(host) = self.0.upgrade() else { return };
        host.change(|state, closed| {
            let Some(place) = state.shared.iter().position(|shared| Arc::ptr_eq(&shared.connection, connection)) else { return };
            let shared = &mut state.shared[place];
            shared.streams -= 1;
            if connection.is_retired() || shared.streams == 0 && state.waiting.front().is_some_and(|first| first.is_fresh) {
                closed.http2.push(state.shared.swap_remove(place).connection);
            } else if shared.streams == 0 {
                shared.resting = Some(Resting::new(&host.resting));
            }
            host.serve(state, closed);
        });
    }

    /// A connection takes more streams, or has ended.
    pub(crate) fn limit_changed(&self) {
        let Some(host) = self.0.upgrade() else { return };
        host.change(|state, closed| {
            let retired = state.shared.extract_if(.., |shared| shared.connection.is_retired());
            closed.http2.extend(retired.map(|shared| shared.connection));
            host.serve(state, closed);
        });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(host) = self.0.upgrade() else { return };
        host.change(|state, closed| {
            state.slots -= 1;
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
