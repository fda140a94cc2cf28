//! A small gateway and a small webhook receiver, for the demo and `pushline receive`; the testkit builds on them.

mod gateway;
mod receiver;

pub use crate::{
    gateway::{Gateway, GatewayError},
    receiver::{Behaviour, Push, Receiver},
};
