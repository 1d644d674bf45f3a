//! Signs in AuthPI's data that an event was not delivered.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Shared, error::Kind};
use crate::client::{DeliveryStatus, WebhookStatus};

/// The signs that were known at the end of the last complete run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The newest failed delivery.
    failed: Option<Timestamp>,
    /// When the webhook was created or last changed its status, whichever is later. If a check
    /// finds a later time than this one, that is a sign: the webhook was not active for some time,
    /// or it has replaced another webhook, whose failed deliveries are not listed under the new
    /// one.
    as_it_is_since: Option<Timestamp>,
    /// The number of checks while the webhook was not active. Deliveries may then be missing at any
    /// time, so each check is a new sign.
    looks_while_inactive: u64,
}

impl Seen {
    /// Whether the newest sign is at least one overlap older than `now`. All events that the signs
    /// point to are then in the log, and a run that begins at `now` finds them.
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
    /// The current signs. They differ from `seen` if there are new ones.
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
        // Other events may have advanced the watermark beyond a sign whose events are not in the
        // log yet.
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
        // One page is enough to show whether there are failed deliveries since `after`. The others
        // need not be listed: the run reads the event log.
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
