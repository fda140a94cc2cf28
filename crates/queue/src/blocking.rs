//! Calls that block and were handed to a thread of their own.

use tokio::task::JoinError;

use crate::QueueError;

/// Waits for a call. A panic in it goes on in the caller, where it ends the process (ARCHITECTURE.md, What ends what).
///
/// # Errors
/// [`QueueError::Closed`]: the runtime has shut down.
pub(crate) async fn result<T>(call: impl Future<Output = Result<T, JoinError>>) -> Result<T, QueueError> {
    call.await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => QueueError::Closed,
    })
}

#[cfg(test)]
mod tests {
    use tokio::task::spawn_blocking;

    use super::*;

    #[tokio::test]
    #[should_panic(expected = "of the call")]
    async fn a_panic_goes_on_in_the_caller() {
        drop(result(spawn_blocking(|| panic!("of the call"))).await);
    }
}
