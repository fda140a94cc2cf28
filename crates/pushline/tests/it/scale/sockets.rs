//! The sockets of this machine's processes that are connected to a port.

use std::{
    collections::HashSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

/// Their inodes. One that is closed and waits for the other side belongs to no process: its inode is 0 (proc_net(5)).
pub(super) fn sockets_to(port: u16) -> HashSet<String> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let peer = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[2].ends_with(&peer) && fields[9] != "0").then(|| fields[9].to_owned())
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// Counts them again and again.
pub(super) struct MostSockets {
    is_stopped: Arc<AtomicBool>,
    counting: JoinHandle<usize>,
}

impl MostSockets {
    pub(super) fn to(port: u16) -> Self {
        let is_stopped = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&is_stopped);
        let counting = tokio::spawn(async move {
            let (mut most, mut before) = (0, HashSet::new());
            while !stopped.load(Ordering::Relaxed) {
                let now = spawn_blocking(move || sockets_to(port)).await.unwrap();
                // The system doesn't show all sockets of one moment. Those that it shows twice were open at once.
                most = most.max(now.intersection(&before).count());
                before = now;
                sleep(Duration::from_millis(20)).await;
            }
            most
        });
        Self { is_stopped, counting }
    }

    /// The most that there were at once.
    pub(super) async fn stop(self) -> usize {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.counting.await.unwrap()
    }
}
