//! The delivery core under random schedules, against the rules of docs/delivery.md that the model beside it plays too.
//!
//! A schedule plays a world: logs, customers, clocks, crashes, processes that live on though another one was started (zombies). The world delivers
//! events to real cores through [`Core::on`] and executes their effects as the driver does; it mirrors nothing and decides nothing for them. Two
//! partitions' cores share one memory budget and one set of webhooks.
//!
//! Checked at every step:
//! - *once*: every record is sent under one message id, over all processes, zombies included. A message's dead letter counts, since its replay brings the id back. An
//!   excuse begins a new count;
//! - a record expires without an id only if its group was without webhook at some time;
//! - the same id means the same packets in the same shape;
//! - the watermark, committed or not, is never above an unsettled record, and a checkpoint calls nothing settled that isn't;
//! - a process sends nothing that its checkpoint or watermark calls settled, and each record in one message;
//! - a group's messages start for the first time in the order of their offsets;
//! - leases add up to what lanes hold, per webhook and in all; an unresponsive webhook has one active message, and holds one more at most.
//!
//! Checked at the end: without reload, excuse and another log, what all processes sent is the *naive* cut of the log; everything settles in bounded
//! time, beside a customer that stays dead, though only effects cause events; and no lane, no held byte is left.
//!
//! `MODEL_SCHEDULES` sets how many schedules run in each mode, `MODEL_SEED` which ones.

mod checks;
mod drain;
mod driver;
mod examples;
mod log;
mod naive;
mod properties;
mod restarts;
mod schedule;
mod steps;
mod world;
