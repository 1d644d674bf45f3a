//! Decides whether a delivery has ended.

use crate::client::{DeliveryStatus, WebhookDelivery};

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Succeeded,
    Failed,
    /// With a status that this version does not know.
    Unknown,
}

/// How the delivery ended; `None` while it continues. A failure from before the redelivery, with
/// the same number of attempts, does not count.
pub(super) fn end(delivery: &WebhookDelivery, failed_attempts_before: Option<i64>) -> Option<End> {
    match &delivery.status {
        DeliveryStatus::Succeeded => Some(End::Succeeded),
        DeliveryStatus::Failed => (failed_attempts_before
            .is_none_or(|before| delivery.attempt_count > before))
        .then_some(End::Failed),
        DeliveryStatus::Pending => None,
        _ => delivery.next_attempt_at.is_none().then_some(End::Unknown),
    }
}
