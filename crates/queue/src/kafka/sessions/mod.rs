//! Sessions on Kafka (docs/kafka-topics.md, Session). Every process that takes packets in follows the whole sessions topic, so that it knows every session.
//! A session's changes are records of its owner.
//!
//! | part | file |
//! |---|---|
//! | the records (pure) | `record.rs` |
//! | what the records make (pure) | `table.rs` |
//! | reading the topic, and looking after sessions without an owner | `follower.rs` |
//! | a connection's hold on a session: what it appends | `owner.rs` |

mod follower;
mod owner;
mod record;
mod table;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::{oneshot, watch};

use self::{
    owner::{Owned, Owner},
    record::{Key, OwnerId, ProcessId, Value},
    table::{Opened, Table},
};
use super::{
    Options,
    append::{Appender, Put},
    topics::Topics,
};
use crate::{AppendError, OpenSession, OpenedSession, QueueError, Session, SessionId, Sessions, failure::Failure, sessions::Seconds};

/// The sessions of a cluster. Clones share them.
#[derive(Clone)]
pub(super) struct KafkaSessions(Arc<Shared>);

struct Shared {
    appender: Arc<Appender>,
    topics: Topics,
    partitions: u32,
    process: ProcessId,
    /// How many openings this process has appended.
    openings: AtomicU32,
    table: Mutex<Table>,
    /// Whether the topic was read to its end once.
    phase: watch::Sender<Phase>,
    /// Those who wait until their opening is read.
    waiting: Mutex<HashMap<OwnerId, oneshot::Sender<Opened>>>,
    /// The sessions whose connections this process has. Its lock is held while an opening is appended, so the topic has the openings of a process in the
    /// order of the owners.
    owners: Mutex<HashMap<SessionId, Arc<Owner>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Loading,
    Following,
    Closed,
}

impl KafkaSessions {
    /// Begins to follow the topic.
    ///
    /// # Errors
    /// No consumer or thread can be set up.
    pub(super) fn start(options: &Options, topics: &Topics, appender: &Arc<Appender>, failure: &Arc<Failure>) -> Result<Self, QueueError> {
        let shared = Arc::new(Shared {
            appender: Arc::clone(appender),
            topics: topics.clone(),
            partitions: options.partitions,
            process: ProcessId(fastrand::u32(..)),
            openings: AtomicU32::new(0),
            table: Mutex::default(),
            phase: watch::Sender::new(Phase::Loading),
            waiting: Mutex::default(),
            owners: Mutex::default(),
        });
        follower::start(options, &shared, failure)?;
        Ok(Self(shared))
    }

    /// Says that this process has no sessions any more. Another one closes those that it leaves open.
    pub(super) fn close(&self) {
        drop(self.0.put(Key::Process(self.0.process), Some(&Value::Process { is_alive: false })));
        self.0.phase.send_replace(Phase::Closed);
    }
}

impl Sessions for KafkaSessions {
    /// A task of its own opens it: a caller that stops waiting leaves a session that is closed as any other.
    fn open(&self, request: OpenSession<'_>) -> BoxFuture<'static, Result<OpenedSession, AppendError>> {
        let (shared, session) = (Arc::clone(&self.0), SessionId::of(request.key));
        let (clean_start, expiry, max_sessions) = (request.clean_start, Seconds::of(request.expiry), request.max_sessions);
        async move {
            let opening = tokio::spawn(async move { shared.open(session, clean_start, expiry, max_sessions).await });
            opening.await.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(AppendError::Closed),
            })
        }
        .boxed()
    }
}

