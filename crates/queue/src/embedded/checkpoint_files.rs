//! The checkpoint in two alternating files, so that a crash in the middle of a save leaves the save before it (docs/queue-format.md, Checkpoint
//! files).
//!
//! ```text
//! PUSHCKPT | version u32 | crc32c u32 over the version and the rest | sequence u64 | length u32 of what follows
//! watermark, end of each log, checkpoint (postcard) | extensions, which an older reader skips
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use pushline_model::{Offset, Timestamp};
use serde::{Deserialize, Serialize};

use super::fs::{File, FileSystem};
use crate::{QueueError, Saved, SavedCheckpoint};

const MAGIC: &[u8; 8] = b"PUSHCKPT";
const VERSION: u32 = 2;
const HEADER: usize = 28;

/// The two files.
#[derive(Debug)]
pub(super) struct CheckpointFiles {
    files: [Slot; 2],
    /// The sequence of the next save; the first one is 0.
    next: u64,
}

#[derive(Debug)]
struct Slot {
    path: PathBuf,
    file: Arc<dyn File>,
}

/// What is saved: the checkpoint with its watermark, and what the queue needs to know of its logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Envelope {
    /// Every packet below it is settled. `None`: none was saved yet.
    pub(super) watermark: Option<Offset>,
    /// Of each log, in the order in which they are opened.
    pub(super) ends: [LogEnd; 3],
    /// Deliver's bytes. `None`: none were saved yet.
    pub(super) checkpoint: Option<Vec<u8>>,
}

/// How far a log had come when an envelope was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogEnd {
    /// Every record below it was durable.
    pub(super) durable_end: Offset,
    /// The log's time.
    pub(super) log_time: Timestamp,
}

/// What the two files hold together.
#[derive(Debug)]
pub(super) enum FoundCheckpoint {
    /// The envelope that was saved last.
    Envelope(Envelope),
    /// The only one that was written can't be read.
    OnlySpoiled,
    Nothing,
}

/// What a file holds.
enum Content {
    Empty,
    Invalid,
    Saved(u64, Envelope),
}

impl CheckpointFiles {
    /// Opens both, and reads the envelope that was saved last.
    pub(super) fn open(fs: &dyn FileSystem, dir: &Path) -> Result<(Self, FoundCheckpoint), QueueError> {
        let slot = |name| {
            let path = dir.join(name);
            let file = fs.open(&path).map_err(QueueError::io("open", &path))?;
            Ok(Slot { path, file })
        };
        let files = [slot("checkpoint.a")?, slot("checkpoint.b")?];
        fs.sync_dir(dir).map_err(QueueError::io("sync", dir))?;
        let contents = [files[0].read()?, files[1].read()?];
        let spoiled = contents.iter().filter(|content| matches!(content, Content::Invalid)).count();
        if spoiled == files.len() {
            return Err(QueueError::CheckpointsUnreadable { dir: dir.to_owned() });
        }
        let saved = contents
            .into_iter()
            .filter_map(|content| if let Content::Saved(sequence, envelope) = content { Some((sequence, envelope)) } else { None });
        let (next, found) = match saved.max_by_key(|(sequence, _)| *sequence) {
            Some((sequence, envelope)) => (sequence + 1, FoundCheckpoint::Envelope(envelope)),
            None if spoiled > 0 => (0, FoundCheckpoint::OnlySpoiled),
            None => (0, FoundCheckpoint::Nothing),
        };
        Ok((Self { files, next }, found))
    }

    /// Saves over the older one.
    pub(super) fn save(&mut self, envelope: &Envelope) -> Result<(), QueueError> {
        let bytes = encode(self.next, envelope);
        self.files[usize::from(self.next % 2 == 1)].write(&bytes)?;
        self.next += 1;
        Ok(())
    }
}

impl Slot {
    fn read(&self) -> Result<Content, QueueError> {
        let read = || {
            let mut bytes = vec![0; usize::try_from(self.file.size()?).map_err(std::io::Error::other)?];
            self.file.read_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let bytes = read().map_err(QueueError::io("read", &self.path))?;
        if bytes.is_empty() {
            return Ok(Content::Empty);
        }
        match decode(&bytes) {
            Some((VERSION, sequence, envelope)) => Ok(envelope.map_or(Content::Invalid, |envelope| Content::Saved(sequence, envelope))),
            Some((found, ..)) => Err(QueueError::Version { path: self.path.clone(), found, known: VERSION }),
            None => Ok(Content::Invalid),
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<(), QueueError> {
        let written = self.file.write_at(bytes, 0).and_then(|()| self.file.truncate(bytes.len() as u64)).and_then(|()| self.file.sync());
        written.map_err(QueueError::io("write", &self.path))
    }
}

impl FoundCheckpoint {
    /// What was saved for the packets log, which ends at `packets_end`. The first envelope is durable before the first packet, so packets without an
    /// envelope have lost it.
    pub(super) fn saved(&self, dir: &Path, packets_end: Offset) -> Saved {
        let reason = match self {
            Self::Envelope(envelope) => return envelope.saved(),
            _ if packets_end == 0 => return Saved::default(),
            Self::OnlySpoiled => format!("the only checkpoint file that was written, in {}, can't be read", dir.display()),
            Self::Nothing => format!("{} has packets and no checkpoint: the checkpoint files were deleted", dir.display()),
        };
        Saved { watermark: None, checkpoint: SavedCheckpoint::Missing { reason } }
    }

    pub(super) fn envelope(self) -> Option<Envelope> {
        if let Self::Envelope(envelope) = self { Some(envelope) } else { None }
    }
}

impl Envelope {
    fn saved(&self) -> Saved {
        let checkpoint =
            self.checkpoint.as_ref().map_or(SavedCheckpoint::None, |bytes| SavedCheckpoint::Named(Bytes::copy_from_slice(bytes)));
        Saved { watermark: self.watermark, checkpoint }
    }
}

fn encode(sequence: u64, envelope: &Envelope) -> Vec<u8> {
    let body = postcard::to_stdvec(envelope).expect("an envelope is plain data, and a Vec takes all of it");
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).expect("a checkpoint is far below 4 GiB").to_le_bytes());
    bytes.extend_from_slice(&body);
    let crc = check_sum(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Of everything but the magic word and the check sum itself.
fn check_sum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[8..12]), &bytes[16..])
}

/// The version, the sequence, and the envelope where the version is known. `None`: the file isn't whole.
fn decode(bytes: &[u8]) -> Option<(u32, u64, Option<Envelope>)> {
    let header = bytes.get(..HEADER)?;
    let number = |at: usize| header.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
    let (version, crc, length) = (number(8)?, number(12)?, number(24)?);
    let sequence = u64::from(number(16)?) | u64::from(number(20)?) << 32;
    let whole = bytes.get(..HEADER + length as usize)?;
    if !whole.starts_with(MAGIC) || check_sum(whole) != crc {
        return None;
    }
    let envelope = postcard::take_from_bytes(&whole[HEADER..]).ok().map(|(envelope, _extensions)| envelope);
    Some((version, sequence, envelope))
}
