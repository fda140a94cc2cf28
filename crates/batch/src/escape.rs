//! A payload as the inside of a JSON string (RFC 8259 §7), and back. Only `"`, `\` and what is below U+0020 is escaped.

/// Eight bytes at a time: the usual payload has nothing to escape.
const WORD: usize = size_of::<u64>();

/// Appends text as the inside of a JSON string: RFC 8259 §7, as little as it asks for.
pub fn escape(text: &str, into: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    loop {
        let clean = clean_prefix(rest);
        into.extend_from_slice(&rest[..clean]);
        let Some((&byte, after)) = rest[clean..].split_first() else { return };
        escape_byte(byte, into);
        rest = after;
    }
}

/// How many bytes at the beginning stand for themselves.
fn clean_prefix(bytes: &[u8]) -> usize {
    let mut words = bytes.chunks_exact(WORD);
    let mut clean = 0;
    for word in &mut words {
        if has_special(u64::from_le_bytes(word.try_into().expect("a word has eight bytes"))) {
            break;
        }
        clean += WORD;
    }
    bytes[clean..].iter().position(|&byte| is_special(byte)).map_or(bytes.len(), |at| clean + at)
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Whether any of eight bytes is special: the classic tests for "a byte is less than n" and "a byte is zero" over a whole word. They may say
/// yes too often for a byte above 0x7f next to a special one, never no wrongly.
fn has_special(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 0x80;
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
    let equals = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    below(word, 0x20) | equals(b'"') | equals(b'\\') != 0
}

fn escape_byte(byte: u8, into: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => into.extend_from_slice(&[b'\\', byte]),
        b'\n' => into.extend_from_slice(b"\\n"),
        b'\r' => into.extend_from_slice(b"\\r"),
        b'\t' => into.extend_from_slice(b"\\t"),
        0x08 => into.extend_from_slice(b"\\b"),
        0x0c => into.extend_from_slice(b"\\f"),
        _ => into.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
    }
}

/// What [`escape`] escaped, as it was. Only ever given what [`escape`] wrote.
pub(crate) fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        text.extend_from_slice(&rest[..at]);
        let (byte, used) = match rest[at + 1..] {
            [b'u', _, _, high, low, ..] => (hex(high) << 4 | hex(low), 6),
            [b'n', ..] => (b'\n', 2),
            [b'r', ..] => (b'\r', 2),
            [b't', ..] => (b'\t', 2),
            [b'b', ..] => (0x08, 2),
            [b'f', ..] => (0x0c, 2),
            [itself, ..] => (itself, 2),
            [] => (b'\\', 1),
        };
        text.push(byte);
        rest = &rest[at + used..];
    }
    text.extend_from_slice(rest);
    text
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut into = Vec::new();
        escape(text, &mut into);
        String::from_utf8(into).unwrap()
    }

    /// RFC 8259 §7 character by character.
    fn naive(text: &str) -> String {
        text.chars()
            .map(|c| match c {
                '"' => "\\\"".into(),
                '\\' => "\\\\".into(),
                '\n' => "\\n".into(),
                '\r' => "\\r".into(),
                '\t' => "\\t".into(),
                '\u{8}' => "\\b".into(),
                '\u{c}' => "\\f".into(),
                c if c < ' ' => format!("\\u{:04x}", u32::from(c)),
                c => c.to_string(),
            })
            .collect()
    }

    #[test]
    fn every_control_character_is_escaped_and_u2028_is_not() {
        let controls: String = (0u8..0x20).map(char::from).collect();
        assert_eq!(escaped(&controls), naive(&controls));
        assert_eq!(escaped("\u{2028}\u{7f}😀é"), "\u{2028}\u{7f}😀é");
    }

    fn text() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop_oneof![5 => any::<char>(), 2 => (0u8..0x80).prop_map(char::from), 1 => Just('"'), 1 => Just('\\')],
            0..80,
        )
        .prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn escaping_is_the_naive_one_and_serde_json_reads_it_back(text in text()) {
            let escaped = escaped(&text);
            prop_assert_eq!(&escaped, &naive(&text));
            prop_assert_eq!(serde_json::from_str::<String>(&format!("\"{escaped}\"")).unwrap(), &*text);
            prop_assert_eq!(unescape(escaped.as_bytes()), text.as_bytes());
        }
    }
}
