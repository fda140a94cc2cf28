//! What this machine gives: file descriptors, a clock that is set, a disk for the queue.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use pushline_model::{DescriptorBudget, DescriptorUse, Timestamp, units::size_text};
use rustix::fs::{statfs, statvfs};

use super::finding::Finding;
use crate::{fd_limit, role::Role};

/// A process with fewer open files serves few devices.
const FEW_FILES: usize = 4096;

/// Every acknowledgement waits for a sync of the disk. A disk that takes longer delays each packet by it.
const SLOW_SYNC: Duration = Duration::from_millis(20);

/// Every right clock is past this.
const SURELY_PAST: &str = "2026-01-01T00:00:00Z";

/// Syncs that are timed. The middle one counts.
const SYNCS: usize = 9;

/// File systems that forget or that don't keep what they have synced, by their magic number (statfs(2)).
const UNSAFE_FILE_SYSTEMS: [(u64, &str); 3] = [
    (0x0102_1994, "tmpfs, which lies in memory: a restart of the machine loses every packet"),
    (0x8584_58f6, "ramfs, which lies in memory: a restart of the machine loses every packet"),
    (0x6969, "NFS, whose locks and syncs depend on its server"),
];

pub(super) fn open_files() -> Vec<Finding> {
    fd_limit::raise();
    let limit = fd_limit::limit();
    let budget = DescriptorBudget::new(limit, Role::Run.descriptor_uses());
    let devices = budget.limit(DescriptorUse::Device);
    let seen = format!("{limit} open files: up to {devices} devices and {} pushes at once", budget.limit(DescriptorUse::Push));
    let remedy = "raise the limit of open files: LimitNOFILE= of a systemd unit, ulimit -Hn of a shell";
    vec![match limit {
        few if few < FEW_FILES => Finding::warning("files", seen, remedy),
        _ => Finding::ok("files", seen),
    }]
}

/// A clock that was never set says 1970, or the day on which the machine was built. Times of receipt come from it, and signatures that receivers check.
pub(super) fn clock() -> Vec<Finding> {
    let now = Timestamp::of(SystemTime::now());
    let remedy = "set the clock and keep it with an NTP client, such as systemd-timesyncd or chrony";
    vec![if now < Timestamp::parse(SURELY_PAST).expect("a time") {
        Finding::failed("clock", format!("the clock says {now}: it was never set"), remedy)
    } else {
        Finding::ok("clock", format!("it is {now} here"))
    }]
}

/// The folder of the queue: can it be written, is there space, how long does a sync take, is it another process's?
pub(super) fn disk(dir: &Path, max_bytes: u64, min_free: u64) -> Vec<Finding> {
    let shown = dir.display();
    // A folder that isn't there yet is created by the start.
    let existing = dir.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    let written = match time_syncs(existing) {
        Err(error) => {
            let remedy = format!("let the user that runs Pushline write {}", existing.display());
            return vec![Finding::failed("disk", format!("{shown} can't be written: {error}"), remedy)];
        }
        Ok(slow) if slow > SLOW_SYNC => Finding::warning(
            "disk",
            format!("a sync takes {} ms: each acknowledgement waits for one", slow.as_millis()),
            "use a disk with a lower latency of writes, such as a local SSD",
        ),
        Ok(fast) => Finding::ok("disk", format!("{shown}: a sync takes {:.1} ms", fast.as_secs_f64() * 1000.0)),
    };
    let rest = [file_system(existing), space(existing, max_bytes, min_free), lock(dir)];
    std::iter::once(written).chain(rest.into_iter().flatten()).collect()
}

/// The median time of writing a block and making it durable.
fn time_syncs(folder: &Path) -> io::Result<Duration> {
    let mut file = tempfile::Builder::new().prefix(".pushline-doctor-").tempfile_in(folder)?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[0; 4096])?;
        file.as_file().sync_data()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times[SYNCS / 2])
}

fn file_system(folder: &Path) -> Option<Finding> {
    let kind = statfs(folder).ok()?.f_type;
    let (_, what) = UNSAFE_FILE_SYSTEMS.iter().find(|(magic, _)| i128::from(*magic) == i128::from(kind))?;
    let remedy = "put [queue] dir on a disk of this machine (ext4, XFS, …)";
    Some(Finding::warning("disk", format!("{} is on {what}", folder.display()), remedy))
}

fn space(folder: &Path, max_bytes: u64, min_free: u64) -> Option<Finding> {
    let file_system = statvfs(folder).ok()?;
    let free = file_system.f_bavail * file_system.f_frsize;
    let seen = format!("{} free", size_text(free));
    let remedy = "free space, or use a larger disk; a lower [queue] max_bytes makes old packets expire earlier";
    Some(if free < min_free {
        let text = format!("{seen}, less than [queue] min_free ({}): Pushline acknowledges nothing", size_text(min_free));
        Finding::failed("disk", text, remedy)
    } else if free < min_free + max_bytes.min(u64::MAX - min_free) && !has_queue(folder) {
        Finding::warning("disk", format!("{seen}, and the queue may take [queue] max_bytes ({})", size_text(max_bytes)), remedy)
    } else {
        Finding::ok("disk", seen)
    })
}

fn has_queue(folder: &Path) -> bool {
    folder.join("packets").is_dir()
}

/// Whether another process has the queue.
fn lock(dir: &Path) -> Option<Finding> {
    let file = fs::OpenOptions::new().read(true).write(true).open(dir.join("lock")).ok()?;
    Some(match file.try_lock() {
        Ok(()) => Finding::ok("queue", "no process has it"),
        Err(fs::TryLockError::WouldBlock) => Finding::ok("queue", "a running process has it"),
        Err(fs::TryLockError::Error(error)) => {
            let remedy = "use a file system that supports flock(2)";
            Finding::failed("queue", format!("{} can't be locked: {error}", dir.join("lock").display()), remedy)
        }
    })
}
