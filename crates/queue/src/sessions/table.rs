//! The sessions of a log, as its durable records made them: whatever reads the same records has the same sessions.
//!
//! The table has 256 shards, by the first byte of a session's id, each under its own lock. A shard knows the offset up to which it has taken the log's records. So the table is
//! saved shard by shard while records go on, and a start applies to each shard only the records that it hasn't taken.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use pushline_model::{Offset, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    HeldId, PacketIds, SessionId,
    change::{Change, Opening, Seconds},
};
use crate::{Frame, Kind, QueueError, Record};

/// The sessions.
#[derive(Debug)]
pub(crate) struct SessionTable {
    shards: Box<[Mutex<Shard>]>,
    /// Every record below it is applied.
    applied: AtomicU64,
    count: AtomicUsize,
    appended: Mutex<Appended>,
}

/// Changes that this process has appended and that aren't applied yet.
#[derive(Debug, Default)]
struct Appended {
    openings: HashMap<u64, oneshot::Sender<Outcome>>,
    changes: HashMap<SessionId, usize>,
}

/// What became of an opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Whether the session is kept.
    pub(super) is_kept: bool,
    pub(super) is_present: bool,
    pub(super) held: PacketIds,
}

/// Some of the sessions.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Shard {
    sessions: HashMap<SessionId, Kept>,
    /// The offset after the last record that it has taken.
    next: Offset,
}

/// A session. There may be ten million, so it holds nothing that its records can name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    /// `None`: no packet ids.
    held: Option<Box<PacketIds>>,
    /// When its connection ended, by the log's time; [`CONNECTED`] while it hasn't.
    closed_at: Timestamp,
    expiry: Seconds,
}

const CONNECTED: Timestamp = Timestamp(u64::MAX);
const SHARDS: usize = 256;

/// A shard as it is saved.
#[derive(Debug, Serialize, Deserialize)]
struct SavedShard {
    next: Offset,
    sessions: Vec<SavedSession>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSession {
    id: SessionId,
    closed_at: Timestamp,
    expiry: Seconds,
    held: Vec<u16>,
}

// === impl SessionTable ===

impl Default for SessionTable {
    fn default() -> Self {
        Self::of(std::iter::repeat_with(Shard::default).take(SHARDS).collect())
    }
}

impl SessionTable {
    fn of(shards: Vec<Shard>) -> Self {
        let count = shards.iter().map(|shard| shard.sessions.len()).sum();
        let applied = shards.iter().map(|shard| shard.next).min().unwrap_or(0);
        let shards = shards.into_iter().map(Mutex::new).collect();
        Self { shards, applied: AtomicU64::new(applied), count: AtomicUsize::new(count), appended: Mutex::default() }
    }

    /// How many sessions there are, with those that have expired and weren't removed.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there are fewer sessions than this, with those that aren't durable yet.
    pub(super) fn has_fewer_than(&self, max: usize) -> bool {
        let appended = lock(&self.appended);
        let count = self.len();
        // Only near the limit it matters which of the changes make a session.
        let is_new = |id: &&SessionId| !self.shard(**id).sessions.contains_key(*id);
        count + appended.changes.len() < max || count + appended.changes.keys().filter(is_new).count() < max
    }

    /// Whether a session exists, or one of its changes isn't durable yet.
    pub(super) fn knows(&self, id: SessionId) -> bool {
        let is_changing = lock(&self.appended).changes.contains_key(&id);
        is_changing || self.shard(id).sessions.contains_key(&id)
    }

    /// Notes a change that is about to be appended.
    pub(super) fn appending(&self, change: &Change) -> Option<oneshot::Receiver<Outcome>> {
        let mut appended = lock(&self.appended);
        *appended.changes.entry(change.session()).or_default() += 1;
        let Change::Opened(Opening { number, .. }) = change else { return None };
        let (sender, receiver) = oneshot::channel();
        appended.openings.insert(*number, sender);
        Some(receiver)
    }

