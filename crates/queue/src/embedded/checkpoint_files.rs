//! Checkpoint in two alternating files, so that a crash in the middle of a save leaves the save before it.
//!
//! ```text
//! PUSHPROG | version u32 | crc32c u32 over the rest | sequence u64 | length u32 | checkpoint and watermark (postcard)
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use pushline_model::Offset;

use super::fs::{File, FileSystem};
use crate::{Checkpoint, QueueError, Saved};

const MAGIC: &[u8; 8] = b"PUSHPROG";
const VERSION: u32 = 1;
const HEADER: usize = 28;

/// The two files.
#[derive(Debug)]
pub(super) struct CheckpointFiles {
    files: [Slot; 2],
    sequence: u64,
}

#[derive(Debug)]
struct Slot {
    path: PathBuf,
    file: Arc<dyn File>,
}

/// What a file holds.
enum Content {
    Empty,
    Invalid,
    Saved(u64, Saved),
}

impl CheckpointFiles {
    /// Opens both, and reads what was saved last.
    pub(super) fn open(fs: &dyn FileSystem, dir: &Path) -> Result<(Self, Saved), QueueError> {
        let slot = |name| {
            let path = dir.join(name);
            let file = fs.open(&path).map_err(QueueError::io("open", &path))?;
            Ok(Slot { path, file })
        };
        let files = [slot("checkpoint.a")?, slot("checkpoint.b")?];
        fs.sync_dir(dir).map_err(QueueError::io("sync", dir))?;
        let contents = [files[0].read()?, files[1].read()?];
        if contents.iter().all(|content| matches!(content, Content::Invalid)) {
            let what = "neither it nor the other checkpoint file can be read, and a crash spoils only one".to_owned();
            return Err(QueueError::Corrupt { path: files[0].path.clone(), position: 0, offset: 0, what });
        }
        let saved = contents
            .into_iter()
            .filter_map(|content| if let Content::Saved(sequence, saved) = content { Some((sequence, saved)) } else { None });
        let (sequence, saved) = saved.max_by_key(|(sequence, _)| *sequence).unwrap_or_default();
        Ok((Self { files, sequence }, saved))
    }

    /// Saves over the older one.
    pub(super) fn save(&mut self, checkpoint: &Checkpoint, watermark: Offset) -> Result<(), QueueError> {
        let sequence = self.sequence + 1;
        let bytes = encode(sequence, checkpoint, watermark);
        self.files[usize::from(sequence % 2 == 1)].write(&bytes)?;
        self.sequence = sequence;
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
            Some((VERSION, sequence, saved)) => Ok(saved.map_or(Content::Invalid, |saved| Content::Saved(sequence, saved))),
            Some((found, ..)) => Err(QueueError::Version { path: self.path.clone(), found, known: VERSION }),
            None => Ok(Content::Invalid),
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<(), QueueError> {
        let written = self.file.write_at(bytes, 0).and_then(|()| self.file.truncate(bytes.len() as u64)).and_then(|()| self.file.sync());
        written.map_err(QueueError::io("write", &self.path))
    }
}

fn encode(sequence: u64, checkpoint: &Checkpoint, watermark: Offset) -> Vec<u8> {
    let body = postcard::to_stdvec(&(checkpoint, watermark)).expect("checkpoint is plain data, and a Vec takes all of it");
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&body);
    let crc = crc32c::crc32c(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The version, the sequence, and what was saved where the version is known. `None` for what isn't whole.
fn decode(bytes: &[u8]) -> Option<(u32, u64, Option<Saved>)> {
    let header = bytes.get(..HEADER)?;
    let number = |at: usize| header.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
    let (version, crc, length) = (number(8)?, number(12)?, number(24)?);
    let sequence = u64::from(number(16)?) | u64::from(number(20)?) << 32;
    let whole = bytes.get(..HEADER + length as usize)?;
    if !whole.starts_with(MAGIC) || crc32c::crc32c(&whole[16..]) != crc {
        return None;
    }
    let saved = postcard::from_bytes::<(Checkpoint, Offset)>(&whole[HEADER..]).ok();
    Some((version, sequence, saved.map(|(checkpoint, watermark)| Saved { checkpoint: Some(checkpoint), watermark: Some(watermark) })))
}
