//! The mutants of the delivery core fit the code that they break: `cargo xtask mutants` takes long and is run seldom.

use std::{fs, process::Command};

use crate::files::root;

#[test]
fn each_mutant_applies_to_the_code() {
    let entries = fs::read_dir(root().join("crates/lanes/mutants")).unwrap();
    let patches: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(patches.len() > 40, "there are only {} mutants", patches.len());
    for patch in patches {
        let git = Command::new("git").current_dir(root()).args(["apply", "--check"]).arg(&patch).output().unwrap();
        assert!(git.status.success(), "{}: {}", patch.display(), String::from_utf8_lossy(&git.stderr));
    }
}
