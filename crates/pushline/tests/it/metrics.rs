//! The names of the metrics: what the code has, what docs/metrics.md lists and what a process shows are the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use pushline_testkit::{Gateway, folder};

use crate::{packets, start_with_inbox};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each crate's `metrics.rs`: constants and their names.
fn in_code() -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for crate_dir in fs::read_dir(root().join("crates")).unwrap() {
        let Ok(code) = fs::read_to_string(crate_dir.unwrap().path().join("src/metrics.rs")) else { continue };
        for line in code.lines().filter_map(|line| line.strip_prefix("pub const ").or_else(|| line.strip_prefix("pub(crate) const "))) {
            let (constant, value) = line.split_once(": &str = \"").unwrap_or_else(|| panic!("{line}"));
            let name = value.trim_end_matches("\";").to_owned();
            let is_described = ["counter", "gauge", "histogram"].iter().any(|kind| code.contains(&format!("describe_{kind}!({constant},")));
            assert!(is_described, "{name} has no help text");
            assert_eq!(names.insert(name, constant.to_owned()), None, "{value} is there twice");
        }
    }
    names
}

/// The labels of a metric, each with its known values.
type Labels = BTreeMap<String, Vec<String>>;

/// The tables of docs/metrics.md: the metrics that are there, with their labels. Those that are planned aren't.
fn in_document() -> BTreeMap<String, Labels> {
    text("docs/metrics.md").lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<(String, Labels)> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let [_, name, _type, _unit, labels, _where, "present", ..] = cells[..] else { return None };
    let of_label = |text: &str| {
        let (label, values) = text.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        (label.trim().trim_matches('`').to_owned(), values.split(", ").map(|value| value.trim().to_owned()).collect())
    };
    Some((name.trim_matches('`').to_owned(), labels.split(';').filter(|label| !label.is_empty()).map(of_label).collect()))
}

/// Whether a value is one of the known ones: `any` is each, and `a*` each that begins with `a`.
fn is_known(value: &str, known: &[String]) -> bool {
    known.iter().any(|one| one == "any" || one == value || one.strip_suffix('*').is_some_and(|start| value.starts_with(start)))
}

/// What looks like a metric's name in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.strip_prefix("pushline_").is_some_and(|rest| !rest.is_empty())).collect()
}

/// The metric that a line of `/metrics` belongs to: a histogram has several.
fn family<'a>(name: &'a str, known: &BTreeMap<String, Labels>) -> &'a str {
    let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| name.strip_suffix(part));
    parts.into_iter().find(|family| known.contains_key(*family)).unwrap_or(name)
}

#[test]
fn the_document_lists_the_metrics_that_the_code_has_and_no_others() {
    let (code, document) = (in_code(), in_document());
    assert!(code.len() > 20, "{code:?}");
    // Those of the process itself come from a library.
    let own = document.keys().filter(|name| !name.starts_with("process_"));
    assert_eq!(code.keys().collect::<Vec<_>>(), own.collect::<Vec<_>>());
    // Crates in Rust's spelling, which aren't metrics.
    let crates = ["model", "queue", "ingest", "batch", "deliver", "sample", "testkit"].map(|name| format!("pushline_{name}"));
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "pushline.example.toml", "deploy/compose.yaml"] {
        let text = text(document);
        let unknown: Vec<&str> =
            named(&text).into_iter().filter(|name| !code.contains_key(*name) && !crates.iter().any(|one| one == name)).collect();
        assert!(unknown.is_empty(), "{document} names {unknown:?}, which no crate has");
    }
}

#[tokio::test]
async fn a_process_shows_no_metric_no_label_and_no_value_that_the_document_does_not_list() {
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["a"])).await.unwrap();
    gateway.publish(&packets("nobody/1", ["nobody's"])).await.unwrap();
    inbox.next().await;
    pushline.until_quiet().await;
    let known = in_document();
    let mut shown = BTreeSet::new();
    for key in pushline.metrics().await.keys() {
        let (name, labels) = key.split_once('{').unwrap_or((key, ""));
        let family = family(name, &known);
        let listed = known.get(family).unwrap_or_else(|| panic!("{key} isn't listed"));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('=')).filter(|(label, _)| *label != "le");
        let labels: BTreeMap<&str, &str> = labels.map(|(label, value)| (label, value.trim_matches('"'))).collect();
        assert_eq!(labels.keys().collect::<Vec<_>>(), listed.keys().collect::<Vec<_>>(), "the labels of {family}");
        let unknown = labels.iter().find(|(label, value)| !is_known(value, &listed[**label]));
        assert_eq!(unknown, None, "a value in {key}");
        shown.insert(family.to_owned());
    }
    assert!(shown.len() > 15, "{shown:?}");
}
