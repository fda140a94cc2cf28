//! The checkpoint of a partition: what has settled, and where reading starts again after a restart (docs/delivery.md, Checkpoint). Pure.
//!
//! The queue stores it as opaque bytes: a version, then postcard.

use std::ops::Range;

use bytes::Bytes;
use pushline_model::{Offset, Timestamp};
use pushline_queue::SavedCheckpoint;
use serde::{Deserialize, Serialize};

/// The first byte of an encoded checkpoint.
const VERSION: u8 = 2;

/// What one partition task knows, as it is saved every second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The next offset of live reading.
    pub(crate) head: Offset,
    /// The last record passed, remembered, not looked up.
    pub(crate) last: LastPassed,
    /// Each lane that isn't clean.
    pub(crate) lanes: Vec<LaneCheckpoint>,
}

/// Names a record, so that a log made anew under the same name is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastPassed {
    /// Its offset.
    pub(crate) offset: Offset,
    /// Its time.
    pub(crate) at: Timestamp,
}

/// A lane that isn't clean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaneCheckpoint {
    /// The group's key.
    pub(crate) group: String,
    /// The lane's records below this offset are settled or in a listed message.
    pub(crate) next: Offset,
    /// Packets of it that were passed and haven't settled.
    pub(crate) unsettled: u64,
    /// The open window.
    pub(crate) window: Option<OpenWindow>,
    /// Messages that haven't settled, in offset order.
    pub(crate) messages: Vec<Listed>,
}

/// A window that hasn't closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenWindow {
    /// The `received_at` of the record that opened it.
    pub(crate) opened: Timestamp,
    /// Whether a message was cut from it: the rest goes as an array then.
    pub(crate) cut_from: bool,
}

/// A message that was cut and hasn't settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// Offset of its first packet.
    pub(crate) first: Offset,
    /// Offset of its last packet.
    pub(crate) last: Offset,
    /// How many packets it has.
    pub(crate) count: u32,
    /// Array or object.
    pub(crate) array: bool,
    /// Whether it is one replay record.
    pub(crate) replay: bool,
}

/// What a partition had saved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    /// `None`: nothing was saved yet, or it can't be read; the watermark decides alone then.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Everything below it is settled. `None`: it was never saved, and everything that the log still has is to be sent.
    pub(crate) watermark: Option<Offset>,
}

/// Where a partition task begins (LANES.md L10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restart {
    /// The next offset of live reading.
    pub(crate) head: Offset,
    /// Everything below it is settled.
    pub(crate) watermark: Offset,
    /// The last record passed, when checkpoint could be used.
    pub(crate) last: Option<LastPassed>,
    /// Lanes to start behind, with everything let go.
    pub(crate) lanes: Vec<LaneCheckpoint>,
    /// The log isn't the one that checkpoint speaks of: a topic made anew, a restored backup. Reading starts at the log's start.
    pub(crate) remade: bool,
    /// How many offsets between the watermark and the log's start are gone: they hadn't settled, or nobody knows that they had.
    pub(crate) lost: Offset,
}

impl Checkpoint {
    /// The bytes that the queue stores.
    pub(crate) fn encode(&self) -> Bytes {
        postcard::to_extend(self, vec![VERSION]).expect("a checkpoint is plain data, and a Vec takes all of it").into()
    }

    /// `None`: the bytes are of another version, or not whole.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        (version == VERSION).then(|| postcard::from_bytes(rest).ok()).flatten()
    }
}

impl From<pushline_queue::Saved> for Saved {
    fn from(saved: pushline_queue::Saved) -> Self {
        let checkpoint = match saved.checkpoint {
            SavedCheckpoint::Named(bytes) | SavedCheckpoint::Unnamed(bytes) => Checkpoint::decode(&bytes),
            SavedCheckpoint::None | SavedCheckpoint::Missing { .. } => None,
        };
        Self { checkpoint, watermark: saved.watermark }
    }
}

impl Restart {
    /// `named`: whether the log holds the record that `saved.checkpoint.last` names, with that time. `log`: its bounds.
    #[must_use]
    pub(crate) fn new(saved: Saved, log: &Range<Offset>, named: bool) -> Self {
        let start = log.start;
        let lost = saved.watermark.map_or(0, |watermark| start.saturating_sub(watermark));
        let watermark = saved.watermark.unwrap_or(start).max(start);
        if watermark > log.end {
            return Self { remade: true, ..Self::at(start) };
        }
        let restart = match saved.checkpoint {
            None => Self::at(watermark),
            Some(checkpoint) if named => Self::from_checkpoint(checkpoint, watermark),
            // The record named was deleted as settled: the watermark says it all.
            Some(checkpoint) if checkpoint.last.offset < start => Self::at(watermark),
            // Of another log, nobody can say what it has lost.
            Some(_) => return Self { remade: true, ..Self::at(start) },
        };
        Self { lost, ..restart }
    }

