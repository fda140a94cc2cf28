//! `cargo xtask kafka [port]`: a real Kafka for trials, until Ctrl-C.

use std::{os::unix::process::CommandExt, process::Command};

use crate::programs;

/// Replaces this process with the testkit's program, so that Ctrl-C reaches it alone and the prompt comes back when it has ended.
///
/// # Errors
/// A program is missing, or cargo can't be started.
pub fn run(port: Option<&str>) -> Result<(), String> {
    programs::ensure(&programs::FOR_KAFKA)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--quiet", "--locked", "--package", "pushline-testkit", "--bin", "kafka"]);
    if let Some(port) = port {
        cargo.args(["--", port]);
    }
    Err(format!("can't start cargo: {}", cargo.exec()))
}
