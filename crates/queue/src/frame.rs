//! A frame: records that were stored together, as one run of bytes that the disk, memory and every reader share (docs/queue-format.md, Frame).
//!
//! ```text
//! header, 40 bytes, little endian:
//!   length u32 of what follows the header | crc32c u32 over the rest of the header and what follows it
//!   base offset u64 | durable end u64 known when it was written | record count u32 | extensions' length u32 | log time u64
//! extensions of the frame, then the records
//! record:
//!   length u32 of what follows | kind u8 | group length u8 | topic length u16 | at u64
//!   if the top bit of kind is set: extensions' length u16 | extensions of the record
//!   iccid 16 bytes (a packet's) | group | topic | payload
//! ```
//!
//! An extension of a record is a tag u8, a length u16 and that many bytes. Tag 1 is the packet id that a session holds: the session's 16 bytes and the id u16.
//! Readers skip other tags, and every extension of the frame.

use bytes::Bytes;
use pushline_model::{Iccid, Offset, Timestamp};

use crate::{AppendError, HeldId, Kind, Record, SessionId};

/// A frame holds at most this many bytes of records, or one record.
pub const FRAME_MAX: usize = 1 << 20;

/// Length of a frame's header.
pub(crate) const HEADER: usize = 40;

/// Set in a record's kind where extensions follow.
const EXTENDED: u8 = 0x80;

/// Bytes of a record before its group, topic and payload, without a packet's ICCID.
pub(crate) const RECORD_HEADER: usize = 16;
const ICCID: usize = 16;

/// The extension of a record that names the packet id that a session holds.
const HELD: u8 = 1;
const HELD_LEN: usize = 18;
/// Bytes that it takes in a record: the length of all extensions, tag and length.
const EXTENSIONS: usize = 2 + 3 + HELD_LEN;

/// Records as they lie on the disk and in memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Frame {
    bytes: Bytes,
    /// Where the records begin.
    records_at: usize,
    base: Offset,
    end: Offset,
    durable_end: Offset,
    log_time: Timestamp,
    /// Whether a record may change a session.
    changes_sessions: bool,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) crc: u32,
    pub(crate) base: Offset,
    pub(crate) durable_end: Offset,
    pub(crate) count: u32,
    /// Bytes of extensions between the header and the records.
    extensions: u32,
    log_time: Timestamp,
}

/// Puts records together.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    count: u32,
    changes_sessions: bool,
}

// === impl Frame ===

impl Frame {
    /// Reads the frame at the beginning of some bytes. `None`: there is no whole and valid one.
    #[must_use]
    pub fn parse(bytes: &Bytes) -> Option<Self> {
        let header = Header::parse(bytes)?;
        let bytes = bytes.get(..header.frame_len()).map(|whole| bytes.slice_ref(whole))?;
        let frame = Self::new(bytes, &header);
        let sound = crc32c::crc32c(&frame.bytes[8..]) == header.crc && frame.is_well_formed();
        sound.then_some(frame)
    }

    fn new(bytes: Bytes, header: &Header) -> Self {
        Self {
            bytes,
            records_at: HEADER + header.extensions as usize,
            base: header.base,
            end: header.base + Offset::from(header.count),
            durable_end: header.durable_end,
            log_time: header.log_time,
            changes_sessions: true,
        }
    }

    /// Whether a record may change a session. A frame that was parsed isn't searched for one.
    pub(crate) fn changes_sessions(&self) -> bool {
        self.changes_sessions
    }

    /// All of it, header included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The offset of its first record.
    #[must_use]
    pub fn base(&self) -> Offset {
        self.base
    }

    /// The offset after its last record.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The end of the log that was durable when it was written.
    #[must_use]
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// The log time of each of its records: given by the queue when it stored them, and the same for every reader (docs/delivery.md, Log time).
    #[must_use]
    pub fn log_time(&self) -> Timestamp {
        self.log_time
    }

    /// The same records with another log time: the one before was taken back.
    pub(crate) fn with_log_time(&self, log_time: Timestamp) -> Self {
        let mut header = Header::parse(&self.bytes).expect("a frame begins with a header");
        header.log_time = log_time;
        let mut bytes = self.bytes.to_vec();
        header.seal(&mut bytes);
        Self { changes_sessions: self.changes_sessions, ..Self::new(bytes.into(), &header) }
    }

    /// Its records from an offset on, each with its offset.
    pub fn records(&self, from: Offset) -> impl Iterator<Item = (Offset, Record<'_>)> {
        let mut rest = &self.bytes[self.records_at..];
        let all = std::iter::from_fn(move || take_record(&mut rest));
        (self.base..).zip(all).skip_while(move |(offset, _)| *offset < from)
    }

