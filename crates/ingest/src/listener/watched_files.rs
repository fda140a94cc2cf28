//! Reads the files of a listener again when they change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{error, info};

use super::entrance::Entrance;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// When each file was written, its length and its inode. `None`: it isn't there.
type Stamps = Vec<Option<(SystemTime, u64, u64)>>;

/// Looks at the files for ever, and tells the connections when they were read again.
///
/// A file that changed since the last look is being written: it is read at the next look. A file with a mistake changes nothing.
pub(crate) async fn watch(entrance: Arc<Entrance>, read_again: watch::Sender<()>) {
    let files: Arc<[PathBuf]> = entrance.files().into();
    let look = || {
        let files = Arc::clone(&files);
        async move { spawn_blocking(move || stamps(&files)).await.unwrap_or_default() }
    };
    let mut read = look().await;
    let mut seen = read.clone();
    while !files.is_empty() {
        sleep(LOOK_EVERY).await;
        let now = look().await;
        if now != read && now == seen {
            read.clone_from(&now);
            let entrance = Arc::clone(&entrance);
            match spawn_blocking(move || entrance.read_again()).await {
                Ok(Ok(())) => {
                    info!("certificates, users and keys read again: clients that aren't let in any more are disconnected");
                    read_again.send_replace(());
                }
                Ok(Err(problem)) => error!(problem, "certificates, users and keys not read again: the old ones stay in effect"),
                Err(_) => {}
            }
        }
        seen = now;
    }
}

fn stamps(files: &[PathBuf]) -> Stamps {
    let stamp = |file: &PathBuf| -> io::Result<(SystemTime, u64, u64)> {
        let file = fs::metadata(file)?;
        Ok((file.modified()?, file.len(), file.ino()))
    };
    files.iter().map(|file| stamp(file).ok()).collect()
}
