//! Sessions on a log that one process has: their changes are records of the packets log, and [`SessionTable`] is what the durable records made.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::Timestamp;
use tokio::sync::watch;
use tracing::warn;

use super::{
    OpenSession, OpenedSession, Session, SessionId, SessionTable, Sessions,
    change::{Change, Opening, Seconds},
};
use crate::{Append, AppendError, Appended, Kind, Record};

/// A log that keeps sessions: it applies its durable frames to the table before it resolves their batches.
pub(crate) trait SessionLog: Append {
    /// The log's time.
    fn now(&self) -> Timestamp;
}

/// The sessions of a log. Clones share it.
#[derive(Clone)]
pub(crate) struct LogSessions(Arc<Shared>);

struct Shared {
    log: Arc<dyn SessionLog>,
    table: Arc<SessionTable>,
    /// The sessions whose connections live. Its lock is taken before an owner's.
    owners: Mutex<HashMap<SessionId, Arc<Owner>>>,
    openings: AtomicU64,
    /// When the table was last searched for expired sessions because it was full.
    searched: Mutex<Timestamp>,
}

/// A hold on a session.
#[derive(Debug)]
struct Owner {
    /// Held while a batch is appended, so that nothing is appended behind the next owner's opening.
    is_current: Mutex<bool>,
    taken_over: watch::Sender<bool>,
}

/// The handle of a connection.
struct OwnedSession {
    sessions: LogSessions,
    id: SessionId,
    owner: Arc<Owner>,
    expiry: Mutex<Duration>,
}

/// How often a full table is searched for expired sessions, and reported.
const SEARCH_EVERY: Duration = Duration::from_mins(1);

impl LogSessions {
    pub(crate) fn new(log: Arc<dyn SessionLog>, table: Arc<SessionTable>) -> Self {
        let (owners, openings, searched) = (Mutex::default(), AtomicU64::new(0), Mutex::new(Timestamp(0)));
        Self(Arc::new(Shared { log, table, owners, openings, searched }))
    }

    /// Whether a new session may be kept. A full table is searched for expired ones now and then.
    fn has_capacity(&self, max_sessions: usize) -> bool {
        if self.0.table.has_fewer_than(max_sessions) {
            return true;
        }
        let (now, mut searched) = (self.0.log.now(), lock(&self.0.searched));
        if searched.plus(SEARCH_EVERY) <= now {
            *searched = now;
            self.0.table.remove_expired(now);
            if !self.0.table.has_fewer_than(max_sessions) {
                warn!(
                    max_sessions,
                    "too many sessions: further clients get sessions that end with their connections; raise max_sessions, or lower max_session_expiry"
                );
            }
        }
        self.0.table.has_fewer_than(max_sessions)
    }

    /// Appends a change. Its caller holds the lock of the owners, so the log has the changes in the order of the owners.
    fn change(&self, change: &Change) -> Appended {
        let payload = change.encode();
        self.0.log.append(&[Record { group: "", at: self.0.log.now(), kind: Kind::Session, payload: &payload }])
    }
}

impl Sessions for LogSessions {
    fn open(
        &self,
        OpenSession { key, clean_start, expiry, max_sessions }: OpenSession<'_>,
    ) -> BoxFuture<'static, Result<OpenedSession, AppendError>> {
        let session = SessionId::of(key);
        let mut owners = lock(&self.0.owners);
        let is_known = self.0.table.knows(session);
        let expiry = if is_known || expiry.is_zero() || self.has_capacity(max_sessions) { expiry } else { Duration::ZERO };
        let seconds = Seconds::of(expiry);
        if !is_known && seconds == Seconds(0) {
            return std::future::ready(Ok(OpenedSession::unkept())).boxed();
        }
        let owner = Arc::new(Owner { is_current: Mutex::new(true), taken_over: watch::Sender::new(false) });
        let previous = owners.insert(session, Arc::clone(&owner));
        previous.iter().for_each(|previous| previous.take_over());
        let handle = OwnedSession { sessions: self.clone(), id: session, owner, expiry: Mutex::new(expiry) };
        let number = self.0.openings.fetch_add(1, Ordering::Relaxed);
        let opened = Change::Opened(Opening { session, clean_start, expiry: seconds, number });
        let outcome = self.0.table.appending(&opened).expect("it is an opening");
        let appended = self.change(&opened);
        drop(owners);
        async move {
            appended.await?;
            let outcome = outcome.await.map_err(|_| AppendError::Closed)?;
            let (is_present, held) = (outcome.is_present, outcome.held);
            let session = if outcome.is_kept {
                Some(Arc::new(handle) as Arc<dyn Session>)
            } else {
                handle.leave();
                None
            };
            Ok(OpenedSession { session, is_present, held })
        }
        .boxed()
    }
}

impl Owner {
    /// Waits until a batch that is being appended has its place in the log.
    fn take_over(&self) {
        *lock(&self.is_current) = false;
        self.taken_over.send_replace(true);
    }
}

impl OwnedSession {
    /// Nothing is left of the session.
    fn leave(self) {
        self.remove_owner(&mut lock(&self.sessions.0.owners));
    }

    /// Returns whether the session was still owned.
    fn remove_owner(&self, owners: &mut HashMap<SessionId, Arc<Owner>>) -> bool {
        let is_owner = owners.get(&self.id).is_some_and(|current| Arc::ptr_eq(current, &self.owner));
        if is_owner {
            owners.remove(&self.id);
        }
        is_owner
    }
}

impl Session for OwnedSession {
    fn id(&self) -> SessionId {
        self.id
    }

    fn append(&self, batch: &[Record<'_>]) -> Appended {
        let is_current = lock(&self.owner.is_current);
        if *is_current { self.sessions.0.log.append(batch) } else { Appended::ready(Err(AppendError::SessionTakenOver)) }
    }

    fn set_expiry(&self, expiry: Duration) {
        *lock(&self.expiry) = expiry;
    }

    fn taken_over(&self) -> BoxFuture<'static, ()> {
        let mut taken_over = self.owner.taken_over.subscribe();
        let owner = Arc::clone(&self.owner);
        async move {
            drop(taken_over.wait_for(|taken_over| *taken_over).await);
            drop(owner);
        }
        .boxed()
    }
}

impl Drop for OwnedSession {
    /// Nothing waits for the record: without it the expiry runs from the next start.
    fn drop(&mut self) {
        let mut owners = lock(&self.sessions.0.owners);
        if !self.remove_owner(&mut owners) {
            return;
        }
        let (session, expiry) = (self.id, Seconds::of(*lock(&self.expiry)));
        let change = if expiry == Seconds(0) { Change::Discarded { session } } else { Change::Closed { session, expiry } };
        self.sessions.0.table.appending(&change);
        drop(self.sessions.change(&change));
    }
}

impl fmt::Debug for LogSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSessions").field("sessions", &self.0.table.len()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
