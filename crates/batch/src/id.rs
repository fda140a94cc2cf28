//! `webhook-id` (docs/document.md, Requests): the same id means the same packets in the same shape.

use pushline_model::{MessageId, Offset, Timestamp};
use sha2::{Digest, Sha256};

/// What a message's id is made from: all that tells it from any other message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The group's key, `organisation/name`.
    pub group: &'a str,
    /// The partition of the packet log that the records lie in.
    pub partition: u32,
    /// Offset of the first record.
    pub first: Offset,
    /// When the first packet was received.
    pub first_received_at: Timestamp,
    /// Offset of the last record.
    pub last: Offset,
    /// How many packets it has.
    pub packets: u32,
    /// Array or object.
    pub array: bool,
}

impl<'a> Identity<'a> {
    /// A packet by itself, as one message.
    #[must_use]
    pub fn of_one(group: &'a str, partition: u32, offset: Offset, received_at: Timestamp, array: bool) -> Self {
        Self { group, partition, first: offset, first_received_at: received_at, last: offset, packets: 1, array }
    }

    /// The first 16 bytes of SHA-256 over group, partition, first offset, first `received_at`, last offset, packet count, and 1 for an array or
    /// 0 for an object. Each stands as its length (4 bytes) and itself; numbers have 8 bytes; all are big endian.
    #[must_use]
    pub fn id(&self) -> MessageId {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update(u32::try_from(bytes.len()).expect("a group's key has at most 255 bytes").to_be_bytes());
            hash.update(bytes);
        };
        part(self.group.as_bytes());
        let (partition, packets, array) = (u64::from(self.partition), u64::from(self.packets), u64::from(self.array));
        for number in [partition, self.first, self.first_received_at.0, self.last, packets, array] {
            part(&number.to_be_bytes());
        }
        let digest = hash.finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        MessageId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Identity<'_> =
        Identity { group: "o/a", partition: 0, first: 1, first_received_at: Timestamp(1), last: 1, packets: 1, array: false };

    #[test]
    fn an_id_never_changes_between_versions() {
        let first_received_at = Timestamp(16_974_478_521_233_516);
        let message = Identity { group: "mti/tokyo-line-1", partition: 0, first: 7, first_received_at, last: 8, packets: 2, array: true };
        assert_eq!(message.id().to_string(), "msg_MBZfgYRejBHFF59IrFb9Rg");
    }

    #[test]
    fn each_part_counts() {
        assert_eq!(ONE.id(), ONE.id());
        for other in [
            Identity { group: "o/b", ..ONE },
            Identity { partition: 1, ..ONE },
            Identity { first: 0, ..ONE },
            Identity { first_received_at: Timestamp(2), ..ONE },
            Identity { last: 2, ..ONE },
            Identity { packets: 2, ..ONE },
            Identity { array: true, ..ONE },
        ] {
            assert_ne!(ONE.id(), other.id());
        }
    }
}
