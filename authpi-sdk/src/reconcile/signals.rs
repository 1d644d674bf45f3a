//! Whether AuthPI shows that something was not delivered.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Shared, error::Kind};
use crate::client::{DeliveryStatus, WebhookStatus};

/// The signs that were seen by the time of the last run that came to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The newest delivery that failed.
    failed: Option<Timestamp>,
    /// Since when the webhook is there, with its status. One that took another's place shows none
    /// of the other's failures.
    as_it_is_since: Option<Timestamp>,
    /// While it is not active, nothing may be delivered at any time, so each look is another sign.
    looks_while_inactive: u64,
}

impl Seen {
    /// Whether the log has had the time to hold all that these signs are about, when a run begins
    /// `now`.
    pub(super) fn is_settled(&self, now: Timestamp, overlap: Duration) -> bool {
        let newest = self.failed.max(self.as_it_is_since);
        newest.is_none_or(|newest| later(newest, overlap) <= now)
    }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| at.saturating_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| at.saturating_sub(by).ok())
        .unwrap_or(Timestamp::MIN)
}

impl Shared {
    /// The signs now; others than `seen` if there are new ones.
    pub(super) async fn missed(&self, seen: &Seen) -> Result<Seen, Kind> {
        let webhook = self.webhook.look(&self.client).await?;
        let is_active = webhook
            .status
            .is_none_or(|status| status == WebhookStatus::Active);
        let mut now = seen.clone();
        now.looks_while_inactive += u64::from(!is_active);
        let created_at = webhook.created_at.timestamp().ok();
        now.as_it_is_since = webhook
            .status_at
            .and_then(|at| at.timestamp().ok())
            .max(created_at);

        let watermark = self.watermark.load(self.receiver.endpoint()).await?;
        // Younger events may have drawn the watermark past a sign that is not settled yet.
        let watermark = watermark.map(|at| earlier(at, self.settings.overlap));
        let after = watermark.max(seen.failed).or(created_at);
        let mut call = self
            .client
            .webhooks()
            .deliveries(&webhook.id)
            .status(DeliveryStatus::Failed)
            .limit(100);
        if let Some(after) = after {
            call = call.after(after);
        }
        // One page tells that there are any. Those on further pages are seen at a next look.
        let newest = call
            .await?
            .items
            .into_iter()
            .filter_map(|delivery| delivery.created_at.timestamp().ok())
            .max();
        now.failed = seen.failed.max(newest);
        Ok(now)
    }
}
