//! A connection's hold on a session. A batch is appended to the packets topic first; when it is durable, the owner's next record says which packet ids the
//! session holds since then. So a crash in between stores the packet and not its id, and the client's PUBLISH is stored once more.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::Offset;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use super::{
    Shared, is_current, lock,
    record::{Key, OwnerId, State, Value},
    table::Opened,
};
use crate::{AppendError, Appended, Kind, PacketIds, Record, Session, SessionId, sessions::Seconds};

/// An owner of a session.
pub(super) struct Owner {
    pub(super) session: SessionId,
    pub(super) id: OwnerId,
    state: Mutex<OwnerState>,
    taken_over: watch::Sender<bool>,
}

struct OwnerState {
    /// `None`: its opening wasn't read yet.
    epoch: Option<Offset>,
    stage: Stage,
    held: PacketIds,
    expiry: Seconds,
    /// The last batch with packet ids. It comes to its end when the owner's record for it was appended.
    last_batch: Option<oneshot::Receiver<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It takes batches.
    Connected,
    /// A newer owner in this process waits for the batches that it has taken.
    Leaving,
    /// Its records don't count any more, or the session is over.
    Over,
}

/// A change of the ids that a session holds.
#[derive(Debug, Clone, Copy)]
enum IdChange {
    Hold(u16),
    Release(u16),
}

/// The handle of a connection. Dropping it closes the session.
pub(super) struct Owned {
    pub(super) shared: Arc<Shared>,
    pub(super) owner: Arc<Owner>,
}

// === impl Owner ===

impl Owner {
    pub(super) fn new(session: SessionId, id: OwnerId, expiry: Seconds) -> Self {
        let state = OwnerState { epoch: None, stage: Stage::Connected, held: PacketIds::default(), expiry, last_batch: None };
        Self { session, id, state: Mutex::new(state), taken_over: watch::Sender::new(false) }
    }

    pub(super) fn key(&self) -> Key {
        Key::Owner(self.session, self.id)
    }

    /// Its opening was read, by the follower and by the task that opens the session, whichever comes first.
    pub(super) fn opened(&self, opened: &Opened) {
        let mut state = lock(&self.state);
        if state.epoch.is_none() {
            (state.epoch, state.held) = (Some(opened.epoch), opened.held.clone());
        }
    }

    pub(super) fn is_opened(&self) -> bool {
        lock(&self.state).epoch.is_some()
    }

    /// Another owner in this process takes over: no more batches are taken.
    pub(super) fn take_over(&self) {
        let mut state = lock(&self.state);
        if state.stage == Stage::Connected {
            state.stage = Stage::Leaving;
        }
        drop(state);
        self.taken_over.send_replace(true);
    }

    /// Another process has opened the session.
    pub(super) fn fence(&self) {
        lock(&self.state).stage = Stage::Over;
        self.taken_over.send_replace(true);
    }

    /// Nothing is kept of the session, so there is nothing to close.
    pub(super) fn ends_without_a_record(&self) {
        lock(&self.state).stage = Stage::Over;
    }

    /// Whether the session is closed, and no task waits to hear that another owner has opened it.
    pub(super) fn is_forgotten(&self) -> bool {
        lock(&self.state).stage == Stage::Over && self.taken_over.receiver_count() == 0
    }

    /// Waits for the batches that it has taken.
    pub(super) async fn settled(&self) {
        let last_batch = lock(&self.state).last_batch.take();
        if let Some(last_batch) = last_batch {
            drop(last_batch.await);
        }
    }

    /// Appends a record with all that is kept of the session.
    pub(super) fn put_state(&self, shared: &Shared) {
        let state = lock(&self.state);
        drop(self.put(shared, &state, true));
    }

    /// `None`: its records don't count.
    fn put(&self, shared: &Shared, state: &OwnerState, is_connected: bool) -> Option<super::Put> {
        let epoch = state.epoch.filter(|_| state.stage != Stage::Over)?;
        let value = State { epoch, is_connected, expiry: state.expiry, held: state.held.iter().collect() };
        Some(shared.put(self.key(), Some(&Value::State(value))))
    }

