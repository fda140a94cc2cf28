//! The health of webhooks, for operators: a log line when a webhook begins to fail and when it recovers, and metrics per webhook by option.
//!
//! A single failed attempt begins it and a single accepted one ends it, at once. A webhook that fails again within a minute is unsteady: its next
//! recovery is logged after a minute without failure. The log gets [`LINES`] such lines a second at the most and one line for the rest.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use metrics::{Counter, Gauge, counter, gauge};
use pushline_model::{Outcome, Timestamp};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::metrics::{WEBHOOK_ATTEMPTS, WEBHOOK_FAILING, WEBHOOKS_FAILING};

/// The most lines about single webhooks in a second.
const LINES: u32 = 20;

const SECOND: Duration = Duration::from_secs(1);

/// How long an unsteady webhook goes without failure before it has recovered, and how often a changed cause is logged.
const STEADY: Duration = Duration::from_mins(1);

/// The most webhooks that have metrics of their own. The attempts of the others are counted together.
const MOST_WITH_METRICS: usize = 1000;

/// The label of those that have none.
const OTHERS: &str = "(others)";

/// The outcomes that are attempts.
const OUTCOMES: [&str; 4] = ["accepted", "error_response", "no_response", "blocked_address"];

/// What the process knows about its webhooks' health.
#[derive(Debug)]
pub(crate) struct WebhookHealth {
    state: Mutex<State>,
    /// How many webhooks the state has. While there are none, an accepted attempt takes no lock.
    known: AtomicUsize,
    per_webhook: Option<Mutex<HashMap<String, PerWebhook>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Webhooks that fail, or have recovered within the last minute.
    webhooks: HashMap<String, Health>,
    failing: usize,
    limit: Limit,
}

#[derive(Debug)]
enum Health {
    Failing {
        since: Instant,
        last: Instant,
        attempts: u64,
        is_unsteady: bool,
        /// The cause that was logged last, and when.
        logged: (String, Instant),
    },
    Recovered {
        at: Instant,
    },
}

/// A change to log.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Fails,
    FailsAgain,
    OtherCause,
    Recovers { failed_attempts: u64, after: Duration },
}

