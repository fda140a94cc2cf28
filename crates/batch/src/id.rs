//! `webhook-id` (DESIGN.md, *webhook-id*): the same id means the same packets in the same shape.

use pushline_model::{MessageId, Offset, Timestamp};
use sha2::{Digest, Sha256};

/// The first 16 bytes of SHA-256 over group, partition, first offset, first `received_at`, last offset, packet count, and 1 for an array or
/// 0 for an object. Each stands as its length (4 bytes) and itself; numbers have 8 bytes; all are big endian.
#[must_use]
pub fn message_id(
    group: &str,
    partition: u32,
    first: Offset,
    first_received_at: Timestamp,
    last: Offset,
    count: u32,
    array: bool,
) -> MessageId {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(bytes);
    };
    part(group.as_bytes());
    for number in [u64::from(partition), first, first_received_at.0, last, u64::from(count), u64::from(array)] {
        part(&number.to_be_bytes());
    }
    let digest = hash.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    MessageId(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_changes_between_versions() {
        let id = message_id("mti/tokyo-line-1", 0, 7, Timestamp(16_974_478_521_233_516), 8, 2, true);
        assert_eq!(id.to_string(), "msg_MBZfgYRejBHFF59IrFb9Rg");
    }

    #[test]
    fn each_part_counts() {
        let id = |group, partition, first, at, last, count, array| message_id(group, partition, first, Timestamp(at), last, count, array);
        let one = id("o/a", 0, 1, 1, 1, 1, false);
        assert_eq!(one, id("o/a", 0, 1, 1, 1, 1, false));
        for other in [
            id("o/b", 0, 1, 1, 1, 1, false),
            id("o/a", 1, 1, 1, 1, 1, false),
            id("o/a", 0, 0, 1, 1, 1, false),
            id("o/a", 0, 1, 2, 1, 1, false),
            id("o/a", 0, 1, 1, 2, 1, false),
            id("o/a", 0, 1, 1, 1, 2, false),
            id("o/a", 0, 1, 1, 1, 1, true),
        ] {
            assert_ne!(one, other);
        }
    }
}
