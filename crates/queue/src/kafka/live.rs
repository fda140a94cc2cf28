//! The hand-over from the polling thread to a partition's task: frames in order, within bounds. Pure but for its locks.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pushline_model::Offset;
use tokio::sync::Notify;

use super::recent::Recent;
use crate::Frame;

/// A pause throws away what was fetched ahead, so a task that is only a little slower is waited for. Rebalances wait as long.
const MOMENT: Duration = Duration::from_millis(50);

/// One partition's.
#[derive(Debug)]
pub(super) struct Live {
    index: u32,
    /// Beyond so many bytes the partition is paused, if its task doesn't take anything for a moment; below a quarter it is read again.
    most: usize,
    /// Bytes of what the task has taken that are kept.
    kept: usize,
    state: Mutex<State>,
    /// Frames have come.
    more: Notify,
    /// The task has taken some.
    taken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Where the task wants to begin, once it knows.
    begin: Option<Offset>,
    frames: VecDeque<Frame>,
    bytes: usize,
    /// What the task has taken last.
    recent: Recent,
    paused: bool,
    /// It is another process's from now on.
    closed: bool,
    /// After the last record that was handed over.
    position: Offset,
    /// The log's end, as far as it was told.
    end: Offset,
    /// Everything up to the end was polled.
    at_end: bool,
}

impl Live {
    pub(super) fn new(index: u32, most: usize, kept: usize) -> Self {
        Self { index, most, kept, state: Mutex::default(), more: Notify::new(), taken: Condvar::new() }
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// The same as Kafka counts.
    pub(super) fn kafka_index(&self) -> i32 {
        i32::try_from(self.index).expect("the index was Kafka's own")
    }

    /// Where the task wants to begin; `None`: it doesn't know yet.
    pub(super) fn begin(&self) -> Option<Offset> {
        self.state().begin
    }

    /// The task begins there.
    pub(super) fn begins_at(&self, offset: Offset) {
        let mut state = self.state();
        (state.begin, state.position) = (Some(offset), offset);
    }

    /// The end of the log. What was polled up to there counts, where everything was.
    pub(super) fn end(&self) -> Offset {
        let state = self.state();
        if state.at_end { state.position } else { state.end.max(state.position) }
    }

    // --- for the polling thread

    /// Everything was polled. Offsets that no record has may lie before the log's end.
    pub(super) fn is_at_end(&self) {
        self.state().at_end = true;
    }

    /// The log ends there, or later.
    pub(super) fn ends_at(&self, end: Offset) {
        let mut state = self.state();
        state.end = state.end.max(end);
    }

    /// Hands frames over. Where there are too many, waits a moment, then pauses.
    pub(super) fn hand_over(&self, frames: Vec<Frame>, pause: impl FnOnce()) {
        let mut state = self.state();
        (state.position, state.at_end) = (frames.last().map_or(state.position, Frame::end), false);
        state.bytes += frames.iter().map(|frame| frame.bytes().len()).sum::<usize>();
        state.frames.extend(frames);
        self.more.notify_one();
        if state.bytes > self.most && !state.paused && !state.closed {
            let is_full = |state: &mut State| state.bytes > self.most && !state.closed;
            (state, _) = self.taken.wait_timeout_while(state, MOMENT, is_full).unwrap_or_else(PoisonError::into_inner);
            if is_full(&mut state) {
                state.paused = true;
                pause();
            }
        }
    }

    /// The partition is lost: nothing is handed over any more.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.taken.notify_all();
    }

    // --- for the task

    /// Whether the partition is lost.
    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// The next frame. `resume` is called when there is room again.
    pub(super) async fn next(&self, resume: impl Fn()) -> Frame {
        loop {
            let more = self.more.notified();
            if let Some(frame) = self.take(&resume) {
                return frame;
            }
            more.await;
        }
    }

    /// The frame with the first record from an offset on, if the task has taken it lately.
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
    use std::{cell::Cell, sync::Arc};

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
    fn a_slow_task_pauses_its_partition_and_resumes_it_when_it_has_room() {
        let (live, paused) = (Live::new(0, MOST, 0), Cell::new(false));
        live.hand_over(vec![frame(0, MOST / 2)], || paused.set(true));
        assert!(!paused.get());
        live.hand_over(vec![frame(1, MOST / 2), frame(2, MOST / 8)], || paused.set(true));
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
        live.hand_over(vec![frame(0, MOST - 1000)], || unreachable!("it is full, not more"));
        let task = Arc::clone(&live);
        let takes = std::thread::spawn(move || while task.next(|| ()).now_or_never().is_none_or(|frame| frame.base() != 1) {});
        live.hand_over(vec![frame(1, 2000)], || ());
        takes.join().unwrap();
        assert_eq!(live.state().bytes, 0);
    }

    #[test]
    fn at_the_end_the_position_is_the_end_whatever_was_told() {
        let live = Live::new(0, MOST, 0);
        live.begins_at(5);
        live.ends_at(100);
        assert_eq!(live.end(), 100);
        live.hand_over(vec![frame(96, 1)], || ());
        live.is_at_end();
        assert_eq!(live.end(), 97, "a foreign transaction's marks lie between");
        live.hand_over(vec![frame(150, 1)], || ());
        assert_eq!(live.end(), 151);
    }
}
