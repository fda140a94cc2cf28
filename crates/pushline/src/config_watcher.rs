//! Watches the configuration file, so that a change of its webhooks and groups takes effect without a signal.

use std::{path::Path, time::Duration};

use pushline_deliver::FileWatch;
use tokio::time::sleep;

/// How often the watcher looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches one file. The files that it names (devices, secrets) aren't watched: SIGHUP reloads those.
pub(crate) struct ConfigWatcher(FileWatch);

impl ConfigWatcher {
    /// Watches a file that is loaded right after this call.
    pub(crate) fn new(path: &Path) -> Self {
        Self(FileWatch::new(vec![path.to_owned()]))
    }

    /// Waits until the file was written or replaced, and again until it is [judged](Self::judged).
    pub(crate) async fn changed(&mut self) {
        loop {
            sleep(LOOK_EVERY).await;
            if self.0.look() {
                return;
            }
        }
    }

    /// The file was read: it counts, or it has a mistake.
    pub(crate) fn judged(&mut self) {
        self.0.judged();
    }
}
