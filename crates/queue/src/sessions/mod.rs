//! The MQTT sessions that outlive their connections: what the queue keeps of them, and its contract (docs/sessions.md).
//!
//! | rule | promise |
//! |---|---|
//! | key | A session belongs to a user and a client id ([`SessionKey`]). Another user's client with the same id has another session. |
//! | opening | [`Sessions::open`] resolves only when what it answers is durable: the session's existence, and that a new session holds no packet ids. |
//! | present | [`OpenedSession::is_present`] is true exactly when the session existed, hadn't expired, and the client didn't ask for a clean start. |
//! | held ids | [`OpenedSession::held`] has every id whose packet was appended with [`HeldId`] and is durable, and whose release isn't. |
//! | owner | A session has one owner, the handle that was opened last. [`Session::append`] of an older handle stores nothing. |
//! | order | What an older owner has appended is durable, or never will be, before [`Sessions::open`] of a newer one resolves. |
//! | expiry | It runs from the moment at which the owner is dropped. After a crash it runs from the next start. |
//!
//! An id stands in the record of its packet, so a crash loses both or none. A backend whose packets and sessions lie in different places can't keep that; it makes
//! the packet durable first, and so stores it twice at worst.
//!
//! | part | file |
//! |---|---|
//! | the ids that a session holds (pure) | `packet_ids.rs` |
//! | what a record changes in a session, as bytes (pure) | `change.rs` |
//! | the sessions as the records of a log made them | `table.rs` |
//! | the contract on a log that one process has | `log_sessions.rs` |

mod change;
#[cfg(test)]
pub(crate) mod conformance;
mod log_sessions;
mod packet_ids;
mod table;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[cfg(feature = "kafka")]
pub(crate) use self::change::Seconds;
pub use self::packet_ids::PacketIds;
pub(crate) use self::{
    log_sessions::{LogSessions, SessionLog},
    table::SessionTable,
};
use crate::{AppendError, Appended, Record};

/// The sessions of a queue.
pub trait Sessions: Send + Sync {
    /// Opens a client's session, or discards it, as CONNECT asks (MQTT 5 §3.1.2.4, §3.1.2.11.2), and makes the caller its owner. It waits while storage is away.
    ///
    /// Dropping the future leaves what was appended: the session may exist afterwards, and its expiry runs.
    ///
    /// # Errors
    /// [`AppendError`]: the queue can't store the session, or another owner came meanwhile.
    fn open(&self, request: OpenSession<'_>) -> BoxFuture<'static, Result<OpenedSession, AppendError>>;
}

/// A session, for the connection that owns it. Dropping it closes the session: from then on its expiry runs, unless another owner has it.
pub trait Session: Send + Sync {
    /// What its records name it by.
    fn id(&self) -> SessionId;

    /// Appends as [`crate::Append::append`] does: packets, those of QoS 2 with their [`HeldId`], and releases ([`crate::Kind::Release`]), in order.
    ///
    /// Resolves to [`AppendError::SessionTakenOver`], and stores nothing, when another owner has the session.
    fn append(&self, batch: &[Record<'_>]) -> Appended;

    /// Sets the expiry that runs when the session is closed (MQTT 5 §3.14.2.2.2). Zero: the session ends then.
    fn set_expiry(&self, expiry: Duration);

    /// Resolves when another owner has opened the session, in this process or in another one.
    fn taken_over(&self) -> BoxFuture<'static, ()>;
}

/// Whose a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionKey<'a> {
    /// The user's name, or the name in its certificate. `None`: the client has proved nothing.
    pub user: Option<&'a str>,
    /// The client id of CONNECT.
    pub client_id: &'a str,
}

/// A session in records: the first 16 bytes of SHA-256 over its key. A table of sessions needs no names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

/// A packet id that a session holds: from its PUBLISH at QoS 2 until its PUBREL (MQTT 5 §4.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldId {
    /// The session.
    pub session: SessionId,
    /// The packet identifier, never 0.
    pub packet_id: u16,
}

/// What a CONNECT asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSession<'a> {
    /// Whose session.
    pub key: SessionKey<'a>,
    /// Whether an existing session is discarded first.
    pub clean_start: bool,
    /// How long the session lives after its connection, in whole seconds. Zero: it ends with the connection. [`NEVER`]: it doesn't expire.
    pub expiry: Duration,
    /// While the queue keeps this many sessions, a client without one gets none that outlives its connection.
    pub max_sessions: usize,
}

/// What a client gets.
#[derive(Clone)]
pub struct OpenedSession {
    /// `None`: nothing is kept of the session, and it ends with the connection. Its packets are appended like any others.
    pub session: Option<Arc<dyn Session>>,
    /// Whether it is the continuation of an existing one.
    pub is_present: bool,
    /// The packet ids that it holds.
    pub held: PacketIds,
}

/// The expiry of a session that doesn't expire (MQTT 5 §3.1.2.11.2: 0xFFFFFFFF).
pub const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// A queue that keeps no sessions: each ends with its connection.
#[derive(Debug)]
pub struct NoSessions;

impl Sessions for NoSessions {
    fn open(&self, _request: OpenSession<'_>) -> BoxFuture<'static, Result<OpenedSession, AppendError>> {
        std::future::ready(Ok(OpenedSession::unkept())).boxed()
    }
}

impl SessionId {
    /// The id of a key: SHA-256 over the user and the client id, each behind its length; a client without a user has a length that no user has.
    #[must_use]
    pub fn of(key: SessionKey<'_>) -> Self {
        let mut hash = Sha256::new();
        hash.update(key.user.map_or(u64::MAX, |user| user.len() as u64).to_le_bytes());
        hash.update(key.user.unwrap_or_default());
        hash.update((key.client_id.len() as u64).to_le_bytes());
        hash.update(key.client_id);
        Self(*hash.finalize().first_chunk().expect("the hash has 32 bytes"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({:032x})", u128::from_be_bytes(self.0))
    }
}

impl OpenedSession {
    /// A session of which nothing is kept.
    #[must_use]
    pub fn unkept() -> Self {
        Self { session: None, is_present: false, held: PacketIds::default() }
    }
}

impl fmt::Debug for OpenedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_kept = self.session.is_some();
        f.debug_struct("OpenedSession").field("is_kept", &is_kept).field("is_present", &self.is_present).field("held", &self.held).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_have_one_id() {
        let key = |user, client_id| SessionId::of(SessionKey { user, client_id });
        let ids = [key(None, "ab"), key(Some(""), "ab"), key(Some("a"), "b"), key(Some("ab"), ""), key(None, "b")];
        for (place, id) in ids.iter().enumerate() {
            assert!(!ids[..place].contains(id), "{place}");
        }
        assert_eq!(key(Some("a"), "b"), ids[2]);
    }
}
