//! The connections of the process: each belongs to an origin, and the webhooks of an origin share them.
//!
//! All of them together are bounded by the file descriptors that pushes may take (`Network::connect` waits for one), those of a host by a limit of
//! its own. Where one is missing, the connection that rested longest is closed.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use pushline_model::{HttpVersion, Tls, Url, Webhook};
use tokio::time::Instant;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::lent::RequestPermit;
pub(crate) use self::{
    host::{Checkout, Host, Sharer},
    lent::{ConnectionPermit, HostHandle},
};
use crate::{route::Route, tls::Identity};

mod fair_queue;
mod host;
mod idle;
mod lent;
mod streams;

/// A connection that wasn't used for this long is closed, sooner where its server says that it closes it sooner.
pub(crate) const IDLE: Duration = Duration::from_secs(50);

/// A connection isn't used again once it is this old: a load balancer spreads only new ones over its servers.
const OLDEST: Duration = Duration::from_mins(10);

/// When connections yield, the part of them that rested longest is closed: a fourth.
const YIELDS: usize = 4;

/// What a connection is good for: webhooks share it that agree in all of this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    is_https: bool,
    host: String,
    port: u16,
    http_version: HttpVersion,
    tls: Tls,
}

/// The connections of all hosts.
#[derive(Debug)]
pub(crate) struct Pool {
    hosts: Mutex<HashMap<Origin, Weak<Host>>>,
    /// The most that a host may have.
    per_host: usize,
    resting: Arc<AtomicUsize>,
}

/// A connection that no request uses is counted while this lives.
#[derive(Debug)]
struct Resting {
    since: Instant,
    count: Arc<AtomicUsize>,
}

impl Origin {
    pub(crate) fn of(webhook: &Webhook) -> Self {
        let url = &webhook.url;
        Self { http_version: webhook.http_version, tls: webhook.tls.clone(), ..Self::over_http1(url) }
    }

    pub(crate) fn over_http1(url: &Url) -> Self {
        Self {
            is_https: url.is_https(),
            host: url.host().to_owned(),
            port: url.port(),
            http_version: HttpVersion::Http1,
            tls: Tls::default(),
        }
    }
}

impl Pool {
    pub(crate) fn new(per_host: usize) -> Self {
        Self { hosts: Mutex::default(), per_host, resting: Arc::default() }
    }

    /// A webhook joins those that share the connections of an origin. They are closed with the last of them.
    pub(crate) fn join(&self, origin: Origin, identity: Arc<Identity>) -> Sharer {
        Sharer::new(self.host(origin, identity))
    }

    fn host(&self, origin: Origin, identity: Arc<Identity>) -> Arc<Host> {
        let mut hosts = self.lock();
        if let Some(host) = hosts.get(&origin).and_then(Weak::upgrade) {
            return host;
        }
        if hosts.len() == hosts.capacity() {
            hosts.retain(|_, host| host.strong_count() > 0);
        }
        let host = Host::new(origin.clone(), identity, self.per_host, Arc::clone(&self.resting));
        hosts.insert(origin, Arc::downgrade(&host));
        host
    }

    /// Closes the fourth of the connections that rested longest, one at least. It looks at every host, so it closes enough for the next attempts too.
    pub(crate) fn give_way(&self) {
        if self.resting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let hosts = self.all();
        let mut since: Vec<Instant> = hosts.iter().flat_map(|host| host.resting_since()).collect();
        if since.is_empty() {
            return;
        }
        let last = (since.len() - 1) / YIELDS;
        let (_, latest, _) = since.select_nth_unstable(last);
        let latest = *latest;
        hosts.iter().for_each(|host| host.close_resting_since(latest));
    }

    /// Closes the connections that no attempt will use again.
    pub(crate) fn close_idle(&self) {
        self.all().iter().for_each(|host| host.close_idle());
    }

    /// No request goes out any more on connections whose way wouldn't be taken again.
    pub(crate) fn retire(&self, is_current: impl Fn(&Route) -> bool) {
        self.all().iter().for_each(|host| host.retire(&is_current));
    }

    /// How many connections rest.
    #[cfg(test)]
    pub(crate) fn resting(&self) -> usize {
        self.resting.load(Ordering::Relaxed)
    }

    fn all(&self) -> Vec<Arc<Host>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Weak<Host>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self { since: Instant::now(), count: Arc::clone(count) }
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
