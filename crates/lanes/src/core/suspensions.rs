//! Suspension (docs/delivery.md, Suspension): what a partition holds of a webhook whose server asked to be left alone.

use std::{sync::Arc, time::Instant};

use super::{Core, Effects, Notice};
use crate::{budgets::Budgets, webhooks::WebhookHandle};

impl Core {
    /// Suspensions end when their time is over, and what this partition holds of webhooks that another one suspended is evicted.
    pub(super) fn follow_suspensions(&mut self, now: Instant, budgets: &Budgets, effects: &mut Effects) {
        for ended in budgets.suspensions().end_due(now) {
            // The registry may know the webhook no longer.
            let webhook = self.webhooks.suspended_by(&ended).map(|handle| handle.webhook.name.clone());
            effects.notices.extend(webhook.map(|webhook| Notice::SuspensionOver { webhook }));
        }
        let begun = budgets.suspensions().begun();
        if begun != self.suspensions {
            let since = std::mem::replace(&mut self.suspensions, begun);
            let webhooks = Arc::clone(&self.webhooks);
            webhooks.suspended_after(since).for_each(|handle| self.evict_of_suspended(handle, now));
        }
    }

    /// The webhook's suspension began here, as number `begun` of the process.
    pub(super) fn suspended(&mut self, handle: &WebhookHandle, begun: u64, now: Instant) {
        // Where another one began meanwhile, the next event looks for both.
        self.suspensions += u64::from(begun == self.suspensions + 1);
        self.evict_of_suspended(handle, now);
    }

    /// What backs off keeps its body until its delay is over.
    fn evict_of_suspended(&mut self, handle: &WebhookHandle, now: Instant) {
        for key in self.lanes_of(handle) {
            self.lanes[key].evict_pausing(|until| until <= now);
            self.evict(key);
        }
    }
}