    /// Applies the records of a durable frame. Frames come in the order of the log.
    ///
    /// # Errors
    /// A record can't be read: another version wrote it.
    pub(crate) fn apply(&self, frame: &Frame) -> Result<(), QueueError> {
        if frame.changes_sessions() {
            for (offset, record) in frame.records(frame.base()).filter(|(_, record)| record.kind.changes_session()) {
                self.apply_record(offset, &record).ok_or(QueueError::Unreadable { offset })?;
            }
        }
        self.applied.store(frame.end(), Ordering::Release);
        Ok(())
    }

    fn apply_record(&self, offset: Offset, record: &Record<'_>) -> Option<()> {
        match record.kind {
            Kind::Packet { held: Some(held), .. } => self.take(offset, held.session, |shard| shard.hold(held)),
            Kind::Release(held) => self.take(offset, held.session, |shard| shard.release(held)),
            _ => {
                let change = Change::decode(record.payload)?;
                let outcome = self.take(offset, change.session(), |shard| shard.change(change, record.at));
                self.applied_change(&change, outcome.flatten());
                Some(())
            }
        };
        Some(())
    }

    /// `None`: the shard has taken the record before.
    fn take<T>(&self, offset: Offset, id: SessionId, change: impl FnOnce(&mut Shard) -> T) -> Option<T> {
        let mut shard = self.shard(id);
        if offset < shard.next {
            return None;
        }
        shard.next = offset + 1;
        let before = shard.sessions.len();
        let result = change(&mut shard);
        self.counted(before, shard.sessions.len());
        Some(result)
    }

    fn counted(&self, before: usize, after: usize) {
        // Wraps around where there are fewer.
        self.count.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Tells the task that appended the change. After a start there is none.
    fn applied_change(&self, change: &Change, outcome: Option<Outcome>) {
        let mut appended = lock(&self.appended);
        if let Some(count) = appended.changes.get_mut(&change.session()) {
            *count -= 1;
            if *count == 0 {
                appended.changes.remove(&change.session());
            }
        }
        if let Change::Opened(Opening { number, .. }) = change
            && let (Some(waiting), Some(outcome)) = (appended.openings.remove(number), outcome)
        {
            drop(waiting.send(outcome));
        }
    }

    /// Closes every session that is open: the process that had its connection is gone.
    pub(crate) fn close_all(&self, now: Timestamp) {
        for shard in &self.shards {
            lock(shard).sessions.values_mut().filter(|kept| kept.closed_at == CONNECTED).for_each(|kept| kept.closed_at = now);
        }
    }

    /// Forgets the sessions that have expired.
    pub(super) fn remove_expired(&self, now: Timestamp) {
        for shard in &self.shards {
            self.remove_expired_of(&mut lock(shard), now);
        }
    }

    fn remove_expired_of(&self, shard: &mut Shard, now: Timestamp) {
        let before = shard.sessions.len();
        shard.sessions.retain(|_, kept| !kept.has_expired(now));
        self.counted(before, shard.sessions.len());
    }

    /// Saves the sessions that haven't expired, and forgets the others. Returns the bytes, and the offset that they cover: a start needs the records from there on.
    pub(crate) fn save(&self, now: Timestamp) -> (Vec<u8>, Offset) {
        let (mut bytes, mut covered) = (Vec::new(), Offset::MAX);
        for shard in &self.shards {
            let mut shard = lock(shard);
            self.remove_expired_of(&mut shard, now);
            // Every record of this shard below it was taken.
            let next = shard.next.max(self.applied.load(Ordering::Acquire));
            covered = covered.min(next);
            let saved = shard.saved(next);
            drop(shard);
            bytes = postcard::to_extend(&saved, bytes).expect("a shard is plain data, and a Vec takes all of it");
        }
        (bytes, covered)
    }

    /// What was saved. `None`: it can't be read.
    pub(crate) fn load(mut bytes: &[u8]) -> Option<Self> {
        let mut shards = Vec::with_capacity(SHARDS);
        for _ in 0..SHARDS {
            let (shard, rest) = postcard::take_from_bytes::<SavedShard>(bytes).ok()?;
            shards.push(Shard::load(shard));
            bytes = rest;
        }
        Some(Self::of(shards))
    }

    /// A start needs the records from here on.
    pub(crate) fn applied(&self) -> Offset {
        self.applied.load(Ordering::Acquire)
    }

    /// No record at or above it was applied.
    pub(crate) fn end(&self) -> Offset {
        self.shards.iter().map(|shard| lock(shard).next).max().unwrap_or(0)
    }

    fn shard(&self, id: SessionId) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(id.0[0])])
    }
}

