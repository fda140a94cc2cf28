//! Whose request a host carries next (docs/responses.md, Fairness). Pure: it counts requests and knows no connection.
//!
//! The webhooks that share a host are its sharers. Some servers never answer, so what is in flight may stay for the whole timeout: a part of the host's
//! capacity is kept before it is scarce. The threshold that falls with what is free is that of Choudhury and Hahne, "Dynamic Queue Length Thresholds
//! for Shared-Memory Packet Switches" (1998).

use std::collections::{BTreeSet, VecDeque};

use slab::Slab;

/// The part of a host's capacity that only webhooks with nothing in flight get: the last fourth.
const RESERVED: usize = 4;

/// The part that all webhooks without response get together: a half.
const UNRESPONSIVE: usize = 2;

/// The requests of a host's sharers: how many are in flight, and which wait. `R`: a request that waits.
#[derive(Debug)]
pub(super) struct FairQueue<R> {
    sharers: Slab<Requests<R>>,
    in_flight: usize,
    /// Of sharers that are unresponsive.
    in_flight_unresponsive: usize,
    /// The sharers whose requests wait: those that are responsive, and those that aren't.
    lines: [BTreeSet<Rank>; 2],
    waiting: usize,
    arrivals: u64,
}

/// One sharer's requests.
#[derive(Debug)]
struct Requests<R> {
    in_flight: usize,
    is_unresponsive: bool,
    has_left: bool,
    /// The first that came is the first, each with its arrival.
    waiting: VecDeque<(u64, R)>,
}

/// A sharer of a host.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SharerKey(usize);

/// What decides which sharer is next: the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    in_flight: usize,
    /// Of its first request that waits.
    arrival: u64,
    sharer: SharerKey,
}

impl<R> FairQueue<R> {
    pub(super) fn join(&mut self) -> SharerKey {
        let none = Requests { in_flight: 0, is_unresponsive: false, has_left: false, waiting: VecDeque::new() };
        SharerKey(self.sharers.insert(none))
    }

    /// Nothing of the sharer waits any more; what is in flight still counts.
    pub(super) fn leave(&mut self, sharer: SharerKey) {
        self.change(sharer, |requests| {
            requests.waiting.clear();
            requests.has_left = true;
        });
    }

    pub(super) fn set_unresponsive(&mut self, sharer: SharerKey, is_unresponsive: bool) {
        self.change(sharer, |requests| requests.is_unresponsive = is_unresponsive);
    }

    /// Whether a request of the sharer may begin. `capacity`: how many requests the host carries at a time.
    pub(super) fn may_begin(&self, sharer: SharerKey, capacity: usize) -> bool {
        let requests = &self.sharers[sharer.0];
        if requests.is_unresponsive && self.in_flight_unresponsive >= (capacity / UNRESPONSIVE).max(1) {
            return false;
        }
        let free = capacity.saturating_sub(self.in_flight);
        let is_alone = self.sharers.len() == 1;
        is_alone || requests.in_flight == 0 || requests.in_flight < free.saturating_sub(capacity / RESERVED)
    }

    /// A request of the sharer begins.
    pub(super) fn begin(&mut self, sharer: SharerKey) {
        self.change(sharer, |requests| requests.in_flight += 1);
    }

    /// A request of the sharer has ended.
    pub(super) fn end(&mut self, sharer: SharerKey) {
        self.change(sharer, |requests| requests.in_flight -= 1);
    }

    /// A request of the sharer waits, behind its others.
    pub(super) fn push(&mut self, sharer: SharerKey, request: R) {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.change(sharer, |requests| requests.waiting.push_back((arrival, request)));
    }

    /// The sharer whose first request is next: of those that may begin one, the one with the fewest in flight; of equals, the one that waits longest.
    pub(super) fn next(&self, capacity: usize) -> Option<SharerKey> {
        // The first of a line has the fewest in flight: if it may not begin one, none of the line may.
        let firsts = self.lines.iter().filter_map(BTreeSet::first);
        firsts.filter(|rank| self.may_begin(rank.sharer, capacity)).min().map(|rank| rank.sharer)
    }

    /// The sharer's first request that waits.
    pub(super) fn front(&mut self, sharer: SharerKey) -> Option<&mut R> {
        self.sharers[sharer.0].waiting.front_mut().map(|(_, request)| request)
    }

