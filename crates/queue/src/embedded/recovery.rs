//! What a log finds when it is opened: every frame is checked. A torn tail is cut; corruption is refused, and nothing is changed then.
//!
//! The rule: an invalid frame above every durable end that checkpoint or a valid frame names is a torn tail, the rest of a write that was
//! never acknowledged. One below was durable once: that is corruption. A later segment says so too, since a segment is only begun when the
//! one before is durable.

use std::{collections::VecDeque, path::Path};

use bytes::Bytes;
use pushline_model::Offset;
use tracing::warn;

use super::{
    fs::FileSystem,
    segment::{HeaderFault, SEGMENT_HEADER, Segment, VERSION, base_of, check_header, name_of},
};
use crate::{
    Frame, QueueError,
    frame::{HEADER, Header, RECORD_HEADER},
};

/// What is known of a log from elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Everything below it was durable once.
    pub(super) durable_end: Offset,
    /// Everything from here on must still be there.
    pub(super) needed_from: Offset,
}

/// The segments of a log, at least one, in order.
pub(super) fn recover(fs: &dyn FileSystem, dir: &Path, known: Known) -> Result<VecDeque<Segment>, QueueError> {
    fs.create_dir(dir).map_err(QueueError::io("create", dir))?;
    let names = fs.names(dir).map_err(QueueError::io("list", dir))?;
    let mut bases: Vec<Offset> = names.iter().filter_map(|name| base_of(name)).collect();
    bases.sort_unstable();
    let mut segments = VecDeque::new();
    for (place, &base) in bases.iter().enumerate() {
        let mut segment = Segment::open(fs, dir, base)?;
        check_order(segments.back(), &segment, known)?;
        let is_last = place + 1 == bases.len();
        if scan(&mut segment, is_last, known)? {
            segments.push_back(segment);
        } else {
            fs.remove(&segment.path).map_err(QueueError::io("remove", &segment.path))?;
            // Else it could be back after a crash, behind a segment that has grown meanwhile.
            fs.sync_dir(dir).map_err(QueueError::io("sync", dir))?;
        }
    }
    if segments.is_empty() {
        // Nothing there, or only a segment that was being created.
        let first = bases.first().copied().unwrap_or(0);
        if first < known.durable_end {
            return Err(missing(dir, first));
        }
        segments.push_back(Segment::create(fs, dir, first)?);
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

/// Nothing of the log is there, and nothing is created: else the next start would find a log that begins anew.
fn missing(dir: &Path, first: Offset) -> QueueError {
    QueueError::Corrupt { path: dir.join(name_of(first)), position: 0, offset: first, what: "records that were durable are missing".into() }
}

fn check_end(segment: &Segment, known: Known) -> Result<(), QueueError> {
    if segment.end < known.durable_end { Err(segment.corrupt(segment.bytes, "records that were durable are missing")) } else { Ok(()) }
}

/// Reads a segment and cuts a torn tail. `false`: it was being created when the process ended; there is nothing in it.
fn scan(segment: &mut Segment, is_last: bool, known: Known) -> Result<bool, QueueError> {
    let bytes = read_whole(segment)?;
    match check_header(&bytes, segment.base) {
        Ok(()) => {}
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
        rest = rest.slice(frame.bytes().len()..);
    }
    if !rest.is_empty() {
        judge(segment, is_last, &rest, known)?;
        warn!(file = %segment.path.display(), bytes = rest.len(), "cut a torn tail: the rest of a write that was never acknowledged");
        let cut = segment.file.truncate(segment.bytes).and_then(|()| segment.file.sync());
        cut.map_err(QueueError::io("cut the torn tail of", &segment.path))?;
    }
    if is_last {
        check_end(segment, known)?;
    }
    Ok(true)
}

/// Whether what lies behind the last valid frame is a torn tail.
fn judge(segment: &Segment, is_last: bool, rest: &Bytes, known: Known) -> Result<(), QueueError> {
    if !is_last {
        return Err(segment.corrupt(segment.bytes, "a frame is invalid, and a later segment says that it was durable"));
    }
    let named = later_frames(rest, segment.end).map(|frame| frame.durable_end()).fold(known.durable_end, Offset::max);
    if named > segment.end {
        return Err(segment.corrupt(segment.bytes, "a frame is invalid"));
    }
    Ok(())
}

/// Valid frames anywhere behind an invalid one, whose length can't be believed. A payload may hold what looks like one: its base is believed only where the
/// bytes before it can hold as many records.
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
