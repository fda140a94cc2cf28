//! HTTP/2's frames (RFC 9113 §4, §6) and header sections (RFC 7541), written by hand.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The largest frame that any client takes (RFC 9113 §4.2).
pub(super) const FRAME: usize = 16 << 10;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// What a client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame's header.
const HEADER: usize = 9;

/// A frame that was read.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Reads frames. Dropping a read that hasn't ended loses nothing: the bytes stay here.
#[derive(Debug, Default)]
pub(super) struct FrameReader(Vec<u8>);

impl FrameReader {
    /// The next frame; `None` at the end of the connection.
    pub(super) async fn next(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take() {
                return Ok(Some(frame));
            }
            if from.read_buf(&mut self.0).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether the connection begins with the preface.
    pub(super) async fn preface(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        while self.0.len() < PREFACE.len() {
            if from.read_buf(&mut self.0).await? == 0 {
                return Ok(false);
            }
        }
        Ok(self.0.drain(..PREFACE.len()).eq(PREFACE.iter().copied()))
    }

    fn take(&mut self) -> Option<Frame> {
        let [a, b, c, kind, flags, stream @ ..] = self.0.first_chunk::<HEADER>()?;
        let (kind, flags, stream) = (*kind, *flags, u32::from_be_bytes(*stream) & 0x7fff_ffff);
        let end = HEADER + u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = self.0.get(HEADER..end)?.to_vec();
        self.0.drain(..end);
        Some(Frame { kind, flags, stream, payload })
    }
}

/// A frame whose payload is this long; the payload follows.
pub(super) fn frame_header(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).expect("a frame's length has 24 bits").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat()
}

/// A frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [frame_header(kind, flags, stream, payload.len()), payload.to_vec()].concat()
}

/// A setting (RFC 9113 §6.5.1).
pub(super) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// RST_STREAM with a code.
pub(super) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// GOAWAY: the last stream that the server may have processed, and a code.
pub(super) fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A header section: a status, and fields as they are. Nothing is put into the table, nothing is compressed.
pub(super) fn section(status: &str, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    // Index 8 of the static table is `:status`.
    [vec![0x08], text(status.as_bytes()), lines(fields)].concat()
}

/// Header fields (RFC 7541 §6.2.2).
pub(super) fn lines(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// A string without Huffman coding (RFC 7541 §5.2).
pub(super) fn text(bytes: &[u8]) -> Vec<u8> {
    [integer(0, 7, bytes.len()), bytes.to_vec()].concat()
}

/// An integer in the lower bits of a byte and in those that follow (RFC 7541 §5.1).
pub(super) fn integer(upper: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let most = (1usize << bits) - 1;
    if value < most {
        return vec![upper | low_byte(value)];
    }
    let mut bytes = vec![upper | low_byte(most)];
    value -= most;
    while value >= 128 {
        bytes.push(low_byte(value % 128) | 128);
        value /= 128;
    }
    bytes.push(low_byte(value));
    bytes
}

fn low_byte(value: usize) -> u8 {
    u8::try_from(value).expect("it is below 256")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_written_as_the_rfc_writes_its_examples() {
        assert_eq!(integer(0, 5, 10), [0b0000_1010]);
        assert_eq!(integer(0, 5, 1337), [0b0001_1111, 0b1001_1010, 0b0000_1010]);
        assert_eq!(integer(0, 8, 42), [42]);
    }

    #[tokio::test]
    async fn a_frame_that_arrives_in_parts_is_read_whole() {
        let sent = [frame(PING, 0, 0, &[7; 8]), reset(3, 8)].concat();
        let (mut far, mut near) = tokio::io::duplex(1);
        tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut far, &sent).await });
        let mut reader = FrameReader::default();
        let ping = reader.next(&mut near).await.unwrap().unwrap();
        assert_eq!((ping.kind, ping.stream, ping.payload), (PING, 0, vec![7; 8]));
        let reset = reader.next(&mut near).await.unwrap().unwrap();
        assert_eq!((reset.kind, reset.stream, reset.payload), (RST_STREAM, 3, vec![0, 0, 0, 8]));
        assert!(reader.next(&mut near).await.unwrap().is_none());
    }
}
