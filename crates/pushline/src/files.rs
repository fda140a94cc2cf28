//! The limit of open files: each device, each connection to an endpoint and each segment of the queue takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where the system sets no limit.
const UNLIMITED: usize = 1 << 30;

/// Raises the limit to what the system allows at the most.
pub(crate) fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
}

/// How many files the process may have open.
pub(crate) fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    limit.unwrap_or(UNLIMITED)
}
