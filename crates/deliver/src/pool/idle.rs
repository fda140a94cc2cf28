//! A host's connections of HTTP/1.1 that rest: each waits for its next request.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tokio::time::Instant;

use super::{OLDEST, Resting};
use crate::{connection::Http1, route::Route};

/// The connections that rest: the one used last is the last.
#[derive(Debug, Default)]
pub(super) struct Idle(Vec<Connection>);

#[derive(Debug)]
struct Connection {
    connection: Http1,
    resting: Resting,
    at_most: Duration,
}

impl Idle {
    /// A connection rests, for `at_most` this long.
    pub(super) fn push(&mut self, connection: Http1, at_most: Duration, resting: &Arc<AtomicUsize>) {
        self.0.push(Connection { connection, resting: Resting::new(resting), at_most });
    }

    /// The one that was used last, and those of no use that come before it.
    pub(super) fn take(&mut self, now: Instant, closed: &mut Vec<Http1>) -> Option<Http1> {
        while let Some(last) = self.0.pop() {
            if last.is_of_use(now) {
                return Some(last.connection);
            }
            closed.push(last.connection);
        }
        None
    }

    /// Takes out the one that rests longest.
    pub(super) fn first(&mut self) -> Option<Http1> {
        (!self.0.is_empty()).then(|| self.0.remove(0).connection)
    }

    /// Takes out all.
    pub(super) fn all(&mut self) -> impl Iterator<Item = Http1> {
        self.0.drain(..).map(|idle| idle.connection)
    }

    /// Takes out those that take no further request, by what their servers did meanwhile too.
    pub(super) fn out_of_use(&mut self, now: Instant) -> impl Iterator<Item = Http1> {
        self.0.iter_mut().for_each(|idle| idle.connection.look());
        self.extract(move |idle| !idle.is_of_use(now))
    }

    /// Takes out those whose way wouldn't be taken again.
    pub(super) fn off_route(&mut self, is_current: impl Fn(&Route) -> bool) -> impl Iterator<Item = Http1> {
        self.extract(move |idle| !is_current(&idle.connection.route))
    }

    /// Takes out those that rest since then, or longer.
    pub(super) fn resting_until(&mut self, latest: Instant) -> impl Iterator<Item = Http1> {
        self.extract(move |idle| idle.resting.since <= latest)
    }

    /// Since when each rests.
    pub(super) fn resting_since(&self) -> impl Iterator<Item = Instant> {
        self.0.iter().map(|idle| idle.resting.since)
    }

    fn extract(&mut self, is_out: impl Fn(&Connection) -> bool) -> impl Iterator<Item = Http1> {
        self.0.extract_if(.., move |idle| is_out(idle)).map(|idle| idle.connection)
    }
}

impl Connection {
    fn is_of_use(&self, now: Instant) -> bool {
        let is_young = now.duration_since(self.connection.meter().opened()) < OLDEST;
        now.duration_since(self.resting.since) < self.at_most && is_young && self.connection.is_ready()
    }
}
