//! The first thing that made a queue unable to go on.

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use crate::QueueError;

/// Noted once, heard by whoever waits for it.
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
