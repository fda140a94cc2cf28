//! `cargo xtask test`: everything that must pass, in one command. A part that can't run fails it.

use std::{
    io,
    process::{Command, ExitCode},
    time::Instant,
};

/// What a run consists of, in order.
const STEPS: [(&str, &[&str]); 4] = [
    ("formatting", &["cargo", "fmt", "--all", "--check"]),
    ("lints", &["cargo", "clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]),
    ("tests", &["cargo", "test", "--workspace", "--locked", "--no-fail-fast"]),
    ("the release build", &["cargo", "build", "--release", "--locked"]),
];

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("test") => finish(test()),
        _ => finish(Err("usage: cargo xtask test".into())),
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
    need_mosquitto()?;
    if has("cargo-deny", "--version") {
        run("licences and advisories", &["cargo", "deny", "--offline", "check", "bans", "licenses", "sources"])?;
    } else {
        println!("xtask: cargo-deny isn't installed: licences and bans aren't checked here (cargo install cargo-deny)");
    }
    STEPS.into_iter().try_for_each(|(what, command)| run(what, command))
}

/// The tests publish with Mosquitto's clients: installed where this runs as root on Debian, else asked for.
fn need_mosquitto() -> Result<(), String> {
    if has("mosquitto_pub", "--version") {
        return Ok(());
    }
    let remedy = "the tests need mosquitto_pub: apt-get install mosquitto-clients, or your system's package of that name";
    if !is_root() || !has("apt-get", "--version") {
        return Err(remedy.into());
    }
    run("the list of packages", &["apt-get", "update", "--quiet"])?;
    run("Mosquitto's clients", &["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "mosquitto-clients"])?;
    if has("mosquitto_pub", "--version") { Ok(()) } else { Err(remedy.into()) }
}

/// `mosquitto_pub --version` ends with an error code in some versions: what counts is whether it can be started.
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
