//! A bounded memory of what was found out about logins, by an HMAC under a key that never leaves the process: passwords don't lie in memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a login is remembered by.
pub(super) type Tag = [u8; 32];

/// How many logins are remembered in each of two halves.
const HALF: usize = 50_000;

/// What was found out, at most twice [`HALF`] entries.
#[derive(Debug)]
pub(super) struct Remembered<V> {
    key: [u8; 32],
    halves: Mutex<Halves<V>>,
}

/// When the young half is full, it replaces the old one.
#[derive(Debug)]
struct Halves<V> {
    young: HashMap<Tag, V>,
    old: HashMap<Tag, V>,
}

impl<V> Default for Halves<V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<V: Clone> Remembered<V> {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has random numbers");
        Self { key, halves: Mutex::default() }
    }

    /// The tag of a login that consists of these parts. A part other than the last has no zero byte.
    pub(super) fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut hmac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        for (number, part) in parts.iter().enumerate() {
            if number > 0 {
                hmac.update(&[0]);
            }
            hmac.update(part);
        }
        hmac.finalize().into_bytes().into()
    }

    pub(super) fn get(&self, tag: &Tag) -> Option<V> {
        let halves = self.lock();
        halves.young.get(tag).or_else(|| halves.old.get(tag)).cloned()
    }

    pub(super) fn insert(&self, tag: Tag, value: V) {
        let mut halves = self.lock();
        if halves.young.len() >= HALF {
            halves.old = std::mem::take(&mut halves.young);
        }
        halves.young.insert(tag, value);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.lock() = Halves::default();
    }

    fn lock(&self) -> MutexGuard<'_, Halves<V>> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest_stays() {
        let remembered = Remembered::new();
        let tag = |number: usize| {
            let mut tag = [0; 32];
            tag[..8].copy_from_slice(&number.to_be_bytes());
            tag
        };
        (0..3 * HALF).for_each(|number| remembered.insert(tag(number), number));
        let halves = remembered.lock();
        assert!(halves.young.len() + halves.old.len() <= 2 * HALF);
        drop(halves);
        assert_eq!((remembered.get(&tag(3 * HALF - 1)), remembered.get(&tag(0))), (Some(3 * HALF - 1), None));
        remembered.clear();
        assert_eq!(remembered.get(&tag(3 * HALF - 1)), None);
    }

    #[test]
    fn a_tag_depends_on_the_process_and_on_the_border_between_parts() {
        let (one, other) = (Remembered::<()>::new(), Remembered::<()>::new());
        assert_eq!(one.tag(&[b"a", b"b"]), one.tag(&[b"a", b"b"]));
        assert_ne!(one.tag(&[b"a", b"b"]), one.tag(&[b"ab"]));
        assert_ne!(one.tag(&[b"a", b"b"]), other.tag(&[b"a", b"b"]));
    }
}
