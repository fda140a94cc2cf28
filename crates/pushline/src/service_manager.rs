//! Tells systemd, or another service manager with its protocol, what the process does (sd_notify(3)). Without one nothing is sent.

use std::{future::pending, time::Duration};

use sd_notify::NotifyState;
use tokio::time::interval;
use tracing::warn;

/// The process serves.
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends it. `Type=notify-reload` waits for that.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "can't read the monotonic clock for the service manager"),
    }
}

/// The process shuts down.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Reports twice per `WatchdogSec=` that the caller's loop turns, while it is polled.
pub(crate) async fn keep_watchdog_quiet() {
    match sd_notify::watchdog_enabled() {
        Some(limit) if limit > Duration::ZERO => {
            let mut ticks = interval(limit / 2);
            loop {
                ticks.tick().await;
                send(&[NotifyState::Watchdog]);
            }
        }
        _ => pending().await,
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager can't be told (NOTIFY_SOCKET)");
    }
}
