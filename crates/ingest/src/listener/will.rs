//! A will: the packet that a client asks the listener to publish when its connection ends without a DISCONNECT (MQTT 5 §3.1.2.5). Pure.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    budget::{Budget, Lease},
    intake::{Publish, Qos},
};

use super::DisconnectReason;

/// Bytes that a will takes beside its topic and payload, at most: while it waits it has a task.
const WILL_OVERHEAD: usize = 1 << 10;

/// A packet id that no packet has (§2.2.1): a will has none, and isn't acknowledged.
const NO_PACKET_ID: u16 = 0;

/// A will, as CONNECT has it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) is_qos_0: bool,
    /// The Will Delay Interval (§3.1.3.2.2). MQTT 3.1.1 has none.
    pub(crate) delay: Duration,
}

/// The will of a connected client. It holds a lease on the listener's budget for wills.
#[derive(Debug)]
pub(crate) struct HeldWill {
    pub(crate) will: Arc<Will>,
    _lease: Lease,
}

/// How a connection ended, as far as its will is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// DISCONNECT with the reason code 0, or of MQTT 3.1.1.
    Disconnected,
    /// The process stops. A rolling restart would publish the wills of all clients, which are well.
    Stopped,
    /// The client isn't let in any more.
    Expelled,
    /// A new connection has the client id. `ends_session`: it asked for a clean start.
    TakenOver { ends_session: bool },
    /// In any other way: a network failure, a keep-alive that ran out, a fault, DISCONNECT with another reason code.
    Lost,
}

/// What becomes of a will when its connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Publish,
    /// It is published after this time, unless the session goes on by a new connection first.
    Wait(Duration),
    Discard,
}

impl Will {
    /// What becomes of it. `session_expiry`: how long the session outlives the connection. The end of the session publishes the will
    /// (§3.1.3.2.2).
    pub(crate) fn fate(&self, farewell: Farewell, session_expiry: Duration) -> Fate {
        let delay = self.delay.min(session_expiry);
        match farewell {
            Farewell::Disconnected | Farewell::Stopped | Farewell::Expelled => Fate::Discard,
            Farewell::TakenOver { ends_session: false } if !delay.is_zero() => Fate::Discard,
            Farewell::Lost if !delay.is_zero() => Fate::Wait(delay),
            Farewell::TakenOver { .. } | Farewell::Lost => Fate::Publish,
        }
    }

    /// The will as a packet.
    pub(crate) fn publish(&self) -> Publish<'_> {
        let qos = if self.is_qos_0 { Qos::AtMostOnce } else { Qos::AtLeastOnce(NO_PACKET_ID) };
        Publish { qos, topic: &self.topic, payload: &self.payload }
    }
}

impl HeldWill {
    /// Keeps a will for the time of the connection, and of the delay behind it.
    ///
    /// # Errors
    /// The wills of the other clients use the budget up.
    pub(crate) fn new(will: &Arc<Will>, budget: &Arc<Budget>) -> Result<Self, DisconnectReason> {
        if !budget.has_capacity() {
            return Err(DisconnectReason::TooManyWills);
        }
        let bytes = will.topic.len() + will.payload.len() + WILL_OVERHEAD;
        Ok(Self { will: Arc::clone(will), _lease: budget.lease(bytes) })
    }
}

impl fmt::Debug for Will {
    /// Without the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Will").field("topic", &self.topic).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn will(delay: Duration) -> Will {
        Will { topic: "mti/1".into(), payload: b"bye".to_vec(), is_qos_0: false, delay }
    }

    #[test]
    fn a_will_is_published_unless_the_client_said_good_bye_or_the_process_stops() {
        use Farewell::{Disconnected, Expelled, Lost, Stopped, TakenOver};
        for (farewell, at_once, delayed) in [
            (Disconnected, Fate::Discard, Fate::Discard),
            (Stopped, Fate::Discard, Fate::Discard),
            (Expelled, Fate::Discard, Fate::Discard),
            (Lost, Fate::Publish, Fate::Wait(MINUTE)),
            (TakenOver { ends_session: true }, Fate::Publish, Fate::Publish),
            (TakenOver { ends_session: false }, Fate::Publish, Fate::Discard),
        ] {
            assert_eq!(will(Duration::ZERO).fate(farewell, 2 * MINUTE), at_once, "{farewell:?}");
            assert_eq!(will(MINUTE).fate(farewell, 2 * MINUTE), delayed, "{farewell:?}");
        }
    }

    #[test]
    fn a_will_waits_no_longer_than_its_session_lasts() {
        assert_eq!(will(2 * MINUTE).fate(Farewell::Lost, MINUTE), Fate::Wait(MINUTE));
        assert_eq!(will(2 * MINUTE).fate(Farewell::Lost, Duration::ZERO), Fate::Publish);
        assert_eq!(will(2 * MINUTE).fate(Farewell::TakenOver { ends_session: false }, Duration::ZERO), Fate::Publish);
    }

    #[test]
    fn wills_beyond_the_budget_are_refused_until_others_end() {
        let (budget, will) = (Budget::new(WILL_OVERHEAD), Arc::new(will(MINUTE)));
        let held = HeldWill::new(&will, &budget).unwrap();
        assert_eq!(HeldWill::new(&will, &budget).unwrap_err(), DisconnectReason::TooManyWills);
        drop(held);
        HeldWill::new(&will, &budget).unwrap();
    }
}