    fn at(watermark: Offset) -> Self {
        Self { head: watermark, watermark, last: None, lanes: Vec::new(), remade: false, lost: 0 }
    }

    fn from_checkpoint(checkpoint: Checkpoint, watermark: Offset) -> Self {
        let lanes = checkpoint.lanes.into_iter().map(|lane| above(lane, watermark)).collect();
        Self { head: checkpoint.head.max(watermark), watermark, last: Some(checkpoint.last), lanes, remade: false, lost: 0 }
    }
}

/// What lies below the watermark is settled, whatever is listed; a lane that lists a message across it is cut anew from there.
fn above(mut lane: LaneCheckpoint, watermark: Offset) -> LaneCheckpoint {
    lane.next = lane.next.max(watermark);
    lane.messages.retain(|message| message.last >= watermark);
    if lane.messages.iter().any(|message| message.first < watermark) {
        lane.messages.clear();
        lane.next = watermark;
    }
    lane
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(first: Offset, last: Offset) -> Listed {
        Listed { first, last, count: 2, array: true, replay: false }
    }

    fn saved(watermark: Offset, messages: Vec<Listed>) -> Saved {
        let lane = LaneCheckpoint { group: "o/b".into(), next: 16, unsettled: 4, window: None, messages };
        let last = LastPassed { offset: 19, at: Timestamp(7) };
        Saved { checkpoint: Some(Checkpoint { head: 20, last, lanes: vec![lane] }), watermark: Some(watermark) }
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_saved_and_another_version_is_not_read() {
        let checkpoint = saved(11, vec![listed(11, 12)]).checkpoint.unwrap();
        let bytes = checkpoint.encode();
        assert_eq!(Checkpoint::decode(&bytes), Some(checkpoint));
        assert_eq!(Checkpoint::decode(&[&[VERSION + 1], &bytes[1..]].concat()), None);
    }

    #[test]
    fn the_worked_example_starts_where_it_stopped() {
        let restart = Restart::new(saved(11, vec![listed(11, 12), listed(14, 15)]), &(0..30), true);
        assert_eq!((restart.head, restart.watermark, restart.remade), (20, 11, false));
        assert_eq!(restart.lanes[0].messages, [listed(11, 12), listed(14, 15)]);
    }

    #[test]
    fn what_is_below_the_watermark_is_settled_whatever_is_listed() {
        let restart = Restart::new(saved(13, vec![listed(11, 12), listed(14, 15)]), &(0..30), true);
        assert_eq!(restart.lanes[0].messages, [listed(14, 15)]);
    }

    #[test]
    fn a_lane_that_lists_a_message_across_the_watermark_is_cut_anew() {
        let restart = Restart::new(saved(12, vec![listed(11, 13), listed(14, 15)]), &(0..30), true);
        assert_eq!((restart.lanes[0].next, restart.lanes[0].messages.len()), (12, 0));
    }

    #[test]
    fn without_checkpoint_the_watermark_counts() {
        let restart = Restart::new(Saved { checkpoint: None, watermark: Some(9) }, &(5..30), false);
        assert_eq!((restart.head, restart.watermark, restart.remade, restart.lost), (9, 9, false, 0));
    }

    #[test]
    fn a_watermark_below_the_logs_start_has_lost_what_lies_between() {
        let restart = Restart::new(Saved { checkpoint: None, watermark: Some(5) }, &(9..30), false);
        assert_eq!((restart.head, restart.watermark, restart.lost), (9, 9, 4));
    }

    #[test]
    fn what_was_never_saved_is_sent_from_the_logs_start_and_nothing_is_lost() {
        let restart = Restart::new(Saved::default(), &(9..30), false);
        assert_eq!((restart.head, restart.watermark, restart.lost), (9, 9, 0));
    }

    #[test]
    fn a_last_record_that_was_deleted_as_settled_raises_no_alarm() {
        let restart = Restart::new(saved(20, vec![]), &(20..30), false);
        assert_eq!((restart.head, restart.remade, restart.lost), (20, false, 0));
    }

    #[test]
    fn a_log_that_ends_below_the_watermark_was_made_anew_though_nothing_was_saved_of_it() {
        let restart = Restart::new(Saved { checkpoint: None, watermark: Some(9) }, &(2..8), false);
        assert_eq!((restart.head, restart.watermark, restart.remade, restart.lost), (2, 2, true, 0));
    }

    #[test]
    fn a_log_made_anew_is_read_from_its_start() {
        let restart = Restart::new(saved(11, vec![]), &(3..30), false);
        assert_eq!((restart.head, restart.watermark, restart.remade), (3, 3, true));
    }
}
