//! The sessions, as the records of the topic made them: every process that has read the same records has the same sessions. Pure.
//!
//! The records of a session lie in one partition, in which an opening's offset is its owner's epoch. The owner with the highest epoch is the current one, and
//! records of other owners don't count.

use std::{collections::HashMap, time::Duration};

use pushline_model::{Offset, Timestamp};

use super::record::{Key, OwnerId, ProcessId, State, Value};
use crate::sessions::{PacketIds, Seconds, SessionId};

/// A process that hasn't said for this long that it is alive is gone.
pub(super) const SILENCE: Duration = Duration::from_mins(1);

/// The sessions, and the processes that have them.
#[derive(Debug, Default)]
pub(super) struct Table {
    sessions: HashMap<SessionId, Kept>,
    processes: HashMap<ProcessId, Process>,
}

/// A session. There may be ten million of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    epoch: Offset,
    owner: OwnerId,
    /// `None`: no packet ids.
    held: Option<Box<PacketIds>>,
    /// When its connection ended, by Kafka's clock; [`CONNECTED`] while it hasn't.
    closed_at: Timestamp,
    expiry: Seconds,
}

const CONNECTED: Timestamp = Timestamp(u64::MAX);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    is_alive: bool,
    /// When it last said so.
    heard: Timestamp,
}

/// A record that was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) offset: Offset,
    /// When Kafka stored it.
    pub(super) at: Timestamp,
    pub(super) key: Key,
    /// `None`: it has no value.
    pub(super) value: Option<Value>,
    /// Whether every record of the partition up to it was read, none of them compacted away.
    pub(super) is_live: bool,
}

/// What a record has changed, for the process that reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    Opened(SessionId, OwnerId, Opened),
    /// The record is of an owner that another one has replaced: without it, a later reader could take it for the current one's.
    Stale(Key),
}

/// What an opening found and made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) epoch: Offset,
    pub(super) is_kept: bool,
    pub(super) is_present: bool,
    pub(super) held: PacketIds,
    /// Whose records mean nothing any more.
    pub(super) previous: Option<OwnerId>,
}

/// A session that needs a record, since no owner will write it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It has expired.
    Expired(SessionId, OwnerId),
    /// The process that had its connection is gone: from now on the expiry runs.
    Abandoned(SessionId, OwnerId, State),
    /// No session is the process's any more.
    Process(ProcessId),
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn has(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Takes a record. Those of a partition come in its order.
    pub(super) fn take(&mut self, Read { offset, at, key, value, is_live }: Read) -> Change {
        match (key, value) {
            (Key::Owner(session, owner), Some(Value::Opening { clean_start, expiry })) => {
                let previous = self.sessions.remove(&session);
                let opened = self.open(session, owner, previous, (clean_start, expiry), (offset, at));
                Change::Opened(session, owner, opened)
            }
            (Key::Owner(session, owner), Some(Value::State(state))) => self.state(session, owner, &state, at, is_live),
            (Key::Owner(session, owner), _) => {
                if self.sessions.get(&session).is_some_and(|kept| kept.owner == owner) {
                    self.sessions.remove(&session);
                }
                Change::Nothing
            }
            (Key::Process(process), Some(Value::Process { is_alive })) => {
                self.processes.insert(process, Process { is_alive, heard: at });
                Change::Nothing
            }
            (Key::Process(process), _) => {
                self.processes.remove(&process);
                Change::Nothing
            }
        }
    }

    fn open(
        &mut self,
        session: SessionId,
        owner: OwnerId,
        found: Option<Kept>,
        (clean_start, expiry): (bool, Seconds),
        (epoch, at): (Offset, Timestamp),
    ) -> Opened {
        let previous = found.as_ref().map(|kept| kept.owner);
        let present = found.filter(|kept| !clean_start && !kept.has_expired(at));
        let (is_present, is_kept) = (present.is_some(), present.is_some() || expiry != Seconds(0));
        let held = present.and_then(|kept| kept.held);
        let opened = Opened { epoch, is_kept, is_present, held: held.as_deref().cloned().unwrap_or_default(), previous };
        if is_kept {
            self.sessions.insert(session, Kept { epoch, owner, held, closed_at: CONNECTED, expiry });
        }
        opened
    }

    /// Where records may have been compacted away, the opening may be one of them.
    fn state(&mut self, session: SessionId, owner: OwnerId, state: &State, at: Timestamp, is_live: bool) -> Change {
        let current = self.sessions.get(&session);
        let is_current = current.is_some_and(|kept| kept.owner == owner);
        let is_first_seen = !is_live && current.is_none_or(|kept| kept.epoch < state.epoch);
        if !is_current && !is_first_seen {
            return Change::Stale(Key::Owner(session, owner));
        }
        let held = (!state.held.is_empty()).then(|| Box::new(state.held()));
        let closed_at = if state.is_connected { CONNECTED } else { at };
        self.sessions.insert(session, Kept { epoch: state.epoch, owner, held, closed_at, expiry: state.expiry });
        Change::Nothing
    }

    /// When a process last said that it is alive.
    pub(super) fn last_heard(&self, process: ProcessId) -> Option<Timestamp> {
        self.processes.get(&process).filter(|state| state.is_alive).map(|state| state.heard)
    }

    /// Whether a process is the one that looks after sessions without an owner: the one with the lowest number.
    pub(super) fn looks_after_others(&self, process: ProcessId, now: Timestamp) -> bool {
        self.processes.iter().filter(|(_, state)| state.is_alive(now)).map(|(id, _)| *id).min() == Some(process)
    }

    /// Lists the sessions and processes that need a record, at most this many. `is_steady`: whether a process that is silent is gone; otherwise Kafka may have been
    /// away for all of them, and only those that said so are gone.
    pub(super) fn overdue(&self, now: Timestamp, is_steady: bool, limit: usize) -> Vec<Overdue> {
        let is_gone = |state: &Process| if is_steady { !state.is_alive(now) } else { !state.is_alive };
        let gone: Vec<ProcessId> = self.processes.iter().filter(|(_, state)| is_gone(state)).map(|(id, _)| *id).collect();
        let mut overdue: Vec<Overdue> = self
            .sessions
            .iter()
            .filter_map(|(id, kept)| match kept.closed_at {
                CONNECTED if gone.contains(&kept.owner.process()) => Some(Overdue::Abandoned(*id, kept.owner, kept.closed())),
                _ => kept.has_expired(now).then_some(Overdue::Expired(*id, kept.owner)),
            })
            .take(limit)
            .collect();
        if overdue.is_empty() {
            overdue.extend(gone.into_iter().map(Overdue::Process));
        }
        overdue
    }
}

