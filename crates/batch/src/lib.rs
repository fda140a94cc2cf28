//! Windows, chunks of ten and the JSON body: which packets share a message, and what that message looks like on the wire.
//!
//! Pure: no I/O, no clock of its own. Time comes in as an argument.

mod body;
mod cut;
mod escape;
mod id;
mod rules;

pub use body::{Body, Sealed};
pub use cut::{Cut, Cutter, NextPacket, Window};
pub use escape::escape;
pub use id::Identity;
pub use rules::CutRules;
