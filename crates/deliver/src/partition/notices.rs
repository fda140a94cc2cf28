//! What the core tells operators: log lines, counts, and what `/readyz` and the health of webhooks show.

use pushline_lanes::{Excuse, Notice};
use tracing::{error, info, warn};

use super::{Task, now};

impl Task {
    /// Counts, sets the gauges that are due, and passes the core's notices on.
    pub(super) fn report(&mut self) {
        let partition = self.partition.index();
        self.metrics.settled(std::mem::take(&mut self.effects.delivered));
        self.metrics.more_at_start(partition, std::mem::take(&mut self.effects.more_at_start));
        if std::mem::take(&mut self.effects.report) {
            let now = now();
            self.metrics.report(&self.core.status(now), now);
        }
        let mut notices = std::mem::take(&mut self.effects.notices);
        for notice in notices.drain(..) {
            log(partition, &notice);
            self.keep(partition, notice);
        }
        self.effects.notices = notices;
    }

    /// What other parts of the process keep of a notice.
    fn keep(&self, partition: u32, notice: Notice) {
        match notice {
            Notice::TicksRefused { why } => self.context.refused_ticks.refused(partition, why),
            Notice::TicksResumed => self.context.refused_ticks.resumed(partition),
            Notice::Excused { reason, messages } => self.metrics.excused(reason, messages),
            Notice::Suspended { webhook, until } => self.context.health.suspended(&webhook, until),
            Notice::SuspensionOver { webhook } => self.context.health.suspension_over(&webhook),
            Notice::Expiring { .. }
            | Notice::NoneExpires
            | Notice::SavesPostponed { .. }
            | Notice::SavesResumed
            | Notice::AttemptsCutOff
            | Notice::LastSaveCutOff => {}
        }
    }
}

/// The log line of a notice. The health of webhooks has its own.
fn log(partition: u32, notice: &Notice) {
    match notice {
        Notice::Expiring { overflow } => warn!(
            partition,
            overflow,
            "the oldest packets wait longer than backlog.max_age, or take more space than queue.max_bytes: they become dead letters"
        ),
        Notice::NoneExpires => info!(partition, "no packets expire any more"),
        Notice::SavesPostponed { why } => {
            warn!(partition, error = why, "checkpoints can't be saved: after a crash, messages that have settled since are sent again");
        }
        Notice::SavesResumed => info!(partition, "checkpoints are saved again"),
        Notice::TicksRefused { why } => error!(
            partition,
            error = why,
            "the log refuses ticks: messages of quiet groups wait for the next packet of the partition; allow deliver to write to the packets topic"
        ),
        Notice::TicksResumed => info!(partition, "the log accepts ticks again"),
        Notice::Excused { reason, messages } => excused(partition, *reason, *messages),
        Notice::AttemptsCutOff => info!(
            partition,
            "the time for attempts in flight is over: they are aborted, and their messages are sent again after the next start, or by the partition's next owner"
        ),
        Notice::LastSaveCutOff => warn!(
            partition,
            "the last checkpoint couldn't be saved in time: messages that have settled since the one before are sent again"
        ),
        Notice::Suspended { .. } | Notice::SuspensionOver { .. } => {}
    }
}

/// Logs that records may come under a second id, and why.
pub(super) fn excused(partition: u32, reason: Excuse, messages: u64) {
    let why = match reason {
        Excuse::Checkpoint => "the checkpoint is missing, unreadable, or not the one that belongs to the watermark",
        Excuse::AnotherLog => "the log isn't the one that the checkpoint speaks of",
        Excuse::CutRules => "the rules by which the webhook's messages are cut changed around a crash",
    };
    warn!(partition, messages, reason = reason.name(), "packets may be sent under a second webhook-id: {why}");
}
