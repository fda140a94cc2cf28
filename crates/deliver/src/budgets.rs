//! What all partition tasks of a process share: one memory budget, the count of breaker openings, and the wake-ups that are due. They answer, and ring
//! nobody by themselves ([`crate::wakeup`]).

use std::sync::Arc;

use crate::{
    circuit_breaker::{CircuitBreaker, Openings},
    concurrency_limit::ConcurrencyLimit,
    memory_budget::{MemoryBudget, MemoryShare},
    wakeup::{Owed, Wake},
};

/// The process's budgets.
#[derive(Debug)]
pub(crate) struct Budgets {
    memory: Arc<MemoryBudget>,
    openings: Arc<Openings>,
    owed: Arc<Owed>,
}

/// One webhook's part of each. A webhook that is defined anew keeps it.
#[derive(Debug, Clone)]
pub(crate) struct WebhookBudgets {
    pub(crate) memory: Arc<MemoryShare>,
    pub(crate) concurrency: Arc<ConcurrencyLimit>,
    pub(crate) breaker: Arc<CircuitBreaker>,
}

impl Budgets {
    /// A memory budget of this many bytes, of which nothing is held.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { memory: MemoryBudget::new(bytes), openings: Arc::default(), owed: Arc::default() })
    }

    /// For a webhook that is new in this process.
    pub(crate) fn of_webhook(&self) -> WebhookBudgets {
        WebhookBudgets {
            memory: MemoryShare::new(&self.memory, &self.owed),
            concurrency: ConcurrencyLimit::new(&self.owed),
            breaker: CircuitBreaker::new(&self.openings, &self.owed),
        }
    }

    /// How often any breaker opened since the process began.
    pub(crate) fn openings(&self) -> u64 {
        self.openings.count()
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
        self.memory.may_begin(self.breaker.is_unresponsive())
    }

    /// The server answered something: its breaker closes, and it may begin messages again.
    pub(crate) fn answered(&self) {
        if self.breaker.close() {
            self.memory.forget_refusals();
        }
    }
}
