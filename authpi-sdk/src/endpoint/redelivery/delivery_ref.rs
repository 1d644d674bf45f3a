//! Whether a delivery is over.

use crate::client::{DeliveryStatus, WebhookDelivery};

/// How a delivery that is over ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Succeeded,
    Failed,
    /// With a status that this version does not know.
    Unknown,
}

/// None while it goes on. A failure that was there before it was sent again, after as many
/// attempts, is no end.
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
