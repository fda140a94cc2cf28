//! Records that were gone from the log before they had settled (docs/delivery.md, Restart): an operator must hear of it.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many offsets were lost since an operator last said that he knows.
#[derive(Debug, Default)]
pub struct Losses(AtomicU64);

impl Losses {
    /// How many no operator has acknowledged. The process isn't ready while there are any.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// An operator knows. Returns of how many.
    pub fn acknowledge(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }

    pub(crate) fn add(&self, offsets: u64) {
        self.0.fetch_add(offsets, Ordering::Relaxed);
    }
}
