//! The sizes and times of a core.

use std::time::Duration;

use pushline_model::Offset;

/// Sizes and times that decide nothing about what is sent, only when. A test makes them small.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// A lane at most this many offsets behind live reading is near.
    pub(crate) near: Offset,
    /// Bytes of the first block of a slice; each further block has twice as many.
    pub(crate) first_block: usize,
    /// Bytes of a slice, at most.
    pub(crate) slice: usize,
    /// Catch-up reads find no more dead letters while this many bytes of them aren't durable.
    pub(crate) dead_letter_bytes: usize,
    /// How long lanes of unresponsive webhooks wait for each other before a slice.
    pub(crate) gather: Duration,
    /// How long a group may have no webhook before its packets become dead letters.
    pub(crate) unknown_for: Duration,
    /// How much later than a window is over a tick is appended.
    pub(crate) tick_grace: Duration,
    /// How long packets may wait: `backlog.max_age`.
    pub(crate) max_age: Duration,
    /// How often a changed checkpoint is saved and the gauges are set.
    pub(crate) save_every: Duration,
}

impl Tuning {
    /// The product's. `max_age`: `backlog.max_age`.
    #[must_use]
    pub fn new(max_age: Duration) -> Self {
        Self {
            near: 200_000,
            first_block: 256 << 10,
            slice: 8 << 20,
            dead_letter_bytes: 1 << 20,
            gather: Duration::from_millis(100),
            unknown_for: Duration::from_mins(5),
            tick_grace: Duration::from_millis(10),
            max_age,
            save_every: Duration::from_secs(1),
        }
    }
}
