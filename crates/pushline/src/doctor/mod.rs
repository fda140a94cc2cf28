//! `pushline doctor`: looks at everything that a process of this configuration depends on, and says what is wrong and what to do.
//!
//! It changes nothing and sends no packet, unless `--push` names a webhook. A running process isn't disturbed.

mod finding;
#[cfg(feature = "kafka")]
mod kafka;
mod machine;
mod process;
mod webhooks;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use self::finding::{Finding, State};
use crate::{
    admin_client::HostPort,
    config::{self, Config, Mistakes},
    stdout::print,
};

/// What is looked at.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The configuration file (TOML). Environment variables such as PUSHLINE_QUEUE__DIR override its fields
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Send one test message to this webhook: a packet of device 0 with the payload "pushline doctor". May be given several times
    #[arg(long, value_name = "WEBHOOK")]
    push: Vec<String>,
    /// The admin server of the running process; by default where the configuration puts it
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<HostPort>,
    /// Print one JSON object per finding and line
    #[arg(long)]
    json: bool,
}

/// Prints findings as they come. Ends with status 0 if everything is well, 1 if something needs attention, 2 if something doesn't work.
///
/// # Errors
/// Standard output can't be written.
pub(crate) async fn doctor(options: &Options) -> anyhow::Result<ExitCode> {
    let mut report = Report { json: options.json, worst: State::Ok };
    match Config::load(&options.config) {
        Ok(config) => examine(&config, options, &mut report).await?,
        Err(error) => report.add_all(of_mistakes(&error))?,
    }
    Ok(ExitCode::from(match report.worst {
        State::Ok => 0,
        State::Warning => 1,
        State::Failed => 2,
    }))
}

async fn examine(config: &Config, options: &Options, report: &mut Report) -> anyhow::Result<()> {
    report.add_all(of_configuration(config, options))?;
    report.add_all(machine::open_files())?;
    report.add_all(machine::clock())?;
    match config.settings.queue.chosen() {
        config::Queue::Embedded { dir, max_bytes, min_free } => report.add_all(machine::disk(dir, max_bytes, min_free))?,
        #[cfg(feature = "kafka")]
        config::Queue::Kafka(kafka) => report.add_all(kafka::examine(config, kafka).await)?,
        #[cfg(not(feature = "kafka"))]
        config::Queue::Kafka(_) => unreachable!("a configuration of kind kafka is refused without the feature"),
    }
    report.add_all(process::examine(config, options.admin.as_ref()).await)?;
    webhooks::examine(config, &options.push, report).await
}

fn of_mistakes(error: &anyhow::Error) -> Vec<Finding> {
    let remedy = "mend it; nothing else was checked";
    match error.downcast_ref::<Mistakes>() {
        Some(mistakes) => mistakes.to_string().lines().map(|mistake| Finding::failed("configuration", mistake, remedy)).collect(),
        None => vec![Finding::failed("configuration", format!("{error:#}"), remedy)],
    }
}

fn of_configuration(config: &Config, options: &Options) -> Vec<Finding> {
    let registry = &config.registry;
    let counts = [(registry.webhooks().len(), "webhook"), (registry.groups().len(), "group"), (registry.devices(), "device")];
    let counts = counts.map(|(count, thing)| crate::stdout::counted(count, thing)).join(", ");
    let read = Finding::ok("configuration", format!("{}: {counts}", options.config.display()));
    let warnings = config.warnings.iter().map(|warning| Finding::warning("configuration", warning, "change it, if it isn't meant"));
    let has = |name: &&String| registry.webhooks().iter().any(|webhook| webhook.name == **name);
    let unknown =
        options.push.iter().filter(|name| !has(name)).map(|name| {
            Finding::failed("webhook", format!("--push {name}: there is no webhook with this name"), "name one of [[webhooks]]")
        });
    std::iter::once(read).chain(warnings).chain(unknown).collect()
}

/// What was found so far.
struct Report {
    json: bool,
    worst: State,
}

impl Report {
    fn add(&mut self, finding: &Finding) -> anyhow::Result<()> {
        self.worst = self.worst.max(finding.state);
        if self.json { print(serde_json::to_string(finding)? + "\n") } else { print(format_args!("{finding}\n")) }
    }

    fn add_all(&mut self, findings: impl IntoIterator<Item = Finding>) -> anyhow::Result<()> {
        findings.into_iter().try_for_each(|finding| self.add(&finding))
    }
}
