//! The queue to the webhooks: partition tasks with their lanes, and the HTTP sender with its outcomes.

mod destination;
mod egress;
mod lane;
pub mod metrics;
mod outcome;
mod partition;
mod pool;
mod request;
mod room;
mod signature;
