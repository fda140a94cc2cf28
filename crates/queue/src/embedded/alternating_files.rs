//! Something that is saved in two alternating files, so that a crash in the middle of a save leaves the save before it (docs/queue-format.md, Checkpoint
//! files).
//!
//! ```text
//! magic, 8 bytes | version u32 | crc32c u32 over the version and the rest | sequence u64 | length u32 of the body
//! body | extensions, which an older reader skips
//! ```

use std::{
    borrow::Cow,
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::fs::{File, FileSystem};
use crate::QueueError;

/// What is saved.
pub(super) trait Saveable: Sized {
    const MAGIC: &[u8; 8];
    const VERSION: u32;
    /// The names of the two files.
    const NAMES: [&str; 2];

    fn encode(&self) -> Cow<'_, [u8]>;

    /// Reads the body and skips extensions. `None`: it can't be read.
    fn decode(body: &[u8]) -> Option<Self>;
}

/// The two files.
#[derive(Debug)]
pub(super) struct AlternatingFiles<T> {
    files: [Slot; 2],
    /// The sequence of the next save; the first one is 0.
    next: u64,
    what: PhantomData<fn(T)>,
}

#[derive(Debug)]
struct Slot {
    path: PathBuf,
    file: Arc<dyn File>,
}

/// What the two files hold together.
#[derive(Debug)]
pub(super) enum Found<T> {
    /// What was saved last.
    Saved(T),
    /// The only one that was written can't be read.
    OnlySpoiled,
    Nothing,
    /// Both were written, and neither can be read. A crash spoils only one.
    BothSpoiled,
}

/// What a file holds.
enum Content<T> {
    Empty,
    Invalid,
    Saved(u64, T),
}

const HEADER: usize = 28;

impl<T: Saveable> AlternatingFiles<T> {
    /// Opens both, and reads what was saved last.
    pub(super) fn open(fs: &dyn FileSystem, dir: &Path) -> Result<(Self, Found<T>), QueueError> {
        let slot = |name| {
            let path = dir.join(name);
            let file = fs.open(&path).map_err(QueueError::io("open", &path))?;
            Ok(Slot { path, file })
        };
        let files = [slot(T::NAMES[0])?, slot(T::NAMES[1])?];
        fs.sync_dir(dir).map_err(QueueError::io("sync", dir))?;
        let contents: [Content<T>; 2] = [files[0].read()?, files[1].read()?];
        let spoiled = contents.iter().filter(|content| matches!(content, Content::Invalid)).count();
        let saved = contents
            .into_iter()
            .filter_map(|content| if let Content::Saved(sequence, saved) = content { Some((sequence, saved)) } else { None });
        let (next, found) = match saved.max_by_key(|(sequence, _)| *sequence) {
            Some((sequence, saved)) => (sequence + 1, Found::Saved(saved)),
            None if spoiled == files.len() => (0, Found::BothSpoiled),
            None if spoiled > 0 => (0, Found::OnlySpoiled),
            None => (0, Found::Nothing),
        };
        Ok((Self { files, next, what: PhantomData }, found))
    }

    /// Saves over the older one. Returns how many bytes it wrote.
    pub(super) fn save(&mut self, what: &T) -> Result<usize, QueueError> {
        let bytes = encode(self.next, what);
        self.files[usize::from(self.next % 2 == 1)].write(&bytes)?;
        self.next += 1;
        Ok(bytes.len())
    }
}

impl Slot {
    fn read<T: Saveable>(&self) -> Result<Content<T>, QueueError> {
        let read = || {
            let mut bytes = vec![0; usize::try_from(self.file.size()?).map_err(std::io::Error::other)?];
            self.file.read_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let bytes = read().map_err(QueueError::io("read", &self.path))?;
        if bytes.is_empty() {
            return Ok(Content::Empty);
        }
        match decode::<T>(&bytes) {
            Some((version, sequence, saved)) if version == T::VERSION => {
                Ok(saved.map_or(Content::Invalid, |saved| Content::Saved(sequence, saved)))
            }
            Some((found, ..)) => Err(QueueError::Version { path: self.path.clone(), found, known: T::VERSION }),
            None => Ok(Content::Invalid),
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<(), QueueError> {
        let written = self.file.write_at(bytes, 0).and_then(|()| self.file.truncate(bytes.len() as u64)).and_then(|()| self.file.sync());
        written.map_err(QueueError::io("write", &self.path))
    }
}

fn encode<T: Saveable>(sequence: u64, what: &T) -> Vec<u8> {
    let body = what.encode();
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(T::MAGIC);
    bytes.extend_from_slice(&T::VERSION.to_le_bytes());
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

/// The version, the sequence, and what was saved where the version is known. `None`: the file isn't whole.
fn decode<T: Saveable>(bytes: &[u8]) -> Option<(u32, u64, Option<T>)> {
    let header = bytes.get(..HEADER)?;
    let number = |at: usize| header.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
    let (version, crc, length) = (number(8)?, number(12)?, number(24)?);
    let sequence = u64::from(number(16)?) | u64::from(number(20)?) << 32;
    let whole = bytes.get(..HEADER + length as usize)?;
    if !whole.starts_with(T::MAGIC) || check_sum(whole) != crc {
        return None;
    }
    let saved = (version == T::VERSION).then(|| T::decode(&whole[HEADER..])).flatten();
    Some((version, sequence, saved))
}
