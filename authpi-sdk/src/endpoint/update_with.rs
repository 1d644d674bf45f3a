//! Read, modify, write: a change that depends on the current state, without lost updates.

use std::{fmt, future::IntoFuture, pin::Pin, time::Duration};

use crate::{
    backoff,
    client::{
        ETag, Error, Updated, Webhook, WebhookPatch, Webhooks, WithETag, transport::Response,
    },
    generated::api::operations,
};

/// The default of [`UpdateWith::rounds`].
pub const DEFAULT_ROUNDS: u32 = 5;

const BACKOFF_INITIAL: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

impl Webhooks {
    /// Reads a webhook, calls `change` with it, and writes the returned patch. If another caller
    /// has changed the webhook meanwhile, it starts again.
    ///
    /// `change` returns a [`WebhookPatch`], or `None` if there is nothing to do. It is called in
    /// each round. There are at most [`DEFAULT_ROUNDS`] rounds ([`UpdateWith::rounds`]). Between
    /// rounds, there is a random pause. Its maximum is 20 ms at first, and doubles until it is 1 s.
    /// Each API call has the client's timeout.
    ///
    /// `change` must be idempotent: it should set the desired value, not extend the current one. If
    /// the answer to a write is lost and another caller changes the webhook before it is read
    /// again, it is unknown whether the write took place, and the next round writes again.
    ///
    /// The write has `If-Match`. An ETag of AuthPI is a time in milliseconds, so if two changes
    /// happen within one millisecond, the first may be lost.
    ///
    /// # Errors
    /// As `get` and `update`. If the last round was refused too, the error is
    /// [`Error::is_precondition_failed`]. A webhook without an ETag cannot be changed this way
    /// ([`Error::is_malformed_response`]).
    ///
    /// ```no_run
    /// use authpi_sdk::client::{WebhookPatch, WebhookStatus};
    ///
    /// # async fn example(authpi: authpi_sdk::Client) -> Result<(), authpi_sdk::client::Error> {
    /// let edited = authpi
    ///     .webhooks()
    ///     .update_with("wh_1", |webhook| {
    ///         (webhook.status == Some(WebhookStatus::Failing)).then(|| WebhookPatch::new().enable())
    ///     })
    ///     .await?;
    /// println!("{:?}", edited.webhook().status);
    /// # Ok(())
    /// # }
    /// ```
    pub fn update_with<'c, P: Into<Option<WebhookPatch>>>(
        &self,
        webhook_id: impl Into<String>,
        mut change: impl FnMut(&Webhook) -> P + Send + 'c,
    ) -> UpdateWith<'c> {
        let change = Box::new(move |webhook: &Webhook| change(webhook).into());
        UpdateWith {
            webhooks: self.clone(),
            webhook_id: webhook_id.into(),
            change,
            rounds: DEFAULT_ROUNDS,
        }
    }
}

type Change<'c> = Box<dyn FnMut(&Webhook) -> Option<WebhookPatch> + Send + 'c>;

/// A change that is made when it is awaited: see [`Webhooks::update_with`].
#[must_use = "does nothing until awaited"]
pub struct UpdateWith<'c> {
    webhooks: Webhooks,
    webhook_id: String,
    change: Change<'c>,
    rounds: u32,
}

impl UpdateWith<'_> {
    /// The maximum number of rounds; at least one. Default: [`DEFAULT_ROUNDS`].
    pub fn rounds(self, rounds: u32) -> Self {
        Self {
            rounds: rounds.max(1),
            ..self
        }
    }
}

impl fmt::Debug for UpdateWith<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateWith")
            .field("webhook_id", &self.webhook_id)
            .field("rounds", &self.rounds)
            .finish_non_exhaustive()
    }
}

/// The result of [`Webhooks::update_with`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum UpdateOutcome {
    /// The webhook was changed.
    Updated(Updated),
    /// There was nothing to do.
    Unchanged(WithETag<Webhook>),
}

impl UpdateOutcome {
    /// The current webhook.
    pub fn webhook(&self) -> &Webhook {
        match self {
            Self::Updated(updated) => &updated.webhook,
            Self::Unchanged(got) => &got.value,
        }
    }

    /// Its ETag, for [`Call::if_match`](crate::client::Call::if_match).
    pub fn etag(&self) -> Option<&ETag> {
        match self {
            Self::Updated(updated) => updated.etag.as_ref(),
            Self::Unchanged(got) => got.etag.as_ref(),
        }
    }

    /// Whether anything was written.
    pub fn is_updated(&self) -> bool {
        matches!(self, Self::Updated(_))
    }
}

impl<'c> IntoFuture for UpdateWith<'c> {
    type Output = Result<UpdateOutcome, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self {
            webhooks,
            webhook_id,
            mut change,
            rounds,
        } = self;
        Box::pin(async move {
            let mut round = 0;
            loop {
                let got = webhooks.get(&webhook_id).await?;
                let Some(patch) = change(&got.value) else {
                    return Ok(UpdateOutcome::Unchanged(got));
                };
                let Some(etag) = &got.etag else {
                    let without = Error::malformed("the webhook has no ETag", Response::default());
                    return Err(without.during(operations::WEBHOOKS_GET.id));
                };
                match webhooks.update(&webhook_id, &patch).if_match(etag).await {
                    Ok(updated) => return Ok(UpdateOutcome::Updated(updated)),
                    Err(error) if error.is_precondition_failed() && round + 1 < rounds => {
                        backoff::sleep_before_round(round, BACKOFF_INITIAL, BACKOFF_MAX).await;
                        round += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    }
}
