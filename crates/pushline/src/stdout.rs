//! Standard output of the commands. A reader that has seen enough (`| head`) ends a command, and that is no failure.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

use anyhow::Context;
use tokio::sync::mpsc;

/// The reader of standard output has gone: the command ends, and ends well.
#[derive(Debug, thiserror::Error)]
#[error("the reader of standard output has gone")]
pub(crate) struct ReaderGone;

/// Prints a text as it is.
///
/// # Errors
/// [`ReaderGone`], or why standard output can't be written.
pub(crate) fn print(text: impl Display) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => written.context("can't write to standard output"),
    }
}

/// A count with its thing: "1 webhook", "2 webhooks".
pub(crate) fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Prints for callbacks, which have no caller that an error could be returned to.
#[derive(Debug, Clone)]
pub(crate) struct Printer(mpsc::Sender<anyhow::Error>);

/// The first error of a [`Printer`].
#[derive(Debug)]
pub(crate) struct PrinterError(mpsc::Receiver<anyhow::Error>);

/// A printer, and what tells that it failed.
pub(crate) fn printer() -> (Printer, PrinterError) {
    let (failed, failure) = mpsc::channel(1);
    (Printer(failed), PrinterError(failure))
}

impl Printer {
    /// Prints a text as it is.
    pub(crate) fn print(&self, text: impl Display) {
        if let Err(error) = print(text) {
            // The first error ends the command: there is no place for a second one.
            drop(self.0.try_send(error));
        }
    }
}

impl PrinterError {
    /// Waits for the first error. Never resolves without one.
    pub(crate) async fn next(&mut self) -> anyhow::Error {
        match self.0.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }
}
