//! What the two checkpoint files hold: deliver's checkpoint with its watermark, and how far each log had come (docs/queue-format.md, Checkpoint files).

use std::{borrow::Cow, path::Path};

use bytes::Bytes;
use pushline_model::{Offset, Timestamp};
use serde::{Deserialize, Serialize};

use super::alternating_files::{Found, Saveable};
use crate::{Saved, SavedCheckpoint};

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

impl Saveable for Envelope {
    const MAGIC: &[u8; 8] = b"PUSHCKPT";
    const VERSION: u32 = 2;
    const NAMES: [&str; 2] = ["checkpoint.a", "checkpoint.b"];

    fn encode(&self) -> Cow<'_, [u8]> {
        postcard::to_stdvec(self).expect("an envelope is plain data, and a Vec takes all of it").into()
    }

    fn decode(body: &[u8]) -> Option<Self> {
        postcard::take_from_bytes(body).ok().map(|(envelope, _extensions)| envelope)
    }
}

impl Found<Envelope> {
    /// What was saved for the packets log, which ends at `packets_end`. The first envelope is durable before the first packet, so packets without an
    /// envelope have lost it.
    pub(super) fn saved(&self, dir: &Path, packets_end: Offset) -> Saved {
        let reason = match self {
            Self::Saved(envelope) => return envelope.saved(),
            _ if packets_end == 0 => return Saved::default(),
            Self::OnlySpoiled | Self::BothSpoiled => {
                format!("the only checkpoint file that was written, in {}, can't be read", dir.display())
            }
            Self::Nothing => format!("{} has packets and no checkpoint: the checkpoint files were deleted", dir.display()),
        };
        Saved { watermark: None, checkpoint: SavedCheckpoint::Missing { reason } }
    }

    pub(super) fn envelope(self) -> Option<Envelope> {
        if let Self::Saved(envelope) = self { Some(envelope) } else { None }
    }
}

impl Envelope {
    fn saved(&self) -> Saved {
        let checkpoint =
            self.checkpoint.as_ref().map_or(SavedCheckpoint::None, |bytes| SavedCheckpoint::Named(Bytes::copy_from_slice(bytes)));
        Saved { watermark: self.watermark, checkpoint }
    }
}
