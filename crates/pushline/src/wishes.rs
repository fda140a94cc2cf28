//! What an operator wishes of a running process: by signals, and by writing the configuration file anew.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

/// How often the configuration file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a signal wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    End,
    Reload,
}

/// SIGTERM and SIGINT end it, SIGHUP reads the configuration again.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("can't listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }

    pub(crate) async fn end(&mut self) {
        while self.next().await != Wish::End {}
    }
}

/// A file whose changes are noticed. What it names (devices, secrets) isn't watched: SIGHUP is for those.
pub(crate) struct Watched {
    path: PathBuf,
    /// As it was read last.
    read: Option<Stamp>,
    /// As it was looked at last.
    seen: Option<Stamp>,
}

/// When a file was written, and how long it is.
type Stamp = (SystemTime, u64);

impl Watched {
    pub(crate) fn new(path: &Path) -> Self {
        let stamp = stamp(path);
        Self { path: path.to_owned(), read: stamp, seen: stamp }
    }

    /// Resolves when it is another one, or was written.
    pub(crate) async fn changed(&mut self) {
        loop {
            sleep(LOOK_EVERY).await;
            if self.is_changed(stamp(&self.path)) {
                return;
            }
        }
    }

    /// A file that is away is being replaced, and one that was another at the last look is being written: half of it may be valid too.
    fn is_changed(&mut self, now: Option<Stamp>) -> bool {
        let rests = std::mem::replace(&mut self.seen, now) == now;
        let changed = rests && now.is_some() && now != self.read;
        if changed {
            self.read = now;
        }
        changed
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_being_written_or_replaced_is_not_read_yet() {
        let stamp = |bytes| Some((SystemTime::UNIX_EPOCH, bytes));
        let mut file = Watched { path: PathBuf::new(), read: stamp(9), seen: stamp(9) };
        let looks = [stamp(9), stamp(0), stamp(5), None, stamp(7), stamp(7), stamp(7)];
        assert_eq!(looks.map(|now| file.is_changed(now)), [false, false, false, false, false, true, false]);
    }
}
