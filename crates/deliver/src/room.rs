//! Room and suspicion (LANES.md, *Room*, *Suspect*, L5): what all partition tasks of a process share about its webhooks.
//!
//! One byte budget for the process. A webhook's [`Share`] knows what the webhook holds of it, how many of its messages are in
//! flight, and whether it is suspect. What is held, in flight or between two attempts is held by a guard ([`Lease`], [`Slot`], [`Pause`])
//! that ends exactly once: when it is dropped.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
};

use tokio::sync::Notify;

/// A webhook may begin a message while what it holds is less than this part of what is free.
const PART: i64 = 8;

/// The process's byte budget for bodies.
#[derive(Debug)]
pub(crate) struct Room {
    free: AtomicI64,
    /// How often any webhook became suspect.
    suspicions: AtomicU64,
    /// One per partition task; waking a webhook wakes them all.
    tasks: Mutex<Vec<Arc<Bell>>>,
}

/// What a partition task waits on: rung when a webhook was woken, became suspect, or has a slot free that somebody missed.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Notify,
    /// It was rung for more than a free slot.
    for_sweeps: AtomicBool,
}

/// One webhook's share of the room.
#[derive(Debug)]
pub(crate) struct Share {
    room: Arc<Room>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: i64,
    /// It refused: it begins nothing until it is woken.
    full: bool,
    /// Somebody was told that it may not begin, and looks again when it is woken.
    missed: bool,
    suspect: bool,
    /// The number of the suspicion that it is, or was last, under.
    suspicion: u64,
    in_flight: usize,
    pausing: usize,
    /// Somebody found no slot free.
    waiting: bool,
}

/// Bytes of bodies that a webhook holds: real sizes, growing with the body.
#[derive(Debug)]
pub(crate) struct Lease {
    share: Arc<Share>,
    bytes: usize,
}

/// A message in flight.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Share>);

/// A message between two attempts.
#[derive(Debug)]
pub(crate) struct Pause(Arc<Share>);

// === impl Room ===

impl Room {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicI64::new(signed(bytes)), suspicions: AtomicU64::new(0), tasks: Mutex::default() })
    }

    /// A webhook's share. It begins with nothing.
    pub(crate) fn share(self: &Arc<Self>) -> Arc<Share> {
        Arc::new(Share { room: Arc::clone(self), state: Mutex::default() })
    }

    /// A partition task's bell, until it drops that.
    pub(crate) fn join(&self) -> Arc<Bell> {
        let task = Arc::<Bell>::default();
        let mut tasks = lock(&self.tasks);
        // A task that has ended has dropped its own.
        tasks.retain(|other| Arc::strong_count(other) > 1);
        tasks.push(Arc::clone(&task));
        task
    }

    /// Bytes that nobody holds; below zero when messages at hand passed the budget.
    pub(crate) fn free(&self) -> i64 {
        self.free.load(Ordering::Relaxed)
    }

    /// How often any webhook became suspect, since the process began.
    pub(crate) fn suspicions(&self) -> u64 {
        self.suspicions.load(Ordering::Acquire)
    }

    fn wake(&self) {
        lock(&self.tasks).iter().for_each(|task| task.ring(true));
    }

    fn slot_is_free(&self) {
        lock(&self.tasks).iter().for_each(|task| task.ring(false));
    }
}

// === impl Bell ===

impl Bell {
    /// Waits until it is rung. Returns whether a sweep may have something to do: a slot that is free gives it nothing, and is rung for with every message.
    pub(crate) async fn rung(&self) -> bool {
        self.rung.notified().await;
        self.for_sweeps.swap(false, Ordering::AcqRel)
    }

    fn ring(&self, for_sweeps: bool) {
        self.for_sweeps.fetch_or(for_sweeps, Ordering::AcqRel);
        self.rung.notify_one();
    }
}

// === impl Share ===

impl Share {
    /// Whether the webhook may begin a message: while it holds nothing, or, not suspect and not having refused, less than an
    /// eighth of what is free. Whoever is told no is woken when that may have changed.
    pub(crate) fn may_begin(&self) -> bool {
        let mut state = lock(&self.state);
        let may = state.held <= 0 || !state.suspect && !state.full && state.held * PART < self.room.free();
        state.missed |= !may;
        may
    }

    /// It refused a record: it begins nothing, live or behind, until it is woken. One that has come to hold nothing meanwhile is woken
    /// at once.
    pub(crate) fn refused(&self) {
        let mut state = lock(&self.state);
        state.full = state.held > 0;
        if !state.full {
            drop(state);
            self.room.wake();
        }
    }

    /// Leases nothing yet.
    pub(crate) fn lease(self: &Arc<Self>) -> Lease {
        Lease { share: Arc::clone(self), bytes: 0 }
    }

    /// A slot for a first attempt: one at a time for a suspect webhook, and none beside a message that waits for its next attempt.
    pub(crate) fn start(self: &Arc<Self>, concurrency: usize) -> Option<Slot> {
        self.slot(|state| if state.suspect { state.in_flight == 0 && state.pausing == 0 } else { state.in_flight < concurrency })
    }

    /// A slot for a further attempt.
    pub(crate) fn start_again(self: &Arc<Self>, concurrency: usize) -> Option<Slot> {
        self.slot(|state| state.in_flight < if state.suspect { 1 } else { concurrency })
    }

    /// A message begins to wait for its next attempt.
    pub(crate) fn pause(self: &Arc<Self>) -> Pause {
        lock(&self.state).pausing += 1;
        Pause(Arc::clone(self))
    }

    /// Whether any message of the webhook waits for its next attempt.
    pub(crate) fn is_pausing(&self) -> bool {
        lock(&self.state).pausing > 0
    }

