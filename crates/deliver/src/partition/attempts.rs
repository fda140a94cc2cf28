//! Attempts: started for what [`crate::lanes`] dispatches, each in a task of its own, and told of when they end.
//!
//! All that have ended are taken in at once: under load nothing else would get its turn.

use std::{sync::Arc, time::Instant};

use pushline_model::{Attempt, Outcome};
use tokio::task::JoinError;

use super::{Task, wall};
use crate::{
    lanes::{Consequence, MessageKey, Sending},
    room::Slot,
    webhook_health::WebhookHealth,
};

/// An attempt that ended.
pub(super) struct Ended {
    key: MessageKey,
    slot: Slot,
    outcome: Outcome,
    attempt: Attempt,
}

impl Task {
    pub(super) fn dispatch(&mut self) {
        let (attempts, metrics, health) = (&mut self.attempts, &self.metrics, &self.around.health);
        self.lanes.dispatch(|sending| {
            metrics.sending(&sending);
            attempts.spawn(attempt(sending, Arc::clone(health)));
        });
    }

    pub(super) fn ended(&mut self, first: Result<Ended, JoinError>) {
        let mut ended = Some(first);
        while let Some(result) = ended {
            match result {
                Ok(ended) => self.outcome(ended),
                // A bug in the sender: the process ends here, and the message is sent again after the start.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
            ended = self.attempts.try_join_next();
        }
        self.saving.changed = true;
    }

    fn outcome(&mut self, Ended { key, slot, outcome, attempt }: Ended) {
        drop(slot);
        self.metrics.ended(&outcome, attempt.took);
        let (consequence, suspect) = self.lanes.outcome(key, outcome, attempt, fastrand::f64(), Instant::now());
        self.turn.wanted |= suspect;
        match consequence {
            Consequence::Delivered(packets) => self.metrics.delivered(packets),
            Consequence::Bury(burial) => self.bury([burial]),
            // What ended under an old definition was let go: a sweep rebuilds it for the new one.
            Consequence::Again => self.turn.wanted = true,
            Consequence::Discarded => {}
        }
    }
}

async fn attempt(sending: Sending, health: Arc<WebhookHealth>) -> Ended {
    let (at, began) = (wall(), Instant::now());
    let outcome = sending.outlet.endpoint.attempt(sending.id, sending.body).await;
    health.attempt_ended(&sending.outlet.webhook.name, &outcome);
    let attempt = Attempt::new(at, began.elapsed(), &outcome);
    Ended { key: sending.key, slot: sending.slot, outcome, attempt }
}
