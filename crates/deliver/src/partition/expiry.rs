//! Looking for what waits too long or takes too much space (LANES.md L12). What becomes of it is decided in [`crate::lanes`].
//!
//! Only the record at the watermark is looked at, beside everything else, and seldom.

use std::time::{Duration, Instant};

use pushline_model::Timestamp;
use pushline_queue::QueueError;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Task, wall};
use crate::lanes::Expiry;

/// The look at the oldest record that hasn't settled.
pub(super) struct Look {
    pub(super) under_way: Option<JoinHandle<Result<Option<Timestamp>, QueueError>>>,
    began_at: Instant,
    /// Whether packets have been expiring since the last.
    expiring: bool,
}

impl Look {
    pub(super) fn new() -> Self {
        Self { under_way: None, began_at: Instant::now(), expiring: false }
    }
}

impl Task {
    /// Looks at the oldest record that hasn't settled, now and then: sixty times in `backlog.max_age`, at least once a minute.
    pub(super) fn look(&mut self) {
        let (watermark, end) = (self.lanes.watermark(), self.partition.end());
        if watermark >= end {
            self.metrics.oldest_unsettled(Duration::ZERO);
        }
        let due = (self.around.max_age / 60).clamp(Duration::from_millis(500), Duration::from_mins(1));
        let is_due = self.look.began_at.elapsed() >= due || self.partition.overflow().is_some();
        if self.look.under_way.is_some() || !is_due || watermark >= end && !self.look.expiring {
            return;
        }
        self.look.began_at = Instant::now();
        let mut reader = self.partition.reader(watermark);
        self.look.under_way = Some(tokio::spawn(async move {
            if watermark >= end {
                return Ok(None);
            }
            let frame = reader.next().await?;
            Ok(frame.records(watermark).next().map(|(_, record)| record.at))
        }));
    }

    pub(super) fn looked(&mut self, oldest: Option<Timestamp>) {
        let before = wall().minus(self.around.max_age);
        let below = self.partition.overflow();
        self.metrics.oldest_unsettled(oldest.map_or(Duration::ZERO, |oldest| wall().distance(oldest)));
        let expires = oldest.is_some_and(|oldest| oldest < before) || below.is_some_and(|below| self.lanes.watermark() < below);
        if expires != std::mem::replace(&mut self.look.expiring, expires) {
            let partition = self.partition.index();
            match expires {
                true => warn!(
                    partition,
                    overflow = below.is_some(),
                    "the oldest packets wait too long or take too much space: they become dead letters"
                ),
                false => info!(partition, "no packets expire any more"),
            }
        }
        let expiry = expires.then_some(Expiry { before, below: below.unwrap_or(0) });
        let burials = self.lanes.expire(expiry, wall());
        self.bury(burials);
        self.turn.wanted |= expires;
    }
}
