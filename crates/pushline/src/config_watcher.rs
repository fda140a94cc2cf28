//! Watches the configuration file, and the files that it names, so that a change of webhooks, groups, devices and secrets takes effect without a signal.

use std::{path::Path, time::Duration};

use pushline_deliver::FileWatch;
use tokio::time::sleep;

use crate::config::{Config, Mistakes, Unreadable};

/// How often the watcher looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches the configuration. Certificates of webhooks and the files of listeners aren't part of it: their users watch those.
pub(crate) struct ConfigWatcher {
    file: FileWatch,
    /// What was named when the file was read last. The next file may name others, so one that is gone doesn't keep the watcher from reading it.
    named: FileWatch,
}

impl ConfigWatcher {
    /// Watches a file that is loaded right after this call.
    pub(crate) fn new(path: &Path) -> Self {
        Self { file: FileWatch::new(vec![path.to_owned()]), named: FileWatch::default() }
    }

    /// Waits until a file was written or replaced, and again until it is [judged](Self::judged).
    pub(crate) async fn changed(&mut self) {
        loop {
            sleep(LOOK_EVERY).await;
            let (file, named) = (self.file.look(), self.named.look());
            if file || named {
                return;
            }
        }
    }

    /// The configuration was read: it counts, or it has mistakes. An unreadable one isn't judged, and is read again at the next look.
    pub(crate) fn judged(&mut self, loaded: &anyhow::Result<Config>) {
        let named_files = match loaded {
            Err(error) if error.is::<Unreadable>() => return,
            Err(error) => error.downcast_ref::<Mistakes>().map(|mistakes| &mistakes.named_files),
            Ok(config) => Some(&config.named_files),
        };
        if let Some(named_files) = named_files {
            self.named = named_files.clone();
        }
        self.file.judged();
    }
}
