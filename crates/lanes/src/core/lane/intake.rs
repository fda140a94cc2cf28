//! What becomes of a lane's next record (docs/delivery.md, Reload): it goes into a message of the group's webhook, waits for one, or becomes a dead letter.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pushline_model::GroupId;

use super::Lane;
use crate::webhooks::WebhookHandle;

/// The window length of a group whose webhook this process has never known (document rule 1).
pub(super) const DOCUMENTS_WINDOW: Duration = Duration::from_secs(1);

/// What becomes of a lane's next record.
#[derive(Debug)]
pub(in crate::core) enum Intake {
    /// It goes into a message of this webhook.
    Taking(Arc<WebhookHandle>),
    /// It waits: this process knows no webhook of the group since then.
    UnknownGroup { since: Instant, last: LastRules },
    /// It becomes a dead letter: the group has had no webhook for too long.
    NoWebhook { last: LastRules },
    /// It becomes a dead letter: no group can be read from it.
    Unreadable,
}

/// What was known last of the cut rules of a group without webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) struct LastRules {
    pub(in crate::core) window: Duration,
    pub(in crate::core) hash: Option<u64>,
}

// === impl LastRules ===

impl LastRules {
    /// Nothing is known.
    pub(in crate::core) const UNKNOWN: Self = Self { window: DOCUMENTS_WINDOW, hash: None };
}

// === impl Intake ===

impl Intake {
    /// Of a group with this webhook; without one it waits from now on.
    pub(in crate::core) fn new(group: &GroupId, handle: Option<Arc<WebhookHandle>>, last: LastRules, now: Instant) -> Self {
        match handle {
            _ if *group == GroupId::none() => Self::Unreadable,
            Some(handle) => Self::Taking(handle),
            None => Self::UnknownGroup { since: now, last },
        }
    }

    pub(in crate::core) fn handle(&self) -> Option<&Arc<WebhookHandle>> {
        if let Self::Taking(handle) = self { Some(handle) } else { None }
    }

    pub(in crate::core) fn last_rules(&self) -> LastRules {
        match self {
            Self::Taking(handle) => LastRules { window: handle.rules.window, hash: Some(handle.rules_hash) },
            Self::UnknownGroup { last, .. } | Self::NoWebhook { last } => *last,
            Self::Unreadable => LastRules::UNKNOWN,
        }
    }
}

// === impl Lane ===

impl Lane {
    /// Whether its next record becomes a dead letter: only a catch-up read makes them.
    pub(in crate::core) fn becomes_dead_letters(&self) -> bool {
        matches!(self.intake, Intake::NoWebhook { .. } | Intake::Unreadable) || self.dead_lettered_window().is_some()
    }

    pub(in crate::core) fn is_unresponsive(&self) -> bool {
        self.intake.handle().is_some_and(|handle| handle.is_unresponsive())
    }

    pub(in crate::core) fn is_suspended(&self) -> bool {
        self.intake.handle().is_some_and(|handle| handle.budgets.suspension.is_on())
    }
}
