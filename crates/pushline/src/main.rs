//! The command line.

mod admin;
mod admin_client;
mod config;
mod config_metrics;
mod config_watcher;
mod dead_letters;
mod demo;
mod doctor;
mod fd_limit;
mod log;
mod metrics;
mod queue;
mod receive;
mod replay;
mod role;
mod run;
mod scrape;
mod service_manager;
mod signals;
mod stdout;

use std::{
    io::{self, Read as _},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use pushline_deliver::LOOKUP_THREADS;
use tokio::task::JoinError;

use crate::{
    admin_client::HostPort,
    config::{Config, RuntimeSettings},
    config_watcher::ConfigWatcher,
    role::Role,
    stdout::ReaderGone,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit status after a panic, as Rust has it. 1 stands for errors, 2 for a command line that can't be read.
const PANICKED: u8 = 101;

/// Threads that may block beside lookups: those that read logs and save checkpoints.
const OTHER_BLOCKING_THREADS: usize = 128;

/// Takes the packets that IoT gateways publish over MQTT, keeps them in a durable queue, and pushes them to each customer's HTTP endpoint.
///
/// Every packet that Pushline acknowledges to a device is delivered to the customer's server, or kept as a dead letter with the reason. A customer's
/// broken server delays no other customer. To see it work: pushline demo
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct CommandLine {
    /// The format of log lines on standard error. RUST_LOG selects the lines: info by default
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: log::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything on one box, with simulated gateways and sample receivers, in about ten seconds
    Demo,
    /// Run everything in one process: listen for devices, queue their packets, push them
    Run(ConfigFile),
    /// Listen for devices and queue their packets on Kafka; any number of processes may do so
    Ingest(ConfigFile),
    /// Push the packets that are queued on Kafka; any number of processes share the partitions
    Deliver(ConfigFile),
    /// Check a configuration: print its mistakes, or the effective configuration with secrets hidden
    Check(Check),
    /// Look at all that a process depends on (disk, Kafka, webhooks, …), and say what is wrong and what to do
    Doctor(doctor::Options),
    /// Run a sample webhook receiver that prints each push
    Receive(Receive),
    /// Read a password from standard input, and print its hash for a listener's users file
    HashPassword,
    /// List the messages that couldn't be delivered, and replay them, in a running process
    #[command(subcommand)]
    DeadLetters(DeadLetters),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file (TOML). Environment variables such as PUSHLINE_QUEUE__DIR override its fields
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// What `pushline check` checks.
#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Print mistakes only
    #[arg(long)]
    quiet: bool,
}

/// How `pushline receive` answers.
#[derive(Debug, Args)]
struct Receive {
    /// The address or host name to listen on
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    listen: HostPort,
    /// Answer with this status
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// Answer after this many milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    delay: u64,
    /// Never answer
    #[arg(long)]
    hang: bool,
    /// Apply the options above to every n-th push only, and answer the others with 200 at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
}

#[derive(Debug, Subcommand)]
enum DeadLetters {
    /// List dead letters, oldest first
    List(dead_letters::List),
    /// Replay dead letters: send the same packets once more under the same id, to the current webhook
    Replay(replay::Options),
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    // A panic that reaches this thread ends the process, but not before its log line is written.
    let status = match catch_unwind(AssertUnwindSafe(|| execute(line))) {
        Ok(Ok(status)) => status,
        Ok(Err(error)) if error.is::<ReaderGone>() => ExitCode::SUCCESS,
        // A task's panic, after an orderly shutdown.
        Ok(Err(error)) if error.downcast_ref::<JoinError>().is_some_and(JoinError::is_panic) => {
            fail(&error);
            ExitCode::from(PANICKED)
        }
        Ok(Err(error)) => fail(&error),
        Err(_) => ExitCode::from(PANICKED),
    };
    log::flush();
    status
}

fn execute(line: CommandLine) -> anyhow::Result<ExitCode> {
    let threads = RuntimeSettings::default().threads;
    let done: anyhow::Result<()> = match line.command {
        Command::Demo => block_on(threads, demo::demo()),
        Command::Run(file) => run(line.log_format, &file, Role::Run),
        Command::Ingest(file) => run(line.log_format, &file, Role::Ingest),
        Command::Deliver(file) => run(line.log_format, &file, Role::Deliver),
        Command::Check(options) => check(&options),
        Command::Doctor(options) => return block_on(threads, doctor::doctor(&options)),
        Command::Receive(options) => block_on(threads, receive::receive(&options)),
        Command::HashPassword => hash_password(),
        Command::DeadLetters(DeadLetters::List(options)) => block_on(threads, dead_letters::list(&options)),
        Command::DeadLetters(DeadLetters::Replay(options)) => block_on(threads, replay::run(&options)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Runs a future on a runtime of its own.
fn block_on<T>(threads: usize, future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).max_blocking_threads(LOOKUP_THREADS + OTHER_BLOCKING_THREADS).enable_all();
    let runtime = builder.build().context("can't start the runtime")?;
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(future)));
    // A name lookup or a Kafka client that hangs may not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}

fn check(options: &Check) -> anyhow::Result<()> {
    let config = Config::load(&options.file.config)?;
    if options.quiet { Ok(()) } else { stdout::print(config) }
}

/// A line end behind the password isn't part of it.
fn hash_password() -> anyhow::Result<()> {
    let mut password = Vec::new();
    io::stdin().read_to_end(&mut password).context("can't read the password from standard input")?;
    let password = password.strip_suffix(b"\n").unwrap_or(&password);
    let password = password.strip_suffix(b"\r").unwrap_or(password);
    if password.is_empty() {
        bail!("no password on standard input: printf '%s' PASSWORD | pushline hash-password");
    }
    stdout::print(pushline_ingest::hash_password(password).map_err(anyhow::Error::msg)? + "\n")
}

fn run(format: log::Format, ConfigFile { config: path }: &ConfigFile, role: Role) -> anyhow::Result<()> {
    metrics::install()?;
    log::start(format).context("can't start logging")?;
    let mut watcher = ConfigWatcher::new(path);
    let loaded = Config::load(path);
    watcher.judged(&loaded);
    let config = loaded?;
    block_on(config.settings.runtime.threads, run::run(config, path, watcher, role))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    log::print(&format!("pushline: {error:#}"));
    ExitCode::FAILURE
}
