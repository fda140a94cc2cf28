//! Checks of the repository itself: its crates, its documents and its words.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed, as it should")]

mod crate_graph;
mod dependencies;
mod files;
mod links;
mod mutants;
mod named_tests;
mod words;
