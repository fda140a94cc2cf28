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

impl From<DeadLetter> for Replay {
    fn from(letter: DeadLetter) -> Self {
        Self { message_id: letter.message_id, array: letter.array, packets: letter.packets }
    }
}

impl Replay {
    /// A dead letter's message.
    #[must_use]
    pub fn new(letter: &DeadLetter) -> Self {
        letter.clone().into()
    }

    /// The payload of a replay's record.
    ///
    /// # Panics
    /// Never: it is plain data, and a `Vec` takes all of it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("plain data fits a Vec")
    }

    /// What a replay's record holds; `None` for another record, and for one that somebody else wrote: it has no packet, or one of a device that
    /// is no ICCID.
    #[must_use]
    pub fn of(record: &Record<'_>) -> Option<Self> {
        let (&version, rest) = record.payload.split_first().filter(|_| record.kind == Kind::Replay)?;
        let replay: Self = (version == VERSION).then(|| postcard::from_bytes(rest).ok()).flatten()?;
        let is_whole = !replay.packets.is_empty() && replay.packets().count() == replay.packets.len();
        is_whole.then_some(replay)
    }

    /// The id that it brings back.
    #[must_use]
    pub fn id(&self) -> Option<MessageId> {
        MessageId::parse(self.message_id.as_deref()?)
    }

    /// Its packets, borrowed. A device that is no ICCID was never routed, so none is in a replay that was read from the log.
    pub fn packets(&self) -> impl Iterator<Item = Packet<'_>> {
        self.packets.iter().filter_map(|packet| {
            let iccid: Iccid = packet.iccid.parse().ok()?;
            Some(Packet { iccid, topic: &packet.topic, received_at: packet.received_at, payload: &packet.payload })
        })
    }
}

#[cfg(test)]
mod tests {
    use pushline_model::Timestamp;

    use super::*;

    /// What the log gives back of a replay of these devices' packets.
    fn read(iccids: &[&str]) -> Option<usize> {
        let packet = |iccid: &&str| DeadPacket {
            received_at: Timestamp(1),
            topic: "o/1".into(),
            iccid: (*iccid).to_owned(),
            payload: b"ABC".to_vec(),
        };
        let payload = Replay { message_id: None, array: true, packets: iccids.iter().map(packet).collect() }.encode();
        Replay::of(&Record { group: "o/g", at: Timestamp(1), kind: Kind::Replay, payload: &payload }).map(|replay| replay.packets().count())
    }

    #[test]
    fn a_replay_is_read_whole_or_not_at_all() {
        assert_eq!(read(&["1", "ABC", "897612653856781234"]), Some(3));
        assert_eq!([read(&[]), read(&[""]), read(&["1", "no ICCID"])], [None; 3]);
    }
}