impl Process {
    fn is_alive(self, now: Timestamp) -> bool {
        self.is_alive && self.heard.plus(SILENCE) > now
    }
}

impl Kept {
    fn has_expired(&self, now: Timestamp) -> bool {
        self.closed_at != CONNECTED && self.expiry.duration().is_some_and(|expiry| self.closed_at.plus(expiry) <= now)
    }

    fn closed(&self) -> State {
        let held = self.held.iter().flat_map(|held| held.iter()).collect();
        State { epoch: self.epoch, is_connected: false, expiry: self.expiry, held }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SESSION: SessionId = SessionId([7; 16]);

    /// A partition with one session, the table of a process that reads it live, and what owners know.
    #[derive(Default)]
    struct World {
        log: Vec<(Key, Option<Value>)>,
        table: Table,
        owners: Vec<(OwnerId, Offset, PacketIds)>,
    }

    fn at(offset: Offset) -> Timestamp {
        Timestamp(0).plus(Duration::from_secs(offset))
    }

    fn read(offset: usize, (key, value): (Key, Option<Value>), is_live: bool) -> Read {
        let offset = offset as Offset;
        Read { offset, at: at(offset), key, value, is_live }
    }

    impl World {
        /// Appends a record, and what a process that reads it live appends for it.
        fn append(&mut self, key: Key, value: Option<Value>) -> Change {
            self.log.push((key, value.clone()));
            let change = self.table.take(read(self.log.len() - 1, (key, value), true));
            if let Change::Stale(key) = change {
                assert_eq!(self.append(key, None), Change::Nothing);
            }
            change
        }

        fn open(&mut self, clean_start: bool, expiry: u32) -> Opened {
            let owner = OwnerId::new(ProcessId(1), u32::try_from(self.owners.len()).unwrap());
            let key = Key::Owner(SESSION, owner);
            let Change::Opened(_, _, opened) = self.append(key, Some(Value::Opening { clean_start, expiry: Seconds(expiry) })) else {
                panic!("it is an opening")
            };
            self.owners.push((owner, opened.epoch, opened.held.clone()));
            let is_kept = opened.is_kept;
            if is_kept {
                self.state(self.owners.len() - 1, true, expiry);
            }
            for end in opened.previous.into_iter().chain((!is_kept).then_some(owner)) {
                self.append(Key::Owner(SESSION, end), None);
            }
            opened
        }

        fn state(&mut self, owner: usize, is_connected: bool, expiry: u32) -> Change {
            let (owner, epoch, held) = self.owners[owner].clone();
            let state = State { epoch, is_connected, expiry: Seconds(expiry), held: held.iter().collect() };
            self.append(Key::Owner(SESSION, owner), Some(Value::State(state)))
        }

        /// The table of a process that starts now and finds only the last record of each key below `compacted`.
        fn loaded(&self, compacted: usize) -> Table {
            let mut table = Table::default();
            for (offset, record) in self.log.iter().enumerate() {
                if offset >= compacted || !self.log[offset + 1..compacted].iter().any(|(key, _)| *key == record.0) {
                    table.take(read(offset, record.clone(), false));
                }
            }
            table
        }
    }

    #[test]
    fn a_session_takes_as_much_memory_as_documented() {
        assert_eq!(size_of::<(SessionId, Kept)>(), 56);
    }

    #[test]
    fn a_newer_owner_has_what_the_older_one_held_and_an_older_ones_records_do_not_count() {
        let mut world = World::default();
        assert!(!world.open(false, 300).is_present);
        world.owners[0].2.insert(7);
        assert_eq!(world.state(0, true, 300), Change::Nothing);
        let second = world.open(false, 300);
        assert_eq!((second.is_present, second.held.iter().collect::<Vec<_>>()), (true, vec![7]));
        world.owners[0].2.insert(8);
        assert!(matches!(world.state(0, true, 300), Change::Stale(_)), "its process was stopped, and doesn't know yet");
        let third = world.open(false, 300);
        assert_eq!(third.held.iter().collect::<Vec<_>>(), [7]);
        assert!(!world.open(true, 300).is_present);
    }

    #[test]
    fn an_older_owners_record_brings_no_session_back_that_has_ended() {
        let mut world = World::default();
        world.open(false, 300);
        world.open(true, 0);
        assert!(matches!(world.state(0, true, 300), Change::Stale(_)));
        assert_eq!((world.table.len(), world.loaded(world.log.len()).len()), (0, 0));
    }

    #[test]
    fn a_session_expires_after_its_connection() {
        let mut world = World::default();
        world.open(false, 10);
        world.state(0, false, 10);
        let closed_at = world.log.len() as Offset - 1;
        assert_eq!(world.table.overdue(at(closed_at + 9), true, 9), []);
        assert_eq!(world.table.overdue(at(closed_at + 10), true, 9), [Overdue::Expired(SESSION, world.owners[0].0)]);
        while (world.log.len() as Offset) < closed_at + 10 {
            world.append(Key::Process(ProcessId(1)), Some(Value::Process { is_alive: true }));
        }
        assert!(!world.open(false, 10).is_present);
    }

    #[test]
    fn the_sessions_of_a_process_that_is_gone_are_closed_by_another_one() {
        let mut world = World::default();
        let (gone, other) = (ProcessId(1), ProcessId(2));
        for process in [gone, other] {
            world.append(Key::Process(process), Some(Value::Process { is_alive: true }));
        }
        world.open(false, 10);
        assert!(world.table.looks_after_others(gone, at(9)) && !world.table.looks_after_others(other, at(9)));
        assert_eq!(world.table.overdue(at(9), true, 9), []);
        assert_eq!(world.table.overdue(at(90), false, 9), [], "Kafka may have been away for a minute");
        assert!(matches!(world.table.overdue(at(90), true, 9)[..], [Overdue::Abandoned(..)]));
        world.append(Key::Process(gone), Some(Value::Process { is_alive: false }));
        assert!(world.table.looks_after_others(other, at(9)));
        let [Overdue::Abandoned(session, owner, state)] = &world.table.overdue(at(9), true, 9)[..] else { panic!("it is abandoned") };
        world.append(Key::Owner(*session, *owner), Some(Value::State(state.clone())));
        assert_eq!(world.table.overdue(at(9), true, 9), [Overdue::Process(gone)]);
        assert_eq!(
            world.table.overdue(at(90), true, 9).first(),
            Some(&Overdue::Expired(SESSION, world.owners[0].0)),
            "and the other one is silent"
        );
        world.append(Key::Process(gone), None);
        assert_eq!(world.table.overdue(at(9), true, 9), []);
    }

    proptest! {
        /// Owners come, go, and write although another one has replaced them; records are compacted away up to any place. A process that starts then has the
        /// same sessions as those that read every record.
        #[test]
        fn whatever_was_compacted_away_the_sessions_are_the_same(
            steps in prop::collection::vec((0..6u8, any::<prop::sample::Index>(), 1..4u16, prop::sample::select(vec![0, 5, 1000])), 1..30),
            compacted in any::<prop::sample::Index>(),
        ) {
            let mut world = World::default();
            for (step, owner, id, expiry) in steps {
                if step < 2 || world.owners.is_empty() {
                    world.open(step == 0, expiry);
                    continue;
                }
                let owner = owner.index(world.owners.len());
                match step {
                    2 => drop(world.owners[owner].2.insert(id)),
                    3 => drop(world.owners[owner].2.remove(id)),
                    _ => {}
                }
                if step == 5 {
                    world.append(Key::Owner(SESSION, world.owners[owner].0), None);
                } else {
                    world.state(owner, step != 4, expiry);
                }
            }
            let loaded = world.loaded(compacted.index(world.log.len() + 1));
            prop_assert_eq!(&loaded.sessions, &world.table.sessions);
        }
    }
}
