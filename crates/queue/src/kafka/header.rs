//! The one header that a record of Pushline carries on Kafka, for Pushline and for any other consumer (docs/kafka-topics.md, Header). Pure.
//!
//! A record's key is its group (`organisation/name`), its value a packet's payload as published. The header `pushline` holds the rest:
//!
//! ```text
//! version u8 = 2 | kind u8 | at u64, big endian, units of 100 ns since 1970-01-01T00:00:00Z
//! for a packet (kind 0): ICCID length u8 | ICCID, ASCII | topic length u16, big endian | MQTT topic, UTF-8
//! extensions to the end, each: tag u8 | length u16, big endian | bytes
//!   tag 1, of a packet: the session that holds its packet id, 16 bytes | the packet id u16, big endian
//! ```
//!
//! `at` is a packet's `received_at`, else the time of writing. The other kinds are 1 a replay, 2 a dead letter, 3 a mark that dead letters were
//! replayed, 4 a tick, which has no key and no value. The values of kinds 1 to 3 are Pushline's own. A reader skips extensions with other tags. A reader stops at a record of another version: it can't know what the record means.

use pushline_model::{GroupId, Iccid, Timestamp};

use crate::{HeldId, Kind, Record, SessionId, frame::fits};

/// The header's name.
pub(super) const NAME: &str = "pushline";

/// The version that this Pushline writes and reads.
pub(super) const VERSION: u8 = 2;

const PACKET: u8 = 0;
const REPLAY: u8 = 1;
const DEAD_LETTER: u8 = 2;
const REPLAYED: u8 = 3;
const TICK: u8 = 4;

/// The extension that names the packet id which a session holds, and its length.
const HELD: u8 = 1;
const HELD_LEN: u16 = 18;

/// The header has this version, which another Pushline wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OtherVersion(pub(super) u8);

/// A record as it lies on Kafka.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    pub(super) key: Option<&'a [u8]>,
    /// The value of the header `pushline`.
    pub(super) header: Option<&'a [u8]>,
    pub(super) payload: Option<&'a [u8]>,
    /// Kafka's own time of the record.
    pub(super) written_at: Timestamp,
}

/// Writes a record's header. A foreign record is only ever read.
pub(super) fn encode(record: &Record<'_>, into: &mut Vec<u8>) {
    let kind = match record.kind {
        Kind::Packet { .. } => PACKET,
        Kind::Replay => REPLAY,
        Kind::DeadLetter => DEAD_LETTER,
        Kind::Replayed => REPLAYED,
        Kind::Tick => TICK,
        // Sessions have a topic of their own.
        Kind::Release(_) | Kind::Session | Kind::Foreign { .. } => u8::MAX,
    };
    into.clear();
    into.extend_from_slice(&[VERSION, kind]);
    into.extend_from_slice(&record.at.0.to_be_bytes());
    if let Kind::Packet { iccid, topic, held } = record.kind {
        let iccid = iccid.text();
        into.push(u8::try_from(iccid.as_str().len()).expect("an ICCID has 20 characters at most"));
        into.extend_from_slice(iccid.as_str().as_bytes());
        into.extend_from_slice(&u16::try_from(topic.len()).expect("the record was checked to fit a frame").to_be_bytes());
        into.extend_from_slice(topic.as_bytes());
        held.iter().for_each(|held| encode_held(*held, into));
    }
}

fn encode_held(HeldId { session, packet_id }: HeldId, into: &mut Vec<u8>) {
    into.push(HELD);
    into.extend_from_slice(&HELD_LEN.to_be_bytes());
    into.extend_from_slice(&session.0);
    into.extend_from_slice(&packet_id.to_be_bytes());
}

