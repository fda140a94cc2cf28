//! `cargo xtask test`: every check of the project, in one command.
//!
//! Lints, documentation and tests share the profile `dev` and one target folder. Lints and documentation share the dependencies' metadata; tests need their code,
//! which `cargo clippy` doesn't make. (The driver of clippy could compile the tests too, but its authors advise against running what it compiles.)

use std::process::Command;

use crate::{deploy, programs, step};

/// Runs all checks, the cheap ones first. A check that can't run fails the command, except cargo-deny, which not every machine has.
///
/// # Errors
/// A program is missing, or a check fails.
pub fn run() -> Result<(), String> {
    programs::ensure(&programs::FOR_TESTS)?;
    if programs::is_installed("cargo-deny") {
        step::run_line("licences and bans", &["cargo", "deny", "--offline", "check", "bans", "licenses", "sources"])?;
    } else {
        println!("xtask: cargo-deny isn't installed; licences and bans aren't checked here (cargo install cargo-deny)");
    }
    let cargo = |what, arguments: &str| step::run(what, Command::new("cargo").args(arguments.split(' ')));
    cargo("formatting", "fmt --all --check")?;
    cargo("the repository's own checks", "test -p xtask --locked")?;
    cargo("lints", "clippy --workspace --all-targets --locked -- --deny warnings")?;
    let mut documentation = Command::new("cargo");
    documentation.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]).env("RUSTDOCFLAGS", "--deny warnings");
    step::run("documentation", &mut documentation)?;
    cargo("tests", "test --workspace --exclude xtask --locked --no-fail-fast")?;
    // It asks the binary that the tests were built with.
    deploy::run(&[])?;
    cargo("lints without Kafka", "clippy -p pushline --no-default-features --locked -- --deny warnings")?;
    cargo("the release build", "build --release --locked")
}
