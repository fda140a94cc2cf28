//! A replay (LANES.md L15): a dead letter's message on its way through the log once more.

use pushline_model::{DeadLetter, DeadPacket, Iccid, MessageId, Packet};
use serde::{Deserialize, Serialize};

use crate::{Kind, Record};

/// The first byte of an encoded replay; the rest is postcard.
const VERSION: u8 = 1;

/// One message, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// The id that it had; without one it gets one like any message.
    pub message_id: Option<String>,
    /// Array or object.
    pub array: bool,
    /// Its packets, in order.
    pub packets: Vec<DeadPacket>,
}

impl Replay {
    /// A dead letter's message.
    #[must_use]
    pub fn new(letter: &DeadLetter) -> Self {
        Self { message_id: letter.message_id.clone(), array: letter.array, packets: letter.packets.clone() }
    }

    /// The payload of a replay's record.
    ///
    /// # Panics
    /// Never: it is plain data, and a `Vec` takes all of it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("plain data fits a Vec")
    }

    /// What a replay's record holds; `None` for another record.
    #[must_use]
    pub fn of(record: &Record<'_>) -> Option<Self> {
        let (&version, rest) = record.payload.split_first().filter(|_| record.kind == Kind::Replay)?;
        (version == VERSION).then(|| postcard::from_bytes(rest).ok()).flatten()
    }

    /// The id that it brings back.
    #[must_use]
    pub fn id(&self) -> Option<MessageId> {
        MessageId::parse(self.message_id.as_deref()?)
    }

    /// Its packets, borrowed. A device that was no ICCID was never routed, so it is in no replay.
    pub fn packets(&self) -> impl Iterator<Item = Packet<'_>> {
        self.packets.iter().filter_map(|packet| {
            let iccid: Iccid = packet.iccid.parse().ok()?;
            Some(Packet { iccid, topic: &packet.topic, received_at: packet.received_at, payload: &packet.payload })
        })
    }
}
