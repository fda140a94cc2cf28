//! The command line.

mod admin;
mod config;
mod config_watcher;
mod dead_letters;
mod demo;
mod fd_limit;
mod queue;
mod receive;
mod replay;
mod role;
mod run;
mod signals;

use std::{
    fmt::Display,
    io::{ErrorKind, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{config::Config, role::Role};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes the packets that IoT gateways publish over MQTT, keeps them in a durable queue and pushes them to each customer's HTTP endpoint.
///
/// A packet that was acknowledged to its device is accepted by the customer's server or kept as a dead letter with the reason; it is never
/// lost in silence, and no customer's broken server slows another's. To see it work: pushline demo
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct CommandLine {
    /// How log lines are written, to standard error. RUST_LOG chooses which: info by default.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything on one box, with simulated gateways and a sample receiver, in less than 30 s
    Demo,
    /// Run all roles in one process: listen for devices, keep, push
    Run(ConfigFile),
    /// Take packets in over MQTT and keep them on Kafka; as many processes as it takes
    Ingest(ConfigFile),
    /// Push what lies on Kafka; processes share the partitions
    Deliver(ConfigFile),
    /// Say what is wrong with a configuration, or print the effective one with secrets hidden
    Check(ConfigFile),
    /// A sample webhook receiver that prints what it gets
    Receive(Receive),
    /// Look at what couldn't be delivered, and send it again, in a running process
    #[command(subcommand)]
    DeadLetters(DeadLetters),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file (TOML); PUSHLINE_QUEUE__DIR and the like override its fields
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// How `pushline receive` answers.
#[derive(Debug, Args)]
struct Receive {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Answer with this status
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// Answer after so many milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    delay: u64,
    /// Never answer
    #[arg(long)]
    hang: bool,
    /// Do so only for each n-th push; answer the others with 200 at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
}

#[derive(Debug, Subcommand)]
enum DeadLetters {
    /// List them, oldest first
    List(dead_letters::List),
    /// Send them once more: the same packets under the same id, to the current webhook
    Replay(replay::Options),
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("can't start the runtime")),
    };
    let result = match line.command {
        Command::Demo => runtime.block_on(demo::demo()),
        Command::Run(file) => runtime.block_on(run(line.log_format, &file, Role::Run)),
        Command::Ingest(file) => runtime.block_on(run(line.log_format, &file, Role::Ingest)),
        Command::Deliver(file) => runtime.block_on(run(line.log_format, &file, Role::Deliver)),
        Command::Check(ConfigFile { config }) => Config::load(&config).and_then(print),
        Command::Receive(options) => runtime.block_on(receive::receive(&options)),
        Command::DeadLetters(DeadLetters::Replay(options)) => runtime.block_on(replay::command(&options)),
        Command::DeadLetters(DeadLetters::List(options)) => runtime.block_on(dead_letters::list(&options)),
    };
    // A lookup of a name that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

/// Prints to standard output. A reader that has seen enough (`| head`) ends the process, and that is no failure.
fn print(what: impl Display) -> anyhow::Result<()> {
    match write!(std::io::stdout().lock(), "{what}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.context("can't write to standard output"),
    }
}

async fn run(format: LogFormat, ConfigFile { config }: &ConfigFile, role: Role) -> anyhow::Result<()> {
    log(format);
    run::run(config, role).await
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("pushline: {error:#}");
    ExitCode::FAILURE
}

fn log(format: LogFormat) {
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
