//! The checkpoint of a partition (docs/delivery.md, Checkpoints): what has settled, said compactly, and where reading starts again after a restart. Pure.
//!
//! The queue stores it as bytes beside the watermark and reads nothing of it.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use pushline_model::{Cause, GroupId, Offset, Timestamp};
use serde::{Deserialize, Serialize};

/// The first byte of an encoded checkpoint; the rest is postcard. A later version that only adds something adds an [`Extension`] and keeps this number.
const VERSION: u8 = 1;

/// What one partition's core knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The next offset of live reading.
    pub live_offset: Offset,
    /// The last record that live reading passed; `None` before the first.
    pub last: Option<LastPassed>,
    /// Each lane that isn't clean.
    pub lanes: Vec<LaneCheckpoint>,
    /// What later versions add.
    pub extensions: Vec<Extension>,
}

/// Names a record, so that another log under the same name is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPassed {
    /// Its offset.
    pub offset: Offset,
    /// Its own time: a packet's `received_at`.
    pub at: Timestamp,
    /// When the queue stored it.
    pub log_time: Timestamp,
}

/// A lane that isn't clean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneCheckpoint {
    /// The group's key.
    pub group: String,
    /// The lane's records below this offset are settled or in an outstanding message.
    pub batched_until: Offset,
    /// Packets of it that live reading has passed and that haven't settled.
    pub unsettled: u64,
    /// The window that is open at `batched_until`.
    pub window: Option<OpenWindow>,
    /// Messages that haven't settled, in offset order.
    pub messages: Vec<MessageSpan>,
    /// The hash of the cut rules; `None`: this process knew no webhook of the group.
    pub rules_hash: Option<u64>,
    /// How long the group's windows are: that counts where the next process knows no webhook of the group.
    pub window_length: Duration,
    /// What later versions add.
    pub extensions: Vec<Extension>,
}

/// A window that isn't over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenWindow {
    /// The log time of the record that opened it.
    pub opened: Timestamp,
    /// Whether a message was cut from it: the rest goes as arrays then.
    pub cut_from: bool,
    /// Why its records become dead letters.
    pub dead_lettered: Option<Cause>,
}

/// Which records an outstanding message is made of: all of its group from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageSpan {
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// How many packets it has.
    pub count: u32,
    /// Array or object.
    pub array: bool,
    /// Whether it is one replay record.
    pub replay: bool,
}

/// What a later version wrote. This one skips it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// What it is.
    pub tag: u16,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// Why a checkpoint can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A later version wrote it.
    #[error("the checkpoint has format version {0}, this Pushline reads version {VERSION}: start the Pushline that wrote it")]
    Version(u8),
    /// The bytes aren't what a Pushline writes.
    #[error("the checkpoint is corrupt")]
    Corrupt,
}

impl Checkpoint {
    /// The bytes that [`Self::decode`] reads.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        postcard::to_extend(self, vec![VERSION]).expect("plain data fits a Vec").into()
    }

    /// What [`Self::encode`] made.
    ///
    /// # Errors
    /// [`Unreadable`] for what another version wrote, and for other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => {
                let checkpoint: Self = postcard::from_bytes(rest).map_err(|_| Unreadable::Corrupt)?;
                let has_groups = checkpoint.lanes.iter().all(|lane| GroupId::of_record(&lane.group).is_ok());
                if has_groups { Ok(checkpoint) } else { Err(Unreadable::Corrupt) }
            }
            Some((&version, _)) if version > VERSION => Err(Unreadable::Version(version)),
            _ => Err(Unreadable::Corrupt),
        }
    }
}

