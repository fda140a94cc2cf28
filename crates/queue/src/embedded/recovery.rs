//! Opening a log (docs/queue-format.md, Recovery): every frame is checked. A torn tail is cut. Corruption is refused, and no file is changed then.
//!
//! The rule: an invalid frame above every durable end that a checkpoint or a valid frame names may be the rest of a write that was interrupted; it is
//! cut. An invalid frame below was durable once: that is corruption. A later segment proves it too, since a segment is only begun when the one before
//! is durable.

use std::{collections::VecDeque, path::Path};

use bytes::Bytes;
use pushline_model::{Offset, Timestamp};
use tracing::{error, warn};

use super::{
    fs::FileSystem,
    segment::{HeaderFault, SEGMENT_HEADER, Segment, VERSION, base_of, name_of, read_header},
};
use crate::{
    Frame, QueueError,
    frame::{HEADER, Header, RECORD_HEADER},
};

/// What the checkpoint file tells of a log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Every record below it was durable once.
    pub(super) durable_end: Offset,
    /// Every record from here on must still be there.
    pub(super) needed_from: Offset,
    /// The log may be gone as a whole: an operator may move dead letters away.
    pub(super) may_be_absent: bool,
}

/// The segments of a log, at least one, in order. `each` gets every frame, in order.
pub(super) fn recover(
    fs: &dyn FileSystem,
    dir: &Path,
    known: Known,
    mut each: impl FnMut(&Frame) -> Result<(), QueueError>,
) -> Result<VecDeque<Segment>, QueueError> {
    fs.create_dir(dir).map_err(QueueError::io("create", dir))?;
    let names = fs.names(dir).map_err(QueueError::io("list", dir))?;
    let mut bases: Vec<Offset> = names.iter().filter_map(|name| base_of(name)).collect();
    bases.sort_unstable();
    let mut segments = VecDeque::new();
    for (place, &base) in bases.iter().enumerate() {
        let mut segment = Segment::open(fs, dir, base)?;
        check_order(segments.back(), &segment, known)?;
        let is_last = place + 1 == bases.len();
        if scan(&mut segment, is_last, known, &mut each)? {
            segments.push_back(segment);
        } else {
            fs.remove(&segment.path).map_err(QueueError::io("remove", &segment.path))?;
            // Else it could be back after a crash, behind a segment that has grown meanwhile.
            fs.sync_dir(dir).map_err(QueueError::io("sync", dir))?;
        }
    }
    if segments.is_empty() {
        // The folder is empty, or it held only a segment that was being created.
        let first = match bases.first() {
            Some(first) => *first,
            None if known.may_be_absent => known.durable_end,
            None => 0,
        };
        if first < known.durable_end {
            return Err(missing(dir, first));
        }
        if bases.is_empty() && first > 0 {
            error!(dir = %dir.display(), records_below = first, "the folder of this log is empty: its records are gone; new records get the offsets from there on");
        }
        segments.push_back(Segment::create(fs, dir, first, Timestamp(0))?);
    }
    Ok(segments)
}

fn check_order(before: Option<&Segment>, segment: &Segment, known: Known) -> Result<(), QueueError> {
    match before {
        Some(before) if before.end != segment.base => {
            Err(before.corrupt(before.bytes, "the segment after it begins at another offset, so one is missing"))
        }
        None if segment.base > known.needed_from => Err(segment.corrupt(0, "segments before it are missing")),
        _ => Ok(()),
    }
}

/// The whole log is missing. No file is created: the next start would take it for a new log.
fn missing(dir: &Path, first: Offset) -> QueueError {
    QueueError::Corrupt { path: dir.join(name_of(first)), position: 0, offset: first, what: "records that were durable are missing".into() }
}

fn check_end(segment: &Segment, known: Known) -> Result<(), QueueError> {
    if segment.end < known.durable_end { Err(segment.corrupt(segment.bytes, "records that were durable are missing")) } else { Ok(()) }
}

/// Reads a segment and cuts a torn tail. `false`: it was being created when the process ended, and holds nothing.
fn scan(
    segment: &mut Segment,
    is_last: bool,
    known: Known,
    each: &mut impl FnMut(&Frame) -> Result<(), QueueError>,
) -> Result<bool, QueueError> {
    let bytes = read_whole(segment)?;
    match read_header(&bytes, segment.base) {
        Ok(last_time) => segment.last_time = last_time,
        Err(HeaderFault::Version(found)) => return Err(QueueError::Version { path: segment.path.clone(), found, known: VERSION }),
        // A header is durable before the first frame is written.
        Err(HeaderFault::Invalid) if is_last && bytes.len() <= SEGMENT_HEADER => {
            check_end(segment, known)?;
            return Ok(false);
        }
        Err(HeaderFault::Invalid) => return Err(segment.corrupt(0, "its header is invalid")),
    }
    let mut rest = bytes.slice(SEGMENT_HEADER..);
    while let Some(frame) = Frame::parse(&rest).filter(|frame| frame.base() == segment.end) {
        segment.extend(&frame);
        each(&frame)?;
        rest = rest.slice(frame.bytes().len()..);
    }
    if !rest.is_empty() {
        let known_to = judge(segment, is_last, &rest, known)?;
        warn!(
            file = %segment.path.display(),
            bytes = rest.len(),
            next_offset = segment.end,
            known_durable_to = known_to,
            "cut the bytes behind the last whole record: most likely a write was interrupted when the process or the machine stopped; if the disk changed them, records that were acknowledged since known_durable_to are lost"
        );
        let cut = segment.file.truncate(segment.bytes).and_then(|()| segment.file.sync());
        cut.map_err(QueueError::io("cut the torn tail of", &segment.path))?;
    }
    if is_last {
        check_end(segment, known)?;
    }
    Ok(true)
}

/// Refuses bytes behind the last valid frame that can't be a torn tail. Returns up to which offset records are known to have been durable.
fn judge(segment: &Segment, is_last: bool, rest: &Bytes, known: Known) -> Result<Offset, QueueError> {
    if !is_last {
        return Err(segment.corrupt(segment.bytes, "a frame is invalid, and a later segment proves that it was durable"));
    }
    let named = later_frames(rest, segment.end).map(|frame| frame.durable_end()).fold(known.durable_end, Offset::max);
    if named > segment.end {
        return Err(segment.corrupt(segment.bytes, "a frame is invalid"));
    }
    Ok(named)
}

/// Valid frames anywhere behind an invalid one, whose length can't be trusted. A payload may hold bytes that look like a frame: one counts only if the
/// bytes before it can hold as many records as its base says.
fn later_frames(rest: &Bytes, above: Offset) -> impl Iterator<Item = Frame> {
    let mut at = 1;
    std::iter::from_fn(move || {
        while at + HEADER <= rest.len() {
            let here = at;
            let header = Header::parse(&rest[here..]);
            if header.is_some_and(|header| {
                header.base > above && header.base - above <= (here / RECORD_HEADER) as Offset && here + header.frame_len() <= rest.len()
            }) && let Some(frame) = Frame::parse(&rest.slice(here..))
            {
                at += frame.bytes().len();
                return Some(frame);
            }
            at += 1;
        }
        None
    })
}

fn read_whole(segment: &Segment) -> Result<Bytes, QueueError> {
    let read = || {
        let size = usize::try_from(segment.file.size()?).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; size];
        segment.file.read_at(&mut bytes, 0)?;
        Ok(bytes.into())
    };
    read().map_err(QueueError::io("read", &segment.path))
}
