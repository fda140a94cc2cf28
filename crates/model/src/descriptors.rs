//! The budget of file descriptors: devices, pushes and their idle connections are counted alike, and each side always has a part left.
//!
//! The queue's files, lookups of names and the admin address aren't counted: a reserve is kept for them. Pure: a counter with waiters, no system
//! call and no runtime.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// The least and the most that is kept for everything that isn't a connection of a device or a push.
const RESERVE: (usize, usize) = (64, 2048);

/// What of the reserve is for the queue's files, the admin address and the runtime; the rest is for lookups of names.
const FILES: usize = 48;

/// Descriptors that one lookup of a name takes.
const A_LOOKUP: usize = 2;

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DescriptorUse {
    /// The connection of a device.
    Device,
    /// A connection to an endpoint, idle or not.
    Push,
}

/// The connections that the process may have open.
#[derive(Debug)]
pub struct DescriptorBudget {
    total: usize,
    /// By use: the most it may take of the total.
    most: [usize; 2],
    lookups: usize,
    state: Mutex<State>,
    /// By use: how many wait. It only saves a lock where none does.
    waiting: [AtomicUsize; 2],
}

#[derive(Debug, Default)]
struct State {
    used: [usize; 2],
    /// By use, in the order in which they came.
    waiting: [VecDeque<(u64, Waker)>; 2],
    /// Waiters that have a descriptor and haven't taken it yet.
    granted: HashSet<u64>,
    next_waiter: u64,
}

/// The right to a descriptor, until it is dropped: after the descriptor is closed, not before.
pub struct DescriptorPermit {
    budget: Arc<DescriptorBudget>,
    of: DescriptorUse,
}

/// Waits for a permit, in the order of asking among those of one use. Dropping it gives up the place.
#[derive(Debug)]
pub struct AcquireDescriptor {
    budget: Arc<DescriptorBudget>,
    of: DescriptorUse,
    waiter: Option<u64>,
}

impl DescriptorBudget {
    /// Of a process that may open this many files and serves these uses. Where it serves both, each may take three quarters, so a quarter is left
    /// to the other.
    #[must_use]
    pub fn new(open_files: usize, uses: &[DescriptorUse]) -> Arc<Self> {
        let reserve = (open_files / 4).clamp(RESERVE.0, RESERVE.1).min(open_files / 2);
        let total = open_files - reserve;
        let of = |of| match (uses.contains(&of), uses.len()) {
            (false, _) => 0,
            (true, 1) => total,
            (true, _) => total - total / 4,
        };
        let lookups = (reserve.saturating_sub(FILES) / A_LOOKUP).max(2);
        Self::with(total, [of(DescriptorUse::Device), of(DescriptorUse::Push)], lookups)
    }

    /// With exactly this many for each use, apart from each other.
    #[must_use]
    pub fn of(devices: usize, pushes: usize) -> Arc<Self> {
        Self::with(devices.saturating_add(pushes), [devices, pushes], RESERVE.1)
    }

    /// One that never makes a connection wait.
    #[must_use]
    pub fn unlimited() -> Arc<Self> {
        Self::of(usize::MAX, usize::MAX)
    }

    fn with(total: usize, most: [usize; 2], lookups: usize) -> Arc<Self> {
        Arc::new(Self { total, most, lookups, state: Mutex::default(), waiting: Default::default() })
    }

    /// The most that a use may take.
    #[must_use]
    pub fn limit(&self, of: DescriptorUse) -> usize {
        self.most[place(of)]
    }

    /// How many names may be looked up at once.
    #[must_use]
    pub fn lookups(&self) -> usize {
        self.lookups
    }

    /// How many are in use.
    #[must_use]
    pub fn in_use(&self, of: DescriptorUse) -> usize {
        self.lock().used[place(of)]
    }

    /// Whether a use has to wait for the next one.
    #[must_use]
    pub fn is_full(&self, of: DescriptorUse) -> bool {
        !self.fits(&self.lock(), of)
    }

    /// Whether any of a use wait.
    #[must_use]
    pub fn is_awaited(&self, of: DescriptorUse) -> bool {
        self.waiting[place(of)].load(Ordering::Relaxed) > 0
    }

