//! The tasks of connections.

use tokio::task::JoinError;

/// What a connection's task returned; `None`: it was aborted. A panic of the task ends the process: a defect may have left state half changed.
pub(crate) fn resume_panic<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended {
        Ok(returned) => Some(returned),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}
