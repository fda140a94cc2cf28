//! `cargo xtask long fuzz`: each fuzz target for a while, by cargo-fuzz (fuzz/README.md).

use std::{fs, path::Path, process::Command};

use crate::{programs, step};

/// The part's name on the command line.
pub const NAME: &str = "fuzz";

/// What it does, and how long it takes on two cores.
pub const ABOUT: &str = "each fuzz target for ten minutes; 70 minutes";

/// How long each target runs, in seconds.
const SECONDS: u32 = 600;

/// An input that takes longer fails, in seconds.
const HANGS: u32 = 10;

/// The longest input, in bytes. The corpus has none that is longer.
const LONGEST: u32 = 4096;

/// Runs the targets one after the other, each from the corpus that is committed. What it finds beyond that lies in `target/fuzz-corpus`.
///
/// # Errors
/// cargo-fuzz is missing, a target doesn't compile, or an input fails. Such an input lies in `fuzz/artifacts`.
pub fn run() -> Result<(), String> {
    if !programs::is_installed("cargo-fuzz") {
        return Err("cargo-fuzz missing: cargo install cargo-fuzz --locked".to_owned());
    }
    let failed: Vec<String> = targets()?.iter().filter_map(|target| run_target(target).err()).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// Each has a folder in the corpus.
fn targets() -> Result<Vec<String>, String> {
    let corpus = root().join("fuzz/corpus");
    let told = |error| format!("{}: {error}", corpus.display());
    let mut targets = Vec::new();
    for entry in fs::read_dir(&corpus).map_err(told)? {
        targets.push(entry.map_err(told)?.file_name().display().to_string());
    }
    targets.sort();
    Ok(targets)
}

fn run_target(target: &str) -> Result<(), String> {
    let (known, found) = (root().join("fuzz/corpus").join(target), root().join("target/fuzz-corpus").join(target));
    fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
    let mut cargo = Command::new("cargo");
    // cargo-fuzz needs options of the compiler that only a nightly one has otherwise.
    cargo.env("RUSTC_BOOTSTRAP", "1").current_dir(root().join("fuzz"));
    // The first folder gets what is new.
    cargo.args(["fuzz", "run", target]).args([found, known]).arg("--");
    let words = if target.starts_with("mqtt") { "fuzz/mqtt.dict" } else { "fuzz/http.dict" };
    cargo.arg(format!("-dict={}", root().join(words).display()));
    cargo.args([format!("-max_total_time={SECONDS}"), format!("-max_len={LONGEST}"), format!("-timeout={HANGS}")]);
    step::run(&format!("fuzz target {target}"), &mut cargo)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_of_the_corpus_is_a_target_of_the_fuzz_package() {
        let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(targets.iter().all(|target| manifest.contains(&format!("name = \"{target}\""))), "{targets:?}");
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
    }
}