/// Where a partition's core begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restart {
    /// The next offset of live reading.
    pub live_offset: Offset,
    /// Everything below it is settled.
    pub watermark: Offset,
    /// The last record passed, when the checkpoint could be used.
    pub last: Option<LastPassed>,
    /// Lanes to start with everything evicted.
    pub lanes: Vec<LaneCheckpoint>,
    /// The log isn't the one that the checkpoint speaks of: a recreated topic, a restored backup. Reading starts at the log's start.
    pub is_another_log: bool,
    /// How many offsets between the watermark and the log's start are gone: they hadn't settled, or it can't be known that they had.
    pub missing: Offset,
    /// Where the log ended at the start: the process before may have read and sent what lies below.
    pub end_at_start: Offset,
}

impl Restart {
    /// From what was saved. `is_named`: whether the log holds the record that the checkpoint passed last. `log`: its bounds.
    #[must_use]
    pub fn new(watermark: Option<Offset>, checkpoint: Option<Checkpoint>, log: &Range<Offset>, is_named: bool) -> Self {
        let (start, end_at_start) = (log.start, log.end);
        let missing = watermark.map_or(0, |watermark| start.saturating_sub(watermark));
        // What was never saved is sent from the log's start on.
        let watermark = watermark.map_or(start, |watermark| watermark.max(start));
        let another = Self { is_another_log: true, end_at_start, ..Self::at(start) };
        if watermark > log.end {
            return another;
        }
        let restart = match checkpoint {
            None => Self::at(watermark),
            Some(checkpoint) => match checkpoint.last {
                Some(last) if !is_named && last.offset >= start => return another, // of another log: what is missing can't be known
                // The record was deleted as settled. All that the lanes had is settled too, but they may have open windows.
                Some(_) if !is_named && checkpoint.live_offset < start => Self::at(watermark),
                _ => Self::resume(checkpoint, watermark),
            },
        };
        Self { missing, end_at_start, ..restart }
    }

    fn at(watermark: Offset) -> Self {
        Self { live_offset: watermark, watermark, ..Self::default() }
    }

    fn resume(checkpoint: Checkpoint, watermark: Offset) -> Self {
        let lanes = checkpoint.lanes.into_iter().map(|lane| above(lane, watermark)).collect();
        Self { live_offset: checkpoint.live_offset.max(watermark), watermark, last: checkpoint.last, lanes, ..Self::default() }
    }
}