    /// Changes the held ids once the batch is durable, and those before it have changed theirs. `done` ends when the record was appended.
    async fn store(
        &self,
        shared: &Shared,
        appended: Appended,
        changes: Vec<IdChange>,
        previous: Option<oneshot::Receiver<()>>,
        done: oneshot::Sender<()>,
    ) -> Result<(), AppendError> {
        appended.await?;
        if let Some(previous) = previous {
            drop(previous.await);
        }
        let put = {
            let mut state = lock(&self.state);
            for change in changes {
                match change {
                    IdChange::Hold(id) => drop(state.held.insert(id)),
                    IdChange::Release(id) => drop(state.held.remove(id)),
                }
            }
            self.put(shared, &state, true)
        };
        drop(done);
        put.ok_or(AppendError::SessionTakenOver)?.offset().await.map(drop)
    }

    /// Appends its last record: the expiry runs from now on, or the session is over.
    fn close(&self, shared: &Shared) {
        let mut state = lock(&self.state);
        if state.expiry != Seconds(0) {
            drop(self.put(shared, &state, false));
        } else if state.epoch.is_some() && state.stage != Stage::Over {
            drop(shared.put(self.key(), None));
        }
        state.stage = Stage::Over;
    }
}

// === impl Owned ===

impl Session for Owned {
    fn id(&self) -> SessionId {
        self.owner.session
    }

    fn append(&self, batch: &[Record<'_>]) -> Appended {
        let mut state = lock(&self.owner.state);
        if state.stage != Stage::Connected {
            return Appended::ready(Err(AppendError::SessionTakenOver));
        }
        let packets: Vec<Record<'_>> = batch.iter().filter(|record| !record.kind.is_bookkeeping()).copied().collect();
        let appended = self.shared.appender.append(&self.shared.topics.packets, &packets);
        let changes: Vec<IdChange> = batch.iter().filter_map(IdChange::of).collect();
        if changes.is_empty() {
            return appended;
        }
        let (resolver, result) = Appended::pending();
        let (done, last_batch) = oneshot::channel();
        let previous = state.last_batch.replace(last_batch);
        drop(state);
        let (shared, owner) = (Arc::clone(&self.shared), Arc::clone(&self.owner));
        tokio::spawn(async move { resolver.resolve(owner.store(&shared, appended, changes, previous, done).await) });
        result
    }

    fn set_expiry(&self, expiry: Duration) {
        lock(&self.owner.state).expiry = Seconds::of(expiry);
    }

    fn taken_over(&self) -> BoxFuture<'static, ()> {
        let (owner, mut taken_over) = (Arc::clone(&self.owner), self.owner.taken_over.subscribe());
        async move {
            drop(taken_over.wait_for(|taken_over| *taken_over).await);
            drop(owner);
        }
        .boxed()
    }
}

impl Drop for Owned {
    /// The session is closed behind the last batch. Until then it has its owner, so that a newer one waits for it.
    fn drop(&mut self) {
        let (shared, owner) = (Arc::clone(&self.shared), Arc::clone(&self.owner));
        let waits = lock(&owner.state)
            .last_batch
            .as_mut()
            .is_some_and(|last_batch| last_batch.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        let close = move || {
            let mut owners = lock(&shared.owners);
            if is_current(&owners, &owner) {
                owner.close(&shared);
                // A will may wait, and be withdrawn when another process opens the session.
                if owner.is_forgotten() {
                    owners.remove(&owner.session);
                }
            }
        };
        match Handle::try_current() {
            Ok(runtime) if waits => {
                let owner = Arc::clone(&self.owner);
                runtime.spawn(async move {
                    owner.settled().await;
                    close();
                });
            }
            _ => close(),
        }
    }
}

impl IdChange {
    fn of(record: &Record<'_>) -> Option<Self> {
        match record.kind {
            Kind::Packet { held, .. } => held.map(|held| Self::Hold(held.packet_id)),
            Kind::Release(held) => Some(Self::Release(held.packet_id)),
            _ => None,
        }
    }
}
