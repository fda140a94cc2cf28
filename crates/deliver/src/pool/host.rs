//! The connections of one origin: which one an attempt gets, and who waits for one.
//!
//! An attempt gets a connection of HTTP/1.1 that rests (the one used last), else a stream of a connection of HTTP/2, else a permit to open a
//! connection. Attempts that find none of these, or whose webhook has its part already, wait. What becomes free goes to the next of the fair queue.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use pushline_model::{HttpVersion, Url};
use tokio::{sync::oneshot, time::Instant};

use super::{
    OLDEST, Origin,
    fair_queue::{FairQueue, SharerKey},
    idle::Idle,
    lent::{ConnectionPermit, Opening, RequestPermit},
    streams::Streams,
};
use crate::{
    Network,
    connection::{Connection, Http1, Http2, Protocol},
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
    pub(super) limit: usize,
    pub(super) resting: Arc<AtomicUsize>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) idle: Idle,
    pub(super) streams: Streams,
    /// Connections that are open or being opened.
    pub(super) connections: usize,
    /// Connections that are being opened.
    pub(super) opening: usize,
    /// How many requests a connection carries at a time, by what the server spoke last; `None`: no handshake has ended yet.
    at_a_time: Option<usize>,
    /// The server wants no HTTP/2, though it offers it.
    wants_http1: bool,
    /// The requests of the webhooks that share it.
    pub(super) requests: FairQueue<Waiter>,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    /// It wants a connection that no attempt has used.
    is_fresh: bool,
    /// A connection that rested was closed for it.
    made_way: bool,
    answer: oneshot::Sender<Answer>,
}

/// What an attempt is lent for one request.
#[derive(Debug)]
pub(crate) struct Checkout {
    // Dropped in this order: the next request that the connection is given to is chosen without this one.
    pub(crate) permit: RequestPermit,
    pub(crate) connection: Connection,
}

/// What a waiter is told.
type Answer = (Grant, RequestPermit);

/// What an attempt gets.
#[derive(Debug)]
enum Grant {
    Connection(Connection),
    /// The right to open a connection, and the duty to tell how that went.
    Open(ConnectionPermit, Opening),
}

/// A webhook as one of those that share a host, until it is dropped.
#[derive(Debug)]
pub(crate) struct Sharer {
    host: Arc<Host>,
    key: SharerKey,
    /// As the host knows it.
    is_unresponsive: AtomicBool,
}

/// What is closed once the lock is released: a connection that ends takes the lock itself.
#[derive(Debug, Default)]
pub(super) struct Closed {
    http1: Vec<Http1>,
    pub(super) http2: Vec<Arc<Http2>>,
    answers: Vec<Answer>,
}

impl Host {
    pub(super) fn new(origin: Origin, identity: Arc<Identity>, limit: usize, resting: Arc<AtomicUsize>) -> Arc<Self> {
        let speaks_only_http1 = origin.http_version == HttpVersion::Http1 || !origin.is_https && origin.http_version == HttpVersion::Auto;
        let state = State { at_a_time: speaks_only_http1.then_some(1), ..State::default() };
        Arc::new(Self { origin, identity, limit, resting, state: Mutex::new(state) })
    }

    async fn checkout(self: &Arc<Self>, sharer: SharerKey, is_fresh: bool) -> Answer {
        let granted = self.change(|state, closed| {
            let waiting = state.requests.waiting();
            if state.may_begin(sharer, self.limit)
                && let Some(grant) = self.grant(state, is_fresh, waiting, closed)
            {
                return Ok((grant, self.begin(state, sharer)));
            }
            let (answer, granted) = oneshot::channel();
            state.requests.push(sharer, Waiter { is_fresh, made_way: false, answer });
            self.serve(state, closed);
            Err(granted)
        });
        match granted {
            Ok(granted) => granted,
            Err(granted) => granted.await.expect("a waiter is answered before its host is dropped, and its webhook holds the host"),
        }
    }

