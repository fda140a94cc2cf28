//! The delivery core: what is decided about a partition's messages. Pure: no clock, no I/O, no tokio.
//!
//! A driver ([`Core::on`]) tells it what happened and executes the effects. `pushline-deliver` has the product's driver.
//!
//! | what | where |
//! |---|---|
//! | what is decided about a partition | `core.rs`, and a file for each rule in `core/` |
//! | where a partition starts again | `checkpoint.rs` |
//! | what all partitions share | `memory_budget.rs`, `concurrency_limit.rs`, `circuit_breaker.rs`, `rate_limit.rs`, `suspension.rs`, `wakeup.rs`; `budgets.rs` holds them |
//! | what the core knows of webhooks | `webhooks.rs` |
//! | what follows from an outcome | `outcome.rs`, `retry_after.rs` |

mod budgets;
mod checkpoint;
mod circuit_breaker;
mod concurrency_limit;
mod core;
mod memory_budget;
mod outcome;
mod rate_limit;
mod retry_after;
mod suspension;
mod wakeup;
mod webhooks;

pub use crate::{
    budgets::Budgets,
    checkpoint::{Checkpoint, Extension, LaneCheckpoint, LastPassed, MessageSpan, OpenWindow, Restart, Unreadable},
    concurrency_limit::Permit,
    core::{
        AttemptEnded, Core, DeadLetterBatch, DeadLetterKey, Effects, Event, Excuse, LaneKey, Leave, LogState, MessageKey, Notice, Now,
        OldestRead, ReadBlock, Save, SaveEnded, Start, StartAttempt, Status, TickRefused, Tuning,
    },
    retry_after::suspends_for,
    wakeup::Wake,
    webhooks::{WebhookHandle, Webhooks},
};
