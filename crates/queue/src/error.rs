//! What can go wrong with the queue, and what it means for the caller.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use pushline_model::Offset;
use rustix::io::Errno;

/// Why a batch isn't durable and never will be. None of its packets may be acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The queue was closed, or has failed.
    #[error("the queue takes nothing any more")]
    Closed,
    /// A record can't ever be stored: too large for a frame or for the topic.
    #[error("the queue can't store this: {0}")]
    Refused(String),
}

impl AppendError {
    /// A tick where the log has a horizon.
    pub(crate) fn no_tick() -> Self {
        Self::Refused("this queue has a horizon and takes no ticks".to_owned())
    }
}

/// Why the queue can't be opened, or can't go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The operating system said no.
    #[error("can't {doing} {}: {source}", path.display())]
    Io {
        /// What was being done, as in "can't write".
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Another process has the folder.
    #[error("{} is in use by another process: two processes can't share one queue; stop the other one or give this one a folder of its own ([queue] dir)", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Another version of Pushline wrote the file.
    #[error("{} has format version {found}, this Pushline reads version {known}: {}", path.display(), other_version(*found, *known, path))]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What would be right.
        known: u32,
    },
    /// Bytes that were durable aren't what was written.
    #[error("{} is corrupt at byte {position}: {what}; records from offset {offset} on were durable, so this isn't a torn tail and nothing was cut. Restore the file from a backup or mend the disk. To go on without them, move {} away and keep it", path.display(), what_to_move(path).display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        position: u64,
        /// The first offset that can't be read.
        offset: Offset,
        /// What is wrong.
        what: String,
    },
    /// A record that this version can't read.
    #[error("the record at offset {offset} can't be read: a later version may have written it")]
    Unreadable {
        /// Its offset.
        offset: Offset,
    },
    /// Another version of Pushline wrote a record on Kafka. The partition isn't served by this process: it can't know what the record means.
    #[error(
        "{place}: the record has format version {found}, this Pushline reads version {known}; this process doesn't serve the partition, and nothing of it is lost: run the Pushline that wrote it, or a later one"
    )]
    OtherFormat {
        /// The topic, partition and offset.
        place: String,
        /// What the record says.
        found: u32,
        /// What would be right.
        known: u32,
    },
    /// The brokers don't answer, or not as they should.
    #[error("can't {doing}: {what}")]
    Unavailable {
        /// What was being done, as in "can't commit".
        doing: String,
        /// What they, or the library, said.
        what: String,
    },
    /// The client of the brokers can't go on.
    #[error("can't {doing}: {what}")]
    Fatal {
        /// What was being done.
        doing: String,
        /// What the library said.
        what: String,
    },
    /// What is configured and what is there don't fit.
    #[error("{0}")]
    Misfit(String),
    /// The queue was closed while something was waiting for it.
    #[error("the queue was closed")]
    Closed,
}

fn other_version(found: u32, known: u32, file: &Path) -> String {
    if found > known {
        return "start the Pushline that wrote it, or a later one".to_owned();
    }
    format!("let the Pushline that wrote it deliver what is in there, then move {} away", what_to_move(file).display())
}

/// Without which a start goes on: a log of dead letters, else the whole queue, for checkpoint speaks of the packets.
fn what_to_move(file: &Path) -> &Path {
    let log = file.parent().unwrap_or(file);
    let is_of_packets = log.file_name().is_some_and(|name| name == "packets");
    if is_of_packets { log.parent().unwrap_or(log) } else { log }
}

impl QueueError {
    /// Whether it passes by itself: there is no space on the disk, too many files are open, the brokers are away.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                let too_many_files = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
                    || too_many_files.contains(&source.raw_os_error())
            }
            // Another process serves the partition once this one is replaced.
            Self::Unavailable { .. } | Self::OtherFormat { .. } => true,
            _ => false,
        }
    }
}
