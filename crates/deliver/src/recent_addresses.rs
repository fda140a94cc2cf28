//! The addresses that a name had lately: a connection is drained when its name has other addresses.
//!
//! Many names have a few of their addresses in each answer, by turns. So an address has left its name when a lookup doesn't give it 30 s after the last
//! one that did, not when any lookup doesn't. Pure.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A name that has connections is looked up again after this time.
const LOOK_UP_EVERY: Duration = Duration::from_secs(30);

/// An address that no answer had for this long is forgotten.
const REMEMBERED: Duration = Duration::from_secs(600);

/// One name's.
#[derive(Debug)]
pub(crate) struct RecentAddresses(Mutex<State>);

#[derive(Debug)]
struct State {
    looked_up: Option<Instant>,
    look_up_at: Instant,
    /// When a lookup gave each address last.
    given: Vec<(IpAddr, Instant)>,
}

/// What is known of an address of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The name has it.
    Current,
    /// The name had it, and it is time to look it up. Only one caller is told so.
    Due,
    /// The name has other addresses now.
    Left,
}

impl RecentAddresses {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(State { looked_up: None, look_up_at: now + LOOK_UP_EVERY, given: Vec::new() }))
    }

    /// A lookup has given these.
    pub(crate) fn note(&self, addresses: impl IntoIterator<Item = IpAddr>, now: Instant) {
        let mut state = self.lock();
        (state.looked_up, state.look_up_at) = (Some(now), now + LOOK_UP_EVERY);
        for address in addresses {
            match state.given.iter_mut().find(|(given, _)| *given == address) {
                Some((_, at)) => *at = now,
                None => state.given.push((address, now)),
            }
        }
        state.given.retain(|(_, at)| now - *at < REMEMBERED);
    }

    /// Whether the name still has an address that a lookup has given.
    pub(crate) fn standing(&self, address: IpAddr, now: Instant) -> Standing {
        let mut state = self.lock();
        let given = state.given.iter().find(|(given, _)| *given == address).map(|(_, at)| *at);
        let has_left = state.looked_up.is_some_and(|looked_up| given.is_none_or(|given| looked_up - given >= LOOK_UP_EVERY));
        if has_left {
            Standing::Left
        } else if now >= state.look_up_at {
            // A lookup that fails is repeated then.
            state.look_up_at = now + LOOK_UP_EVERY;
            Standing::Due
        } else {
            Standing::Current
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Standing::*, *};

    const OLD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const NEW: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn a_name_is_looked_up_again_every_thirty_seconds_once_and_an_address_that_it_no_longer_has_has_left() {
        let begin = Instant::now();
        let (at, name) = (|seconds| begin + Duration::from_secs(seconds), RecentAddresses::new(begin));
        name.note([OLD], begin);
        let standing = |seconds| name.standing(OLD, at(seconds));
        assert_eq!([standing(0), standing(29), standing(30), standing(31)], [Current, Current, Due, Current]);
        name.note([NEW], at(31));
        assert_eq!((standing(31), name.standing(NEW, at(31))), (Left, Current));
    }

    #[test]
    fn an_address_that_answers_have_by_turns_stays() {
        let begin = Instant::now();
        let name = RecentAddresses::new(begin);
        for second in 0..100 {
            name.note([if second % 2 == 0 { OLD } else { NEW }], begin + Duration::from_secs(second));
            assert_eq!(name.standing(OLD, begin + Duration::from_secs(second)), Current);
        }
    }

    #[test]
    fn a_lookup_that_fails_leaves_the_address_and_is_repeated() {
        let begin = Instant::now();
        let name = RecentAddresses::new(begin);
        name.note([OLD], begin);
        let due = (0..100).filter(|second| name.standing(OLD, begin + Duration::from_secs(*second)) == Due).count();
        assert_eq!(due, 3);
    }
}
