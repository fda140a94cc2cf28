//! The clients that are connected to the listeners of a process. A second connection with the same client id takes over, and the first is closed
//! (MQTT 5 §3.1.4).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use pushline_model::Timestamp;
use tokio::sync::Notify;

use super::DisconnectReason;

/// The connected clients by client id. All listeners of a process share one.
#[derive(Debug, Default)]
pub struct Devices(Mutex<BTreeMap<Arc<str>, Arc<Entry>>>);

/// A connected client, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its client id, or the one that the listener has chosen for it.
    pub client_id: String,
    /// The user name, or the name in its certificate.
    pub user: Option<String>,
    /// Where it connects from.
    pub address: SocketAddr,
    /// When it connected.
    pub since: Timestamp,
    /// When the listener last read from it.
    pub last_seen: Timestamp,
}

/// Which clients to disconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The client with this id.
    ClientId(String),
    /// Every client of this user.
    User(String),
}

#[derive(Debug)]
struct Entry {
    client_id: Arc<str>,
    user: Option<Arc<str>>,
    address: SocketAddr,
    since: Timestamp,
    last_seen: AtomicU64,
    /// The connection has ended, and its will waits.
    has_left: AtomicBool,
    /// Why it has to go.
    closing: OnceLock<Closing>,
    closed: Notify,
}

/// Why a connection has to be closed.
#[derive(Debug, Clone, Copy)]
struct Closing {
    reason: DisconnectReason,
    /// A new connection asked for a clean start, which ends the session.
    ends_session: bool,
}

/// A connection's hold on its client id, until it is dropped or another connection takes over.
#[derive(Debug)]
pub(crate) struct Connected {
    devices: Arc<Devices>,
    client: Arc<Entry>,
}

impl Devices {
    /// Claims an id, and closes the connection that had it. `is_clean`: the new connection ends the session.
    ///
    /// # Errors
    /// Another user has the id: a client can't be driven out by one that isn't it.
    pub(crate) fn claim(
        self: &Arc<Self>,
        client_id: &str,
        user: Option<Arc<str>>,
        address: SocketAddr,
        is_clean: bool,
        now: Timestamp,
    ) -> Result<Connected, DisconnectReason> {
        let client_id: Arc<str> = client_id.into();
        let mut clients = self.lock();
        if let Some(previous) = clients.get(&client_id) {
            if previous.user != user {
                return Err(DisconnectReason::NotAuthorized);
            }
            previous.close(Closing { reason: DisconnectReason::SessionTakenOver, ends_session: is_clean });
        }
        let client = Arc::new(Entry {
            client_id: Arc::clone(&client_id),
            user,
            address,
            since: now,
            last_seen: AtomicU64::new(now.0),
            has_left: AtomicBool::new(false),
            closing: OnceLock::new(),
            closed: Notify::new(),
        });
        clients.insert(client_id, Arc::clone(&client));
        Ok(Connected { devices: Arc::clone(self), client })
    }

    /// The connected clients in the order of their ids, at most this many, from the one behind `after`.
    #[must_use]
    pub fn page(&self, after: Option<&str>, limit: usize) -> Vec<Device> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let clients = self.lock();
        let connected = clients.range::<str, _>((from, Bound::Unbounded)).map(|(_, client)| client).filter(|client| client.is_connected());
        connected.take(limit).map(|client| client.describe()).collect()
    }

    /// Disconnects clients. Returns how many.
    pub fn disconnect(&self, selection: &Selection) -> usize {
        let clients = self.lock();
        let mut selected: Vec<&Arc<Entry>> = match selection {
            Selection::ClientId(id) => clients.get(id.as_str()).into_iter().collect(),
            Selection::User(user) => clients.values().filter(|client| client.user.as_deref() == Some(user)).collect(),
        };
        selected.retain(|client| client.is_connected());
        let closing = Closing { reason: DisconnectReason::AdministrativeAction, ends_session: false };
        selected.iter().for_each(|client| client.close(closing));
        selected.len()
    }

    /// A panic elsewhere leaves the map whole: each change is one operation.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn close(&self, closing: Closing) {
        // The first reason counts.
        let _ = self.closing.set(closing);
        self.closed.notify_one();
    }

    fn is_connected(&self) -> bool {
        !self.has_left.load(Ordering::Relaxed)
    }

    fn describe(&self) -> Device {
        Device {
            client_id: self.client_id.to_string(),
            user: self.user.as_deref().map(str::to_owned),
            address: self.address,
            since: self.since,
            last_seen: Timestamp(self.last_seen.load(Ordering::Relaxed)),
        }
    }
}

impl Connected {
    pub(crate) fn client_id(&self) -> &str {
        &self.client.client_id
    }

