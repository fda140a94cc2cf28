//! Each test or source file that a document or a command names exists.

use xtask::long;

use crate::files::{root, text, texts};

/// The folder of tests that are named without one.
const TESTS: &str = "crates/pushline/tests/it/";

/// What stands between backticks, in order.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Tests are named as sentences; metrics and options aren't.
fn is_test(name: &str) -> bool {
    let is_word = name.bytes().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_');
    is_word && name.matches('_').count() >= 3 && !name.starts_with("pushline_")
}

fn path_of(file: &str) -> String {
    if file.starts_with("crates/") { file.to_owned() } else { format!("{TESTS}{file}") }
}

/// What is wrong with the tests that a document names: each stands behind its file.
fn wrong(document: &str) -> Vec<String> {
    let (mut wrong, mut file) = (Vec::new(), None);
    for name in quoted(document) {
        if name.ends_with(".rs") || name.ends_with('/') && !name.starts_with("docs") {
            let path = path_of(name);
            if !root().join(&path).exists() {
                wrong.push(format!("{name}: no such file"));
            }
            file = Some(path).filter(|path| path.ends_with(".rs") && root().join(path).exists());
        } else if is_test(name) {
            match &file {
                Some(file) if text(file).contains(&format!("fn {name}(")) => {}
                Some(file) => wrong.push(format!("{file}: no test {name}")),
                None => wrong.push(format!("{name}: its file isn't named before it")),
            }
        }
    }
    wrong
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let guarantees = text("docs/guarantees.md");
    assert!(quoted(&guarantees).filter(|name| is_test(name)).count() > 30);
    assert_eq!(wrong(&guarantees), Vec::<String>::new());
}

#[test]
fn every_test_that_the_readme_names_exists() {
    let readme = text("README.md");
    let section = readme.split("## What is guaranteed").nth(1).expect("the README has its guarantees").split("\n## ").next().unwrap();
    assert!(quoted(section).filter(|name| name.ends_with(".rs")).count() > 5);
    assert_eq!(wrong(section), Vec::<String>::new());
}

#[test]
fn every_file_that_the_architecture_names_exists() {
    let short = |path: &str| format!("/{}", path.replace("src/", ""));
    let all: Vec<String> = texts().iter().map(|file| short(&file.path)).collect();
    let architecture = text("ARCHITECTURE.md");
    let named: Vec<&str> = quoted(&architecture).filter(|name| name.ends_with(".rs")).collect();
    assert!(named.len() > 40, "{named:?}");
    let missing: Vec<&str> = named.into_iter().filter(|name| !all.iter().any(|path| path.ends_with(&short(name)))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_test_of_a_long_part_exists() {
    let code = texts();
    // A name that ends with `::` is a module: all its tests.
    let defined = |name: &str| name.strip_suffix("::").map_or_else(|| format!("fn {name}("), |module| format!("mod {module};"));
    let exists = |name: &str| code.iter().any(|file| file.has_extension("rs") && file.text.contains(&defined(name)));
    let missing: Vec<&str> = long::PARTS.iter().flat_map(|part| part.tests).copied().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_missing_test_or_file_is_found() {
    let this = "`crates/model/src/time.rs`: `a_timestamp_is_its_text_again`";
    assert_eq!(wrong(this), Vec::<String>::new());
    assert_eq!(
        wrong("`crates/model/src/time.rs`: `a_timestamp_is_no_text_again`"),
        ["crates/model/src/time.rs: no test a_timestamp_is_no_text_again"]
    );
    assert_eq!(wrong("`none.rs`: `retry_on_status`"), ["none.rs: no such file"]);
    assert_eq!(wrong("`a_test_of_no_file`"), ["a_test_of_no_file: its file isn't named before it"]);
}