    /// A permit at once, or none.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>, of: DescriptorUse) -> Option<DescriptorPermit> {
        self.take(&mut self.lock(), of)
    }

    /// A permit as soon as there is one.
    #[must_use]
    pub fn acquire(self: &Arc<Self>, of: DescriptorUse) -> AcquireDescriptor {
        AcquireDescriptor { budget: Arc::clone(self), of, waiter: None }
    }

    fn take(self: &Arc<Self>, state: &mut State, of: DescriptorUse) -> Option<DescriptorPermit> {
        // It passes by no waiter: where something fits, none of its use waits, since each release hands out all that fits.
        if !self.fits(state, of) {
            return None;
        }
        state.used[place(of)] += 1;
        Some(DescriptorPermit { budget: Arc::clone(self), of })
    }

    fn fits(&self, state: &State, of: DescriptorUse) -> bool {
        let [devices, pushes] = state.used;
        devices + pushes < self.total && state.used[place(of)] < self.most[place(of)]
    }

    /// One was given back: those that wait get what fits, first the use that has fewer.
    fn release(&self, of: DescriptorUse) {
        let mut woken = Vec::new();
        let mut state = self.lock();
        state.used[place(of)] -= 1;
        loop {
            let waits = |of: &DescriptorUse| !state.waiting[place(*of)].is_empty() && self.fits(&state, *of);
            let candidates = [DescriptorUse::Device, DescriptorUse::Push].into_iter().filter(waits);
            let Some(next) = candidates.min_by_key(|of| state.used[place(*of)]) else { break };
            let (waiter, waker) = state.waiting[place(next)].pop_front().expect("a use that waits has a first waiter");
            state.used[place(next)] += 1;
            state.granted.insert(waiter);
            woken.push(waker);
        }
        self.note_waiting(&state);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    fn note_waiting(&self, state: &State) {
        self.waiting.iter().zip(&state.waiting).for_each(|(count, waiting)| count.store(waiting.len(), Ordering::Relaxed));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(of: DescriptorUse) -> usize {
    match of {
        DescriptorUse::Device => 0,
        DescriptorUse::Push => 1,
    }
}

impl Future for AcquireDescriptor {
    type Output = DescriptorPermit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DescriptorPermit> {
        let (budget, of) = (Arc::clone(&self.budget), self.of);
        let mut state = budget.lock();
        let Some(waiter) = self.waiter else {
            if let Some(permit) = budget.take(&mut state, of) {
                return Poll::Ready(permit);
            }
            let waiter = state.next_waiter;
            state.next_waiter += 1;
            state.waiting[place(of)].push_back((waiter, cx.waker().clone()));
            budget.note_waiting(&state);
            self.waiter = Some(waiter);
            return Poll::Pending;
        };
        if state.granted.remove(&waiter) {
            self.waiter = None;
            drop(state);
            return Poll::Ready(DescriptorPermit { budget, of });
        }
        if let Ok(place_in_line) = state.waiting[place(of)].binary_search_by_key(&waiter, |(waiter, _)| *waiter) {
            state.waiting[place(of)][place_in_line].1.clone_from(cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for AcquireDescriptor {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter else { return };
        let mut state = self.budget.lock();
        if state.granted.remove(&waiter) {
            drop(state);
            self.budget.release(self.of);
        } else if let Ok(place_in_line) = state.waiting[place(self.of)].binary_search_by_key(&waiter, |(waiter, _)| *waiter) {
            state.waiting[place(self.of)].remove(place_in_line);
            self.budget.note_waiting(&state);
        }
    }
}

impl Drop for DescriptorPermit {
    fn drop(&mut self) {
        self.budget.release(self.of);
    }
}

impl fmt::Debug for DescriptorPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DescriptorPermit").field(&self.of).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{DescriptorUse::*, *};

    fn poll(acquire: &mut AcquireDescriptor) -> Option<DescriptorPermit> {
        match Pin::new(acquire).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    fn all(budget: &Arc<DescriptorBudget>, of: DescriptorUse) -> Vec<DescriptorPermit> {
        std::iter::from_fn(|| budget.try_acquire(of)).collect()
    }

    #[test]
    fn neither_devices_nor_pushes_take_what_is_left_to_the_other_or_to_the_queue() {
        for open_files in [160, 1024, 4096, 1 << 20] {
            for (first, second) in [(Device, Push), (Push, Device)] {
                let budget = DescriptorBudget::new(open_files, &[Device, Push]);
                let (greedy, other) = (all(&budget, first), all(&budget, second));
                assert!(other.len() >= open_files / 8, "{open_files}: {}", other.len());
                let (taken, lookups) = (greedy.len() + other.len(), budget.lookups() * A_LOOKUP);
                assert!(taken + lookups + FILES <= open_files, "{open_files}: {taken} and {lookups}");
            }
        }
    }

    #[test]
    fn a_process_of_one_role_leaves_nothing_to_the_other() {
        let budget = DescriptorBudget::new(4096, &[Device]);
        assert_eq!((all(&budget, Device).len(), all(&budget, Push).len()), (3072, 0));
    }

    #[test]
    fn a_permit_that_ends_goes_to_the_first_that_waits() {
        let budget = DescriptorBudget::of(0, 1);
        let permit = budget.try_acquire(Push).unwrap();
        let [mut first, mut second] = [budget.acquire(Push), budget.acquire(Push)];
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none() && budget.is_awaited(Push));
        drop(permit);
        assert!(budget.try_acquire(Push).is_none(), "it is the first waiter's");
        assert!(poll(&mut second).is_none());
        let permit = poll(&mut first).unwrap();
        drop(permit);
        assert!(poll(&mut second).is_some());
        assert!(!budget.is_awaited(Push));
    }

    #[test]
    fn a_waiter_that_gives_up_passes_on_what_it_was_given() {
        let budget = DescriptorBudget::of(0, 1);
        let permit = budget.try_acquire(Push).unwrap();
        let [mut first, mut second, mut third] = [budget.acquire(Push), budget.acquire(Push), budget.acquire(Push)];
        assert!([&mut first, &mut second, &mut third].into_iter().all(|waiter| poll(waiter).is_none()));
        drop(second);
        drop(permit);
        drop(first);
        assert!(poll(&mut third).is_some());
        assert_eq!(budget.in_use(Push), 0);
    }

    #[test]
    fn what_a_device_leaves_a_push_may_take() {
        let budget = DescriptorBudget::with(4, [3, 3], 1);
        let (devices, pushes) = (all(&budget, Device), all(&budget, Push));
        assert_eq!((devices.len(), pushes.len()), (3, 1));
        let mut waiting = budget.acquire(Push);
        assert!(poll(&mut waiting).is_none());
        drop(devices);
        assert!(poll(&mut waiting).is_some());
    }
}
