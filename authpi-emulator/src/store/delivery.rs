//! A delivery: one event for one webhook, in one or more attempts.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Event;

/// One delivery and its record.
pub(crate) struct Delivery {
    pub(crate) id: String,
    pub(crate) webhook_id: String,
    pub(crate) event: Arc<Event>,
    pub(crate) status: DeliveryStatus,
    pub(crate) attempt_count: u32,
    /// Attempts from the queue, without redeliveries.
    pub(super) from_queue: usize,
    pub(crate) attempt_budget: u32,
    pub(super) first_attempted_at: Option<i64>,
    pub(super) last_attempted_at: Option<i64>,
    pub(crate) next_attempt_at: Option<i64>,
    pub(super) workflow_id: String,
    pub(super) last_error: Option<String>,
    pub(super) last_response_status: Option<u16>,
    pub(crate) created_at: i64,
    pub(super) updated_at: Option<i64>,
    /// Whether an attempt is in progress.
    pub(crate) under_way: bool,
    /// Whether it is in the store's list of finished deliveries.
    pub(super) noted_as_over: bool,
    /// The envelope's id, kept from the first attempt to the last.
    pub(crate) envelope_id: Option<String>,
    /// The envelope's bytes, which follow from its id and the event.
    pub(crate) envelope: Option<Bytes>,
}

/// The status of a delivery. AuthPI does not document its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeliveryStatus {
    Pending,
    Succeeded,
    Failed,
}

impl DeliveryStatus {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// The longest pause that a receiver can request.
const MAX_PAUSE: Duration = Duration::from_hours(24);

/// The result of one attempt.
pub(crate) struct Attempted {
    /// When it started, in Unix milliseconds.
    pub(crate) at: i64,
    /// Whether it was requested, outside of the queue.
    pub(crate) is_redelivery: bool,
    /// The status of the response, if there was one.
    pub(crate) status: Option<u16>,
    /// Why it is not an acknowledgement.
    pub(crate) error: Option<String>,
    /// The pause that the receiver requests instead of the next delay.
    pub(crate) retry_after: Option<Duration>,
}

/// What an attempt means for the webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Received,
    /// The attempt does not count for the webhook: a further one follows, it was a redelivery, or
    /// the delivery had already ended.
    Uncounted,
    GivenUp,
}

impl Delivery {
    pub(crate) fn new(
        id: String,
        webhook_id: String,
        event: Arc<Event>,
        attempt_budget: u32,
        now: i64,
    ) -> Self {
        let workflow_id = format!("wf_{}", id.trim_start_matches("whd_"));
        Self {
            id,
            webhook_id,
            event,
            status: DeliveryStatus::Pending,
            attempt_count: 0,
            from_queue: 0,
            attempt_budget,
            first_attempted_at: None,
            last_attempted_at: None,
            next_attempt_at: Some(now),
            workflow_id,
            last_error: None,
            last_response_status: None,
            created_at: now,
            updated_at: None,
            under_way: false,
            noted_as_over: false,
            envelope_id: None,
            envelope: None,
        }
    }

