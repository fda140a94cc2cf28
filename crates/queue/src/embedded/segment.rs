//! A segment: one file of a log, named by its first offset. A header, then frames to the end.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use pushline_model::{Offset, Timestamp};

use super::fs::{File, FileSystem};
use crate::{Frame, QueueError};

/// Of the format of segments and frames.
pub(super) const VERSION: u32 = 1;

/// `PUSHLINE`, version u32, crc32c u32 of the rest, base offset u64, reserved u64.
pub(super) const SEGMENT_HEADER: usize = 32;

const MAGIC: &[u8; 8] = b"PUSHLINE";

/// A place is remembered every so many bytes.
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
    /// The time of its first record.
    pub(super) oldest: Option<Timestamp>,
    /// The time of its last record.
    pub(super) newest: Timestamp,
    /// Some frames' offsets and where they begin.
    index: Vec<(Offset, u64)>,
}

impl Segment {
    /// A new file with a durable header and a durable name.
    pub(super) fn create(fs: &dyn FileSystem, dir: &Path, base: Offset) -> Result<Self, QueueError> {
        let path = dir.join(name_of(base));
        let file = fs.open(&path).map_err(QueueError::io("create", &path))?;
        let header = header(base);
        let written = file.truncate(0).and_then(|()| file.write_at(&header, 0)).and_then(|()| file.sync()).and_then(|()| fs.sync_dir(dir));
        if let Err(error) = written {
            // Half of it would lie in the middle of the log once the one before has grown: nothing goes on unless it is gone for good.
            let removed = fs.remove(&path).and_then(|()| fs.sync_dir(dir));
            removed.map_err(io::Error::other).map_err(QueueError::io("remove what was half created of", &path))?;
            return Err(QueueError::io("write", &path)(error));
        }
        Ok(Self::empty(path, file, base))
    }

    /// A segment found in a folder, not scanned yet.
    pub(super) fn open(fs: &dyn FileSystem, dir: &Path, base: Offset) -> Result<Self, QueueError> {
        let path = dir.join(name_of(base));
        let file = fs.open(&path).map_err(QueueError::io("open", &path))?;
        Ok(Self::empty(path, file, base))
    }

    fn empty(path: PathBuf, file: Arc<dyn File>, base: Offset) -> Self {
        let (bytes, newest) = (SEGMENT_HEADER as u64, Timestamp::default());
        Self { path, file, base, end: base, bytes, oldest: None, newest, index: Vec::new() }
    }

    /// A frame lies at its end now, durably.
    pub(super) fn extend(&mut self, frame: &Frame) {
        if self.index.last().is_none_or(|(_, at)| self.bytes - at >= INDEX_EVERY) {
            self.index.push((frame.base(), self.bytes));
        }
        self.bytes += frame.bytes().len() as u64;
        self.end = frame.end();
        self.oldest = self.oldest.or(Some(frame.records(frame.base()).next().map_or(Timestamp::default(), |(_, record)| record.at)));
        self.newest = frame.records(frame.end() - 1).last().map_or(Timestamp::default(), |(_, record)| record.at);
    }

    /// Where a frame begins that lies at an offset or before it, the nearest that is remembered.
    pub(super) fn position_before(&self, offset: Offset) -> u64 {
        let place = self.index.partition_point(|(base, _)| *base <= offset);
        place.checked_sub(1).map_or(SEGMENT_HEADER as u64, |place| self.index[place].1)
    }

    pub(super) fn corrupt(&self, position: u64, what: &str) -> QueueError {
        QueueError::Corrupt { path: self.path.clone(), position, offset: self.end, what: what.to_owned() }
    }
}

/// The first offset that a file's name tells; `None` for what isn't a segment's name.
pub(super) fn base_of(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

pub(super) fn name_of(base: Offset) -> String {
    format!("{base:020}.log")
}

fn header(base: Offset) -> [u8; SEGMENT_HEADER] {
    let mut header = [0; SEGMENT_HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&base.to_le_bytes());
    let crc = crc32c::crc32c(&header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

/// What is wrong with a segment's header.
pub(super) enum HeaderFault {
    Invalid,
    Version(u32),
}

/// Checks a segment's header.
pub(super) fn check_header(bytes: &[u8], base: Offset) -> Result<(), HeaderFault> {
    let found = bytes.get(..SEGMENT_HEADER).ok_or(HeaderFault::Invalid)?;
    let version = u32::from_le_bytes([found[8], found[9], found[10], found[11]]);
    if found == header(base) {
        Ok(())
    } else if found.starts_with(MAGIC) && found[12..] == header(base)[12..] && version > VERSION {
        Err(HeaderFault::Version(version))
    } else {
        Err(HeaderFault::Invalid)
    }
}

impl QueueError {
    /// What the system said while something was done to a file.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source: Arc::new(source) }
    }
}
