//! The hand-over from the polling thread to a partition's task: frames in order, within bounds. Pure except for its locks.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use pushline_model::Offset;
use tokio::sync::Notify;

use super::recent::Recent;
use crate::Frame;

/// The hand-over of one partition.
#[derive(Debug)]
pub(super) struct Live {
    /// The partition's number, as Kafka counts.
    index: i32,
    /// Beyond this many bytes the partition is paused; below a quarter of them it is read again.
    most: usize,
    /// Bytes of frames that are kept once the task has taken them.
    kept: usize,
    state: Mutex<State>,
    /// Notified when frames have come.
    more: Notify,
    /// Notified when the task has taken some.
    taken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Where the task begins, once it knows.
    begin: Option<Offset>,
    frames: VecDeque<Frame>,
    bytes: usize,
    /// What the task has taken last.
    recent: Recent,
    paused: bool,
    /// The partition was revoked: another process serves it from now on.
    closed: bool,
    /// After the last record that was handed over.
    position: Offset,
    /// The log's end, as far as it is known.
    end: Offset,
    /// Every record up to the end was polled.
    at_end: bool,
}

impl Live {
    pub(super) fn new(index: i32, most: usize, kept: usize) -> Self {
        Self { index, most, kept, state: Mutex::default(), more: Notify::new(), taken: Condvar::new() }
    }

    pub(super) fn index(&self) -> u32 {
        u32::try_from(self.index).expect("Kafka numbers partitions from 0")
    }

    /// The same as Kafka counts.
    pub(super) fn kafka_index(&self) -> i32 {
        self.index
    }

    /// Where the task begins. `None`: it doesn't know yet.
    pub(super) fn begin(&self) -> Option<Offset> {
        self.state().begin
    }

    /// The task begins there.
    pub(super) fn begins_at(&self, offset: Offset) {
        let mut state = self.state();
        (state.begin, state.position) = (Some(offset), offset);
    }

    /// The end of the log; where every record was polled, the end of the last one.
    pub(super) fn end(&self) -> Offset {
        let state = self.state();
        if state.at_end { state.position } else { state.end.max(state.position) }
    }

    // --- for the polling thread

    /// Notes that every record was polled. Offsets without a record may lie before the log's end.
    pub(super) fn is_at_end(&self) {
        self.state().at_end = true;
    }

    /// Notes that the log ends there, or later.
    pub(super) fn ends_at(&self, end: Offset) {
        let mut state = self.state();
        state.end = state.end.max(end);
    }

    /// Hands frames over. Returns whether there are too many now, so that the partition is to be paused.
    pub(super) fn hand_over(&self, frames: Vec<Frame>) -> bool {
        let mut state = self.state();
        (state.position, state.at_end) = (frames.last().map_or(state.position, Frame::end), false);
        state.bytes += frames.iter().map(|frame| frame.bytes().len()).sum::<usize>();
        state.frames.extend(frames);
        self.more.notify_one();
        self.is_full(&state)
    }

    /// Waits until the task has taken enough, at most until then; then pauses the partition if it hasn't. A pause throws away the records that were
    /// fetched ahead, so it is worth a moment.
    pub(super) fn pause_unless_taken(&self, until: Instant, pause: impl FnOnce()) {
        let state = self.state();
        let at_most = until.saturating_duration_since(Instant::now());
        let waited = self.taken.wait_timeout_while(state, at_most, |state| self.is_full(state));
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if self.is_full(&state) {
            state.paused = true;
            pause();
        }
    }

    fn is_full(&self, state: &State) -> bool {
        state.bytes > self.most && !state.paused && !state.closed
    }

    /// Notes that the partition was revoked: no frame is handed over any more.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.taken.notify_all();
    }

    // --- for the task

    /// Whether the partition was revoked.
    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// The next frame. `resume` is called when there is space again.
    pub(super) async fn next(&self, resume: impl Fn()) -> Frame {
        loop {
            let more = self.more.notified();
            if let Some(frame) = self.take(&resume) {
                return frame;
            }
            more.await;
        }
    }

    /// The frame with the first record at or above an offset, if the task has taken it lately.
    pub(super) fn recent(&self, offset: Offset) -> Option<Frame> {
        self.state().recent.at(offset).cloned()
    }

    fn take(&self, resume: impl Fn()) -> Option<Frame> {
        let mut state = self.state();
        let frame = state.frames.pop_front()?;
        state.bytes -= frame.bytes().len();
        state.recent.push(frame.clone(), self.kept);
        if state.bytes <= self.most {
            self.taken.notify_one();
        }
        if state.paused && state.bytes < self.most / 4 && !state.closed {
            state.paused = false;
            resume();
        }
        Some(frame)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, sync::Arc, time::Duration};

    use futures_util::FutureExt;

    use super::*;
    use crate::{FrameBuilder, frame::tests::record};

    const MOST: usize = 8 << 20;

    fn frame(base: Offset, bytes: usize) -> Frame {
        let mut builder = FrameBuilder::default();
        builder.push(&record("o/g", &vec![b'x'; bytes]));
        builder.seal(base, base, pushline_model::Timestamp(base))
    }

    #[test]
    fn a_slow_task_pauses_its_partition_and_resumes_it_when_it_has_space() {
        let (live, paused) = (Live::new(0, MOST, 0), Cell::new(false));
        assert!(!live.hand_over(vec![frame(0, MOST / 2)]));
        assert!(live.hand_over(vec![frame(1, MOST / 2), frame(2, MOST / 8)]));
        live.pause_unless_taken(Instant::now(), || paused.set(true));
        assert!(paused.get());
        for base in 0..3 {
            assert!(paused.get() || base > 1);
            let taken = live.next(|| paused.set(false)).now_or_never().expect("there are three");
            assert_eq!(taken.base(), base);
        }
        assert!(!paused.get());
    }

    #[test]
    fn a_task_that_is_only_a_little_slower_is_waited_for() {
        let live = Arc::new(Live::new(0, MOST, 0));
        assert!(!live.hand_over(vec![frame(0, MOST - 1000)]), "it is full, not more");
        let task = Arc::clone(&live);
        let takes = std::thread::spawn(move || while task.next(|| ()).now_or_never().is_none_or(|frame| frame.base() != 1) {});
        live.hand_over(vec![frame(1, 2000)]);
        live.pause_unless_taken(Instant::now() + Duration::from_secs(60), || unreachable!("the task takes it"));
        takes.join().unwrap();
        assert_eq!(live.state().bytes, 0);
    }

    #[test]
    fn at_the_end_the_position_is_the_end_whatever_was_told() {
        let live = Live::new(0, MOST, 0);
        live.begins_at(5);
        live.ends_at(100);
        assert_eq!(live.end(), 100);
        live.hand_over(vec![frame(96, 1)]);
        live.is_at_end();
        assert_eq!(live.end(), 97, "a foreign transaction's marks lie between");
        live.hand_over(vec![frame(150, 1)]);
        assert_eq!(live.end(), 151);
    }
}
