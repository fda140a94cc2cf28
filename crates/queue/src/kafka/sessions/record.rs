//! The records of the sessions topic (docs/kafka-topics.md, Session). Pure.
//!
//! ```text
//! key of an owner's record:   session, 16 bytes | owner u64, big endian
//! key of a process's record:  process u32, big endian
//! value: version u8 | one of Opening, State, Process (postcard) | extensions, which an older reader skips
//! ```
//!
//! An owner's later record says all that its earlier ones said, so that compaction loses nothing.

use pushline_model::Offset;
use serde::{Deserialize, Serialize};

use crate::sessions::{PacketIds, Seconds, SessionId};

/// The first byte of each value.
pub(super) const VERSION: u8 = 1;

/// An opening of a session, by its process (the upper half) and the process's count of openings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct OwnerId(pub(super) u64);

/// A process, as it calls itself since its start: a random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ProcessId(pub(super) u32);

/// Whom a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Owner(SessionId, OwnerId),
    Process(ProcessId),
}

/// What a record says. A record without a value ends the session of its owner, or means nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Value {
    /// A client has connected. The record's offset is the owner's epoch.
    Opening {
        clean_start: bool,
        expiry: Seconds,
    },
    State(State),
    Process {
        is_alive: bool,
    },
}

/// All that is kept of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The offset of the owner's opening.
    pub(super) epoch: Offset,
    /// Otherwise the expiry runs since the record was written.
    pub(super) is_connected: bool,
    pub(super) expiry: Seconds,
    /// The packet ids that the session holds.
    pub(super) held: Vec<u16>,
}

/// Why a value can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Another version of Pushline wrote it.
    Version(u8),
    /// Another program wrote it.
    Foreign,
}

impl OwnerId {
    pub(super) fn new(ProcessId(process): ProcessId, number: u32) -> Self {
        Self(u64::from(process) << 32 | u64::from(number))
    }

    pub(super) fn process(self) -> ProcessId {
        ProcessId(u32::try_from(self.0 >> 32).expect("32 bits remain"))
    }
}

impl Key {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Owner(session, owner) => [&session.0[..], &owner.0.to_be_bytes()].concat(),
            Self::Process(process) => process.0.to_be_bytes().to_vec(),
        }
    }

    /// `None`: another program wrote it.
    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        match key.len() {
            24 => {
                let (session, owner) = key.split_first_chunk()?;
                Some(Self::Owner(SessionId(*session), OwnerId(u64::from_be_bytes(owner.try_into().ok()?))))
            }
            4 => Some(Self::Process(ProcessId(u32::from_be_bytes(key.try_into().ok()?)))),
            _ => None,
        }
    }

    /// The partition in which its records lie.
    pub(super) fn partition(self, partitions: u32) -> i32 {
        let place = match self {
            Self::Owner(session, _) => u32::from_be_bytes(*session.0.first_chunk().expect("it has 16 bytes")) % partitions,
            Self::Process(_) => 0,
        };
        i32::try_from(place).expect("Kafka has fewer partitions")
    }
}

impl Value {
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a value is plain data, and a Vec takes all of it")
    }

    /// # Errors
    /// [`Unreadable`].
    pub(super) fn decode(value: &[u8]) -> Result<Self, Unreadable> {
        match value.split_first() {
            Some((&VERSION, rest)) => postcard::take_from_bytes(rest).map(|(value, _extensions)| value).map_err(|_| Unreadable::Foreign),
            Some((&version, _)) => Err(Unreadable::Version(version)),
            None => Err(Unreadable::Foreign),
        }
    }
}

impl State {
    pub(super) fn held(&self) -> PacketIds {
        self.held.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_as_it_is_documented() {
        let key = Key::Owner(SessionId([7; 16]), OwnerId::new(ProcessId(0x0102_0304), 5));
        assert_eq!(key.encode(), [&[7; 16][..], &[1, 2, 3, 4, 0, 0, 0, 5]].concat());
        assert_eq!(Key::Process(ProcessId(0x0102_0304)).encode(), [1, 2, 3, 4]);
        let opening = Value::Opening { clean_start: true, expiry: Seconds(300) };
        assert_eq!(opening.encode(), [1, 0, 1, 0xac, 2]);
        let state = Value::State(State { epoch: 300, is_connected: true, expiry: Seconds(1), held: vec![7, 300] });
        assert_eq!(state.encode(), [1, 1, 0xac, 2, 1, 1, 2, 7, 0xac, 2]);
        assert_eq!(Value::Process { is_alive: true }.encode(), [1, 2, 1]);
    }

    #[test]
    fn what_another_version_or_program_wrote_is_told_apart() {
        let value = Value::Opening { clean_start: false, expiry: Seconds(1) };
        assert_eq!(Value::decode(&[value.encode(), b"later".to_vec()].concat()), Ok(value));
        assert_eq!(Value::decode(&[2, 0]), Err(Unreadable::Version(2)));
        assert_eq!((Value::decode(b""), Value::decode(&[1, 9])), (Err(Unreadable::Foreign), Err(Unreadable::Foreign)));
        for key in [Key::Owner(SessionId([7; 16]), OwnerId(u64::MAX)), Key::Process(ProcessId(9))] {
            assert_eq!(Key::decode(&key.encode()), Some(key));
            assert!((0..7).contains(&key.partition(7)));
        }
        assert_eq!((Key::decode(b""), Key::decode(b"device-7")), (None, None));
    }
}