impl Shared {
    async fn open(
        self: &Arc<Self>,
        session: SessionId,
        clean_start: bool,
        expiry: Seconds,
        max_sessions: usize,
    ) -> Result<OpenedSession, AppendError> {
        let phase = self.phase.subscribe().wait_for(|phase| *phase != Phase::Loading).await.map_or(Phase::Closed, |phase| *phase);
        if phase == Phase::Closed {
            return Err(AppendError::Closed);
        }
        let (is_known, count) = self.look_up(session);
        let expiry = if is_known || count < max_sessions { expiry } else { Seconds(0) };
        if !is_known && expiry == Seconds(0) {
            return Ok(OpenedSession::unkept());
        }
        let owned = self.claim(session, expiry).await;
        let opened = self.append_opening(&owned.owner, Value::Opening { clean_start, expiry }).await?;
        owned.owner.opened(&opened);
        if opened.is_kept {
            // It says all that the previous owner's records said, which aren't needed any more.
            owned.owner.put_state(self);
        }
        let ended = opened.previous.into_iter().chain((!opened.is_kept).then_some(owned.owner.id));
        ended.for_each(|owner| drop(self.put(Key::Owner(session, owner), None)));
        if !opened.is_kept {
            owned.owner.ends_without_a_record();
            return Ok(OpenedSession::unkept());
        }
        Ok(OpenedSession { session: Some(Arc::new(owned) as Arc<dyn Session>), is_present: opened.is_present, held: opened.held })
    }

    /// Whether the session exists or is being opened, and how many sessions there are.
    fn look_up(&self, session: SessionId) -> (bool, usize) {
        let is_owned = lock(&self.owners).contains_key(&session);
        let table = lock(&self.table);
        (is_owned || table.has(session), table.len())
    }

    /// Makes a new owner, and waits until what the one before it in this process has appended is stored.
    async fn claim(self: &Arc<Self>, session: SessionId, expiry: Seconds) -> Owned {
        let id = OwnerId::new(self.process, self.openings.fetch_add(1, Ordering::Relaxed));
        let owner = Arc::new(Owner::new(session, id, expiry));
        let previous = lock(&self.owners).insert(session, Arc::clone(&owner));
        let owned = Owned { shared: Arc::clone(self), owner };
        if let Some(previous) = previous {
            previous.take_over();
            previous.settled().await;
        }
        owned
    }

    /// Appends an owner's opening, and waits until it is read.
    async fn append_opening(&self, owner: &Arc<Owner>, opening: Value) -> Result<Opened, AppendError> {
        let (put, opened) = {
            let owners = lock(&self.owners);
            if !is_current(&owners, owner) {
                return Err(AppendError::SessionTakenOver);
            }
            let (sender, opened) = oneshot::channel();
            lock(&self.waiting).insert(owner.id, sender);
            (self.put(owner.key(), Some(&opening)), opened)
        };
        if let Err(error) = put.offset().await {
            lock(&self.waiting).remove(&owner.id);
            return Err(error);
        }
        opened.await.map_err(|_| AppendError::Closed)
    }

    /// An opening was read: its owner goes on, and an older one of this process ends.
    fn opened(&self, session: SessionId, id: OwnerId, opened: Opened) {
        let mut owners = lock(&self.owners);
        if let Some(owner) = owners.get(&session) {
            if owner.id == id {
                owner.opened(&opened);
            } else if owner.is_opened() {
                // One that isn't comes behind this one in the topic.
                owner.fence();
                owners.remove(&session);
            }
        }
        drop(owners);
        if let Some(waiting) = lock(&self.waiting).remove(&id) {
            drop(waiting.send(opened));
        }
    }

    /// Appends a record; without a value, the key's records mean nothing any more.
    fn put(&self, key: Key, value: Option<&Value>) -> Put {
        let value = value.map(Value::encode);
        self.appender.put(&self.topics.sessions, key.partition(self.partitions), &key.encode(), value.as_deref())
    }
}

fn is_current(owners: &HashMap<SessionId, Arc<Owner>>, owner: &Arc<Owner>) -> bool {
    owners.get(&owner.session).is_some_and(|current| Arc::ptr_eq(current, owner))
}

impl fmt::Debug for KafkaSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSessions").field("sessions", &lock(&self.0.table).len()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
