//! The crates know each other as the design draws it, and only one place knows each of the libraries that must stay behind a wall.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// Which of our crates each one may depend on, and which it must.
const GRAPH: [(&str, &[&str]); 8] = [
    ("pushline-model", &[]),
    ("pushline-queue", &["pushline-model"]),
    ("pushline-ingest", &["pushline-model", "pushline-queue"]),
    ("pushline-batch", &["pushline-model"]),
    ("pushline-deliver", &["pushline-batch", "pushline-model", "pushline-queue"]),
    ("pushline-sample", &[]),
    ("pushline-testkit", &["pushline-sample"]),
    ("pushline", &["pushline-deliver", "pushline-ingest", "pushline-model", "pushline-queue", "pushline-sample"]),
];

/// Libraries that only these crates may use.
const WALLS: [(&str, &[&str]); 6] = [
    ("rmqtt-codec", &["pushline-ingest"]),
    ("tokio-rustls", &["pushline-deliver"]),
    ("clap", &["pushline"]),
    ("simd-json", &["pushline-batch"]),
    ("crc32c", &["pushline-queue"]),
    ("rdkafka", &["pushline-queue"]),
];

/// No tokio, no I/O in these.
const PURE: [&str; 2] = ["pushline-model", "pushline-batch"];

/// Each crate's dependencies, without those of its tests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).output().unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            dependencies.filter(|one| one["kind"].is_null()).map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    metadata["packages"].as_array().unwrap().iter().map(|package| (package["name"].as_str().unwrap().to_owned(), names(package))).collect()
}

#[test]
fn the_crates_know_each_other_as_the_design_draws_it() {
    let all = dependencies();
    for (name, expected) in GRAPH {
        let ours: Vec<&str> = all[name].iter().map(String::as_str).filter(|name| name.starts_with("pushline")).collect();
        assert_eq!(ours, expected, "{name}");
    }
}

#[test]
fn libraries_behind_a_wall_stay_there() {
    let all = dependencies();
    for (library, allowed) in WALLS {
        let users: Vec<&str> =
            all.iter().filter(|(_, names)| names.iter().any(|name| name == library)).map(|(name, _)| name.as_str()).collect();
        assert_eq!(users, allowed, "{library}");
    }
    for name in PURE {
        assert!(!all[name].iter().any(|other| other == "tokio"), "{name} is pure");
    }
}
