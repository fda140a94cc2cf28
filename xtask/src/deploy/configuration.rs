//! Pushline itself reads the configurations of the value sets, and those that are shipped.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

use super::{
    Mistakes,
    chart::Set,
    root, text,
    tools::output,
    tree::{all, at, list, name, string},
};
use crate::step;

/// Options that the chart and its value sets use already, and the variables that set them. One that `pushline.example.toml` doesn't show isn't there yet.
const PLANNED: [(&str, &str); 3] = [
    ("# drain =", "PUSHLINE_MQTT__LISTENER__DRAIN"),
    ("# address = \"127.0.0.1:9091\"", "PUSHLINE_METRICS__ADDRESS"),
    ("# threads =", "PUSHLINE_RUNTIME__THREADS"),
];

/// What a machine without the Secrets of a cluster can't read.
const OF_SECRETS: [&str; 2] = ["tls = {", "users_file"];

/// Pushline's command line; [`build`] has made sure that it is there.
pub(super) fn pushline() -> Command {
    Command::new(program())
}

fn program() -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder));
    folder.join("debug/pushline")
}

/// Builds it where there is none. The tests build it before, with features of their own: building it again for this would compile the dependencies twice.
///
/// # Errors
/// It doesn't compile.
pub(super) fn build() -> Result<(), String> {
    if program().exists() {
        return Ok(());
    }
    step::run("pushline", Command::new("cargo").args(["build", "--locked", "--package", "pushline"]))
}

/// Lets `pushline check` read each set's configuration, with the variables of each workload.
pub(super) fn check(sets: &[Set]) -> Result<Mistakes, String> {
    let example = text("pushline.example.toml")?;
    let absent: Vec<&str> = PLANNED.into_iter().filter(|(line, _)| !example.contains(line)).map(|(_, variable)| variable).collect();
    if !absent.is_empty() {
        println!("xtask: not there yet, so left out of the configurations: {}", absent.join(", "));
    }
    let mut mistakes = Vec::new();
    for set in sets {
        let folder = Folder::new(set)?;
        let file = folder.0.join("pushline.toml");
        fs::write(&file, readable(set.config(), absent.iter().any(|variable| variable.ends_with("DRAIN"))))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        for workload in set.workloads() {
            let variables = variables(workload).into_iter().filter(|(name, _)| !absent.contains(&name.as_str()));
            let (valid, _, errors) = output(pushline().envs(variables).args(["check", "--config"]).arg(&file))?;
            if !valid {
                mistakes.push(format!("{}: {}: {errors}", set.name, name(workload)));
            }
        }
    }
    Ok(mistakes)
}

/// The variables of Pushline's container; what comes from a Secret is a word.
fn variables(workload: &Value) -> Vec<(String, String)> {
    let variables = list(at(workload, "spec.template.spec.containers.0.env")).iter();
    variables.map(|variable| (string(&variable["name"]).to_owned(), variable["value"].as_str().unwrap_or("secret").to_owned())).collect()
}

/// A configuration without what only a cluster's Secrets have, and without `drain` where that isn't there yet.
fn readable(config: &str, without_drain: bool) -> String {
    let is_absent = |line: &&str| without_drain && line.trim_start().starts_with("drain =");
    // An option within a table of one line is taken out of it.
    let without_authority = |line: &str| line.replace(", \"ssl.ca.location\" = \"/etc/pushline/kafka-ca/ca.crt\"", "");
    let needs_secret = |line: &&str| OF_SECRETS.iter().any(|part| line.contains(part));
    config.lines().filter(|line| !is_absent(line) && !needs_secret(line)).map(|line| format!("{}\n", without_authority(line))).collect()
}

/// A folder with the files that a set mounts beside its configuration.
struct Folder(PathBuf);

impl Folder {
    fn new(set: &Set) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("pushline-config-{}-{}", std::process::id(), set.name));
        let paths = all(&set.values["files"], "path");
        for path in paths.into_iter().map(string) {
            let file = folder.join(path);
            let parent = file.parent().expect("a file in a folder has one");
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&file, "secret\n"))
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on its end.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_planned_options_and_secrets_are_left_out() {
        let config = "[[mqtt.listeners]]\ndrain = \"5s\"\ntls = { cert_file = \"a\" }\naddress = \"0.0.0.0:1\"\n";
        assert_eq!(readable(config, true), "[[mqtt.listeners]]\naddress = \"0.0.0.0:1\"\n");
        assert!(readable(config, false).contains("drain"));
    }
}
