//! The outcome of one delivery.

use std::{fmt, future::IntoFuture, pin::Pin, time::Duration};

use tokio::time::Instant;

use super::{BACKOFF_INITIAL, BACKOFF_MAX, DEFAULT_TRACK_FOR, delivery_ref::end};
use crate::{
    UnixMillis, backoff,
    client::{Error, RedeliveredWebhookDelivery, WebhookDelivery, Webhooks, transport::Response},
};

/// Which delivery to wait for: made of a [`WebhookDelivery`] or of what [`Webhooks::redeliver`]
/// gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRef {
    webhook_id: String,
    id: String,
    event_type: String,
    created_at: UnixMillis,
}

impl From<&WebhookDelivery> for DeliveryRef {
    fn from(delivery: &WebhookDelivery) -> Self {
        let WebhookDelivery {
            webhook_id,
            id,
            event_type,
            created_at,
            ..
        } = delivery;
        Self {
            webhook_id: webhook_id.clone(),
            id: id.clone(),
            event_type: event_type.clone(),
            created_at: *created_at,
        }
    }
}

impl From<&RedeliveredWebhookDelivery> for DeliveryRef {
    fn from(delivery: &RedeliveredWebhookDelivery) -> Self {
        let RedeliveredWebhookDelivery {
            webhook_id,
            id,
            event_type,
            created_at,
            ..
        } = delivery;
        Self {
            webhook_id: webhook_id.clone(),
            id: id.clone(),
            event_type: event_type.clone(),
            created_at: *created_at,
        }
    }
}

impl Webhooks {
    /// Waits until a delivery is over, and gives its record then: it succeeded, or failed with no
    /// attempt to come.
    ///
    /// [`redeliver`](Self::redeliver) itself waits for the one attempt that it asks for; this is
    /// for what is still to be tried again after it. It looks after pauses of up to 250 ms, doubled
    /// from look to look up to 10 s.
    ///
    /// # Errors
    /// When a look fails, or when the delivery is no longer there
    /// ([`Error::is_malformed_response`]).
    ///
    /// ```no_run
    /// # async fn example(authpi: authpi_sdk::Client) -> Result<(), authpi_sdk::client::Error> {
    /// let webhooks = authpi.webhooks();
    /// let sent = webhooks.redeliver("wh_1", "whd_1").await?.value;
    /// if !sent.success {
    ///     match webhooks.outcome(&sent).await? {
    ///         Some(over) => println!("{:?} after {} attempts", over.status, over.attempt_count),
    ///         None => println!("not over after five minutes"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn outcome(&self, delivery: impl Into<DeliveryRef>) -> DeliveryOutcome {
        DeliveryOutcome {
            webhooks: self.clone(),
            delivery: delivery.into(),
            before: None,
            within: DEFAULT_TRACK_FOR,
        }
    }

    /// The delivery as it is now: from the list, narrowed down to its type and time.
    async fn look_at(&self, watched: &DeliveryRef) -> Result<Option<WebhookDelivery>, Error> {
        let mut list = self
            .deliveries(&watched.webhook_id)
            .event_type(watched.event_type.as_str().into())
            .limit(100);
        // Whether the bounds are part of the range is not documented; a millisecond wider, it does
        // not matter.
        if let Ok(at) = watched.created_at.timestamp() {
            let around = jiff::SignedDuration::from_millis(2);
            if let (Ok(after), Ok(before)) = (at.checked_sub(around), at.checked_add(around)) {
                list = list.after(after).before(before);
            }
        }
        let mut listed = list.items();
        while let Some(delivery) = listed.next().await {
            let delivery = delivery?;
            if delivery.id == watched.id {
                return Ok(Some(delivery));
            }
        }
        Ok(None)
    }
}

/// A wait that begins when it is awaited: see [`Webhooks::outcome`]. It gives nothing when the time
/// is over first.
#[must_use = "does nothing until awaited"]
pub struct DeliveryOutcome {
    webhooks: Webhooks,
    delivery: DeliveryRef,
    /// How many attempts it had when it was sent again.
    before: Option<i64>,
    within: Duration,
}

impl DeliveryOutcome {
    /// A failure that is there with no more attempts than `attempt_count` says is not its end: that
    /// is how it was before it was sent again. For a redelivery whose answer did not come, with the
    /// count that was listed before.
    pub fn after_attempts(self, attempt_count: i64) -> Self {
        Self {
            before: Some(attempt_count),
            ..self
        }
    }

    /// How long to wait at most; [`DEFAULT_TRACK_FOR`] (5 min) if not given. There is one look in
    /// any case.
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }
}

impl fmt::Debug for DeliveryOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryOutcome")
            .field("delivery", &self.delivery)
            .field("before", &self.before)
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

impl IntoFuture for DeliveryOutcome {
    type Output = Result<Option<WebhookDelivery>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let until = crate::client::transport::call::deadline(self.within);
            for round in 0.. {
                let Some(delivery) = self.webhooks.look_at(&self.delivery).await? else {
                    let gone =
                        Error::malformed("the delivery is not in the list", Response::default());
                    return Err(
                        gone.during(crate::generated::api::operations::WEBHOOKS_LIST_DELIVERIES.id)
                    );
                };
                if end(&delivery, self.before).is_some() {
                    return Ok(Some(delivery));
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                backoff::sleep_before_round(round, BACKOFF_INITIAL, BACKOFF_MAX.min(left)).await;
            }
            Ok(None)
        })
    }
}
