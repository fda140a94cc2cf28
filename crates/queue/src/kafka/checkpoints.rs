//! A checkpoint as a record of the checkpoints topic, and the metadata by which a commit names that record (docs/kafka-topics.md). Pure.
//!
//! ```text
//! record: key = number of the partition; value = version u8 | watermark, checkpoint (postcard) | extensions, which an older reader skips
//! metadata of a commit: checkpoint=<offset of the record>, or checkpoint=none
//! ```

use bytes::Bytes;
use pushline_model::Offset;
use serde::{Deserialize, Serialize};

/// The first byte of a record's value.
const VERSION: u8 = 2;

const METADATA: &str = "checkpoint=";
const NONE: &str = "none";

/// A commit of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit {
    /// Every packet below it is settled.
    pub(super) watermark: Offset,
    /// Names the record with the checkpoint that belongs to it ([`metadata`]), unless another program wrote it.
    pub(super) metadata: String,
}

/// What a record's value holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// Deliver's bytes.
    Checkpoint(Bytes),
    /// It isn't whole, or another program wrote it.
    Unreadable,
    /// Another version of Pushline wrote it.
    Version(u8),
}

#[derive(Debug, Serialize, Deserialize)]
struct Envelope<'a> {
    watermark: Offset,
    checkpoint: &'a [u8],
}

/// The value of a checkpoint's record.
pub(super) fn encode(checkpoint: &[u8], watermark: Offset) -> Vec<u8> {
    let envelope = Envelope { watermark, checkpoint };
    postcard::to_extend(&envelope, vec![VERSION]).expect("an envelope is plain data, and a Vec takes all of it")
}

/// Reads the value of a checkpoint's record.
pub(super) fn decode(value: &[u8]) -> Decoded {
    let Some((&version, rest)) = value.split_first() else { return Decoded::Unreadable };
    if version != VERSION {
        return Decoded::Version(version);
    }
    match postcard::take_from_bytes::<Envelope<'_>>(rest) {
        Ok((envelope, _extensions)) => Decoded::Checkpoint(Bytes::copy_from_slice(envelope.checkpoint)),
        Err(_) => Decoded::Unreadable,
    }
}

/// The metadata of a commit.
pub(super) fn metadata(checkpoint: Option<Offset>) -> String {
    checkpoint.map_or_else(|| format!("{METADATA}{NONE}"), |offset| format!("{METADATA}{offset}"))
}

/// The record that a commit's metadata names: `Some(None)`: it names none. `None`: another program wrote the metadata.
pub(super) fn named(metadata: &str) -> Option<Option<Offset>> {
    match metadata.strip_prefix(METADATA)? {
        NONE => Some(None),
        offset => offset.parse().ok().map(Some),
    }
}

/// Why a partition isn't served.
pub(super) fn later_version(topic: &str, partition: u32, found: u8) -> String {
    format!(
        "{topic}, partition {partition}: the checkpoint has format version {found}, this Pushline reads version {VERSION}; the partition isn't served by this process: run the Pushline that wrote it, or a later one"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_read_as_it_was_written_and_extensions_are_skipped() {
        let value = encode(b"lanes", 7);
        assert_eq!(decode(&value), Decoded::Checkpoint(Bytes::from_static(b"lanes")));
        assert_eq!(decode(&[&value[..], b"an extension"].concat()), Decoded::Checkpoint(Bytes::from_static(b"lanes")));
        assert_eq!(decode(&[&[VERSION + 1], &value[1..]].concat()), Decoded::Version(VERSION + 1));
        assert_eq!((decode(&value[..4]), decode(b"")), (Decoded::Unreadable, Decoded::Unreadable));
    }

    #[test]
    fn a_commit_names_its_checkpoint() {
        for checkpoint in [None, Some(0), Some(u64::MAX)] {
            assert_eq!(named(&metadata(checkpoint)), Some(checkpoint));
        }
        assert_eq!((named(""), named("checkpoint="), named("another program's")), (None, None, None));
    }
}
