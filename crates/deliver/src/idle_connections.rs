//! Connections that no attempt uses: each endpoint keeps its own, and all give way to new ones when file descriptors run short.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{connection::Sender, route::Route};

/// A connection that wasn't used for this long is closed, sooner where its server says that it closes it sooner.
pub(crate) const IDLE: Duration = Duration::from_secs(50);

/// A connection that isn't ready for the next request by then never may be: its server answered without having read the last one.
pub(crate) const READY: Duration = Duration::from_secs(1);

/// When connections give way, the part of them that was used longest ago is closed: a fourth.
const GIVES_WAY: usize = 4;

/// The idle connections of one endpoint.
#[derive(Debug)]
pub(crate) struct IdleConnections {
    all: Arc<AllIdle>,
    /// The one used last is taken first.
    idle: Mutex<Vec<Idle>>,
}

/// The idle connections of all endpoints of the process.
#[derive(Debug, Default)]
pub(crate) struct AllIdle {
    endpoints: Mutex<Vec<Weak<IdleConnections>>>,
    count: AtomicUsize,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
    at_most: Duration,
}

impl IdleConnections {
    /// Takes the connection that was used last and is still of use.
    pub(crate) fn take(&self) -> Option<Sender> {
        let now = Instant::now();
        let mut idle = self.lock();
        while let Some(last) = idle.pop() {
            self.all.count.fetch_sub(1, Ordering::Relaxed);
            if last.is_of_use(now) {
                return Some(last.sender);
            }
        }
        None
    }

    /// Keeps a connection for `at_most` this long.
    pub(crate) fn put(&self, sender: Sender, at_most: Duration) {
        if !sender.requests.is_closed() && !at_most.is_zero() {
            self.lock().push(Idle { sender, since: Instant::now(), at_most });
            self.all.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the connections that won't be used again. `is_current`: whether a connection's route would be taken again.
    pub(crate) fn close_idle(&self, is_current: impl Fn(&Route) -> bool) {
        let now = Instant::now();
        self.retain(|idle| idle.is_of_use(now) && is_current(&idle.sender.route));
    }

    fn retain(&self, keep: impl FnMut(&Idle) -> bool) {
        let mut idle = self.lock();
        let before = idle.len();
        idle.retain(keep);
        self.all.count.fetch_sub(before - idle.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IdleConnections {
    fn drop(&mut self) {
        let left = self.lock().len();
        self.all.count.fetch_sub(left, Ordering::Relaxed);
    }
}

impl AllIdle {
    /// Those of a new endpoint.
    pub(crate) fn join(self: &Arc<Self>) -> Arc<IdleConnections> {
        let new = Arc::new(IdleConnections { all: Arc::clone(self), idle: Mutex::default() });
        let mut endpoints = self.lock();
        if endpoints.len() == endpoints.capacity() {
            endpoints.retain(|endpoint| endpoint.strong_count() > 0);
        }
        endpoints.push(Arc::downgrade(&new));
        new
    }

    /// Closes the fourth that was used longest ago, one at least. It looks at every endpoint, so it closes enough for the next attempts too.
    pub(crate) fn give_way(&self) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let endpoints: Vec<Arc<IdleConnections>> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let mut since: Vec<Instant> =
            endpoints.iter().flat_map(|endpoint| endpoint.lock().iter().map(|idle| idle.since).collect::<Vec<_>>()).collect();
        if since.is_empty() {
            return;
        }
        let last = (since.len() - 1) / GIVES_WAY;
        let (_, latest, _) = since.select_nth_unstable(last);
        let latest = *latest;
        endpoints.iter().for_each(|endpoint| endpoint.retain(|idle| idle.since > latest));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<IdleConnections>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn is_of_use(&self, now: Instant) -> bool {
        let (requests, rested) = (&self.sender.requests, now.duration_since(self.since));
        !requests.is_closed() && rested < self.at_most && (rested < READY || requests.is_ready())
    }
}
