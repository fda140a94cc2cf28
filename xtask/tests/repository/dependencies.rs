//! Each dependency that a `Cargo.toml` names is used.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::files::root;

/// Dependencies that the sources don't name: they only switch features on.
const UNNAMED: [(&str, &str); 0] = [];

/// Packages whose library has another name.
const LIBRARIES: [(&str, &str); 1] = [("rustls-webpki", "webpki")];

/// A crate of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
    folder: String,
}

/// A dependency as a `Cargo.toml` names it. `kind`: `None`, `dev` or `build`.
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
    rename: Option<String>,
}

/// All crates of the workspace.
pub(crate) fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).output().unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let string = |value: &Value| value.as_str().map(str::to_owned);
    let dependency =
        |one: &Value| Dependency { name: string(&one["name"]).unwrap(), kind: string(&one["kind"]), rename: string(&one["rename"]) };
    let package = |one: &Value| Package {
        name: string(&one["name"]).unwrap(),
        dependencies: one["dependencies"].as_array().unwrap().iter().map(dependency).collect(),
        folder: Path::new(one["manifest_path"].as_str().unwrap()).parent().unwrap().to_str().unwrap().to_owned(),
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

/// The sources below these folders of a crate.
fn sources(package: &Package, folders: &[&str]) -> String {
    fn collect(path: &Path, into: &mut String) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| collect(&entry.unwrap().path(), into));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap_or_default());
        }
    }
    let mut text = String::new();
    folders.iter().for_each(|folder| collect(&root().join(&package.folder).join(folder), &mut text));
    text
}

/// Whether the sources name the crate as a word of its own, outside line comments.
fn names(sources: &str, krate: &str) -> bool {
    let code = sources.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')).any(|word| word == krate)
}

#[test]
fn every_dependency_is_used() {
    let mut unused = Vec::new();
    for package in packages() {
        let (own, tests, build) =
            (sources(&package, &["src"]), sources(&package, &["src", "tests", "benches", "examples"]), sources(&package, &["build.rs"]));
        for dependency in &package.dependencies {
            let library = LIBRARIES.iter().find(|(package, _)| *package == dependency.name).map(|(_, library)| (*library).to_owned());
            let krate = dependency.rename.clone().or(library).unwrap_or_else(|| dependency.name.clone()).replace('-', "_");
            let sources = match dependency.kind.as_deref() {
                None => &own,
                Some("dev") => &tests,
                _ => &build,
            };
            if !names(sources, &krate) && !UNNAMED.contains(&(package.name.as_str(), dependency.name.as_str())) {
                unused.push(format!("{}: {} ({})", package.name, dependency.name, dependency.kind.as_deref().unwrap_or("normal")));
            }
        }
    }
    assert!(unused.is_empty(), "remove from Cargo.toml, or list in UNNAMED with the reason:\n{}", unused.join("\n"));
}

#[test]
fn every_dependency_of_the_workspace_is_used_by_a_crate() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let table = manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let declared =
        table.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.trim()).filter(|name| !name.starts_with('#'));
    let packages = packages();
    let unused: Vec<&str> = declared
        .filter(|name| {
            !packages.iter().any(|package| package.dependencies.iter().any(|one| one.rename.as_ref().unwrap_or(&one.name) == name))
        })
        .collect();
    assert!(unused.is_empty(), "no crate uses {unused:?}");
}

#[test]
fn a_crate_is_named_only_as_a_word_of_its_own_and_outside_comments() {
    assert!(names("use serde::Serialize;", "serde") && names("#[tokio::main]", "tokio"));
    assert!(!names("use serde_json::Value;\n    // serde is fine", "serde"));
}