/// How many lines were logged in this second, and what wasn't.
#[derive(Debug, Default)]
struct Limit {
    began: Option<Instant>,
    lines: u32,
    unlogged: Unlogged,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Unlogged {
    failing: u64,
    recovered: u64,
    suspended: u64,
    resumed: u64,
}

/// Where a line is counted that isn't logged.
type Count = fn(&mut Unlogged) -> &mut u64;

/// What is to be done with a change.
#[derive(Debug, PartialEq, Eq)]
enum Log {
    Now,
    /// It is counted for a summary; the first one says when that is due.
    Later(Option<Instant>),
}

/// A webhook's metrics.
struct PerWebhook {
    attempts: [Counter; 4],
    failing: Gauge,
}

impl WebhookHealth {
    /// `per_webhook`: whether webhooks get metrics of their own, 1,000 at the most.
    pub(crate) fn new(per_webhook: bool) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), known: AtomicUsize::new(0), per_webhook: per_webhook.then(Mutex::default) })
    }

    /// Takes note of an attempt's outcome, and logs what changed. A local failure tells nothing about the webhook.
    pub(crate) fn attempt_ended(self: &Arc<Self>, webhook: &str, outcome: &Outcome) {
        if outcome.is_local() {
            return;
        }
        self.count(webhook, outcome);
        if outcome.is_accepted() && self.known.load(Ordering::Relaxed) == 0 {
            return;
        }
        let now = Instant::now();
        let mut state = self.lock();
        let Some(change) = state.attempt_ended(webhook, outcome, now) else { return };
        let log = state.limit.log(change.count(), now);
        self.publish(&state);
        drop(state);
        self.log(&log, || change.log(webhook, outcome));
    }

    /// The webhook's server asked to be left alone until then.
    pub(crate) fn suspended(self: &Arc<Self>, webhook: &str, until: Timestamp) {
        let log = self.lock().limit.log(|unlogged| &mut unlogged.suspended, Instant::now());
        self.log(&log, || warn!(webhook, %until, "webhook suspended: its server asked for that by Retry-After; its messages wait"));
    }

    /// That time is over, or the webhook has another server.
    pub(crate) fn suspension_over(self: &Arc<Self>, webhook: &str) {
        let log = self.lock().limit.log(|unlogged| &mut unlogged.resumed, Instant::now());
        self.log(&log, || info!(webhook, "webhook no longer suspended: its messages are sent again"));
    }

    fn log(self: &Arc<Self>, log: &Log, line: impl FnOnce()) {
        match log {
            Log::Now => line(),
            Log::Later(Some(due)) => _ = tokio::spawn(Arc::clone(self).summarise(*due)),
            Log::Later(None) => {}
        }
    }

    /// Forgets webhooks that the configuration has no longer.
    pub(crate) fn retain(&self, is_known: impl Fn(&str) -> bool) {
        let mut state = self.lock();
        state.webhooks.retain(|name, _| is_known(name));
        state.failing = state.webhooks.values().filter(|health| matches!(health, Health::Failing { .. })).count();
        self.publish(&state);
    }

    fn publish(&self, state: &State) {
        self.known.store(state.webhooks.len(), Ordering::Relaxed);
        gauge!(WEBHOOKS_FAILING).set(u32::try_from(state.failing).map_or(f64::INFINITY, f64::from));
    }

    /// Logs how many changes weren't logged one by one.
    async fn summarise(self: Arc<Self>, due: Instant) {
        sleep_until(due).await;
        let Unlogged { failing, recovered, suspended, resumed } = mem::take(&mut self.lock().limit.unlogged);
        if failing > 0 {
            warn!("{failing} more webhooks began to fail");
        }
        if recovered > 0 {
            info!("{recovered} more webhooks accept messages again");
        }
        if suspended > 0 {
            warn!("{suspended} more webhooks suspended: their servers asked for that by Retry-After");
        }
        if resumed > 0 {
            info!("{resumed} more webhooks no longer suspended");
        }
    }

    fn count(&self, webhook: &str, outcome: &Outcome) {
        let Some(per_webhook) = &self.per_webhook else { return };
        let place = OUTCOMES.iter().position(|name| *name == outcome.name()).expect("each outcome that isn't local is an attempt");
        let mut all = per_webhook.lock().unwrap_or_else(PoisonError::into_inner);
        let label = if all.contains_key(webhook) || all.len() < MOST_WITH_METRICS { webhook } else { OTHERS };
        let metrics = all.entry_ref(label).or_insert_with(|| PerWebhook::new(label));
        metrics.attempts[place].increment(1);
        if label != OTHERS {
            metrics.failing.set(if outcome.is_accepted() { 0.0 } else { 1.0 });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn attempt_ended(&mut self, webhook: &str, outcome: &Outcome, now: Instant) -> Option<Change> {
        let health = self.webhooks.get_mut(webhook);
        if outcome.is_accepted() { Self::accepted(health, now, &mut self.failing) } else { self.failed(webhook, outcome, now) }
    }

    fn accepted(health: Option<&mut Health>, now: Instant, all_failing: &mut usize) -> Option<Change> {
        let health = health?;
        match health {
            Health::Failing { since, last, attempts, is_unsteady, .. } if !*is_unsteady || now >= *last + STEADY => {
                let change = Change::Recovers { failed_attempts: *attempts, after: now - *since };
                *health = Health::Recovered { at: now };
                *all_failing -= 1;
                Some(change)
            }
            Health::Failing { .. } | Health::Recovered { .. } => None,
        }
    }

    fn failed(&mut self, webhook: &str, outcome: &Outcome, now: Instant) -> Option<Change> {
        if let Some(Health::Failing { last, attempts, logged: (cause, at), .. }) = self.webhooks.get_mut(webhook) {
            *attempts += 1;
            *last = now;
            let is_news = now >= *at + STEADY && *cause != outcome.to_string();
            if is_news {
                (*cause, *at) = (outcome.to_string(), now);
            }
            return is_news.then_some(Change::OtherCause);
        }
        let is_recent = |health: &Health| matches!(health, Health::Recovered { at } if now < *at + STEADY);
        let is_unsteady = self.webhooks.get(webhook).is_some_and(is_recent);
        if self.webhooks.len() == self.webhooks.capacity() {
            self.webhooks.retain(|_, health| matches!(health, Health::Failing { .. }) || is_recent(health));
        }
        let logged = (outcome.to_string(), now);
        self.webhooks.insert(webhook.to_owned(), Health::Failing { since: now, last: now, attempts: 1, is_unsteady, logged });
        self.failing += 1;
        Some(if is_unsteady { Change::FailsAgain } else { Change::Fails })
    }
}

impl Limit {
    fn log(&mut self, count: Count, now: Instant) -> Log {
        if self.began.is_none_or(|began| now >= began + SECOND) {
            (self.began, self.lines) = (Some(now), 0);
        }
        if self.lines < LINES {
            self.lines += 1;
            return Log::Now;
        }
        let is_first = self.unlogged == Unlogged::default();
        *count(&mut self.unlogged) += 1;
        Log::Later(self.began.filter(|_| is_first).map(|began| began + SECOND))
    }
}

impl Change {
    fn count(&self) -> Count {
        match self {
            Self::Recovers { .. } => |unlogged| &mut unlogged.recovered,
            Self::Fails | Self::FailsAgain | Self::OtherCause => |unlogged| &mut unlogged.failing,
        }
    }

    fn log(&self, webhook: &str, outcome: &Outcome) {
        match self {
            Self::Fails => warn!(webhook, cause = %outcome, "webhook began to fail: {}", what_follows(outcome)),
            Self::FailsAgain => {
                warn!(webhook, cause = %outcome, "webhook fails again; its recovery is logged after a minute without failure");
            }
            Self::OtherCause => warn!(webhook, cause = %outcome, "webhook still fails, for another reason"),
            Self::Recovers { failed_attempts, after } => {
                info!(webhook, failed_attempts, seconds = after.as_secs(), "webhook accepts messages again");
            }
        }
    }
}

/// What becomes of the webhook's messages while attempts end like this.
fn what_follows(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::BlockedAddress { .. } => "its messages become dead letters at once; correct its URL or [egress] allow",
        _ => "its messages are retried or become dead letters",
    }
}

