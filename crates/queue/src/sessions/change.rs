//! What a record of kind [`crate::Kind::Session`] changes, as the bytes of its payload (docs/queue-format.md, Session). Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SessionId;

/// A change of a session. The record's `at` is the log's time when it was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// A client connected.
    Opened(Opening),
    /// The connection has ended: the expiry runs from the record's `at` on.
    Closed { session: SessionId, expiry: Seconds },
    /// The session is over, and so is what it held.
    Discarded { session: SessionId },
}

/// What a client asked for. Whether the session was present follows from the records before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opening {
    pub(crate) session: SessionId,
    pub(crate) clean_start: bool,
    /// Zero: an existing session goes on, a new one isn't kept.
    pub(crate) expiry: Seconds,
    /// Tells the openings of one process apart.
    pub(crate) number: u64,
}

/// An expiry as MQTT has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seconds(pub(crate) u32);

impl Change {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a change is plain data, and a Vec takes all of it")
    }

    /// `None`: another version wrote it.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        postcard::take_from_bytes(payload).ok().map(|(change, _extensions)| change)
    }

    pub(crate) fn session(&self) -> SessionId {
        match *self {
            Self::Opened(Opening { session, .. }) | Self::Closed { session, .. } | Self::Discarded { session } => session,
        }
    }
}

impl Seconds {
    /// Rounded down; what is longer than MQTT can express never expires.
    pub(crate) fn of(expiry: Duration) -> Self {
        Self(u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX))
    }

    /// `None`: it never expires.
    pub(crate) fn duration(self) -> Option<Duration> {
        (self.0 < u32::MAX).then(|| Duration::from_secs(self.0.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_as_it_is_documented() {
        let session = SessionId([7; 16]);
        let opening = Opening { session, clean_start: true, expiry: Seconds(300), number: 9 };
        let id = [7; 16];
        assert_eq!(Change::Opened(opening).encode(), [&[0][..], &id, &[1, 0xac, 2, 9]].concat());
        assert_eq!(Change::Closed { session, expiry: Seconds(1) }.encode(), [&[1][..], &id, &[1]].concat());
        assert_eq!(Change::Discarded { session }.encode(), [&[2][..], &id].concat());
        for change in [Change::Opened(opening), Change::Closed { session, expiry: Seconds(u32::MAX) }, Change::Discarded { session }] {
            assert_eq!(Change::decode(&[change.encode(), b"later".to_vec()].concat()), Some(change));
        }
        assert_eq!(Change::decode(&[3]), None);
    }
}
