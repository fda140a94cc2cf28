//! Who is connected under which client id: a second connection of the same id takes the session over (MQTT 5 §3.1.4).

use std::sync::{Arc, Mutex, PoisonError};

use std::collections::HashMap;

use tokio::sync::Notify;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Arc<Notify>>>);

/// A client id that is taken until this is dropped, or somebody else takes it over.
#[derive(Debug)]
pub(crate) struct Session {
    sessions: Arc<Sessions>,
    client_id: String,
    taken_over: Arc<Notify>,
}

impl Sessions {
    /// Takes an id. Whoever had it is told.
    pub(crate) fn take(self: &Arc<Self>, client_id: &str) -> Session {
        let taken_over = Arc::new(Notify::new());
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = sessions.insert(client_id.to_owned(), Arc::clone(&taken_over)) {
            before.notify_one();
        }
        Session { sessions: Arc::clone(self), client_id: client_id.to_owned(), taken_over }
    }
}

impl Session {
    /// Resolves when another connection took the id.
    pub(crate) async fn taken_over(&self) {
        self.taken_over.notified().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut sessions = self.sessions.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&self.client_id).is_some_and(|now| Arc::ptr_eq(now, &self.taken_over)) {
            sessions.remove(&self.client_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_second_connection_takes_over_and_the_first_leaves_it_alone() {
        let sessions = Arc::new(Sessions::default());
        let first = sessions.take("d");
        let second = sessions.take("d");
        assert!(first.taken_over().now_or_never().is_some());
        assert!(second.taken_over().now_or_never().is_none());
        drop(first);
        let third = sessions.take("d");
        assert!(second.taken_over().now_or_never().is_some());
        drop((second, third));
        assert!(sessions.0.lock().unwrap().is_empty());
    }
}
