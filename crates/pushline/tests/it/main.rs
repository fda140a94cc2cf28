//! The real process with real clients, real sockets and real servers: what the README promises.

#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value, reason = "a test that panics has failed, as it should")]

mod admin;
mod backlog;
mod brokers;
mod chaos;
mod clients;
mod commands;
mod compression;
mod connections;
mod conservation;
mod crashes;
mod deploy;
mod disk;
mod doctor;
mod document;
mod egress;
mod failure_causes;
mod foreign_process;
mod harmed_connections;
mod hostile;
mod isolation;
mod kafka;
mod kafka_losses;
mod kafka_operator;
mod kafka_refusals;
mod limits;
mod listener;
mod local_failures;
mod log;
mod metrics;
mod oauth2;
mod order;
mod packages;
mod qos_2;
mod rate;
mod readme;
mod receive;
mod reload;
mod replay;
mod retry_after;
mod scale;
mod servers;
mod shutdown;
mod signature;
mod space;
mod start;
mod windows;

use std::path::Path;

use pushline_testkit::{Inbox, Pushline};

/// The binary that this test was built with.
const BINARY: &str = env!("CARGO_BIN_EXE_pushline");

/// The same, to be run with arguments.
fn command() -> tokio::process::Command {
    pushline_testkit::command(BINARY).into()
}

/// How much of something a test does: this much in the ordinary run, that much in the long one (README, *Test it*).
fn amount(ordinary: usize, long: usize) -> usize {
    if std::env::var_os("LONG_TESTS").is_some() { long } else { ordinary }
}

/// Starts it with a webhook `w` and a default group of organisation `mti` that pushes there. `options` are fields of the webhook.
async fn start(dir: &Path, url: &str, options: &str) -> Pushline {
    let webhook = webhook("w", url, options);
    Pushline::start(BINARY, dir, &Pushline::configuration(&format!("{webhook}{}", group("mti", "line", "w")))).await
}

/// The same, with a receiver of its own.
async fn start_with_inbox(dir: &Path, options: &str) -> (Pushline, Inbox) {
    let inbox = Inbox::start().await;
    (start(dir, &inbox.url(), options).await, inbox)
}

fn webhook(name: &str, url: &str, options: &str) -> String {
    format!("[[webhooks]]\nname = \"{name}\"\nurl = \"{url}\"\n{options}\n")
}

fn group(org: &str, name: &str, webhook: &str) -> String {
    format!("[[groups]]\norg = \"{org}\"\nname = \"{name}\"\nwebhook = \"{webhook}\"\ndefault = true\n")
}

/// Packets of one device.
fn packets<P: Into<Vec<u8>>>(topic: &str, payloads: impl IntoIterator<Item = P>) -> Vec<(String, Vec<u8>)> {
    payloads.into_iter().map(|payload| (topic.to_owned(), payload.into())).collect()
}
