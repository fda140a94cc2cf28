//! Watches the configuration file, so that a change of its webhooks and groups takes effect without a signal.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::time::sleep;

/// How often the watcher looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches one file. The files that it names (devices, secrets) aren't watched: SIGHUP reloads those.
pub(crate) struct ConfigWatcher {
    path: PathBuf,
    /// The file's stamp when it was loaded last.
    loaded: Option<Stamp>,
    /// The file's stamp at the last look.
    seen: Option<Stamp>,
}

/// When a file was written, and its length in bytes.
type Stamp = (SystemTime, u64);

impl ConfigWatcher {
    /// Watches a file that is loaded right after this call.
    pub(crate) fn new(path: &Path) -> Self {
        let stamp = stamp(path);
        Self { path: path.to_owned(), loaded: stamp, seen: stamp }
    }

    /// Waits until the file was written or replaced.
    pub(crate) async fn changed(&mut self) {
        loop {
            sleep(LOOK_EVERY).await;
            if self.is_to_be_loaded(stamp(&self.path)) {
                return;
            }
        }
    }

    /// A missing file is being replaced. A file that changed since the last look is being written, and half of it may be valid too.
    fn is_to_be_loaded(&mut self, now: Option<Stamp>) -> bool {
        let rests = std::mem::replace(&mut self.seen, now) == now;
        let is_new = rests && now.is_some() && now != self.loaded;
        if is_new {
            self.loaded = now;
        }
        is_new
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
    fn a_file_that_is_being_written_or_replaced_is_not_loaded_yet() {
        let stamp = |bytes| Some((SystemTime::UNIX_EPOCH, bytes));
        let mut file = ConfigWatcher { path: PathBuf::new(), loaded: stamp(9), seen: stamp(9) };
        let looks = [stamp(9), stamp(0), stamp(5), None, stamp(7), stamp(7), stamp(7)];
        assert_eq!(looks.map(|now| file.is_to_be_loaded(now)), [false, false, false, false, false, true, false]);
    }
}
