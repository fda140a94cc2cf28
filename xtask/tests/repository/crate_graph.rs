//! The crates depend on each other as ARCHITECTURE.md draws it, and each of some libraries is used by one crate only.

use std::collections::BTreeMap;

use crate::dependencies::packages;

/// Which of our crates each one may depend on, and which it must.
const GRAPH: [(&str, &[&str]); 9] = [
    ("pushline-model", &[]),
    ("pushline-queue", &["pushline-model"]),
    ("pushline-ingest", &["pushline-model", "pushline-queue"]),
    ("pushline-batch", &["pushline-model"]),
    ("pushline-lanes", &["pushline-batch", "pushline-model", "pushline-queue"]),
    ("pushline-deliver", &["pushline-batch", "pushline-lanes", "pushline-model", "pushline-queue"]),
    ("pushline-sample", &[]),
    ("pushline-testkit", &["pushline-sample"]),
    ("pushline", &["pushline-deliver", "pushline-ingest", "pushline-model", "pushline-queue", "pushline-sample"]),
];

/// Libraries that only these crates may use.
const SINGLE_USERS: [(&str, &[&str]); 7] = [
    ("argon2", &["pushline-ingest"]),
    // The signatures of tokens. All other cryptography is behind rustls, argon2 and hmac.
    ("ring", &["pushline-ingest"]),
    // Of the product, the sender and the listener speak TLS; tests and the load test play its server.
    ("tokio-rustls", &["pushline-deliver", "pushline-ingest", "pushline-loadtest", "pushline-testkit"]),
    ("clap", &["pushline"]),
    ("simd-json", &["pushline-batch"]),
    ("crc32c", &["pushline-queue"]),
    ("rdkafka", &["pushline-queue"]),
];

/// No tokio, no I/O in these.
const PURE: [&str; 3] = ["pushline-model", "pushline-batch", "pushline-lanes"];

/// Each crate's dependencies, without those of its tests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let names = |dependencies: Vec<crate::dependencies::Dependency>| {
        let mut names: Vec<String> = dependencies.into_iter().filter(|one| one.kind.is_none()).map(|one| one.name).collect();
        names.sort();
        names
    };
    packages().into_iter().map(|package| (package.name, names(package.dependencies))).collect()
}

#[test]
fn the_crates_depend_on_each_other_as_the_architecture_draws_it() {
    let all = dependencies();
    for (name, expected) in GRAPH {
        let ours: Vec<&str> = all[name].iter().map(String::as_str).filter(|name| name.starts_with("pushline")).collect();
        assert_eq!(ours, expected, "{name}");
    }
}

#[test]
fn some_libraries_have_one_user_only() {
    let all = dependencies();
    for (library, allowed) in SINGLE_USERS {
        let users: Vec<&str> =
            all.iter().filter(|(_, names)| names.iter().any(|name| name == library)).map(|(name, _)| name.as_str()).collect();
        assert_eq!(users, allowed, "{library}");
    }
    for name in PURE {
        assert!(!all[name].iter().any(|other| other == "tokio"), "{name} is pure");
    }
}
