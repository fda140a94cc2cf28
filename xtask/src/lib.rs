//! The commands behind `cargo xtask`, and what they share. `tests/repository` holds the checks of the repository itself.

pub mod deploy;
pub mod fuzz;
pub mod kafka;
pub mod long;
pub mod mutants;
pub mod programs;
pub mod step;
pub mod test;