    fn is_well_formed(&self) -> bool {
        let mut rest = &self.bytes[self.records_at..];
        let whole = (self.base..self.end).all(|_| take_record(&mut rest).is_some());
        whole && rest.is_empty() && self.end > self.base
    }
}

impl Header {
    /// Reads a header. `None`: the bytes can't be one. It doesn't check the records.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(..HEADER)?;
        let header = Self {
            length: u32::from_le_bytes(take(&mut rest)?),
            crc: u32::from_le_bytes(take(&mut rest)?),
            base: u64::from_le_bytes(take(&mut rest)?),
            durable_end: u64::from_le_bytes(take(&mut rest)?),
            count: u32::from_le_bytes(take(&mut rest)?),
            extensions: u32::from_le_bytes(take(&mut rest)?),
            log_time: Timestamp(u64::from_le_bytes(take(&mut rest)?)),
        };
        let least = u64::from(header.count) * RECORD_HEADER as u64 + u64::from(header.extensions);
        let plausible = header.durable_end <= header.base && header.count > 0 && u64::from(header.length) >= least;
        plausible.then_some(header)
    }

    /// Length of the frame, header included.
    pub(crate) fn frame_len(&self) -> usize {
        HEADER + self.length as usize
    }

    fn write(&self, into: &mut [u8]) {
        into[0..4].copy_from_slice(&self.length.to_le_bytes());
        into[4..8].copy_from_slice(&self.crc.to_le_bytes());
        into[8..16].copy_from_slice(&self.base.to_le_bytes());
        into[16..24].copy_from_slice(&self.durable_end.to_le_bytes());
        into[24..28].copy_from_slice(&self.count.to_le_bytes());
        into[28..32].copy_from_slice(&self.extensions.to_le_bytes());
        into[32..HEADER].copy_from_slice(&self.log_time.0.to_le_bytes());
    }

    /// Writes the header of a whole frame, with its check sum.
    fn seal(&mut self, frame: &mut [u8]) {
        self.write(frame);
        self.crc = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&self.crc.to_le_bytes());
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

fn take_record<'a>(rest: &mut &'a [u8]) -> Option<Record<'a>> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    let (mut record, after) = rest.split_at_checked(length)?;
    *rest = after;
    let [kind, group_len] = take(&mut record)?;
    let topic_len = usize::from(u16::from_le_bytes(take(&mut record)?));
    let at = Timestamp(u64::from_le_bytes(take(&mut record)?));
    let mut held = None;
    if kind & EXTENDED != 0 {
        let extensions = usize::from(u16::from_le_bytes(take(&mut record)?));
        let (extensions, after) = record.split_at_checked(extensions)?;
        (held, record) = (held_id(extensions), after);
    }
    let kind = kind & !EXTENDED;
    let iccid = if kind == 0 { Iccid::from_packed(take(&mut record)?) } else { Iccid::from_packed([0; ICCID]) };
    let (group, record) = record.split_at_checked(usize::from(group_len))?;
    let (topic, payload) = record.split_at_checked(topic_len)?;
    let (group, topic) = (std::str::from_utf8(group).ok()?, std::str::from_utf8(topic).ok()?);
    let kind = match kind {
        0 => Kind::Packet { iccid, topic, held },
        1 => Kind::Replay,
        2 => Kind::DeadLetter,
        3 => Kind::Replayed,
        4 => Kind::Foreign { why: topic },
        5 => Kind::Tick,
        6 => Kind::Release(held?),
        7 => Kind::Session,
        _ => return None,
    };
    Some(Record { group, at, kind, payload })
}

/// The packet id that a session holds, if the extensions of a record name one.
fn held_id(mut extensions: &[u8]) -> Option<HeldId> {
    loop {
        let [tag] = take(&mut extensions)?;
        let length = usize::from(u16::from_le_bytes(take(&mut extensions)?));
        let (mut extension, after) = extensions.split_at_checked(length)?;
        if tag == HELD && length == HELD_LEN {
            let session = SessionId(take(&mut extension)?);
            return Some(HeldId { session, packet_id: u16::from_le_bytes(take(&mut extension)?) });
        }
        extensions = after;
    }
}

// === impl FrameBuilder ===

