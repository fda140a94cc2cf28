//! Slow disks, and kills beside a sync: a shim over `fdatasync` and `fsync` that a process loads before the C library (`LD_PRELOAD`, ld.so(8)). The
//! binary under test knows nothing of it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe,
    process::Command,
    sync::broadcast,
    task::JoinHandle,
};

const SOURCE: &str = include_str!("sync_shim.c");

/// A compiled shim, and what it reports. Dropping it removes its files.
#[derive(Debug)]
pub struct SyncShim {
    folder: TempDir,
    begun: broadcast::Sender<SyncBegun>,
    counts: Arc<Counts>,
    reading: JoinHandle<()>,
}

/// A sync that a process has begun.
#[derive(Debug, Clone)]
pub struct SyncBegun {
    /// When the report of it was read.
    pub at: Instant,
    /// How long it stalls before anything becomes durable.
    pub stall: Duration,
    /// The file or folder.
    pub path: String,
}

#[derive(Debug, Default)]
struct Counts {
    syncs: AtomicUsize,
    stalled: AtomicUsize,
}

impl SyncShim {
    /// Compiles it with `cc`.
    ///
    /// # Panics
    /// With what the compiler prints, when there is none or it fails.
    pub async fn compile() -> Self {
        let folder = crate::folder();
        let source = folder.path().join("sync_shim.c");
        std::fs::write(&source, SOURCE).expect("the folder is writable");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
            .arg(folder.path().join("sync_shim.so"))
            .arg(&source)
            .arg("-ldl");
        let output = compiler.output().await.expect("a C compiler is installed (Debian: apt-get install gcc)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let fifo = folder.path().join("events");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO can be made");
        // Open to write too: it stays open while no process runs.
        let events = pipe::OpenOptions::new().read_write(true).open_receiver(&fifo).expect("the FIFO can be opened");
        let (begun, counts) = (broadcast::Sender::new(1024), Arc::new(Counts::default()));
        let reading = tokio::spawn(read(events, begun.clone(), Arc::clone(&counts)));
        Self { folder, begun, counts, reading }
    }

    /// The variables under which a process loads it: one sync in `one_in` stalls for up to `longest`.
    #[must_use]
    pub fn environment(&self, one_in: u32, longest: Duration, seed: u64) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        let variables = [
            ("LD_PRELOAD", text(&self.folder.path().join("sync_shim.so"))),
            ("SYNC_SHIM_EVENTS", text(&self.folder.path().join("events"))),
            ("SYNC_SHIM_ONE_IN", one_in.to_string()),
            ("SYNC_SHIM_LONGEST", longest.as_millis().to_string()),
            ("SYNC_SHIM_SEED", seed.to_string()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// Resolves when a sync of a path that `wanted` accepts has begun after this call. Never resolves once the shim is dropped.
    pub fn next_sync(&self, wanted: impl Fn(&SyncBegun) -> bool) -> impl Future<Output = SyncBegun> {
        let mut begun = self.begun.subscribe();
        async move {
            loop {
                match begun.recv().await {
                    Ok(sync) if wanted(&sync) => return sync,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        }
    }

    /// How many syncs have begun, and how many of them stalled.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.counts.syncs.load(Ordering::Relaxed), self.counts.stalled.load(Ordering::Relaxed))
    }
}

impl Drop for SyncShim {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn read(events: pipe::Receiver, begun: broadcast::Sender<SyncBegun>, counts: Arc<Counts>) {
    let mut lines = BufReader::new(events).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut words = line.splitn(3, ' ');
        let (Some("begin"), Some(stall), Some(path)) = (words.next(), words.next(), words.next()) else { continue };
        let stall = Duration::from_millis(stall.parse().unwrap_or_default());
        counts.syncs.fetch_add(1, Ordering::Relaxed);
        counts.stalled.fetch_add(usize::from(!stall.is_zero()), Ordering::Relaxed);
        // The test may wait for none.
        drop(begun.send(SyncBegun { at: Instant::now(), stall, path: path.to_owned() }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sync_is_reported_with_its_file_before_it_ends_and_stalls() {
        let shim = SyncShim::compile().await;
        let file = shim.folder.path().join("synced");
        std::fs::write(&file, "something").expect("the folder is writable");
        // coreutils' sync(1) calls fdatasync.
        let mut command = Command::new("sync");
        command.arg("--data").arg(&file).envs(shim.environment(1, Duration::from_millis(300), 7));
        let (next, began) = (shim.next_sync(|_| true), Instant::now());
        let mut child = command.spawn().expect("sync is installed");
        let sync = tokio::time::timeout(crate::PATIENCE, next).await.expect("the sync is reported");
        assert_eq!(sync.path, file.display().to_string());
        assert!(child.wait().await.expect("it ends").success());
        assert!(began.elapsed() >= sync.stall, "it stalls for {:?}", sync.stall);
        assert_eq!(shim.counts(), (1, 1));
    }
}
