//! Attempts: each in a task of its own. All that have ended are one event: under load nothing else would get its turn.

use std::{sync::Arc, time::Instant};

use pushline_lanes::{AttemptEnded, Event, StartAttempt};
use pushline_model::Attempt;
use tokio::task::JoinError;

use super::{Task, now, wall};
use crate::{endpoint::Endpoint, webhook_health::WebhookHealth};

impl Task {
    pub(super) fn start_attempts(&mut self) {
        for start in self.effects.attempts.drain(..) {
            self.metrics.starts(&start);
            let endpoint = Arc::clone(self.endpoints.of(&start.handle));
            self.attempts.spawn(attempt(start, endpoint, Arc::clone(&self.context.health)));
        }
    }

    pub(super) fn attempts_ended(&mut self, first: Result<AttemptEnded, JoinError>) {
        let mut next = Some(first);
        while let Some(result) = next {
            match result {
                Ok(ended) => {
                    self.metrics.ended(&ended.outcome, ended.attempt.took);
                    self.ended.push(ended);
                }
                // A bug in the sender: the process ends here, and the message is sent again after the start.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
            next = self.attempts.try_join_next();
        }
        self.core.on(Event::AttemptsEnded(&mut self.ended), now(), &self.context.budgets, &mut self.effects);
    }
}

async fn attempt(start: StartAttempt, endpoint: Arc<Endpoint>, health: Arc<WebhookHealth>) -> AttemptEnded {
    let StartAttempt { key, permit, handle, id, body, is_first, .. } = start;
    let (at, began) = (wall(), Instant::now());
    let outcome = endpoint.attempt(id, body, is_first).await;
    health.attempt_ended(&handle.webhook.name, &outcome);
    let attempt = Attempt::new(at, began.elapsed(), &outcome);
    AttemptEnded { key, permit, outcome, attempt, jitter: fastrand::f64() }
}
