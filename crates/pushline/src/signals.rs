//! The signals of a running process: SIGTERM and SIGINT stop it, SIGHUP reloads its webhooks and groups.

use std::time::Duration;

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

/// A signal that comes within this time after the shutdown began is the first one once more: `timeout` and others send it to a process and to its
/// group, and a terminal's Ctrl-C is passed on by the shell's children.
const REPEATED_WITHIN: Duration = Duration::from_secs(1);

/// What a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// Receives the process's signals from its creation on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// # Errors
    /// The operating system refuses a handler.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("can't install a signal handler");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.hang_up.recv() => Request::Reload,
        }
    }

    /// Waits for the next request to stop. Requests to reload are dropped.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != Request::Stop {}
    }

    /// Waits for a second request to stop, from the beginning of the shutdown on. It comes at least a second later ([`REPEATED_WITHIN`]).
    pub(crate) async fn stop_at_once(&mut self) {
        let first = Instant::now();
        self.stop().await;
        while first.elapsed() < REPEATED_WITHIN {
            self.stop().await;
        }
    }
}