    /// Notes that bytes of the client have arrived.
    pub(crate) fn seen(&self, now: Timestamp) {
        self.client.last_seen.store(now.0, Ordering::Relaxed);
    }

    /// Resolves with the reason when the connection has to be closed.
    pub(crate) async fn closed(&self) -> DisconnectReason {
        loop {
            self.client.closed.notified().await;
            if let Some(closing) = self.client.closing.get() {
                return closing.reason;
            }
        }
    }

    /// Whether the connection was taken over by one that ends the session.
    pub(crate) fn ends_session(&self) -> bool {
        self.client.closing.get().is_some_and(|closing| closing.ends_session)
    }

    /// Notes that the connection has ended. The claim on the id stays until it is dropped.
    pub(crate) fn left(&self) {
        self.client.has_left.store(true, Ordering::Relaxed);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut clients = self.devices.lock();
        if clients.get(&self.client.client_id).is_some_and(|current| Arc::ptr_eq(current, &self.client)) {
            clients.remove(&self.client.client_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn claim(devices: &Arc<Devices>, client_id: &str, user: Option<&str>) -> Result<Connected, DisconnectReason> {
        devices.claim(client_id, user.map(Into::into), ([127, 0, 0, 1], 7).into(), false, Timestamp(7))
    }

    #[test]
    fn a_second_connection_takes_over_and_the_end_of_the_first_does_not_release_the_id() {
        let devices = Arc::new(Devices::default());
        let first = claim(&devices, "d", None).unwrap();
        let second = claim(&devices, "d", None).unwrap();
        assert_eq!(first.closed().now_or_never(), Some(DisconnectReason::SessionTakenOver));
        assert_eq!(second.closed().now_or_never(), None);
        drop(first);
        let third = claim(&devices, "d", None).unwrap();
        assert_eq!(second.closed().now_or_never(), Some(DisconnectReason::SessionTakenOver));
        drop((second, third));
        assert!(devices.lock().is_empty());
    }

    #[test]
    fn the_claim_of_a_client_that_has_left_stays_and_no_operator_sees_it() {
        let devices = Arc::new(Devices::default());
        let first = claim(&devices, "d", None).unwrap();
        first.left();
        assert_eq!((devices.page(None, 9), devices.disconnect(&Selection::ClientId("d".into()))), (vec![], 0));
        let second = devices.claim("d", None, ([127, 0, 0, 1], 7).into(), true, Timestamp(7)).unwrap();
        assert_eq!((first.closed().now_or_never(), first.ends_session()), (Some(DisconnectReason::SessionTakenOver), true));
        drop(first);
        assert_eq!(devices.page(None, 9).len(), 1);
        drop(second);
    }

    #[test]
    fn another_user_cannot_take_a_client_id_over() {
        let devices = Arc::new(Devices::default());
        let first = claim(&devices, "d", Some("a")).unwrap();
        for user in [Some("b"), None] {
            assert_eq!(claim(&devices, "d", user).unwrap_err(), DisconnectReason::NotAuthorized);
        }
        assert_eq!(first.closed().now_or_never(), None);
        claim(&devices, "d", Some("a")).unwrap();
    }

    #[test]
    fn clients_are_listed_page_by_page_and_disconnected_by_id_or_user() {
        let devices = Arc::new(Devices::default());
        let connected: Vec<Connected> = ["c", "a", "b"].map(|id| claim(&devices, id, Some("u")).unwrap()).into();
        let other = claim(&devices, "o", Some("v")).unwrap();
        connected[0].seen(Timestamp(9));
        let ids = |after, limit| devices.page(after, limit).into_iter().map(|device| device.client_id).collect::<Vec<_>>();
        assert_eq!(
            (ids(None, 2), ids(Some("b"), 2), ids(Some("o"), 2)),
            (vec!["a".into(), "b".into()], vec!["c".into(), "o".into()], vec![])
        );
        let device = devices.page(Some("b"), 1).remove(0);
        assert_eq!((device.user.as_deref(), device.since, device.last_seen), (Some("u"), Timestamp(7), Timestamp(9)));
        assert_eq!(devices.disconnect(&Selection::ClientId("nobody".into())), 0);
        assert_eq!(devices.disconnect(&Selection::ClientId("o".into())), 1);
        assert_eq!(other.closed().now_or_never(), Some(DisconnectReason::AdministrativeAction));
        assert_eq!(connected[0].closed().now_or_never(), None);
        assert_eq!(devices.disconnect(&Selection::User("u".into())), 3);
        assert!(connected.iter().all(|connected| connected.closed().now_or_never() == Some(DisconnectReason::AdministrativeAction)));
    }
}