impl FrameBuilder {
    /// A builder with space for this many bytes of records.
    #[must_use]
    #[cfg(feature = "kafka")]
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(HEADER + bytes), ..Self::default() }
    }

    /// Frees space that the records don't need.
    #[cfg(feature = "kafka")]
    pub(crate) fn trim(&mut self) {
        if self.bytes.capacity() > self.bytes.len() * 5 / 4 {
            self.bytes.shrink_to_fit();
        }
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many records it has.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the frame that [`FrameBuilder::seal`] makes.
    pub(crate) fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether a record would make it longer than [`FRAME_MAX`].
    pub(crate) fn is_full_for(&self, record: &Record<'_>) -> bool {
        self.count > 0 && self.bytes.len() + encoded_len(record) > HEADER + FRAME_MAX
    }

    /// Adds a record that `fits`.
    pub fn push(&mut self, record: &Record<'_>) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER, 0);
        }
        let (kind, iccid, topic, held) = match record.kind {
            Kind::Packet { iccid, topic, held } => (0, Some(iccid), topic, held),
            Kind::Replay => (1, None, "", None),
            Kind::DeadLetter => (2, None, "", None),
            Kind::Replayed => (3, None, "", None),
            Kind::Foreign { why } => (4, None, why, None),
            Kind::Tick => (5, None, "", None),
            Kind::Release(held) => (6, None, "", Some(held)),
            Kind::Session => (7, None, "", None),
        };
        let kind = if held.is_some() { kind | EXTENDED } else { kind };
        let length = encoded_len(record) - size_of::<u32>();
        let (group, fits) = (record.group.len(), "the record was checked to fit a frame");
        self.bytes.extend_from_slice(&u32::try_from(length).expect(fits).to_le_bytes());
        self.bytes.extend_from_slice(&[kind, u8::try_from(group).expect(fits)]);
        self.bytes.extend_from_slice(&u16::try_from(topic.len()).expect(fits).to_le_bytes());
        self.bytes.extend_from_slice(&record.at.0.to_le_bytes());
        held.iter().for_each(|held| push_held(*held, &mut self.bytes));
        iccid.iter().for_each(|iccid| self.bytes.extend_from_slice(&iccid.packed()));
        self.bytes.extend_from_slice(record.group.as_bytes());
        self.bytes.extend_from_slice(topic.as_bytes());
        self.bytes.extend_from_slice(record.payload);
        self.count += 1;
        self.changes_sessions |= record.kind.changes_session();
    }

    /// The frame. It holds at least one record. `log_time` holds for each of them.
    #[must_use]
    pub fn seal(mut self, base: Offset, durable_end: Offset, log_time: Timestamp) -> Frame {
        let length = u32::try_from(self.bytes.len() - HEADER).expect("a frame holds 1 MiB, or one record, and a record fits 4 GiB");
        let mut header = Header { length, crc: 0, base, durable_end, count: self.count, extensions: 0, log_time };
        header.seal(&mut self.bytes);
        Frame { changes_sessions: self.changes_sessions, ..Frame::new(self.bytes.into(), &header) }
    }
}

/// Writes the extensions of a record.
fn push_held(HeldId { session, packet_id }: HeldId, into: &mut Vec<u8>) {
    /// The length of all extensions, tag, and length.
    const HEAD: [u8; 5] = [21, 0, HELD, 18, 0];
    const { assert!(HEAD[0] as usize == EXTENSIONS - 2 && HEAD[3] as usize == HELD_LEN) }
    into.extend_from_slice(&HEAD);
    into.extend_from_slice(&session.0);
    into.extend_from_slice(&packet_id.to_le_bytes());
}

fn encoded_len(record: &Record<'_>) -> usize {
    let kind = match record.kind {
        Kind::Packet { topic, held, .. } => ICCID + topic.len() + held.map_or(0, |_| EXTENSIONS),
        Kind::Foreign { why } => why.len(),
        Kind::Release(_) => EXTENSIONS,
        Kind::Replay | Kind::DeadLetter | Kind::Replayed | Kind::Tick | Kind::Session => 0,
    };
    RECORD_HEADER + kind + record.group.len() + record.payload.len()
}

