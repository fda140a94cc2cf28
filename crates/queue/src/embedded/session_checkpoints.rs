//! The saved sessions of the embedded queue: a start needs only the records above what they cover (docs/queue-format.md, Session files).

use std::{
    borrow::Cow,
    path::Path,
    sync::{Arc, Mutex},
};

use pushline_model::{Offset, Timestamp};
use tracing::warn;

use super::{
    alternating_files::{AlternatingFiles, Found, Saveable},
    fs::FileSystem,
    log::{Log, lock},
};
use crate::{QueueError, sessions::SessionTable};

/// The sessions with the files that they are saved in.
#[derive(Debug)]
pub(super) struct SessionCheckpoints {
    table: Arc<SessionTable>,
    /// Held while a file is written.
    saved: Mutex<Files>,
}

#[derive(Debug)]
struct Files {
    files: AlternatingFiles<SavedSessions>,
    /// A start needs the records from here on.
    covered: Offset,
    /// How long the last save was, in bytes.
    length: u64,
}

/// The bytes of a table.
#[derive(Debug)]
struct SavedSessions(Vec<u8>);

impl Saveable for SavedSessions {
    const MAGIC: &[u8; 8] = b"PUSHSESS";
    const VERSION: u32 = 1;
    const NAMES: [&str; 2] = ["sessions.a", "sessions.b"];

    fn encode(&self) -> Cow<'_, [u8]> {
        (&self.0[..]).into()
    }

    fn decode(body: &[u8]) -> Option<Self> {
        Some(Self(body.to_vec()))
    }
}

impl SessionCheckpoints {
    /// Reads what was saved. Recovery applies the records of the log to its table.
    pub(super) fn open(fs: &dyn FileSystem, dir: &Path) -> Result<Self, QueueError> {
        let (files, found) = AlternatingFiles::open(fs, dir)?;
        let unusable = |why| QueueError::SessionsUnusable { dir: dir.to_owned(), why };
        let table = match &found {
            Found::Saved(SavedSessions(bytes)) => SessionTable::load(bytes).ok_or(unusable("another version of Pushline wrote them"))?,
            Found::Nothing | Found::OnlySpoiled => SessionTable::default(),
            Found::BothSpoiled => return Err(unusable("neither can be read, and a crash spoils only one of them")),
        };
        let (covered, length) = (table.applied(), 0);
        Ok(Self { table: Arc::new(table), saved: Mutex::new(Files { files, covered, length }) })
    }

    /// Checks that the log has every record that the sessions need, once it is recovered. Sessions that were open are closed: their connections are gone.
    pub(super) fn check(&self, dir: &Path, log: &Log) -> Result<(), QueueError> {
        let (range, covered) = (log.range(), lock(&self.saved).covered);
        let unusable = |why| Err(QueueError::SessionsUnusable { dir: dir.to_owned(), why });
        if self.table.end() > range.end {
            return unusable("they belong to another log, which was longer");
        }
        if covered < range.start {
            if covered > 0 {
                return unusable("the log no longer has the records behind the older one, and the newer one can't be read");
            }
            warn!(dir = %dir.display(), "the queue has no saved sessions: clients are told that theirs are gone, except those of the records that are left");
        }
        self.table.close_all(log.now());
        Ok(())
    }

    pub(super) fn table(&self) -> &Arc<SessionTable> {
        &self.table
    }

    /// Deletes the segments of the packets log below the watermark, as far as the sessions are saved. They are saved anew where the segments that wait for it take more than
    /// twice the bytes of the save. Blocks.
    pub(super) fn delete_below(&self, watermark: Offset, log: &Log) -> Result<(), QueueError> {
        let mut saved = lock(&self.saved);
        if log.bytes_between(saved.covered, watermark) > 2 * saved.length
            && let Err(error) = saved.save(&self.table, log.now())
        {
            if !error.is_passing() {
                return Err(error);
            }
            warn!(error = error.with_source(), "the sessions couldn't be saved: segments that their start needs stay until they are");
        }
        log.delete_below(watermark.min(saved.covered)).map(drop)
    }
}

impl Files {
    fn save(&mut self, table: &SessionTable, now: Timestamp) -> Result<(), QueueError> {
        let (bytes, covered) = table.save(now);
        self.length = self.files.save(&SavedSessions(bytes))? as u64;
        self.covered = covered;
        Ok(())
    }
}
