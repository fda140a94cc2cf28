//! What a dead letter becomes when it is replayed (docs/delivery.md, Replay). Pure.

use metrics::counter;
use pushline_batch::Identity;
use pushline_model::{DeadLetter, MessageId, Offset, RecordPlace};
use pushline_queue::Replay;
use tracing::warn;

use crate::metrics::EXCUSED;

/// A log of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterLog {
    /// Of groups.
    Groups,
    /// Of packets that ingest found no group or no webhook for.
    Unrouted,
}

/// The message that replays a dead letter. Replaying it once more gives the same message.
///
/// One without id is a packet in no message. Its id is made from the place at which the packet was stored: in the packet log or, if it never came
/// there, as the dead letter itself, at `offset` of `log`. So two dead letters of one packet, from before and after a crash, bring one id. The shape is
/// part of the id.
#[must_use]
pub fn replay(dead_letter: DeadLetter, log: DeadLetterLog, offset: Offset, always_array: bool) -> Replay {
    let DeadLetter { group, message_id, record, array, packets, .. } = dead_letter;
    if let Some(message_id) = message_id.as_deref().and_then(MessageId::parse) {
        return Replay { message_id, array, packets };
    }
    let array = always_array || packets.len() > 1;
    let received_at = packets.first().expect("a dead letter has a packet").received_at;
    let identity = match record {
        Some(RecordPlace { partition, offset }) => Identity::of_one(&group, partition, offset, received_at, array),
        // No group's key is without a slash.
        None => Identity::of_one(log.name(), 0, offset, received_at, array),
    };
    Replay { message_id: identity.id(), array, packets }
}

/// Counts and tells that replays of packets in no message were appended: a crash may have made a message forgotten in which one was sent.
pub fn count_replays_without_id(messages: u64) {
    if messages > 0 {
        counter!(EXCUSED, "reason" => REPLAY_WITHOUT_ID).increment(messages);
        warn!(
            messages,
            reason = REPLAY_WITHOUT_ID,
            "packets may be sent under a second webhook-id: their dead letters had none, and a crash may have made a message with them forgotten"
        );
    }
}

/// As the metric names it.
pub(crate) const REPLAY_WITHOUT_ID: &str = "replay_without_id";

impl DeadLetterLog {
    fn name(self) -> &'static str {
        match self {
            Self::Groups => "dead-letters",
            Self::Unrouted => "unrouted",
        }
    }
}

#[cfg(test)]
mod tests {
    use pushline_model::{Cause, DeadPacket, Timestamp};

    use super::*;

    fn dead_letter(record: Option<RecordPlace>, written: u64) -> DeadLetter {
        let packet = DeadPacket { received_at: Timestamp(5), topic: "o/1".into(), iccid: "1".into(), payload: b"ABC".to_vec() };
        DeadLetter { record, ..DeadLetter::unsent(Timestamp(written), "o/g".to_owned(), Cause::Expired, vec![packet]) }
    }

    #[test]
    fn two_dead_letters_of_one_packet_are_replayed_under_one_id() {
        let place = Some(RecordPlace { partition: 3, offset: 7 });
        let id = |place, offset| replay(dead_letter(place, offset), DeadLetterLog::Groups, offset, false).message_id;
        assert_eq!(id(place, 1), id(place, 2));
        assert_eq!(id(place, 1), Identity::of_one("o/g", 3, 7, Timestamp(5), false).id(), "as if it had gone alone");
        assert_ne!(id(place, 1), id(Some(RecordPlace { partition: 3, offset: 8 }), 1));
    }

    #[test]
    fn a_packet_that_was_never_in_the_packet_log_has_the_id_of_its_dead_letter() {
        let id = |log, offset| replay(dead_letter(None, 1), log, offset, false).message_id;
        assert_eq!(id(DeadLetterLog::Unrouted, 1), id(DeadLetterLog::Unrouted, 1));
        assert_ne!(id(DeadLetterLog::Unrouted, 1), id(DeadLetterLog::Unrouted, 2));
        assert_ne!(id(DeadLetterLog::Unrouted, 1), id(DeadLetterLog::Groups, 1));
    }

    #[test]
    fn a_message_keeps_its_id_and_shape_and_a_packet_in_no_message_has_its_webhooks() {
        let sent = DeadLetter { message_id: Some(MessageId([7; 16]).to_string()), ..dead_letter(None, 1) };
        let shape = |dead_letter, always_array| replay(dead_letter, DeadLetterLog::Groups, 1, always_array).array;
        assert_eq!([shape(sent.clone(), false), shape(sent, true)], [false, false]);
        assert_eq!([shape(dead_letter(None, 1), false), shape(dead_letter(None, 1), true)], [false, true]);
    }
}
