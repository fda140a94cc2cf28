//! The records of a log.

use pushline_model::{Iccid, Packet, Timestamp};

use crate::HeldId;

/// One record, borrowed from the caller or from a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key: `organisation/name` of the group; at most 255 bytes. Empty for an unrouted packet.
    pub group: &'a str,
    /// A packet's `received_at`; a replay's or dead letter's time of writing.
    pub at: Timestamp,
    /// What the record is, and so what its payload holds.
    pub kind: Kind<'a>,
    /// A packet's payload as published; for other kinds an encoding of Pushline's.
    pub payload: &'a [u8],
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A packet from a device.
    Packet {
        /// The ICCID of the device.
        iccid: Iccid,
        /// As published; at most 65,535 bytes (MQTT 5 §1.5.4).
        topic: &'a str,
        /// The packet id under which a session holds it. `None`: it wasn't published at QoS 2, or no session outlives its connection.
        held: Option<HeldId>,
    },
    /// A whole message that is sent once more (docs/delivery.md, Replay).
    Replay,
    /// A dead letter (docs/delivery.md, Dead letters).
    DeadLetter,
    /// Marks earlier dead letters as replayed.
    Replayed,
    /// Only says what time it is in the log (docs/delivery.md, Tick). It has no group and no payload, and counts nowhere as a packet.
    Tick,
    /// A session no longer holds a packet id (MQTT 5 §4.3.3, PUBREL). It has no group and no payload, and counts nowhere as a packet.
    Release(HeldId),
    /// A session was opened, was closed or has ended (docs/sessions.md). It has no group, and counts nowhere as a packet.
    Session,
    /// Another program wrote it, or it can't be read. Its group is empty.
    Foreign {
        /// What is wrong with it, for people.
        why: &'a str,
    },
}

impl<'a> Record<'a> {
    /// A packet's record.
    #[must_use]
    pub fn packet(group: &'a str, packet: &Packet<'a>) -> Self {
        Self::held_packet(group, packet, None)
    }

    /// The record of a packet that was published at QoS 2.
    #[must_use]
    pub fn held_packet(group: &'a str, packet: &Packet<'a>, held: Option<HeldId>) -> Self {
        let kind = Kind::Packet { iccid: packet.iccid, topic: packet.topic, held };
        Self { group, at: packet.received_at, kind, payload: packet.payload }
    }

    /// The record that ends a session's hold on a packet id.
    #[must_use]
    pub fn release(at: Timestamp, held: HeldId) -> Self {
        Self { group: "", at, kind: Kind::Release(held), payload: b"" }
    }

    /// The packet. `None`: the record is of another kind.
    #[must_use]
    pub fn as_packet(&self) -> Option<Packet<'a>> {
        match self.kind {
            Kind::Packet { iccid, topic, .. } => Some(Packet { iccid, topic, received_at: self.at, payload: self.payload }),
            _ => None,
        }
    }
}

impl Kind<'_> {
    /// Whether the record is neither a packet nor a message, and never becomes a dead letter: a tick, or a change of a session.
    #[must_use]
    pub fn is_bookkeeping(&self) -> bool {
        matches!(self, Self::Tick | Self::Release(_) | Self::Session)
    }

    /// Whether the record changes a session.
    pub(crate) fn changes_session(&self) -> bool {
        matches!(self, Self::Packet { held: Some(_), .. } | Self::Release(_) | Self::Session)
    }
}
