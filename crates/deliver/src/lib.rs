//! The queue to the webhooks: partition tasks with their lanes, and the HTTP sender with its outcomes.

mod destination;
mod egress;
mod lane;
mod lanes;
pub mod metrics;
mod outcome;
mod outlets;
mod partition;
mod pool;
mod request;
mod room;
mod signature;