// === impl Shard ===

impl Shard {
    fn change(&mut self, change: Change, at: Timestamp) -> Option<Outcome> {
        match change {
            Change::Opened(opening) => return Some(self.open(opening, at)),
            Change::Closed { session, expiry } => {
                if let Some(kept) = self.sessions.get_mut(&session) {
                    (kept.closed_at, kept.expiry) = (at, expiry);
                }
            }
            Change::Discarded { session } => drop(self.sessions.remove(&session)),
        }
        None
    }

    fn open(&mut self, Opening { session, clean_start, expiry, .. }: Opening, at: Timestamp) -> Outcome {
        if self.sessions.get(&session).is_some_and(|kept| clean_start || kept.has_expired(at)) {
            self.sessions.remove(&session);
        }
        if let Some(kept) = self.sessions.get_mut(&session) {
            (kept.closed_at, kept.expiry) = (CONNECTED, expiry);
            return Outcome { is_kept: true, is_present: true, held: kept.held.as_deref().cloned().unwrap_or_default() };
        }
        let is_kept = expiry != Seconds(0);
        if is_kept {
            self.sessions.insert(session, Kept { held: None, closed_at: CONNECTED, expiry });
        }
        Outcome { is_kept, is_present: false, held: PacketIds::default() }
    }

    fn hold(&mut self, HeldId { session, packet_id }: HeldId) {
        if let Some(kept) = self.sessions.get_mut(&session) {
            kept.held.get_or_insert_default().insert(packet_id);
        }
    }

    fn release(&mut self, HeldId { session, packet_id }: HeldId) {
        let Some(kept) = self.sessions.get_mut(&session) else { return };
        if let Some(held) = &mut kept.held {
            held.remove(packet_id);
            kept.held.take_if(|held| held.is_empty());
        }
    }

    fn saved(&self, next: Offset) -> SavedShard {
        let saved = |(id, kept): (&SessionId, &Kept)| SavedSession {
            id: *id,
            closed_at: kept.closed_at,
            expiry: kept.expiry,
            held: kept.held.iter().flat_map(|held| held.iter()).collect(),
        };
        SavedShard { next, sessions: self.sessions.iter().map(saved).collect() }
    }

    fn load(SavedShard { next, sessions }: SavedShard) -> Self {
        let kept = |SavedSession { id, closed_at, expiry, held }| {
            let held = (!held.is_empty()).then(|| Box::new(held.into_iter().collect()));
            (id, Kept { held, closed_at, expiry })
        };
        Self { sessions: sessions.into_iter().map(kept).collect(), next }
    }
}

