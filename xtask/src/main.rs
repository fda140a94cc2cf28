//! `cargo xtask test`: everything that must pass, in one command. A part that can't run fails it.
//! `cargo xtask kafka [port]`: a Kafka for trying things out.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    time::Instant,
};

/// What a run consists of, in order.
const STEPS: [(&str, &[&str]); 5] = [
    ("formatting", &["cargo", "fmt", "--all", "--check"]),
    ("lints", &["cargo", "clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]),
    ("tests", &["cargo", "test", "--workspace", "--locked", "--no-fail-fast"]),
    ("one box without Kafka", &["cargo", "clippy", "-p", "pushline", "--no-default-features", "--locked", "--", "--deny", "warnings"]),
    ("the release build", &["cargo", "build", "--release", "--locked"]),
];

/// A program of others and the Debian package that has it.
struct Need {
    program: &'static str,
    package: &'static str,
}

/// Apache Kafka runs on java; mvn brings it.
const KAFKA_NEEDS: [Need; 2] = [Need { program: "java", package: "default-jre-headless" }, Need { program: "mvn", package: "maven" }];

/// The tests publish with Mosquitto's clients too, and read topics with a consumer that knows nothing of Pushline.
const TEST_NEEDS: [Need; 4] = {
    let [java, maven] = KAFKA_NEEDS;
    [Need { program: "mosquitto_pub", package: "mosquitto-clients" }, Need { program: "kcat", package: "kcat" }, java, maven]
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["test"] => finish(test()),
        ["kafka"] => finish(kafka(&[])),
        ["kafka", port] => finish(kafka(&["--", port])),
        _ => finish(Err("usage: cargo xtask test, cargo xtask kafka [port]".into())),
    }
}

fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> Result<(), String> {
    need(&TEST_NEEDS)?;
    if has("cargo-deny", "--version") {
        run("licences and advisories", &["cargo", "deny", "--offline", "check", "bans", "licenses", "sources"])?;
    } else {
        println!("xtask: cargo-deny isn't installed: licences and bans aren't checked here (cargo install cargo-deny)");
    }
    STEPS.into_iter().try_for_each(|(what, command)| run(what, command))
}

/// The testkit's program in place of this process, so that Ctrl-C reaches it alone and the prompt comes back when it has ended.
fn kafka(arguments: &[&str]) -> Result<(), String> {
    need(&KAFKA_NEEDS)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--quiet", "--locked", "--package", "pushline-testkit", "--bin", "kafka"]).args(arguments);
    Err(format!("can't start cargo: {}", cargo.exec()))
}

/// Installs what is missing where this runs as root on Debian, else asks for it.
fn need(needs: &[Need]) -> Result<(), String> {
    let missing = || needs.iter().filter(|need| !has(need.program, "--version"));
    if missing().next().is_none() {
        return Ok(());
    }
    if is_root() && has("apt-get", "--version") {
        run("the list of packages", &["apt-get", "update", "--quiet"])?;
        let packages: Vec<&str> = missing().map(|need| need.package).collect();
        let install = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends"];
        run("what is missing", &[&install, &packages[..]].concat())?;
    }
    let programs: Vec<&str> = missing().map(|need| need.program).collect();
    let packages: Vec<&str> = missing().map(|need| need.package).collect();
    let remedy = || format!("{} missing: apt-get install {}, or your system's packages", programs.join(", "), packages.join(" "));
    if programs.is_empty() { Ok(()) } else { Err(remedy()) }
}

/// `mosquitto_pub --version` ends with an error code in some versions, `kcat --version` in all: what counts is whether it can be started.
fn has(program: &str, argument: &str) -> bool {
    !matches!(Command::new(program).arg(argument).output(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn run(what: &str, command: &[&str]) -> Result<(), String> {
    let began = Instant::now();
    println!("xtask: {what}: {}", command.join(" "));
    let status = Command::new(command[0]).args(&command[1..]).status().map_err(|error| format!("can't start {}: {error}", command[0]))?;
    println!("xtask: {what} took {:.0} s", began.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(format!("{what} failed")) }
}
