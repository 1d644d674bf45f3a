//! The outcome of one delivery.

use std::{fmt, future::IntoFuture, pin::Pin, time::Duration};

use tokio::time::Instant;

use super::{BACKOFF_INITIAL, BACKOFF_MAX, DEFAULT_TRACK_FOR, end::end};
use crate::{
    UnixMillis, backoff,
    client::{Error, RedeliveredWebhookDelivery, WebhookDelivery, Webhooks, transport::Response},
};

/// A delivery to wait for, from a [`WebhookDelivery`] or the answer of [`Webhooks::redeliver`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRef {
    webhook_id: String,
    id: String,
    event_type: String,
    created_at: UnixMillis,
}

macro_rules! from_delivery {
    ($($delivery:ty),*) => {$(
        impl From<&$delivery> for DeliveryRef {
            fn from(delivery: &$delivery) -> Self {
                Self {
                    webhook_id: delivery.webhook_id.clone(),
                    id: delivery.id.clone(),
                    event_type: delivery.event_type.clone(),
                    created_at: delivery.created_at,
                }
            }
        }
    )*};
}
from_delivery!(WebhookDelivery, RedeliveredWebhookDelivery);

impl Webhooks {
    /// Waits until a delivery has succeeded, or has failed without further attempts, and returns
    /// its record.
    ///
    /// [`redeliver`](Self::redeliver) itself waits for the attempt that it requests. Use this
    /// method for later attempts. It polls with random pauses. Their maximum is 250 ms at first,
    /// and doubles until it is 10 s.
    ///
    /// # Errors
    /// When a poll fails, or when the delivery no longer exists ([`Error::is_malformed_response`]).
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

    /// The current record of the delivery, from the list filtered by its type and time.
    async fn look_at(&self, watched: &DeliveryRef) -> Result<Option<WebhookDelivery>, Error> {
        let mut list = self
            .deliveries(&watched.webhook_id)
            .event_type(watched.event_type.as_str().into())
            .limit(100);
        // AuthPI does not document whether the bounds are inclusive. With a margin on each side,
        // that does not matter.
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

/// A wait that begins when it is awaited: see [`Webhooks::outcome`]. Resolves to `None` if the time
/// limit passes first.
#[must_use = "does nothing until awaited"]
pub struct DeliveryOutcome {
    webhooks: Webhooks,
    delivery: DeliveryRef,
    /// The number of attempts before the redelivery.
    before: Option<i64>,
    within: Duration,
}

impl DeliveryOutcome {
    /// Ignores a failure with at most this many attempts, since it is from before the redelivery.
    /// For a redelivery whose answer was lost, with the count from an earlier list.
    pub fn after_attempts(self, attempt_count: i64) -> Self {
        Self {
            before: Some(attempt_count),
            ..self
        }
    }

    /// The time limit. Default: [`DEFAULT_TRACK_FOR`] (5 min). It polls at least once.
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
