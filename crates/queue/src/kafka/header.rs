//! The one header that a record of ours carries on Kafka, for us and for any other consumer. Pure.
//!
//! A record's key is its group (`organisation/name`), its value a packet's payload as published. Whatever else belongs to it lies in the header
//! `pushline`:
//!
//! ```text
//! version u8 = 1 | kind u8 | at u64, big endian, units of 100 ns since 1970-01-01T00:00:00Z
//! and for a packet (kind 0): ICCID length u8 | ICCID, ASCII | MQTT topic, UTF-8, to the end
//! ```
//!
//! `at` is a packet's `received_at`, else the time of writing. The other kinds are 1 a replay, 2 a dead letter, 3 a mark that dead letters were
//! replayed; their values are Pushline's own. A reader that meets a version it doesn't know leaves the record alone.

use pushline_model::{GroupId, Iccid, Timestamp};

use crate::{Kind, Record, frame::fits};

/// The header's name.
pub(super) const NAME: &str = "pushline";

const VERSION: u8 = 1;

/// Writes a record's header.
pub(super) fn encode(record: &Record<'_>, into: &mut Vec<u8>) {
    let kind = match record.kind {
        Kind::Packet { .. } => 0,
        Kind::Replay => 1,
        Kind::DeadLetter => 2,
        Kind::Replayed => 3,
        Kind::Tick => 4,
        Kind::Foreign { .. } => u8::MAX,
    };
    into.clear();
    into.extend_from_slice(&[VERSION, kind]);
    into.extend_from_slice(&record.at.0.to_be_bytes());
    if let Kind::Packet { iccid, topic } = record.kind {
        let iccid = iccid.text();
        into.push(u8::try_from(iccid.as_str().len()).unwrap_or_default());
        into.extend_from_slice(iccid.as_str().as_bytes());
        into.extend_from_slice(topic.as_bytes());
    }
}

/// A record as it lies on Kafka. Whatever isn't as we write it is [`Kind::Foreign`], with the time that Kafka gave it.
pub(super) fn record<'a>(key: Option<&'a [u8]>, header: Option<&'a [u8]>, payload: Option<&'a [u8]>, written_at: Timestamp) -> Record<'a> {
    let foreign = |why| Record { group: "", at: written_at, kind: Kind::Foreign { why }, payload: payload.unwrap_or_default() };
    let Some(header) = header else { return foreign("it has no header \"pushline\"") };
    let Some((kind, at)) = decode(header) else {
        return foreign("its header \"pushline\" can't be read: a later version may have written it");
    };
    let Ok(group) = std::str::from_utf8(key.unwrap_or_default()) else { return foreign("its key isn't UTF-8") };
    if matches!(kind, Kind::Packet { .. } | Kind::Replay) && !GroupId::is_valid(group) {
        return foreign("its key isn't a group: organisation/name");
    }
    if kind == Kind::Tick {
        return Record { group: "", at, kind, payload: b"" };
    }
    let Some(payload) = payload else { return foreign("it has no value") };
    let record = Record { group, at, kind, payload };
    if fits(&record).is_err() { foreign("it is larger than a record of ours can be") } else { record }
}

fn decode(header: &[u8]) -> Option<(Kind<'_>, Timestamp)> {
    let (&[version, kind], rest) = header.split_first_chunk()?;
    let (at, rest) = rest.split_first_chunk()?;
    let kind = match (version, kind) {
        (VERSION, 0) => {
            let (&length, rest) = rest.split_first()?;
            let (iccid, topic) = rest.split_at_checked(usize::from(length))?;
            Kind::Packet { iccid: Iccid::from_bytes(iccid)?, topic: std::str::from_utf8(topic).ok()? }
        }
        (VERSION, 1) => Kind::Replay,
        (VERSION, 2) => Kind::DeadLetter,
        (VERSION, 3) => Kind::Replayed,
        (VERSION, 4) => Kind::Tick,
        _ => return None,
    };
    Some((kind, Timestamp(u64::from_be_bytes(*at))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packets_header_is_as_it_is_documented() {
        let kind = Kind::Packet { iccid: "8976".parse().unwrap(), topic: "mti/8976/é" };
        let mut header = Vec::new();
        encode(&Record { group: "mti/line", at: Timestamp(0x0102_0304_0506_0708), kind, payload: b"ABC" }, &mut header);
        assert_eq!(header, [&[1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 4], "8976mti/8976/é".as_bytes()].concat());
    }

    #[test]
    fn what_is_not_as_we_write_it_is_foreign_and_keeps_its_bytes() {
        let mut header = Vec::new();
        let kind = Kind::Packet { iccid: "8976".parse().unwrap(), topic: "mti/8976" };
        encode(&Record { group: "mti/line", at: Timestamp(7), kind, payload: b"ABC" }, &mut header);
        let later = [&[2], &header[1..]].concat();
        type Bytes<'a> = Option<&'a [u8]>;
        let cases: [(Bytes<'_>, Bytes<'_>, Bytes<'_>); 6] = [
            (Some(b"mti/line"), None, Some(b"ABC")),
            (Some(b"mti/line"), Some(&header[..9]), Some(b"ABC")),
            (Some(b"mti/line"), Some(&later), Some(b"ABC")),
            (Some(b"line"), Some(&header), Some(b"ABC")),
            (None, Some(&header), Some(b"ABC")),
            (Some(b"mti/line"), Some(&header), None),
        ];
        for (key, header, payload) in cases {
            let found = record(key, header, payload, Timestamp(9));
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
            let kinds = [Kind::Packet { iccid: iccid.parse().unwrap(), topic: &topic }, Kind::Replay, Kind::DeadLetter, Kind::Replayed];
            let written = Record { group: "mti/line 1", at: Timestamp(at), kind: kinds[usize::from(kind)], payload: &payload };
            let mut header = Vec::new();
            encode(&written, &mut header);
            prop_assert_eq!(record(Some(b"mti/line 1"), Some(&header), Some(&payload), Timestamp(0)), written);
        }

        #[test]
        fn garbage_never_panics(key: Option<Vec<u8>>, header: Option<Vec<u8>>, payload: Option<Vec<u8>>) {
            record(key.as_deref(), header.as_deref(), payload.as_deref(), Timestamp(0));
        }
    }
}