/// What lies below the watermark is settled, whatever is outstanding; a lane with a message across it is cut anew from there.
fn above(mut lane: LaneCheckpoint, watermark: Offset) -> LaneCheckpoint {
    lane.batched_until = lane.batched_until.max(watermark);
    lane.messages.retain(|message| message.last >= watermark);
    if lane.messages.iter().any(|message| message.first < watermark) {
        lane.messages.clear();
        lane.batched_until = watermark;
    }
    lane
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: LastPassed = LastPassed { offset: 19, at: Timestamp(7), log_time: Timestamp(8) };

    fn span(first: Offset, last: Offset) -> MessageSpan {
        MessageSpan { first, last, count: 2, array: true, replay: false }
    }

    fn checkpoint(messages: Vec<MessageSpan>) -> Checkpoint {
        let window = OpenWindow { opened: Timestamp(5), cut_from: true, dead_lettered: Some(Cause::Expired) };
        let extensions = Vec::new();
        let lane = LaneCheckpoint {
            group: "o/b".into(),
            batched_until: 16,
            unsettled: 4,
            window: Some(window),
            messages,
            rules_hash: Some(3),
            window_length: Duration::from_secs(1),
            extensions,
        };
        Checkpoint { live_offset: 20, last: Some(LAST), lanes: vec![lane], extensions: Vec::new() }
    }

    fn restart(watermark: Offset, messages: Vec<MessageSpan>, log: Range<Offset>, is_named: bool) -> Restart {
        Restart::new(Some(watermark), Some(checkpoint(messages)), &log, is_named)
    }

    #[test]
    fn the_worked_example_starts_where_it_stopped() {
        let restart = restart(11, vec![span(11, 12), span(14, 15)], 0..30, true);
        assert_eq!((restart.live_offset, restart.watermark, restart.is_another_log, restart.end_at_start), (20, 11, false, 30));
        assert_eq!(restart.lanes[0].messages, [span(11, 12), span(14, 15)]);
    }

    #[test]
    fn what_is_below_the_watermark_is_settled_whatever_is_outstanding() {
        assert_eq!(restart(13, vec![span(11, 12), span(14, 15)], 0..30, true).lanes[0].messages, [span(14, 15)]);
    }

    #[test]
    fn a_lane_with_an_outstanding_message_across_the_watermark_is_cut_anew() {
        let restart = restart(12, vec![span(11, 13), span(14, 15)], 0..30, true);
        assert_eq!((restart.lanes[0].batched_until, restart.lanes[0].messages.len()), (12, 0));
    }

    #[test]
    fn without_a_checkpoint_the_watermark_counts() {
        let restart = Restart::new(Some(9), None, &(5..30), false);
        assert_eq!((restart.live_offset, restart.watermark, restart.is_another_log, restart.missing), (9, 9, false, 0));
    }

    #[test]
    fn a_watermark_below_the_logs_start_has_lost_what_lies_between() {
        let restart = Restart::new(Some(5), None, &(9..30), false);
        assert_eq!((restart.live_offset, restart.watermark, restart.missing), (9, 9, 4));
    }

    #[test]
    fn what_was_never_saved_is_sent_from_the_logs_start_and_nothing_is_missing() {
        let restart = Restart::new(None, None, &(9..30), false);
        assert_eq!((restart.live_offset, restart.watermark, restart.missing), (9, 9, 0));
    }

    #[test]
    fn a_last_record_that_was_deleted_as_settled_raises_no_alarm_and_leaves_its_windows() {
        let trimmed = restart(20, vec![], 20..30, false);
        assert_eq!((trimmed.live_offset, trimmed.is_another_log, trimmed.missing, trimmed.lanes.len()), (20, false, 0, 1));
        let beyond = restart(21, vec![], 21..30, false);
        assert_eq!((beyond.live_offset, beyond.is_another_log, beyond.lanes.len()), (21, false, 0), "its windows are of other records");
    }

    #[test]
    fn a_log_that_ends_below_the_watermark_is_another_one_though_nothing_was_saved_of_it() {
        let restart = Restart::new(Some(9), None, &(2..8), false);
        assert_eq!((restart.live_offset, restart.watermark, restart.is_another_log, restart.missing), (2, 2, true, 0));
    }

    #[test]
    fn another_log_is_read_from_its_start() {
        let restart = restart(11, vec![], 3..30, false);
        assert_eq!((restart.live_offset, restart.watermark, restart.is_another_log), (3, 3, true));
    }

    #[test]
    fn an_empty_checkpoint_after_the_alarm_raises_no_other_one() {
        let empty = Checkpoint { live_offset: 3, ..Checkpoint::default() };
        let restart = Restart::new(Some(3), Some(empty), &(3..30), false);
        assert_eq!((restart.live_offset, restart.is_another_log), (3, false));
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written_and_a_later_versions_extensions_are_skipped() {
        let mut checkpoint = checkpoint(vec![span(11, 12)]);
        checkpoint.extensions.push(Extension { tag: 9, bytes: b"later".to_vec() });
        checkpoint.lanes[0].extensions.push(Extension { tag: 7, bytes: vec![0; 300] });
        let mut bytes = checkpoint.encode().to_vec();
        assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint));
        assert_eq!(Checkpoint::decode(&bytes[..20]), Err(Unreadable::Corrupt));
        bytes[0] = VERSION + 1;
        assert_eq!(Checkpoint::decode(&bytes), Err(Unreadable::Version(VERSION + 1)));
        assert_eq!(Checkpoint::decode(&[]), Err(Unreadable::Corrupt));
    }

    #[test]
    fn a_checkpoint_with_a_lane_of_no_group_is_corrupt() {
        let mut checkpoint = checkpoint(vec![span(11, 12)]);
        checkpoint.lanes[0].group = "nonsense".to_owned();
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Err(Unreadable::Corrupt));
    }
}
