//! The errors of the queue, and what they mean for the caller.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use pushline_model::Offset;
use rustix::io::Errno;

/// Why a batch isn't durable and never will be. The caller must not acknowledge its packets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The queue was closed, or has failed.
    #[error("the queue is closed")]
    Closed,
    /// A record can't be stored: it is too large for a frame or for the topic, or the rights are missing.
    #[error("the queue can't store the record: {0}")]
    Refused(String),
    /// Another connection owns the session (docs/sessions.md, Owner). Nothing was stored.
    #[error("another connection has taken the session over")]
    SessionTakenOver,
}

impl AppendError {
    /// A tick where the log has a horizon.
    pub(crate) fn no_tick() -> Self {
        Self::Refused("this queue has a horizon and takes no ticks".to_owned())
    }
}

/// Why the queue can't be opened, or why an operation on it failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The operating system returned an error. Its text is the source's ([`QueueError::with_source`]).
    #[error("can't {doing} {}", path.display())]
    Io {
        /// What was being done, as in "can't write".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
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
        /// The version of the file.
        found: u32,
        /// The version that this Pushline reads.
        known: u32,
    },
    /// Bytes that were durable have changed.
    #[error("{} is corrupt at byte {position}: {what}; records from offset {offset} on were durable, so this isn't the rest of an interrupted write, and no file was changed. Restore the file from a backup or repair the disk. To start without these records, move {} away and keep it", path.display(), what_to_move(path).display())]
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
    /// Both checkpoint files have changed.
    #[error("neither checkpoint.a nor checkpoint.b in {} can be read. A crash spoils only one of them, so something else has changed them; no file was changed now. Restore the files from a backup or repair the disk. To start without them, move both away: every packet that the queue still holds is sent again, some of them under another id", dir.display())]
    CheckpointsUnreadable {
        /// The queue's folder.
        dir: PathBuf,
    },
    /// The saved sessions can't be used.
    #[error("sessions.a and sessions.b in {} can't be used: {why}. Restore the files from a backup or repair the disk. To start without them, move both away: clients are told that their sessions are gone, and a packet of QoS 2 that they send again may come twice", dir.display())]
    SessionsUnusable {
        /// The queue's folder.
        dir: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A record has another format.
    #[error("the record at offset {offset} can't be read: another version of Pushline may have written it; read it with that version")]
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
        /// The version of the record.
        found: u32,
        /// The version that this Pushline reads.
        known: u32,
    },
    /// The brokers don't answer, or answer with an error that passes.
    #[error("can't {doing}: {what}")]
    Unavailable {
        /// What was being done, as in "can't commit".
        doing: String,
        /// The error of the brokers or of the library.
        what: String,
    },
    /// The client of the brokers has a fatal error.
    #[error("can't {doing}: {what}")]
    Fatal {
        /// What was being done.
        doing: String,
        /// The error of the library.
        what: String,
    },
    /// The configuration doesn't fit what exists.
    #[error("{0}")]
    Misfit(String),
    /// The queue was closed during the operation.
    #[error("the queue was closed")]
    Closed,
}

fn other_version(found: u32, known: u32, file: &Path) -> String {
    if found > known {
        return "start the Pushline that wrote it, or a later one".to_owned();
    }
    format!("let the Pushline that wrote it deliver what is in there, then move {} away", what_to_move(file).display())
}

/// The folder without which a start succeeds: a log of dead letters, else the whole queue, since a checkpoint refers to the packets.
fn what_to_move(file: &Path) -> &Path {
    let log = file.parent().unwrap_or(file);
    let is_of_packets = log.file_name().is_some_and(|name| name == "packets");
    if is_of_packets { log.parent().unwrap_or(log) } else { log }
}

impl QueueError {
    /// The text with that of its source, for a line that doesn't show the chain of errors itself.
    #[must_use]
    pub fn with_source(&self) -> String {
        std::error::Error::source(self).map_or_else(|| self.to_string(), |source| format!("{self}: {source}"))
    }

    /// Whether the error passes without a restart: the disk is full, too many files are open, the brokers are away.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_errors_has_the_text_of_the_system_once() {
        let source = || Arc::new(io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error()));
        let error = QueueError::Io { doing: "write", path: "/data".into(), source: source() };
        assert_eq!(error.to_string(), "can't write /data");
        assert_eq!(error.with_source(), format!("can't write /data: {}", source()));
        assert_eq!(QueueError::Closed.with_source(), QueueError::Closed.to_string());
    }
}