/// Reads a record. One that Pushline can't have written is [`Kind::Foreign`], with the time that Kafka gave it.
///
/// # Errors
/// Another version of Pushline wrote it.
pub(super) fn record(raw: Raw<'_>) -> Result<Record<'_>, OtherVersion> {
    let foreign = |why| {
        let payload = raw.payload.unwrap_or(b"");
        Ok(Record { group: "", at: raw.written_at, kind: Kind::Foreign { why }, payload })
    };
    let Some(header) = raw.header else { return foreign("it has no header \"pushline\"") };
    if let Some(&version) = header.first()
        && version != VERSION
        && version != 0
    {
        return Err(OtherVersion(version));
    }
    let Some((kind, at)) = decode(header) else { return foreign("its header \"pushline\" can't be read") };
    if kind == Kind::Tick {
        return Ok(Record { group: "", at, kind, payload: b"" });
    }
    let Ok(group) = std::str::from_utf8(raw.key.unwrap_or(b"")) else { return foreign("its key isn't UTF-8") };
    if matches!(kind, Kind::Packet { .. } | Kind::Replay) && !GroupId::is_valid(group) {
        return foreign("its key isn't a group: organisation/name");
    }
    let Some(payload) = raw.payload else { return foreign("it has no value") };
    let record = Record { group, at, kind, payload };
    if fits(&record).is_err() { foreign("it is larger than a record of Pushline can be") } else { Ok(record) }
}

/// The kind and the time. `None`: the header isn't whole. Bytes behind them are extensions.
fn decode(header: &[u8]) -> Option<(Kind<'_>, Timestamp)> {
    let (&[_version, kind], rest) = header.split_first_chunk()?;
    let (at, rest) = rest.split_first_chunk()?;
    let kind = match kind {
        PACKET => {
            let (&length, rest) = rest.split_first()?;
            let (iccid, rest) = rest.split_at_checked(usize::from(length))?;
            let (length, rest) = rest.split_first_chunk()?;
            let (topic, extensions) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            Kind::Packet { iccid: Iccid::from_bytes(iccid)?, topic: std::str::from_utf8(topic).ok()?, held: decode_held(extensions) }
        }
        REPLAY => Kind::Replay,
        DEAD_LETTER => Kind::DeadLetter,
        REPLAYED => Kind::Replayed,
        TICK => Kind::Tick,
        _ => return None,
    };
    Some((kind, Timestamp(u64::from_be_bytes(*at))))
}

/// The packet id that a session holds, if an extension names one.
fn decode_held(mut extensions: &[u8]) -> Option<HeldId> {
    loop {
        let (&[tag, high, low], rest) = extensions.split_first_chunk()?;
        let length = u16::from_be_bytes([high, low]);
        let (extension, rest) = rest.split_at_checked(usize::from(length))?;
        if let (HELD, Some((session, id))) = (tag, extension.split_first_chunk())
            && let Ok(id) = id.try_into()
        {
            return Some(HeldId { session: SessionId(*session), packet_id: u16::from_be_bytes(id) });
        }
        extensions = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Bytes<'a> = Option<&'a [u8]>;

    fn read<'a>(key: Bytes<'a>, header: Bytes<'a>, payload: Bytes<'a>) -> Result<Record<'a>, OtherVersion> {
        record(Raw { key, header, payload, written_at: Timestamp(9) })
    }

    fn packet<'a>(topic: &'a str, at: u64) -> Record<'a> {
        let kind = Kind::Packet { iccid: "8976".parse().unwrap(), topic, held: None };
        Record { group: "mti/line", at: Timestamp(at), kind, payload: b"ABC" }
    }

    fn header_of(record: &Record<'_>) -> Vec<u8> {
        let mut header = Vec::new();
        encode(record, &mut header);
        header
    }

    #[test]
    fn a_packets_header_is_as_it_is_documented() {
        let header = header_of(&packet("mti/8976/é", 0x0102_0304_0506_0708));
        assert_eq!(header, [&[2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 4], &b"8976"[..], &[0, 11], "mti/8976/é".as_bytes()].concat());
    }

    #[test]
    fn the_packet_id_that_a_session_holds_stands_behind_the_topic() {
        let Record { kind: Kind::Packet { iccid, topic, .. }, .. } = packet("mti/8976", 7) else { panic!("it is a packet") };
        let held = Some(HeldId { session: SessionId([9; 16]), packet_id: 0x0102 });
        let record = Record { kind: Kind::Packet { iccid, topic, held }, ..packet("mti/8976", 7) };
        let (plain, header) = (header_of(&packet("mti/8976", 7)), header_of(&record));
        assert_eq!(header, [&plain[..], &[1, 0, 18], &[9; 16], &[1, 2]].concat());
        let behind_another = [&plain[..], &[2, 0, 1, 0], &header[plain.len()..], &[3, 0, 0]].concat();
        for header in [header, behind_another] {
            assert_eq!(read(Some(b"mti/line"), Some(&header), Some(b"ABC")), Ok(record));
        }
    }

    #[test]
    fn a_tick_has_neither_key_nor_value() {
        let header = header_of(&Record { group: "", at: Timestamp(7), kind: Kind::Tick, payload: b"" });
        assert_eq!(header, [2, 4, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(read(None, Some(&header), None), Ok(Record { group: "", at: Timestamp(7), kind: Kind::Tick, payload: b"" }));
    }

    #[test]
    fn unknown_extensions_are_skipped() {
        for record in [packet("mti/8976", 7), Record { kind: Kind::Replay, ..packet("", 7) }] {
            let extended = [&header_of(&record)[..], &[1, 0, 3], b"new"].concat();
            assert_eq!(read(Some(b"mti/line"), Some(&extended), Some(b"ABC")), Ok(record));
        }
    }

    #[test]
    fn another_version_is_never_taken_for_a_foreign_record() {
        let header = header_of(&packet("mti/8976", 7));
        for version in [1, VERSION + 1, u8::MAX] {
            let other = [&[version], &header[1..]].concat();
            assert_eq!(read(Some(b"mti/line"), Some(&other), Some(b"ABC")), Err(OtherVersion(version)));
            assert_eq!(read(None, Some(&[version]), None), Err(OtherVersion(version)), "of another version nothing else is known");
        }
    }

    #[test]
    fn a_record_that_pushline_cannot_have_written_is_foreign_and_keeps_its_bytes() {
        let header = header_of(&packet("mti/8976", 7));
        let cases: [(Bytes<'_>, Bytes<'_>, Bytes<'_>); 7] = [
            (Some(b"mti/line"), None, Some(b"ABC")),
            (Some(b"mti/line"), Some(b""), Some(b"ABC")),
            (Some(b"mti/line"), Some(&header[..9]), Some(b"ABC")),
            (Some(b"mti/line"), Some(&header[..header.len() - 1]), Some(b"ABC")),
            (Some(b"line"), Some(&header), Some(b"ABC")),
            (None, Some(&header), Some(b"ABC")),
            (Some(b"mti/line"), Some(&header), None),
        ];
        for (key, header, payload) in cases {
            let found = read(key, header, payload).unwrap();
            assert!(matches!(found.kind, Kind::Foreign { .. }), "{found:?}");
            assert_eq!((found.group, found.at, found.payload), ("", Timestamp(9), payload.unwrap_or_default()));
        }
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(
            at: u64,
            iccid in "[0-9A-Za-z]{1,20}",
            topic in "\\PC{0,40}",
            payload in prop::collection::vec(any::<u8>(), 0..40),
            kind in 0..4u8,
        ) {
            let kinds = [Kind::Packet { iccid: iccid.parse().unwrap(), topic: &topic, held: None }, Kind::Replay, Kind::DeadLetter, Kind::Replayed];
            let written = Record { group: "mti/line 1", at: Timestamp(at), kind: kinds[usize::from(kind)], payload: &payload };
            let header = header_of(&written);
            prop_assert_eq!(read(Some(b"mti/line 1"), Some(&header), Some(&payload)), Ok(written));
        }

        #[test]
        fn garbage_never_panics(key: Option<Vec<u8>>, header: Option<Vec<u8>>, payload: Option<Vec<u8>>) {
            let _ = read(key.as_deref(), header.as_deref(), payload.as_deref());
        }
    }
}
