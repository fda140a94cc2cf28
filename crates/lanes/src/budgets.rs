//! What all partition tasks of a process share: one memory budget, the count of breaker openings, the suspensions, and the wake-ups that are due. They
//! answer, and wake no task by themselves ([`crate::wakeup`]).

use std::{sync::Arc, time::Instant};

use pushline_model::Webhook;

use crate::{
    circuit_breaker::{CircuitBreaker, Openings},
    concurrency_limit::{ConcurrencyLimit, Permit},
    memory_budget::{MemoryBudget, MemoryShare},
    rate_limit::RateLimit,
    suspension::{Suspension, Suspensions},
    wakeup::{Owed, Wake},
};

/// The process's budgets.
#[derive(Debug)]
pub struct Budgets {
    memory: Arc<MemoryBudget>,
    openings: Arc<Openings>,
    suspensions: Arc<Suspensions>,
    owed: Arc<Owed>,
}

/// One webhook's part of each. A webhook that is defined anew keeps it.
#[derive(Debug, Clone)]
pub(crate) struct WebhookBudgets {
    pub(crate) memory: Arc<MemoryShare>,
    pub(crate) concurrency: Arc<ConcurrencyLimit>,
    pub(crate) breaker: Arc<CircuitBreaker>,
    pub(crate) suspension: Arc<Suspension>,
    rate: Arc<RateLimit>,
}

/// Which attempt of a message is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nth {
    First,
    Later,
}

/// Why an attempt doesn't start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Its task is woken when it may.
    Woken,
    /// It may at this time.
    Until(Instant),
}

impl Budgets {
    /// A memory budget of this many bytes, of which nothing is held.
    #[must_use]
    pub fn new(bytes: usize) -> Arc<Self> {
        let owed = Arc::default();
        Arc::new(Self { memory: MemoryBudget::new(bytes), openings: Arc::default(), suspensions: Suspensions::new(&owed), owed })
    }

    /// For a webhook that is new in this process.
    pub(crate) fn of_webhook(&self) -> WebhookBudgets {
        WebhookBudgets {
            memory: MemoryShare::new(&self.memory, &self.owed),
            concurrency: ConcurrencyLimit::new(&self.owed),
            breaker: CircuitBreaker::new(&self.openings, &self.owed),
            suspension: Suspension::new(&self.suspensions),
            rate: Arc::default(),
        }
    }

    /// How often any breaker opened since the process began.
    pub(crate) fn openings(&self) -> u64 {
        self.openings.count()
    }

    pub(crate) fn suspensions(&self) -> &Suspensions {
        &self.suspensions
    }

    /// Takes the wake-ups that are due.
    pub(crate) fn take_owed(&self) -> Option<Wake> {
        self.owed.take()
    }

    /// Bytes that no body holds.
    #[cfg(test)]
    pub(crate) fn free(&self) -> i64 {
        self.memory.free()
    }
}

impl WebhookBudgets {
    /// Whether the webhook may begin a message.
    pub(crate) fn may_begin(&self) -> bool {
        !self.suspension.is_on() && self.memory.may_begin(self.breaker.is_unresponsive())
    }

    /// It refused a record. The end of a suspension wakes all tasks, so there it has nothing to note.
    pub(crate) fn refused(&self) {
        if !self.suspension.is_on() {
            self.memory.refused();
        }
    }

    /// A permit for an attempt that starts now.
    ///
    /// # Errors
    /// The webhook is suspended, or its attempts in flight or its rate allow none.
    pub(crate) fn acquire(&self, webhook: &Webhook, nth: Nth, now: Instant) -> Result<Permit, Wait> {
        if self.suspension.is_on() {
            return Err(Wait::Woken);
        }
        if let Some(due) = webhook.rate.and_then(|rate| self.rate.due(rate, now)) {
            return Err(Wait::Until(due));
        }
        let at_most = match nth {
            Nth::First => self.breaker.limit_first(webhook.concurrency),
            Nth::Later => self.breaker.limit_again(webhook.concurrency),
        };
        let permit = self.concurrency.acquire(at_most).ok_or(Wait::Woken)?;
        match webhook.rate.map(|rate| self.rate.take(rate, now)) {
            Some(Err(due)) => Err(Wait::Until(due)),
            Some(Ok(())) | None => Ok(permit),
        }
    }

    /// The server answered something: its breaker closes, and it may begin messages again.
    pub(crate) fn answered(&self) {
        if self.breaker.close() {
            self.memory.forget_refusals();
        }
    }
}
