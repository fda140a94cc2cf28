//! How many files the process may have open: each device, each push under way and each segment of the queue takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is left for pushes, the queue and the admin address.
const RESERVE: u64 = 1024;

/// Raises the limit to what the system allows at the most.
pub(crate) fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
}

/// How many devices may be connected, so that the others still have theirs.
pub(crate) fn for_devices() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(RESERVE).max(limit / 2)).unwrap_or(usize::MAX)
}