/// Whether a record can stand in a frame at all.
///
/// # Errors
/// [`AppendError::Refused`] for a group or topic that is too long, or a payload beyond 1 GiB.
pub(crate) fn fits(record: &Record<'_>) -> Result<(), AppendError> {
    let topic = if let Kind::Packet { topic, .. } | Kind::Foreign { why: topic } = record.kind { topic.len() } else { 0 };
    if record.group.len() > usize::from(u8::MAX) {
        return Err(AppendError::Refused(format!("a group of {} bytes, at most 255 fit", record.group.len())));
    }
    if topic > usize::from(u16::MAX) {
        return Err(AppendError::Refused(format!("a topic of {topic} bytes, at most 65,535 fit")));
    }
    if record.payload.len() > 1 << 30 {
        return Err(AppendError::Refused(format!("a payload of {} bytes, at most 1 GiB fits", record.payload.len())));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet's record for a test: its payload is its number.
    pub(crate) fn record<'a>(group: &'a str, payload: &'a [u8]) -> Record<'a> {
        let kind = Kind::Packet { iccid: Iccid::from_bytes(b"897612653856781234").unwrap(), topic: "mti/897612653856781234", held: None };
        Record { group, at: Timestamp(7), kind, payload }
    }

    /// So many small records.
    #[cfg(feature = "kafka")]
    pub(crate) fn frame(base: Offset, records: u64) -> Frame {
        let mut builder = FrameBuilder::default();
        (0..records).for_each(|_| builder.push(&record("o/g", b"payload")));
        builder.seal(base, base, Timestamp(base))
    }

    /// Every kind there is.
    fn kinds(text: &str, packet_id: u16) -> [Kind<'_>; 9] {
        let (iccid, held) = ("12a".parse().unwrap(), HeldId { session: SessionId([9; 16]), packet_id });
        [
            Kind::Packet { iccid, topic: text, held: None },
            Kind::Replay,
            Kind::DeadLetter,
            Kind::Replayed,
            Kind::Foreign { why: text },
            Kind::Tick,
            Kind::Packet { iccid, topic: text, held: Some(held) },
            Kind::Release(held),
            Kind::Session,
        ]
    }

    #[test]
    fn an_unknown_extension_is_skipped_and_a_release_needs_its_own() {
        let held = HeldId { session: SessionId([9; 16]), packet_id: 0x0102 };
        let body = |kind, extensions: &[u8]| {
            let body =
                [&[kind, 0, 0, 0][..], &7_u64.to_le_bytes(), &u16::try_from(extensions.len()).unwrap().to_le_bytes(), extensions].concat();
            [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], &body].concat()
        };
        let known = [&[HELD, 18, 0][..], &[9; 16], &[2, 1]].concat();
        let unknown = b"\x02\x01\0x";
        let release = Record::release(Timestamp(7), held);
        for extensions in [known.clone(), [unknown, &known[..]].concat(), [&known[..], unknown].concat()] {
            assert_eq!(take_record(&mut &body(EXTENDED | 6, &extensions)[..]), Some(release));
        }
        assert_eq!(take_record(&mut &body(EXTENDED | 6, unknown)[..]), None);
        let mut builder = FrameBuilder::default();
        builder.push(&release);
        assert_eq!(builder.seal(0, 0, Timestamp(7)).bytes()[HEADER..], body(EXTENDED | 6, &known));
    }

    proptest! {
        #[test]
        fn records_come_out_of_a_frame_as_they_went_in(
            payloads in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), "[a-z/]{0,20}", 0..9u8, any::<u16>()), 1..20),
            base in 0u64..1 << 60,
        ) {
            let records: Vec<Record<'_>> = payloads.iter().map(|(payload, text, kind, id)| Record {
                group: text,
                at: Timestamp(base),
                kind: kinds(text, *id)[usize::from(*kind)],
                payload,
            }).collect();
            let mut builder = FrameBuilder::default();
            records.iter().for_each(|record| builder.push(record));
            let bytes = builder.seal(base, base / 2, Timestamp(base / 3)).bytes().clone();
            let frame = Frame::parse(&bytes).expect("it is valid");
            let expected = (base, base + records.len() as u64, base / 2, Timestamp(base / 3));
            prop_assert_eq!((frame.base(), frame.end(), frame.durable_end(), frame.log_time()), expected);
            prop_assert_eq!(frame.records(0).map(|(_, record)| record).collect::<Vec<_>>(), records.clone());
            prop_assert_eq!(frame.records(base + 1).map(|(offset, _)| offset).next(), (records.len() > 1).then_some(base + 1));
        }

        #[test]
        fn a_flipped_bit_anywhere_is_noticed(payload in prop::collection::vec(any::<u8>(), 0..40), bit in any::<prop::sample::Index>()) {
            let mut builder = FrameBuilder::default();
            builder.push(&record("o/g", &payload));
            let mut bytes = builder.seal(5, 5, Timestamp(7)).bytes().to_vec();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Frame::parse(&bytes.into()).is_none());
        }

        #[test]
        fn garbage_is_no_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Frame::parse(&bytes.into()).is_none());
        }
    }
}
