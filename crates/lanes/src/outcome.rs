//! The retry policy: what follows from an attempt's outcome (docs/document.md, Outcome). Pure.

use std::time::Duration;

use pushline_model::{Cause, LocalFailure, NoResponse, Outcome, Webhook};

/// A delay is spread by up to a fifth of it, so that messages that failed together aren't retried together.
const SPREAD: f64 = 0.2;

/// What happens to the message next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It was accepted.
    Settled,
    /// It becomes a dead letter.
    DeadLetter(Cause),
    /// It is sent again.
    Again {
        /// Not before this has passed.
        after: Duration,
    },
    /// No attempt was made: the message keeps its body and its number of attempts, and is sent later.
    Later {
        /// Not before this has passed.
        after: Duration,
    },
}

/// Decides after `attempts` attempts, from 1 on; a local failure isn't counted. `jitter` lies between 0 and 1.
pub(crate) fn what_next(webhook: &Webhook, attempts: u32, outcome: &Outcome, jitter: f64) -> Next {
    let used_up = attempts > webhook.retries;
    match outcome {
        Outcome::Accepted { .. } => Next::Settled,
        Outcome::BlockedAddress { .. } => Next::DeadLetter(Cause::BlockedAddress),
        Outcome::ErrorResponse { status, .. } if used_up || !webhook.retry_on_status.contains(status) => {
            Next::DeadLetter(Cause::ErrorResponse)
        }
        Outcome::LocalFailure(LocalFailure { retry_after, .. }) => Next::Later { after: spread(*retry_after, jitter) },
        Outcome::NoResponse(_) if used_up => Next::DeadLetter(Cause::NoResponse),
        Outcome::NoResponse(NoResponse::Timeout) => Next::Again { after: Duration::ZERO },
        Outcome::ErrorResponse { .. } | Outcome::NoResponse(_) => Next::Again { after: delay(webhook, attempts, jitter) },
    }
}

/// Retries beyond the list of delays use the last.
fn delay(webhook: &Webhook, attempts: u32, jitter: f64) -> Duration {
    let place = usize::try_from(attempts).expect("a message has at most 101 attempts") - 1;
    let delay = webhook.retry_delays.get(place).or(webhook.retry_delays.last()).expect("Webhook::validate refuses an empty list of delays");
    spread(*delay, jitter)
}

fn spread(delay: Duration, jitter: f64) -> Duration {
    delay.mul_f64(1.0 + SPREAD * (2.0 * jitter - 1.0))
}

#[cfg(test)]
mod tests {
    use pushline_model::{LocalFailureKind, ResponseHeaders};

    use super::*;

    fn webhook() -> Webhook {
        Webhook::new("w", "http://a.example/".parse().unwrap())
    }

    fn after(webhook: &Webhook, attempts: u32, outcome: &Outcome) -> Next {
        what_next(webhook, attempts, outcome, 0.5)
    }

    fn lost() -> Outcome {
        Outcome::NoResponse(NoResponse::ConnectionLost("reset".into()))
    }

    fn error(status: u16) -> Outcome {
        Outcome::ErrorResponse { status, response: vec![], headers: ResponseHeaders::default() }
    }

    #[test]
    fn no_response_is_sent_again_twice_and_then_kept() {
        let seconds = |seconds| Next::Again { after: Duration::from_secs(seconds) };
        assert_eq!(after(&webhook(), 1, &lost()), seconds(1));
        assert_eq!(after(&webhook(), 2, &lost()), seconds(5));
        assert_eq!(after(&webhook(), 3, &lost()), Next::DeadLetter(Cause::NoResponse));
    }

    #[test]
    fn a_timeout_is_retried_at_once() {
        assert_eq!(after(&webhook(), 1, &Outcome::NoResponse(NoResponse::Timeout)), Next::Again { after: Duration::ZERO });
        assert_eq!(after(&webhook(), 3, &Outcome::NoResponse(NoResponse::Timeout)), Next::DeadLetter(Cause::NoResponse));
    }

    #[test]
    fn an_error_response_and_a_blocked_address_are_final() {
        assert_eq!(after(&webhook(), 1, &error(500)), Next::DeadLetter(Cause::ErrorResponse));
        let blocked = Outcome::BlockedAddress { what: String::new() };
        assert_eq!(after(&webhook(), 1, &blocked), Next::DeadLetter(Cause::BlockedAddress));
        assert_eq!(after(&webhook(), 1, &Outcome::Accepted { status: 204 }), Next::Settled);
    }

    #[test]
    fn a_local_failure_is_no_attempt_and_never_a_dead_letter() {
        let failure = LocalFailure { kind: LocalFailureKind::FileDescriptors, retry_after: Duration::from_secs(5) };
        let mut webhook = webhook();
        webhook.retries = 0;
        for attempts in [0, 1, 9] {
            let next = after(&webhook, attempts, &Outcome::LocalFailure(failure));
            assert_eq!(next, Next::Later { after: Duration::from_secs(5) });
        }
        assert_eq!(what_next(&webhook, 0, &Outcome::LocalFailure(failure), 0.0), Next::Later { after: Duration::from_secs(4) });
    }

    #[test]
    fn a_status_to_retry_on_uses_the_same_tries_and_stays_an_error_response() {
        let mut webhook = webhook();
        webhook.retry_on_status = vec![503];
        assert_eq!(after(&webhook, 2, &error(503)), Next::Again { after: Duration::from_secs(5) });
        assert_eq!(after(&webhook, 3, &error(503)), Next::DeadLetter(Cause::ErrorResponse));
        assert_eq!(after(&webhook, 1, &error(500)), Next::DeadLetter(Cause::ErrorResponse));
    }

    #[test]
    fn retries_beyond_the_list_use_the_last_delay_spread_by_a_fifth() {
        let mut webhook = webhook();
        webhook.retries = 9;
        assert_eq!(what_next(&webhook, 7, &lost(), 0.0), Next::Again { after: Duration::from_secs(4) });
        assert_eq!(what_next(&webhook, 7, &lost(), 1.0), Next::Again { after: Duration::from_secs(6) });
    }
}
