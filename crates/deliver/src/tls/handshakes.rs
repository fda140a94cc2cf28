//! How many TLS handshakes run at once: each costs about a millisecond of CPU time, and more at once would only time out together.
//!
//! A server that stalls its handshake holds a permit for as long as connecting may take. All such servers together leave permits to the others.

use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashSet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many run at once at the most.
const AT_ONCE: usize = 256;

/// Which part of them may be with servers whose last handshake failed: half.
const DOUBTFUL: usize = AT_ONCE / 2;

/// The permits of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Handshakes {
    all: Arc<Semaphore>,
    doubtful: Arc<Semaphore>,
    /// `host:port` of each server whose last handshake failed.
    failed: Arc<Mutex<HashSet<String>>>,
}

/// A handshake that may run. It counts as failed if this is dropped before it has succeeded.
#[derive(Debug)]
pub(crate) struct HandshakePermit {
    handshakes: Handshakes,
    server: String,
    succeeded: bool,
    _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Default for Handshakes {
    fn default() -> Self {
        let [all, doubtful] = [AT_ONCE, DOUBTFUL].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { all, doubtful, failed: Arc::default() }
    }
}

impl Handshakes {
    /// Waits for a permit for a server. Each handshake ends by the limit of connecting, so each wait does.
    pub(crate) async fn acquire(&self, host: &str, port: u16) -> HandshakePermit {
        const OPEN: &str = "the semaphores are never closed";
        let server = format!("{host}:{port}");
        let is_doubtful = self.failed.lock().unwrap_or_else(PoisonError::into_inner).contains(&server);
        let doubtful = if is_doubtful { Some(Arc::clone(&self.doubtful).acquire_owned().await.expect(OPEN)) } else { None };
        let permits = (Arc::clone(&self.all).acquire_owned().await.expect(OPEN), doubtful);
        HandshakePermit { handshakes: self.clone(), server, succeeded: false, _permits: permits }
    }
}

impl HandshakePermit {
    pub(crate) fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let mut failed = self.handshakes.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let server = std::mem::take(&mut self.server);
        _ = if self.succeeded { failed.remove(&server) } else { failed.insert(server) };
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A permit, if one is free.
    fn free(handshakes: &Handshakes, host: &str, port: u16) -> Option<HandshakePermit> {
        tokio::task::unconstrained(handshakes.acquire(host, port)).now_or_never()
    }

    #[tokio::test]
    async fn servers_that_stall_leave_permits_to_the_others_and_one_that_recovers_is_like_others() {
        let handshakes = Handshakes::default();
        let names: Vec<String> = (0..AT_ONCE).map(|number| format!("{number}.example")).collect();
        for name in &names {
            drop(handshakes.acquire(name, 443).await);
        }
        let stalled: Vec<HandshakePermit> = names.iter().filter_map(|name| free(&handshakes, name, 443)).collect();
        assert_eq!(stalled.len(), DOUBTFUL);
        assert!(free(&handshakes, "other.example", 443).is_some());
        assert!(free(&handshakes, &names[0], 8443).is_some(), "another server on the same host");
        for permit in stalled {
            permit.succeeded();
        }
        let again: Vec<HandshakePermit> = names.iter().filter_map(|name| free(&handshakes, name, 443)).collect();
        assert!(again.len() > DOUBTFUL);
    }
}
