//! The tasks of connections.

use tokio::task::JoinError;

/// A panic of a connection's task ends the process: a defect may have left state half changed.
pub(crate) fn resume_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
