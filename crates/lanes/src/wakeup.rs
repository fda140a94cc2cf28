//! Waking partition tasks when a budget that they share has more to give (docs/delivery.md, Wake-ups). Pure.
//!
//! A budget wakes no task. It notes in [`Owed`] that a wake-up is due when a lease, a permit or a pause is dropped. The next event of any task takes the note
//! and wakes the others by an effect; the taker looks after itself. So no wake-up is lost, as long as an event follows each drop.

use std::sync::atomic::{AtomicBool, Ordering};

/// Wake-ups that are due in this process. At most one of each kind: a woken task asks for everything that it needs.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    permit: AtomicBool,
    catch_up: AtomicBool,
}

/// Why a task is woken: a permit may be free, or also a lane may begin a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wake {
    /// A catch-up read may have something to do. A free permit alone gives it nothing, and is frequent.
    pub for_catch_up: bool,
}

impl Owed {
    pub(crate) fn owe_permit(&self) {
        self.permit.store(true, Ordering::Release);
    }

    pub(crate) fn owe_catch_up(&self) {
        self.catch_up.store(true, Ordering::Release);
    }

    /// Takes what is due, for the one that wakes the others.
    pub(crate) fn take(&self) -> Option<Wake> {
        // The plain loads come first: mostly nothing is due, and this is asked after each event.
        let take = |flag: &AtomicBool| flag.load(Ordering::Acquire) && flag.swap(false, Ordering::AcqRel);
        let (permit, for_catch_up) = (take(&self.permit), take(&self.catch_up));
        (permit || for_catch_up).then_some(Wake { for_catch_up })
    }
}
