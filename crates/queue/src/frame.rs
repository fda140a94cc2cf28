//! A frame: records that were written together, as one run of bytes that the disk, the network buffer and the reader share.
//!
//! ```text
//! header, 32 bytes, little endian:
//!   length u32 of what follows the header | crc32c u32 over the rest of the header and the records
//!   base offset u64 | durable end u64 known when it was written | record count u32 | reserved u32 (0)
//! record:
//!   length u32 of what follows | kind u8 | group length u8 | topic length u16 | at u64 | iccid 16 bytes (a packet's) | group | topic | payload
//! ```

use bytes::Bytes;

/// Records as they lie on the disk and in memory.
#[derive(Debug, Clone)]
pub struct Frame {
    bytes: Bytes,
}

/// Puts records together.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
}

impl Frame {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl FrameBuilder {
    /// How long it is.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}
