//! What the listeners and broker subscriptions of a process share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use pushline_model::Registry;
use pushline_queue::{DeadLetters, Queue, Sessions};
use tokio::sync::watch;

use crate::budget::Budget;

/// Where packets go, how many bytes of them may be on the way, and when to stop. All listeners and broker subscriptions of a process share one.
pub struct Ingest {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) unrouted: DeadLetters,
    pub(crate) sessions: Arc<dyn Sessions>,
    pub(crate) registry: Arc<ArcSwap<Registry>>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Ingest {
    /// How many bytes may be read and not yet durable, unless the caller says otherwise.
    pub const UNACKNOWLEDGED_BYTES: usize = 64 << 20;

    /// `unacknowledged_bytes`: how many bytes may be read and not yet durable; beyond it no socket is read. When `stop` turns true, no more packets are
    /// accepted, and those that were are acknowledged.
    #[must_use]
    pub fn new(
        queue: Arc<dyn Queue>,
        registry: Arc<ArcSwap<Registry>>,
        unacknowledged_bytes: usize,
        stop: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let (unrouted, sessions) = (queue.unrouted(), queue.sessions());
        Arc::new(Self { queue, unrouted, sessions, registry, budget: Budget::new(unacknowledged_bytes), stop })
    }

    /// Resolves when the process stops.
    pub(crate) async fn stopped(&self) {
        drop(self.stop.clone().wait_for(|stop| *stop).await);
    }
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").field("budget", &self.budget).finish_non_exhaustive()
    }
}
