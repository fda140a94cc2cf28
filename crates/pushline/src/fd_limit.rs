//! The limit of open files (RLIMIT_NOFILE): each device, each push in flight and each segment of the queue takes a file descriptor.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that devices leave to pushes, the queue and the admin server.
const RESERVE: u64 = 1024;

/// Raises the soft limit to the hard one.
pub(crate) fn raise() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "can't raise the limit of open files (RLIMIT_NOFILE)");
    }
}

/// How many devices may be connected at once.
pub(crate) fn for_devices() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(RESERVE).max(limit / 2)).unwrap_or(usize::MAX)
}