impl Kept {
    fn has_expired(&self, now: Timestamp) -> bool {
        self.closed_at != CONNECTED && self.expiry.duration().is_some_and(|expiry| self.closed_at.plus(expiry) <= now)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pushline_model::Packet;

    use super::*;
    use crate::FrameBuilder;

    /// A record, of one of a few sessions.
    fn record() -> impl Strategy<Value = (u8, u8, u16, u64)> {
        (0..4_u8, 0..7_u8, 1..4_u16, 0..5_u64)
    }

    /// A frame with one record.
    fn frame(offset: Offset, (session, kind, packet_id, at): (u8, u8, u16, u64)) -> Frame {
        // Two sessions share a shard.
        let mut id = [session; 16];
        id[0] = session % 2;
        let session = SessionId(id);
        let (held, at) = (HeldId { session, packet_id }, Timestamp(at * 10_000_000));
        let packet = Packet { iccid: "1".parse().unwrap(), topic: "o/1", received_at: at, payload: b"" };
        let opening = |clean_start| Change::Opened(Opening { session, clean_start, expiry: Seconds(u32::from(packet_id) - 1), number: 0 });
        let payload = match kind {
            0 => opening(false),
            1 => opening(true),
            2 => Change::Closed { session, expiry: Seconds(u32::from(packet_id)) },
            _ => Change::Discarded { session },
        }
        .encode();
        let record = match kind {
            0..4 => Record { group: "", at, kind: Kind::Session, payload: &payload },
            4 | 5 => Record::held_packet("o/g", &packet, Some(held)),
            _ => Record::release(at, held),
        };
        let mut builder = FrameBuilder::default();
        builder.push(&record);
        builder.seal(offset, offset, Timestamp(7))
    }

    fn sessions(table: &SessionTable) -> Vec<HashMap<SessionId, Kept>> {
        table.shards.iter().map(|shard| lock(shard).sessions.clone()).collect()
    }

    proptest! {
        /// A save may begin anywhere, and a start has the records from what it covers on, or more.
        #[test]
        fn a_save_and_the_records_behind_it_make_the_same_sessions(
            records in prop::collection::vec(record(), 1..60),
            at in any::<prop::sample::Index>(),
        ) {
            let frames: Vec<Frame> = (0..).zip(&records).map(|(offset, record)| frame(offset, *record)).collect();
            let (table, at) = (SessionTable::default(), at.index(frames.len()));
            let mut saved = None;
            for (place, frame) in frames.iter().enumerate() {
                if place == at {
                    saved = Some(table.save(Timestamp(0)));
                }
                table.apply(frame).unwrap();
            }
            let (bytes, covered) = saved.expect("it was saved on the way");
            for from in [0, covered] {
                let loaded = SessionTable::load(&bytes).unwrap();
                prop_assert_eq!(loaded.applied(), covered);
                frames[usize::try_from(from).unwrap()..].iter().for_each(|frame| loaded.apply(frame).unwrap());
                prop_assert_eq!(sessions(&loaded), sessions(&table));
                let count: usize = sessions(&loaded).iter().map(HashMap::len).sum();
                prop_assert_eq!((loaded.len(), table.len()), (count, count));
            }
        }
    }

    #[test]
    fn a_session_takes_forty_bytes() {
        assert_eq!(size_of::<(SessionId, Kept)>(), 40);
    }

    #[test]
    fn an_expired_session_is_left_out_of_a_save() {
        let table = SessionTable::default();
        table.apply(&frame(0, (0, 0, 2, 0))).unwrap();
        table.apply(&frame(1, (0, 2, 2, 1))).unwrap();
        let second = |count: u64| Timestamp(count * 10_000_000);
        let kept_at = |time| SessionTable::load(&table.save(time).0).unwrap().len();
        assert_eq!((kept_at(second(2)), kept_at(second(3)), table.len()), (1, 0, 0));
    }

    #[test]
    fn a_change_of_a_later_version_is_reported() {
        let mut builder = FrameBuilder::default();
        builder.push(&Record { group: "", at: Timestamp(7), kind: Kind::Session, payload: &[99] });
        let unreadable = SessionTable::default().apply(&builder.seal(5, 5, Timestamp(7)));
        assert!(matches!(unreadable, Err(QueueError::Unreadable { offset: 5 })), "{unreadable:?}");
        assert!(SessionTable::load(&[0; 3]).is_none());
    }
}
