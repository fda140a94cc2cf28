//! A segment: one file of a log, named by its first offset (docs/queue-format.md, Segment). A header, then frames to the end.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use pushline_model::{Offset, Timestamp};

use super::fs::{File, FileSystem};
use crate::{Frame, QueueError};

/// The version of the format of segments and frames.
pub(super) const VERSION: u32 = 2;

/// `PUSHLINE`, version u32, crc32c u32 of the version and of the rest, base offset u64, log time u64 of the last record before.
pub(super) const SEGMENT_HEADER: usize = 32;

const MAGIC: &[u8; 8] = b"PUSHLINE";

/// How many bytes lie between two places that the index knows.
const INDEX_EVERY: u64 = 64 << 10;

/// A file of a log, and what of it is durable.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) base: Offset,
    /// The offset after its last durable record.
    pub(super) end: Offset,
    /// Where its last durable frame ends.
    pub(super) bytes: u64,
    /// The log time of its first record. `None`: it has no record.
    pub(super) first_time: Option<Timestamp>,
    /// The log time of its last record, else of the last one before it, else 1970.
    pub(super) last_time: Timestamp,
    /// Some frames' offsets and where they begin.
    index: Vec<(Offset, u64)>,
}

impl Segment {
    /// A new file with a durable header and a durable name.
    /// `last_time` is the log time of the last record before it.
    pub(super) fn create(fs: &dyn FileSystem, dir: &Path, base: Offset, last_time: Timestamp) -> Result<Self, QueueError> {
        let path = dir.join(name_of(base));
        let file = fs.open(&path).map_err(QueueError::io("create", &path))?;
        let header = header(base, last_time);
        let written = file.truncate(0).and_then(|()| file.write_at(&header, 0)).and_then(|()| file.sync()).and_then(|()| fs.sync_dir(dir));
        if let Err(error) = written {
            // A half-created file would lie in the middle of the log once the segment before has grown: it must be gone before anything else is written.
            let removed = fs.remove(&path).and_then(|()| fs.sync_dir(dir));
            removed.map_err(io::Error::other).map_err(QueueError::io("remove what was half created of", &path))?;
            return Err(QueueError::io("write", &path)(error));
        }
        Ok(Self::empty(path, file, base, last_time))
    }

    /// A segment found in a folder, not scanned yet.
    pub(super) fn open(fs: &dyn FileSystem, dir: &Path, base: Offset) -> Result<Self, QueueError> {
        let path = dir.join(name_of(base));
        let file = fs.open(&path).map_err(QueueError::io("open", &path))?;
        Ok(Self::empty(path, file, base, Timestamp(0)))
    }

    fn empty(path: PathBuf, file: Arc<dyn File>, base: Offset, last_time: Timestamp) -> Self {
        Self { path, file, base, end: base, bytes: SEGMENT_HEADER as u64, first_time: None, last_time, index: Vec::new() }
    }

    /// A frame lies at its end now, durably.
    pub(super) fn extend(&mut self, frame: &Frame) {
        if self.index.last().is_none_or(|(_, at)| self.bytes - at >= INDEX_EVERY) {
            self.index.push((frame.base(), self.bytes));
        }
        self.bytes += frame.bytes().len() as u64;
        self.end = frame.end();
        self.first_time = self.first_time.or(Some(frame.log_time()));
        self.last_time = frame.log_time();
    }

    /// Where a frame begins that lies at an offset or before it: the nearest one that the index knows.
    pub(super) fn position_before(&self, offset: Offset) -> u64 {
        let place = self.index.partition_point(|(base, _)| *base <= offset);
        place.checked_sub(1).map_or(SEGMENT_HEADER as u64, |place| self.index[place].1)
    }

    pub(super) fn corrupt(&self, position: u64, what: &str) -> QueueError {
        QueueError::Corrupt { path: self.path.clone(), position, offset: self.end, what: what.to_owned() }
    }
}

/// The first offset, from a file's name. `None`: it isn't the name of a segment.
pub(super) fn base_of(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

pub(super) fn name_of(base: Offset) -> String {
    format!("{base:020}.log")
}

fn header(base: Offset, last_time: Timestamp) -> [u8; SEGMENT_HEADER] {
    let mut header = [0; SEGMENT_HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&base.to_le_bytes());
    header[24..32].copy_from_slice(&last_time.0.to_le_bytes());
    let crc = check_sum(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Of everything in the header but the magic word and the check sum itself.
fn check_sum(header: &[u8; SEGMENT_HEADER]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[8..12]), &header[16..])
}

/// Why a segment's header can't be used.
pub(super) enum HeaderFault {
    Invalid,
    /// It is whole, and of another version of the format.
    Version(u32),
}

/// Reads a segment's header: the log time of the last record before the segment.
pub(super) fn read_header(bytes: &[u8], base: Offset) -> Result<Timestamp, HeaderFault> {
    let found: &[u8; SEGMENT_HEADER] = bytes.first_chunk().ok_or(HeaderFault::Invalid)?;
    let number = |at: usize| u32::from_le_bytes(found[at..at + 4].try_into().expect("it has four bytes"));
    let long = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
    let (version, crc) = (number(8), number(12));
    // Version 1 left its number out of the check sum.
    let is_whole = found.starts_with(MAGIC) && (crc == check_sum(found) || version == 1 && crc == crc32c::crc32c(&found[16..]));
    match version {
        VERSION if is_whole && long(16) == base => Ok(Timestamp(long(24))),
        other if is_whole && other != VERSION => Err(HeaderFault::Version(other)),
        _ => Err(HeaderFault::Invalid),
    }
}

impl QueueError {
    /// An error of the operating system. `doing`: what was being done to the file, as in "can't write".
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source: Arc::new(source) }
    }
}
