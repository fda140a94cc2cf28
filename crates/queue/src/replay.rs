//! A replay (docs/delivery.md, Replay): the message of a dead letter, appended to the log to be sent once more.

use pushline_model::{DeadPacket, Iccid, MessageId, Packet};
use serde::{Deserialize, Serialize};

use crate::{Kind, Record};

/// The first byte of an encoded replay; the rest is postcard.
const VERSION: u8 = 2;

/// A whole message, as the payload of a replay's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// The id under which it is sent.
    pub message_id: MessageId,
    /// Whether the body is an array.
    pub array: bool,
    /// The packets, in order.
    pub packets: Vec<DeadPacket>,
}

impl Replay {
    /// The payload of a replay's record.
    ///
    /// # Panics
    /// Never: it is plain data, and a `Vec` takes all of it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("plain data fits a Vec")
    }

    /// Reads the payload of a replay's record. `None`: the record is of another kind, or another program wrote it: it has no packet, a packet whose
    /// ICCID is invalid, or several packets and isn't an array.
    #[must_use]
    pub fn of(record: &Record<'_>) -> Option<Self> {
        let (&version, rest) = record.payload.split_first().filter(|_| record.kind == Kind::Replay)?;
        let replay: Self = (version == VERSION).then(|| postcard::from_bytes(rest).ok()).flatten()?;
        let has_a_shape = replay.packets.len() == 1 || replay.array && !replay.packets.is_empty();
        let is_whole = has_a_shape && replay.packets().count() == replay.packets.len();
        is_whole.then_some(replay)
    }

    /// The packets, borrowed. It skips packets with an invalid ICCID; a replay that was read from the log has none.
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

    /// How many packets are read back of a replay of packets with these ICCIDs.
    fn read(iccids: &[&str]) -> Option<usize> {
        let packet = |iccid: &&str| DeadPacket {
            received_at: Timestamp(1),
            topic: "o/1".into(),
            iccid: (*iccid).to_owned(),
            payload: b"ABC".to_vec(),
        };
        let payload = Replay { message_id: MessageId([7; 16]), array: true, packets: iccids.iter().map(packet).collect() }.encode();
        Replay::of(&Record { group: "o/g", at: Timestamp(1), kind: Kind::Replay, payload: &payload }).map(|replay| replay.packets().count())
    }

    #[test]
    fn a_replay_is_read_whole_or_not_at_all() {
        assert_eq!(read(&["1", "ABC", "897612653856781234"]), Some(3));
        assert_eq!([read(&[]), read(&[""]), read(&["1", "no ICCID"])], [None; 3]);
    }
}
