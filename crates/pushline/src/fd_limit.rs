//! The limit of open files (RLIMIT_NOFILE): each device, each connection to an endpoint and each segment of the queue takes a file descriptor.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Stands for the limit where the system sets none.
const UNLIMITED: usize = 1 << 30;

/// Raises the soft limit to the hard one.
pub(crate) fn raise() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "can't raise the limit of open files (RLIMIT_NOFILE)");
    }
}

/// How many files the process may have open.
pub(crate) fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    limit.unwrap_or(UNLIMITED)
}