impl PerWebhook {
    fn new(webhook: &str) -> Self {
        let attempts = OUTCOMES.map(|outcome| counter!(WEBHOOK_ATTEMPTS, "webhook" => webhook.to_owned(), "outcome" => outcome));
        Self { attempts, failing: if webhook == OTHERS { Gauge::noop() } else { gauge!(WEBHOOK_FAILING, "webhook" => webhook.to_owned()) } }
    }
}

impl std::fmt::Debug for PerWebhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerWebhook").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use pushline_model::{NoResponse, ResponseHeaders};

    use super::*;

    const OK: Outcome = Outcome::Accepted { status: 200 };

    fn error(status: u16) -> Outcome {
        Outcome::ErrorResponse { status, response: Vec::new(), headers: ResponseHeaders::default() }
    }

    #[test]
    fn a_webhook_that_begins_to_fail_and_recovers_is_two_lines_however_many_attempts_fail() {
        let (mut state, now) = (State::default(), Instant::now());
        let mut ended = |outcome: &Outcome, seconds| state.attempt_ended("w", outcome, now + Duration::from_secs(seconds));
        assert_eq!(ended(&OK, 0), None);
        assert_eq!(ended(&error(401), 1), Some(Change::Fails));
        assert_eq!([ended(&error(401), 2), ended(&Outcome::NoResponse(NoResponse::Timeout), 3)], [None, None]);
        assert_eq!(ended(&OK, 5), Some(Change::Recovers { failed_attempts: 3, after: Duration::from_secs(4) }));
        assert_eq!(ended(&OK, 6), None);
        assert_eq!(state.failing, 0);
    }

    #[test]
    fn an_unsteady_webhook_recovers_after_a_minute_without_failure() {
        let (mut state, now) = (State::default(), Instant::now());
        let mut ended = |outcome: &Outcome, seconds| state.attempt_ended("w", outcome, now + Duration::from_secs(seconds));
        ended(&error(500), 0);
        ended(&OK, 1);
        assert_eq!(ended(&error(500), 2), Some(Change::FailsAgain));
        assert_eq!([ended(&OK, 3), ended(&error(500), 4), ended(&OK, 63)], [None, None, None]);
        assert_eq!(ended(&OK, 64), Some(Change::Recovers { failed_attempts: 2, after: Duration::from_secs(62) }));
        assert_eq!(ended(&error(500), 124), Some(Change::Fails), "a minute later it is like any other");
    }

    #[test]
    fn another_cause_is_logged_once_a_minute() {
        let (mut state, now) = (State::default(), Instant::now());
        let mut ended = |outcome: &Outcome, seconds| state.attempt_ended("w", outcome, now + Duration::from_secs(seconds));
        ended(&error(401), 0);
        assert_eq!(ended(&error(500), 59), None);
        assert_eq!(ended(&error(500), 60), Some(Change::OtherCause));
        assert_eq!(ended(&error(500), 300), None);
    }

    #[test]
    fn thousands_that_begin_to_fail_at_once_are_some_lines_and_one_for_the_rest() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        let logs: Vec<Log> = (0..5000).map(|_| limit.log(Change::Fails.count(), now)).collect();
        assert_eq!(logs.iter().filter(|log| **log == Log::Now).count(), 20);
        assert_eq!(logs.iter().filter(|log| **log == Log::Later(Some(now + SECOND))).count(), 1);
        assert_eq!(mem::take(&mut limit.unlogged), Unlogged { failing: 4980, ..Unlogged::default() });
        assert_eq!(limit.log(Change::Fails.count(), now + SECOND), Log::Now);
    }

    #[test]
    fn the_line_about_a_blocked_address_promises_no_retry() {
        assert!(!what_follows(&Outcome::BlockedAddress { what: "127.0.0.1: loopback".into() }).contains("retried"));
        assert!(what_follows(&error(500)).contains("retried"));
    }

    #[tokio::test]
    async fn a_webhook_that_was_removed_fails_no_longer() {
        let health = WebhookHealth::new(true);
        ["a", "b"].into_iter().for_each(|name| health.attempt_ended(name, &error(500)));
        assert_eq!((health.lock().failing, health.known.load(Ordering::Relaxed)), (2, 2));
        health.retain(|name| name == "a");
        assert_eq!((health.lock().failing, health.known.load(Ordering::Relaxed)), (1, 1));
    }
}
