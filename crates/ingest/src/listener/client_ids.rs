//! The client ids that are connected. A second connection with the same client id takes over, and the first is closed (MQTT 5 §3.1.4).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The connected client ids of a listener, each with the connection to notify when another one takes over.
#[derive(Debug, Default)]
pub(crate) struct ClientIds(Mutex<HashMap<String, Arc<Notify>>>);

/// A connection's hold on its client id, until it is dropped or another connection takes over.
#[derive(Debug)]
pub(crate) struct ClaimedClientId {
    client_ids: Arc<ClientIds>,
    client_id: String,
    taken_over: Arc<Notify>,
}

impl ClientIds {
    /// Claims an id, and notifies the connection that had it.
    pub(crate) fn claim(self: &Arc<Self>, client_id: &str) -> ClaimedClientId {
        let taken_over = Arc::new(Notify::new());
        if let Some(previous) = self.lock().insert(client_id.to_owned(), Arc::clone(&taken_over)) {
            previous.notify_one();
        }
        ClaimedClientId { client_ids: Arc::clone(self), client_id: client_id.to_owned(), taken_over }
    }

    /// A panic elsewhere leaves the map whole: each change is one operation.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClaimedClientId {
    /// Resolves when another connection takes over the id.
    pub(crate) async fn taken_over(&self) {
        self.taken_over.notified().await;
    }
}

impl Drop for ClaimedClientId {
    fn drop(&mut self) {
        let mut client_ids = self.client_ids.lock();
        if client_ids.get(&self.client_id).is_some_and(|current| Arc::ptr_eq(current, &self.taken_over)) {
            client_ids.remove(&self.client_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_second_connection_takes_over_and_the_end_of_the_first_does_not_release_the_id() {
        let client_ids = Arc::new(ClientIds::default());
        let first = client_ids.claim("d");
        let second = client_ids.claim("d");
        assert!(first.taken_over().now_or_never().is_some());
        assert!(second.taken_over().now_or_never().is_none());
        drop(first);
        let third = client_ids.claim("d");
        assert!(second.taken_over().now_or_never().is_some());
        drop((second, third));
        assert!(client_ids.lock().is_empty());
    }
}