    pub(super) fn pop(&mut self, sharer: SharerKey) -> Option<R> {
        self.change(sharer, |requests| requests.waiting.pop_front()).map(|(_, request)| request)
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The only way to a sharer's requests: the sums and the lines follow them. One that has left stays until nothing of it is in flight.
    fn change<T>(&mut self, sharer: SharerKey, change: impl FnOnce(&mut Requests<R>) -> T) -> T {
        self.remove_from_sums(sharer);
        let requests = &mut self.sharers[sharer.0];
        let result = change(requests);
        if requests.has_left && requests.in_flight == 0 {
            self.sharers.remove(sharer.0);
        } else {
            self.add_to_sums(sharer);
        }
        result
    }

    fn remove_from_sums(&mut self, sharer: SharerKey) {
        let requests = &self.sharers[sharer.0];
        self.in_flight -= requests.in_flight;
        self.in_flight_unresponsive -= requests.unresponsive();
        self.waiting -= requests.waiting.len();
        if let Some(rank) = requests.rank(sharer) {
            self.lines[usize::from(requests.is_unresponsive)].remove(&rank);
        }
    }

    fn add_to_sums(&mut self, sharer: SharerKey) {
        let requests = &self.sharers[sharer.0];
        self.in_flight += requests.in_flight;
        self.in_flight_unresponsive += requests.unresponsive();
        self.waiting += requests.waiting.len();
        if let Some(rank) = requests.rank(sharer) {
            self.lines[usize::from(requests.is_unresponsive)].insert(rank);
        }
    }
}

impl<R> Requests<R> {
    /// `None`: none of them waits.
    fn rank(&self, sharer: SharerKey) -> Option<Rank> {
        let (arrival, _) = self.waiting.front()?;
        Some(Rank { in_flight: self.in_flight, arrival: *arrival, sharer })
    }

    /// How many count as requests without response.
    fn unresponsive(&self) -> usize {
        if self.is_unresponsive { self.in_flight } else { 0 }
    }
}

impl<R> Default for FairQueue<R> {
    fn default() -> Self {
        Self {
            sharers: Slab::new(),
            in_flight: 0,
            in_flight_unresponsive: 0,
            lines: [BTreeSet::new(), BTreeSet::new()],
            waiting: 0,
            arrivals: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a test's requests are: their numbers.
    type Queue = FairQueue<usize>;

    /// Begins requests of a sharer until none may begin or this many have. Returns how many have.
    fn begin(queue: &mut Queue, sharer: SharerKey, at_most: usize, capacity: usize) -> usize {
        let mut begun = 0;
        while begun < at_most && queue.in_flight < capacity && queue.may_begin(sharer, capacity) {
            queue.begin(sharer);
            begun += 1;
        }
        begun
    }

    #[test]
    fn a_webhook_that_is_alone_at_its_host_gets_all_of_it() {
        let mut queue = Queue::default();
        let only = queue.join();
        assert_eq!(begin(&mut queue, only, 2000, 1000), 1000);
        let other = queue.join();
        assert!(!queue.may_begin(only, 2000), "1000 are free, 500 of them for those that have none");
        assert!(queue.may_begin(other, 2000));
        queue.leave(other);
        assert!(queue.may_begin(only, 2000));
    }

    #[test]
    fn sixty_three_hanging_webhooks_leave_most_of_the_last_fourth_to_others_one_for_each() {
        let mut queue = Queue::default();
        let healthy: Vec<_> = (0..1000).map(|_| queue.join()).collect();
        for _ in 0..63 {
            let hanging = queue.join();
            begin(&mut queue, hanging, 16, 1000);
        }
        assert_eq!(queue.in_flight, 763, "without the rule, all thousand");
        assert_eq!(healthy[..237].iter().map(|one| begin(&mut queue, *one, 16, 1000)).sum::<usize>(), 237);
    }

    #[test]
    fn webhooks_without_response_have_half_of_the_host_together() {
        let mut queue = Queue::default();
        let (hanging, healthy): (Vec<_>, Vec<_>) = (0..2000).map(|_| queue.join()).partition(|sharer| sharer.0 % 2 == 0);
        for (number, sharer) in hanging.iter().enumerate() {
            queue.set_unresponsive(*sharer, true);
            assert_eq!(begin(&mut queue, *sharer, 1, 1000), usize::from(number < 500));
            queue.push(*sharer, number);
        }
        assert_eq!(queue.next(1000), None);
        assert_eq!(begin(&mut queue, healthy[0], 1, 1000), 1);
        queue.end(hanging[7]);
        assert_eq!(queue.next(1000), Some(hanging[7]), "it has none and waits longest");
        queue.begin(hanging[7]);
        queue.set_unresponsive(hanging[8], false);
        assert_eq!(queue.next(1000), Some(hanging[500]), "its place among the unresponsive is free");
    }

    #[test]
    fn the_next_is_the_one_with_the_fewest_in_flight_then_the_one_that_waits_longest() {
        let mut queue = Queue::default();
        let [busy, early, late] = [(); 3].map(|()| queue.join());
        queue.begin(busy);
        for (number, sharer) in [busy, early, late, early].into_iter().enumerate() {
            queue.push(sharer, number);
        }
        let mut order = Vec::new();
        while let Some(next) = queue.next(100) {
            order.push(queue.pop(next).unwrap());
            queue.begin(next);
        }
        assert_eq!(order, [1, 2, 0, 3]);
        assert_eq!((queue.waiting(), queue.in_flight), (0, 5));
    }

    #[test]
    fn what_is_in_flight_counts_until_it_ends_though_its_webhook_has_left() {
        let mut queue = Queue::default();
        let sharer = queue.join();
        queue.begin(sharer);
        queue.push(sharer, 1);
        queue.leave(sharer);
        assert_eq!((queue.in_flight, queue.waiting(), queue.next(10)), (1, 0, None));
        queue.end(sharer);
        assert_eq!((queue.in_flight, queue.sharers.len()), (0, 0));
    }

    /// What a sharer does in a random run.
    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        End(usize),
        Unresponsive(usize, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..6_usize).prop_map(Step::Push),
            2 => (0..6_usize).prop_map(Step::End),
            1 => (0..6_usize, any::<bool>()).prop_map(|(sharer, is)| Step::Unresponsive(sharer, is)),
        ];
        prop::collection::vec(step, 1..120)
    }

