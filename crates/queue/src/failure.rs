//! The first thing that made a queue unable to go on.

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use crate::QueueError;

/// Keeps the first error, and wakes everyone who waits for one.
#[derive(Debug, Default)]
pub(crate) struct Failure(watch::Sender<Option<QueueError>>);

impl Failure {
    pub(crate) fn note(&self, error: &QueueError) {
        self.0.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| error.clone());
            first
        });
    }

    /// Whether there is one.
    pub(crate) fn is_noted(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Resolves when there is one.
    pub(crate) fn noted(&self) -> BoxFuture<'static, QueueError> {
        let mut failure = self.0.subscribe();
        async move {
            match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
                Ok(Some(error)) => error,
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }
}