    async fn open(
        self: &Arc<Self>,
        network: &Network,
        url: &Url,
        connection_permit: ConnectionPermit,
        opening: Opening,
    ) -> Result<Connection, ConnectError> {
        let opened = network.connect(url, &self.identity, self.offers(), connection_permit).await;
        match &opened {
            Ok(connection) => self.change(|state, _| state.opened(connection)),
            Err(_) => self.change(|state, _| state.failed()),
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

    /// A request has ended, and its connection can be used again. It may rest for `at_most` this long.
    ///
    /// Both at once: the next request is chosen without this one, and finds the connection.
    pub(crate) fn put(self: &Arc<Self>, connection: Http1, permit: RequestPermit, at_most: Duration) {
        self.change(|state, closed| {
            permit.end(state);
            let is_of_use = connection.is_ready() && connection.meter().opened().elapsed() < OLDEST;
            if is_of_use && !at_most.is_zero() && !state.awaits_an_end(self.limit) {
                state.idle.push(connection, at_most, &self.resting);
                self.serve(state, closed);
            } else {
                // Its permit serves the next.
                closed.http1.push(connection);
            }
        });
    }

    /// The server had closed a connection that was kept open: the others, too, may be closed.
    pub(crate) fn clear(&self) {
        self.change(|state, closed| {
            closed.http1.extend(state.idle.all());
            closed.http2.extend(state.streams.all());
        });
    }

    /// The server wants HTTP/1.1. Returns whether it will be spoken; not where the webhook wants HTTP/2.
    pub(crate) fn require_http1(&self) -> bool {
        if self.origin.http_version == HttpVersion::Http2 {
            return false;
        }
        self.change(|state, closed| {
            state.wants_http1 = true;
            state.at_a_time = Some(1);
            closed.http2.extend(state.streams.all());
        });
        true
    }

    /// Whether requests wait for its connections.
    pub(crate) fn is_awaited(&self) -> bool {
        self.change(|state, _| state.requests.waiting() > 0)
    }

    /// Closes the connections that no attempt will use again.
    pub(super) fn close_idle(&self) {
        let now = Instant::now();
        self.change(|state, closed| {
            closed.http1.extend(state.idle.out_of_use(now));
            closed.http2.extend(state.streams.out_of_use(now));
        });
    }

    /// No request goes out any more on connections whose way wouldn't be taken again.
    pub(super) fn retire(&self, is_current: impl Fn(&Route) -> bool) {
        self.change(|state, closed| {
            closed.http1.extend(state.idle.off_route(&is_current));
            closed.http2.extend(state.streams.off_route(&is_current));
        });
    }

    /// Since when its connections rest.
    pub(super) fn resting_since(&self) -> Vec<Instant> {
        self.change(|state, _| state.idle.resting_since().chain(state.streams.resting_since()).collect())
    }

    /// Closes the connections that rest since then, or longer.
    pub(super) fn close_resting_since(&self, latest: Instant) {
        self.change(|state, closed| {
            closed.http1.extend(state.idle.resting_until(latest));
            closed.http2.extend(state.streams.resting_until(latest));
        });
    }

    /// What an attempt gets now, with this many before it in line.
    fn grant(self: &Arc<Self>, state: &mut State, is_fresh: bool, before: usize, closed: &mut Closed) -> Option<Grant> {
        if !is_fresh && let Some(connection) = state.take(closed) {
            return Some(Grant::Connection(connection));
        }
        if state.will_be_shared(is_fresh, before) || state.connections >= self.limit {
            return None;
        }
        state.connections += 1;
        state.opening += 1;
        Some(Grant::Open(ConnectionPermit::new(self), Opening::new(self)))
    }

    /// Serves those that wait, the next first.
    pub(super) fn serve(self: &Arc<Self>, state: &mut State, closed: &mut Closed) {
        while let Some(sharer) = state.next(self.limit) {
            let waiter = state.requests.front(sharer).expect("a sharer is next only while a request of it waits");
            let (is_fresh, made_way) = (waiter.is_fresh, waiter.made_way);
            if waiter.answer.is_closed() {
                state.requests.pop(sharer);
                continue;
            }
            let Some(grant) = self.grant(state, is_fresh, 0, closed) else {
                if is_fresh && !made_way && state.connections >= self.limit {
                    state.make_way(sharer, closed);
                }
                return;
            };
            let waiter = state.requests.pop(sharer).expect("it waits");
            // One that has gone meanwhile gives it back.
            closed.answers.extend(waiter.answer.send((grant, self.begin(state, sharer))).err());
        }
    }

    fn begin(self: &Arc<Self>, state: &mut State, sharer: SharerKey) -> RequestPermit {
        state.requests.begin(sharer);
        RequestPermit::new(self, sharer)
    }

    /// The only way to the state: what it closes is dropped once the lock is released.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State, &mut Closed) -> T) -> T {
        let mut closed = Closed::default();
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), &mut closed);
        drop(closed);
        result
    }
}