    /// As the rule reads, over all that wait.
    fn naive_next(queue: &Queue, capacity: usize) -> Option<SharerKey> {
        let waiting = queue.sharers.iter().filter_map(|(key, requests)| requests.rank(SharerKey(key)));
        waiting.filter(|rank| queue.may_begin(rank.sharer, capacity)).min().map(|rank| rank.sharer)
    }

    proptest! {
        #[test]
        fn the_lines_give_the_same_next_as_a_look_at_every_webhook(steps in steps(), capacity in 1..20_usize) {
            let mut queue = Queue::default();
            let sharers = [(); 6].map(|()| queue.join());
            for step in steps {
                match step {
                    Step::Push(of) => queue.push(sharers[of], 0),
                    Step::End(of) if queue.sharers[of].in_flight > 0 => queue.end(sharers[of]),
                    Step::End(_) => {}
                    Step::Unresponsive(of, is) => queue.set_unresponsive(sharers[of], is),
                }
                while queue.in_flight < capacity {
                    prop_assert_eq!(queue.next(capacity), naive_next(&queue, capacity));
                    let Some(next) = queue.next(capacity) else { break };
                    queue.pop(next).unwrap();
                    queue.begin(next);
                }
                let sum = |of: fn(&Requests<usize>) -> usize| queue.sharers.iter().map(|(_, requests)| of(requests)).sum::<usize>();
                prop_assert_eq!(queue.in_flight, sum(|requests| requests.in_flight));
                prop_assert_eq!(queue.waiting(), sum(|requests| requests.waiting.len()));
            }
        }

        /// Whatever order they come in: no request ends, as where servers hang.
        #[test]
        fn as_many_hanging_webhooks_as_a_fourth_leave_something_to_the_next(
            capacity in 4..200_usize,
            arrivals in prop::collection::vec(any::<prop::sample::Index>(), 0..1000),
        ) {
            let mut queue = Queue::default();
            let hanging: Vec<_> = (0..capacity / RESERVED).map(|_| queue.join()).collect();
            let next = queue.join();
            for arrival in arrivals {
                begin(&mut queue, *arrival.get(&hanging), 1, capacity);
            }
            prop_assert!(queue.in_flight < capacity && queue.may_begin(next, capacity));
            let most = hanging.iter().map(|sharer| queue.sharers[sharer.0].in_flight).max().unwrap();
            prop_assert!(most <= capacity.div_ceil(2), "{} of {}", most, capacity);
        }
    }
}