    pub(crate) fn is_suspect(&self) -> bool {
        lock(&self.state).suspect
    }

    /// It answered something. Returns whether it had been suspect; then it is woken.
    pub(crate) fn answered(&self) -> bool {
        let mut state = lock(&self.state);
        if !state.suspect {
            return false;
        }
        (state.suspect, state.full, state.missed) = (false, false, false);
        drop(state);
        self.room.wake();
        true
    }

    /// An attempt ended without response: the webhook is suspect. Returns whether it wasn't before.
    pub(crate) fn suspect(&self) -> bool {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.suspect, true) {
            return false;
        }
        state.suspicion = self.room.suspicions.fetch_add(1, Ordering::AcqRel) + 1;
        drop(state);
        self.room.wake();
        true
    }

    /// Whether it became suspect after that many suspicions ([`Room::suspicions`]).
    pub(crate) fn suspected_after(&self, suspicions: u64) -> bool {
        lock(&self.state).suspicion > suspicions
    }

    /// Bytes held, for the checks of a test.
    #[cfg(test)]
    pub(crate) fn held(&self) -> i64 {
        lock(&self.state).held
    }

    fn slot(self: &Arc<Self>, is_free: impl FnOnce(&State) -> bool) -> Option<Slot> {
        let mut state = lock(&self.state);
        if is_free(&state) {
            state.in_flight += 1;
            Some(Slot(Arc::clone(self)))
        } else {
            state.waiting = true;
            None
        }
    }

    /// L5: woken when it holds nothing, or less than half of what it may.
    fn release(&self, bytes: i64) {
        let free = self.room.free.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut state = lock(&self.state);
        state.held -= bytes;
        if (state.full || state.missed) && (state.held <= 0 || state.held * PART * 2 < free) {
            (state.full, state.missed) = (false, false);
            drop(state);
            self.room.wake();
        }
    }

    fn end(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        if std::mem::take(&mut state.waiting) {
            drop(state);
            self.room.slot_is_free();
        }
    }
}

// === impl Lease ===

impl Lease {
    /// Counts what is held now.
    pub(crate) fn resize(&mut self, bytes: usize) {
        let by = signed(bytes) - signed(self.bytes);
        self.bytes = bytes;
        if by > 0 {
            lock(&self.share.state).held += by;
            self.share.room.free.fetch_sub(by, Ordering::Relaxed);
        } else if by < 0 {
            self.share.release(-by);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.share.release(signed(self.bytes));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.end(|state| state.in_flight -= 1);
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.end(|state| state.pausing -= 1);
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A panic elsewhere leaves counters that are whole: each guard changes them in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn held(share: &Arc<Share>, bytes: usize) -> Lease {
        let mut lease = share.lease();
        lease.resize(bytes);
        lease
    }

    #[test]
    fn a_webhook_that_holds_nothing_may_always_begin() {
        let room = Room::new(0);
        let (one, other) = (room.share(), room.share());
        let _lease = held(&one, 100);
        assert!(room.free() < 0 && other.may_begin() && !one.may_begin());
    }

    #[test]
    fn a_webhook_may_hold_an_eighth_of_what_is_free() {
        let room = Room::new(900);
        let share = room.share();
        let mut lease = held(&share, 99);
        assert!(share.may_begin());
        lease.resize(100);
        assert!(!share.may_begin());
    }

    #[test]
    fn a_webhook_that_refused_is_woken_at_half_of_what_it_may_hold() {
        let room = Room::new(1700);
        let share = room.share();
        let mut lease = held(&share, 300);
        share.refused();
        lease.resize(101);
        assert!(!share.may_begin(), "101 * 16 >= 1599");
        lease.resize(99);
        assert!(share.may_begin());
        share.refused();
        assert!(!share.may_begin());
        drop(lease);
        assert!(share.may_begin());
        assert_eq!((room.free(), share.held()), (1700, 0));
    }

    #[test]
    fn a_suspect_webhook_has_one_message_under_way_and_begins_one_only_while_it_holds_nothing() {
        let room = Room::new(1 << 20);
        let share = room.share();
        let lease = held(&share, 10);
        let (first, second) = (share.start(16).unwrap(), share.start(16).unwrap());
        assert!(share.suspect() && !share.suspect());
        assert!(!share.may_begin() && share.start(16).is_none());
        drop(first);
        assert!(share.start(16).is_none(), "another is still in flight");
        drop(second);
        let pause = share.pause();
        assert!(share.start(16).is_none(), "one waits for its next attempt");
        let again = share.start_again(16).unwrap();
        drop(pause);
        assert!(share.start_again(16).is_none());
        drop((again, lease));
        assert!(share.may_begin());
        assert!(share.answered() && !share.answered() && !share.is_suspect());
    }

    #[test]
    fn who_was_told_that_it_may_not_begin_is_woken_though_no_record_was_refused() {
        let room = Room::new(1 << 20);
        let task = room.join();
        let share = room.share();
        let lease = held(&share, 10);
        share.suspect();
        assert_eq!(task.rung().now_or_never(), Some(true));
        // Another partition's lane that was let go looks whether it may begin.
        assert!(!share.may_begin());
        drop(lease);
        assert!(task.rung().now_or_never() == Some(true) && share.may_begin());
    }

    #[test]
    fn who_found_no_slot_free_is_woken_by_the_next_that_ends_and_no_sweep_is() {
        let room = Room::new(1 << 20);
        let task = room.join();
        let share = room.share();
        let slot = share.start(1).unwrap();
        assert!(share.start(1).is_none());
        drop(slot);
        assert_eq!(task.rung().now_or_never(), Some(false));
        assert!(share.start(1).is_some());
    }
}
