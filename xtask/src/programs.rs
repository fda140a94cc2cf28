//! Foreign programs that a command needs.

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

use crate::step;

/// A program, and the Debian package that contains it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    name: &'static str,
    package: &'static str,
}

/// Apache Kafka runs on java; mvn downloads it once.
pub const FOR_KAFKA: [Program; 2] = [Program { name: "java", package: "default-jre-headless" }, Program { name: "mvn", package: "maven" }];

/// The tests also take packets from Mosquitto, publish with its client and paho's, read topics with a consumer that knows nothing of Pushline, verify signatures in two other
/// languages, and push to real servers.
pub const FOR_TESTS: [Program; 14] = {
    let [java, maven] = FOR_KAFKA;
    [
        Program { name: "mosquitto", package: "mosquitto" },
        Program { name: "mosquitto_pub", package: "mosquitto-clients" },
        Program { name: "kcat", package: "kcat" },
        java,
        maven,
        Program { name: "nginx", package: "nginx" },
        Program { name: "haproxy", package: "haproxy" },
        Program { name: "nghttpx", package: "nghttp2-proxy" },
        Program { name: "apache2", package: "apache2-bin" },
        // Apache's module comes with the program.
        Program { name: "php", package: "libapache2-mod-php" },
        Program { name: "go", package: "golang-go" },
        Program { name: "node", package: "nodejs" },
        Program { name: "python3", package: "python3" },
        Program { name: "pip3", package: "python3-pip" },
    ]
};

/// `deploy/` is checked with Prometheus' own tool, and with helm and Kubernetes' schemas from PyPI.
pub const FOR_DEPLOY: [Program; 4] = [
    Program { name: "promtool", package: "prometheus" },
    Program { name: "python3", package: "python3" },
    Program { name: "pip3", package: "python3-pip" },
    Program { name: "tar", package: "tar" },
];

/// The tests of client libraries also start a program of Java from its source, and fetch MQTT.js.
pub const FOR_CLIENTS: [Program; 2] = [Program { name: "javac", package: "default-jdk-headless" }, Program { name: "npm", package: "npm" }];

/// Debian asks this script whether an installed service may start (invoke-rc.d(8)). The tests start servers themselves.
const POLICY: &str = "/usr/sbin/policy-rc.d";

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
        without_services(|| step::run_line("missing packages", &[&install, &packages[..]].concat()))?;
    }
    let names: Vec<&str> = missing().map(|program| program.name).collect();
    let packages: Vec<&str> = missing().map(|program| program.package).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(format!("{} missing: apt-get install {}, or your system's packages", names.join(", "), packages.join(" ")))
}

/// Whether the system finds a program. It isn't started: no option has every program print its version and do nothing else.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian puts Mosquitto where only root's PATH looks.
    env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| is_executable(&folder.join(program)))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Installs something whose services shall not start. A policy that the system has stays as it is.
fn without_services(install: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
    let Ok(mut file) = file else { return install() };
    // 101: the action is forbidden.
    let written = file.write_all(b"#!/bin/sh\nexit 101\n");
    drop(file);
    let installed = written.map_err(|error| format!("can't write {POLICY}: {error}")).and_then(|()| install());
    fs::remove_file(POLICY).map_err(|error| format!("can't remove {POLICY}: {error}"))?;
    installed
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