    pub(super) fn attempted(
        &mut self,
        attempted: Attempted,
        delays: &[Duration],
        now: i64,
    ) -> Verdict {
        self.under_way = false;
        self.attempt_count += 1;
        self.first_attempted_at.get_or_insert(attempted.at);
        self.last_attempted_at = Some(attempted.at);
        self.last_response_status = attempted.status;
        self.touch(now);
        let failed = attempted.error.is_some();
        self.last_error = attempted.error;
        if !failed {
            self.close(DeliveryStatus::Succeeded);
            return Verdict::Received;
        }
        if self.next_attempt_at.is_none() {
            // A redelivery of a finished delivery, or an attempt of one that was given up
            // meanwhile.
            self.close(DeliveryStatus::Failed);
            return Verdict::Uncounted;
        }
        if attempted.is_redelivery {
            // Retries in the queue stay in the queue.
            return Verdict::Uncounted;
        }
        let delay = delays.get(self.from_queue);
        self.from_queue += 1;
        let Some(delay) = delay else {
            self.close(DeliveryStatus::Failed);
            return Verdict::GivenUp;
        };
        let delay = attempted.retry_after.unwrap_or(*delay).min(MAX_PAUSE);
        self.next_attempt_at =
            Some(now.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)));
        Verdict::Uncounted
    }

    pub(super) fn give_up(&mut self, why: &str, now: i64) {
        self.last_error = Some(why.to_owned());
        self.close(DeliveryStatus::Failed);
        self.touch(now);
    }

    fn close(&mut self, status: DeliveryStatus) {
        self.status = status;
        self.next_attempt_at = None;
        self.envelope_id = None;
        self.envelope = None;
    }

    /// `updated_at` grows with each change, even within a millisecond, because the `ETag` is
    /// derived from it.
    fn touch(&mut self, now: i64) {
        self.updated_at = Some(now.max(self.version() + 1));
    }

    /// Why the latest attempt was not an acknowledgement.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// The status of the latest response, if there was one.
    #[cfg(feature = "inspector")]
    pub(crate) fn last_status(&self) -> Option<u16> {
        self.last_response_status
    }

    pub(crate) fn version(&self) -> i64 {
        self.updated_at.unwrap_or(self.created_at)
    }

    pub(crate) fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "webhook_id": self.webhook_id,
            "event_id": self.event.id,
            "event_type": self.event.event_type,
            "status": self.status.as_str(),
            "attempt_count": self.attempt_count,
            "first_attempted_at": self.first_attempted_at,
            "last_attempted_at": self.last_attempted_at,
            "next_attempt_at": self.next_attempt_at,
            "retry_workflow_id": self.workflow_id,
            "attempt_budget": self.attempt_budget,
            "last_error": self.last_error,
            "last_response_status": self.last_response_status,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery() -> Delivery {
        let event = Event::new(
            "evt_1".into(),
            "user.created",
            0,
            "test",
            json!({}),
            json!({}),
        );
        Delivery::new("whd_1".into(), "wh_1".into(), Arc::new(event), 2, 0)
    }

    fn attempt(is_redelivery: bool, status: u16) -> Attempted {
        let error = (status != 200).then(|| format!("the receiver answered {status}"));
        Attempted {
            at: 0,
            is_redelivery,
            status: Some(status),
            error,
            retry_after: None,
        }
    }

    #[test]
    fn a_delivery_fails_when_its_attempts_are_used_up() {
        let mut delivery = delivery();
        let delays = [Duration::from_secs(5)];
        assert_eq!(
            delivery.attempted(attempt(false, 500), &delays, 1_000),
            Verdict::Uncounted
        );
        assert_eq!(delivery.next_attempt_at, Some(6_000));
        assert_eq!(
            delivery.attempted(attempt(false, 500), &delays, 6_000),
            Verdict::GivenUp
        );
        assert_eq!(
            (delivery.status, delivery.next_attempt_at),
            (DeliveryStatus::Failed, None)
        );
    }

    #[test]
    fn a_redelivery_that_fails_is_counted_and_leaves_the_plan_as_it_was() {
        let mut delivery = delivery();
        let delays = [Duration::from_secs(5)];
        delivery.attempted(attempt(false, 500), &delays, 0);
        delivery.attempted(attempt(true, 503), &delays, 10);
        assert_eq!(
            (delivery.attempt_count, delivery.next_attempt_at),
            (2, Some(5_000))
        );
        assert_eq!(delivery.status, DeliveryStatus::Pending);
        delivery.attempted(attempt(true, 200), &delays, 20);
        assert_eq!(
            (delivery.status, delivery.next_attempt_at),
            (DeliveryStatus::Succeeded, None)
        );
        assert_eq!(delivery.shown()["last_error"], Value::Null);
    }

    #[test]
    fn two_changes_within_a_millisecond_have_two_versions() {
        let mut delivery = delivery();
        let before = delivery.version();
        delivery.attempted(attempt(true, 500), &[], 0);
        let between = delivery.version();
        delivery.attempted(attempt(true, 500), &[], 0);
        assert!(before < between && between < delivery.version());
    }
}
