//! Reads the parts that control packets are made of (MQTT 5 §1.5), one after another. Pure.

use super::DisconnectReason;

/// The bytes of a packet that aren't read yet. Each reader returns [`DisconnectReason::MalformedPacket`] where the bytes end too early.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What isn't read yet.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes, this many.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DisconnectReason> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DisconnectReason::MalformedPacket)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DisconnectReason> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DisconnectReason::MalformedPacket)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DisconnectReason> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DisconnectReason> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DisconnectReason> {
        self.array().map(u32::from_be_bytes)
    }

    /// A packet id (§2.2.1), which is never 0.
    pub(crate) fn packet_id(&mut self) -> Result<u16, DisconnectReason> {
        self.u16().and_then(|id| if id > 0 { Ok(id) } else { Err(DisconnectReason::MalformedPacket) })
    }

    /// A variable byte integer (§1.5.5).
    pub(crate) fn variable(&mut self) -> Result<usize, DisconnectReason> {
        let (value, length) = variable(self.0)?.ok_or(DisconnectReason::MalformedPacket)?;
        self.take(length)?;
        Ok(value)
    }

    /// Binary data (§1.5.6): two bytes of length, and the bytes.
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DisconnectReason> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// A UTF-8 encoded string (§1.5.4). NUL is malformed.
    pub(crate) fn text(&mut self) -> Result<&'a str, DisconnectReason> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| DisconnectReason::MalformedPacket)?;
        if text.contains('\0') { Err(DisconnectReason::MalformedPacket) } else { Ok(text) }
    }
}

/// Decodes a variable byte integer: seven bits a byte, four bytes at most. Returns the value and the number of its bytes, or `None` if it isn't whole yet.
pub(crate) fn variable(bytes: &[u8]) -> Result<Option<(usize, usize)>, DisconnectReason> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((value, place + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(DisconnectReason::MalformedPacket) }
}
