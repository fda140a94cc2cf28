//! The device's identity: 1 to 20 letters or digits, packed into sixteen bytes so that millions of them fit in a registry.

use std::{fmt, str::FromStr};

use crate::{Invalid, text::serde_as_text};

const LONGEST: usize = 20;
const RADIX: u128 = 63; // 62 letters and digits, and 0 for "ended": 63^20 < 2^120

/// An ICCID (ITU-T E.118), or whatever 1 to 20 letters or digits a platform uses in its place. `Copy`, sixteen bytes,
/// alignment 1, and text again without loss: `"0123"` and `"123"` are two devices.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Iccid([u8; 16]);

impl Iccid {
    /// Reads an ICCID from the bytes of a topic level. `None` when it isn't 1 to 20 letters or digits.
    #[must_use]
    pub fn from_bytes(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > LONGEST {
            return None;
        }
        // Two halves of ten symbols each fit in u64 arithmetic, which is several times faster than u128's.
        let (low, high) = text.split_at(text.len().min(10));
        let packed = u128::from(pack(high)?) * RADIX.pow(10) + u128::from(pack(low)?);
        Some(Self(packed.to_le_bytes()))
    }

    /// Sixteen bytes that mean the same in every version: as an ICCID lies in a log.
    #[must_use]
    pub fn packed(&self) -> [u8; 16] {
        self.0
    }

    /// The ICCID that [`Iccid::packed`] gave.
    #[must_use]
    pub fn from_packed(packed: [u8; 16]) -> Self {
        Self(packed)
    }

    /// The text, in a buffer of its own, without allocation.
    #[must_use]
    pub fn text(&self) -> IccidText {
        let packed = u128::from_le_bytes(self.0);
        let (mut bytes, mut len) = ([0; LONGEST], 0);
        for half in [packed % RADIX.pow(10), packed / RADIX.pow(10)] {
            // Each half is below 63^10 < 2^60.
            let mut rest = u64::try_from(half).expect("half an ICCID is below 63^10");
            while rest > 0 {
                bytes[len] = SYMBOLS[usize::try_from(rest % 63).expect("63 fits in a usize")];
                len += 1;
                rest /= 63;
            }
        }
        IccidText { bytes, len }
    }
}

/// The characters of an [`Iccid`], on the stack.
#[derive(Clone, Copy)]
pub struct IccidText {
    bytes: [u8; LONGEST],
    len: usize,
}

impl IccidText {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("letters and digits are ASCII")
    }
}

const SYMBOLS: &[u8; 63] = b"\x000123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

#[expect(clippy::cast_possible_truncation, reason = "63 symbols; const code can't convert otherwise")]
const DIGIT_OF: [u8; 256] = {
    let mut table = [0; 256];
    let mut digit = 1;
    while digit < SYMBOLS.len() {
        table[SYMBOLS[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};

/// Little end first, so that unpacking yields the characters in order.
fn pack(text: &[u8]) -> Option<u64> {
    let mut packed = 0;
    for &byte in text.iter().rev() {
        let digit = DIGIT_OF[usize::from(byte)];
        if digit == 0 {
            return None;
        }
        packed = packed * 63 + u64::from(digit);
    }
    Some(packed)
}

// === impl Iccid ===

impl FromStr for Iccid {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::from_bytes(text.as_bytes()).ok_or_else(|| Invalid::Iccid(text.to_owned()))
    }
}

impl fmt::Display for Iccid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text().as_str())
    }
}

serde_as_text!(Iccid, "an ICCID: 1 to 20 letters or digits, in quotes");

impl fmt::Debug for Iccid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Iccid({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_one_to_twenty_letters_or_digits_is_refused() {
        for wrong in ["", "123456789012345678901", "12 3", "12/3", "1é", "+", "#"] {
            assert_eq!(wrong.parse::<Iccid>(), Err(Invalid::Iccid(wrong.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn an_iccid_is_its_text_again(text in "[0-9A-Za-z]{1,20}") {
            prop_assert_eq!(text.parse::<Iccid>().unwrap().to_string(), text);
        }

        #[test]
        fn two_texts_are_two_devices(one in "[0-9A-Za-z]{1,20}", other in "[0-9A-Za-z]{1,20}") {
            prop_assert_eq!(one == other, one.parse::<Iccid>().unwrap() == other.parse::<Iccid>().unwrap());
        }
    }
}
