//! A set of packet ids. Pure.

use std::fmt;

/// Packet identifiers, in order. It takes two bytes for each, and never more than 8 KiB.
#[derive(Clone, PartialEq, Eq)]
pub struct PacketIds(Ids);

#[derive(Clone, PartialEq, Eq)]
enum Ids {
    /// In order; at most [`LONGEST_LIST`].
    List(Vec<u16>),
    /// A bit for each id, and how many are set.
    Bits(Box<[u64; WORDS]>, usize),
}

/// As many bytes as the bits take.
const LONGEST_LIST: usize = 4096;
const WORDS: usize = 1024;

impl PacketIds {
    /// Adds an id. Returns whether it is new.
    pub fn insert(&mut self, id: u16) -> bool {
        match &mut self.0 {
            Ids::List(list) => {
                let Err(place) = list.binary_search(&id) else { return false };
                if list.len() == LONGEST_LIST {
                    self.0 = bits(list);
                    return self.insert(id);
                }
                list.insert(place, id);
                true
            }
            Ids::Bits(words, count) => {
                let (word, bit) = place_of(id);
                let is_new = words[word] & bit == 0;
                words[word] |= bit;
                *count += usize::from(is_new);
                is_new
            }
        }
    }

    /// Removes an id. Returns whether it was there.
    pub fn remove(&mut self, id: u16) -> bool {
        match &mut self.0 {
            Ids::List(list) => {
                let Ok(place) = list.binary_search(&id) else { return false };
                list.remove(place);
                if list.is_empty() {
                    *list = Vec::new();
                }
                true
            }
            Ids::Bits(words, count) => {
                let (word, bit) = place_of(id);
                let was_there = words[word] & bit != 0;
                words[word] &= !bit;
                *count -= usize::from(was_there);
                // Half the longest list: an id that comes and goes at the border doesn't change the form each time.
                if *count <= LONGEST_LIST / 2 {
                    self.0 = Ids::List(self.iter().collect());
                }
                was_there
            }
        }
    }

    /// Whether it has an id.
    #[must_use]
    pub fn contains(&self, id: u16) -> bool {
        match &self.0 {
            Ids::List(list) => list.binary_search(&id).is_ok(),
            Ids::Bits(words, _) => {
                let (word, bit) = place_of(id);
                words[word] & bit != 0
            }
        }
    }

    /// How many ids it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Ids::List(list) => list.len(),
            Ids::Bits(_, count) => *count,
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        let (list, words) = match &self.0 {
            Ids::List(list) => (&list[..], &[][..]),
            Ids::Bits(words, _) => (&[][..], &words[..]),
        };
        let bits = (0..=u16::MAX).filter(|id| {
            let (word, bit) = place_of(*id);
            words[word] & bit != 0
        });
        list.iter().copied().chain(bits.take(if words.is_empty() { 0 } else { self.len() }))
    }
}

/// Where an id's bit is.
fn place_of(id: u16) -> (usize, u64) {
    (usize::from(id / 64), 1 << (id % 64))
}

fn bits(list: &[u16]) -> Ids {
    let mut words = Box::new([0; WORDS]);
    for id in list {
        let (word, bit) = place_of(*id);
        words[word] |= bit;
    }
    Ids::Bits(words, list.len())
}

impl Default for PacketIds {
    fn default() -> Self {
        Self(Ids::List(Vec::new()))
    }
}

impl FromIterator<u16> for PacketIds {
    fn from_iter<I: IntoIterator<Item = u16>>(ids: I) -> Self {
        let mut all = Self::default();
        for id in ids {
            all.insert(id);
        }
        all
    }
}

impl fmt::Debug for PacketIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Beside the standard library's set: runs of ids come and go, so that the form changes both ways.
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), any::<u16>(), 1..6000_u16), 1..12)) {
            let (mut ids, mut model) = (PacketIds::default(), BTreeSet::new());
            for (adds, first, count) in steps {
                for id in (0..count).map(|step| first.wrapping_add(step)) {
                    let (done, expected) = if adds { (ids.insert(id), model.insert(id)) } else { (ids.remove(id), model.remove(&id)) };
                    prop_assert_eq!(done, expected);
                }
                prop_assert_eq!((ids.len(), ids.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(ids.iter().eq(model.iter().copied()));
                prop_assert!([first, first.wrapping_add(count)].iter().all(|id| ids.contains(*id) == model.contains(id)));
            }
        }
    }

    #[test]
    fn every_id_there_is_fits_eight_kibibytes() {
        let mut ids: PacketIds = (0..=u16::MAX).collect();
        assert_eq!((ids.len(), size_of_val(&[0_u64; WORDS])), (1 << 16, 8 << 10));
        (0..=u16::MAX).for_each(|id| assert!(ids.remove(id)));
        assert_eq!(ids, PacketIds::default());
    }
}
