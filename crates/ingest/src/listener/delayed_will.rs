//! A will whose connection has ended and whose delay runs (MQTT 5 §3.1.3.2.2). It keeps the claim on the client id, so that a connection that takes the id
//! over decides about the will.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use crate::commits::Commits;

use super::{connection::Client, shared::Shared, will::HeldWill};

/// A will that waits.
pub(crate) struct DelayedWill {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Client,
    pub(crate) held: HeldWill,
    pub(crate) delay: Duration,
    /// Resolves when another process has opened the session.
    pub(crate) taken_over: BoxFuture<'static, ()>,
}

impl DelayedWill {
    /// Publishes the will after its delay, or when a new connection ends the session. It is discarded when a new connection goes on with the session, and
    /// when the process stops.
    pub(crate) async fn wait(self) {
        let Self { shared, client, held, delay, taken_over } = self;
        let is_due = tokio::select! {
            () = sleep(delay) => true,
            _ = client.connected.closed() => client.connected.ends_session(),
            () = taken_over => false,
            () = shared.ingest.stopped() => false,
        };
        if is_due {
            let mut commits = Commits::new(Arc::clone(&shared.ingest), "listener");
            client.publish_will(&held, &shared, &mut commits);
            commits.count_later();
        }
    }
}