impl Sharer {
    pub(super) fn new(host: Arc<Host>) -> Self {
        let key = host.change(|state, _| state.requests.join());
        Self { host, key, is_unresponsive: AtomicBool::new(false) }
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// A connection for one request: one that is open, or a new one. `is_fresh`: one that no request has used.
    ///
    /// Waits where the host has as many as it may have, or the webhook as many as it may take of them. While it is unknown whether the server speaks
    /// HTTP/2, one attempt opens a connection and the others wait for it: they may share it. An attempt fails only by a connection that it opened
    /// itself: where the first one can't be opened, each of the others opens one.
    pub(crate) async fn connection(&self, network: &Network, url: &Url, is_fresh: bool) -> Result<Checkout, ConnectError> {
        let (grant, permit) = self.host.checkout(self.key, is_fresh).await;
        let connection = match grant {
            Grant::Connection(connection) => connection,
            // On the heap: it is three times as large as all the rest of an attempt, and rare.
            Grant::Open(connection_permit, opening) => Box::pin(self.host.open(network, url, connection_permit, opening)).await?,
        };
        Ok(Checkout { permit, connection })
    }

    /// A further stream of a connection that is open, unless it takes none.
    pub(crate) fn further_stream(&self, connection: &Arc<Http2>) -> Option<Checkout> {
        self.host.change(|state, _| {
            let connection = Connection::Http2(state.streams.further(connection)?);
            Some(Checkout { permit: self.host.begin(state, self.key), connection })
        })
    }

    /// An attempt of the webhook has ended: with no response, or with one.
    pub(crate) fn set_unresponsive(&self, is_unresponsive: bool) {
        if self.is_unresponsive.swap(is_unresponsive, Relaxed) != is_unresponsive {
            self.host.change(|state, closed| {
                state.requests.set_unresponsive(self.key, is_unresponsive);
                self.host.serve(state, closed);
            });
        }
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        self.host.change(|state, closed| {
            state.requests.leave(self.key);
            self.host.serve(state, closed);
        });
    }
}

impl State {
    /// How many requests it may carry at a time, with this many connections.
    fn capacity(&self, connections: usize) -> usize {
        connections.saturating_mul(self.at_a_time.unwrap_or(1))
    }

    fn may_begin(&self, sharer: SharerKey, connections: usize) -> bool {
        self.requests.may_begin(sharer, self.capacity(connections))
    }

    /// The sharer whose request is next.
    fn next(&self, connections: usize) -> Option<SharerKey> {
        self.requests.next(self.capacity(connections))
    }

    /// A connection that is open and takes a request.
    fn take(&mut self, closed: &mut Closed) -> Option<Connection> {
        let now = Instant::now();
        let idle = self.idle.take(now, &mut closed.http1).map(Connection::Http1);
        idle.or_else(|| self.streams.take(now, &mut closed.http2).map(Connection::Http2))
    }

    /// Whether a connection that is being opened may take one more than those before it in line.
    fn will_be_shared(&self, is_fresh: bool, before: usize) -> bool {
        match self.at_a_time {
            None => self.opening > 0,
            Some(_) if is_fresh => false,
            Some(at_a_time) => self.opening.saturating_mul(at_a_time - 1) > before,
        }
    }

    /// Whether the next request waits for a connection to end, so that it can open one.
    pub(super) fn awaits_an_end(&mut self, connections: usize) -> bool {
        self.next(connections).and_then(|next| self.requests.front(next)).is_some_and(|waiter| waiter.is_fresh)
    }

    fn opened(&mut self, connection: &Connection) {
        self.at_a_time = Some(match connection {
            Connection::Http1(_) => 1,
            Connection::Http2(stream) => {
                self.streams.opened(&stream.connection);
                stream.connection.limit().max(1)
            }
        });
    }

    /// A connection couldn't be opened. Requests that waited to share it open connections of their own, unless others are open.
    fn failed(&mut self) {
        if self.streams.is_empty() {
            self.at_a_time = Some(1);
        }
    }

    /// For a request that opens a connection: closes the one that rested longest. Where all are busy, the first of HTTP/2 takes no more streams.
    fn make_way(&mut self, sharer: SharerKey, closed: &mut Closed) {
        if let Some(idle) = self.idle.first() {
            closed.http1.push(idle);
        } else if let Some(first) = self.streams.first() {
            closed.http2.push(first);
        } else {
            return;
        }
        self.requests.front(sharer).expect("the request waits").made_way = true;
    }
}
