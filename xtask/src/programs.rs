//! Foreign programs that a command needs.

use std::{io, process::Command};

use crate::step;

/// A program, and the Debian package that contains it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    name: &'static str,
    package: &'static str,
}

/// Apache Kafka runs on java; mvn downloads it once.
pub const FOR_KAFKA: [Program; 2] = [Program { name: "java", package: "default-jre-headless" }, Program { name: "mvn", package: "maven" }];

/// The tests also publish with Mosquitto's client, read topics with a consumer that knows nothing of Pushline, and verify signatures in two other
/// languages.
pub const FOR_TESTS: [Program; 6] = {
    let [java, maven] = FOR_KAFKA;
    let mosquitto = Program { name: "mosquitto_pub", package: "mosquitto-clients" };
    let kcat = Program { name: "kcat", package: "kcat" };
    let python = Program { name: "python3", package: "python3" };
    let node = Program { name: "node", package: "nodejs" };
    [mosquitto, kcat, python, node, java, maven]
};

/// Installs the missing programs where this runs as root on Debian.
///
/// # Errors
/// Programs are missing and can't be installed; the text names their packages.
pub fn ensure(programs: &[Program]) -> Result<(), String> {
    let missing = || programs.iter().filter(|program| !is_installed(program.name));
    if missing().next().is_none() {
        return Ok(());
    }
    if is_root() && is_installed("apt-get") {
        step::run_line("the list of packages", &["apt-get", "update", "--quiet"])?;
        let packages: Vec<&str> = missing().map(|program| program.package).collect();
        let install = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends"];
        step::run_line("missing packages", &[&install, &packages[..]].concat())?;
    }
    let names: Vec<&str> = missing().map(|program| program.name).collect();
    let packages: Vec<&str> = missing().map(|program| program.package).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(format!("{} missing: apt-get install {}, or your system's packages", names.join(", "), packages.join(" ")))
}

/// Whether the system can start a program. Exit codes don't count: `kcat --version` always fails.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    !matches!(Command::new(program).arg("--version").output(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
