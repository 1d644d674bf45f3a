//! Finds the webhook of a spec.

use super::discover::Standing;
use crate::client::{Error, Webhook, WebhookSpec, Webhooks, WithETag};

impl Webhooks {
    /// The webhook of the spec's name and URL: the one that [`ensure`](Webhooks::ensure) maintains,
    /// whatever its current id. If none has our mark, the oldest one with that name and URL. `None`
    /// if there is none. Changes nothing; only the name and URL of the spec matter.
    ///
    /// During a [rotation](Webhooks::rotate), it is the one that will be replaced.
    ///
    /// Calls: one list, and a `get` for each webhook with that name and URL.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn find(&self, spec: &WebhookSpec) -> Result<Option<WithETag<Webhook>>, Error> {
        let Standing { head, others, .. } =
            Standing::look(self, &spec.name, &spec.url, &[]).await?;
        let oldest = || {
            others
                .into_iter()
                .min_by_key(|got| (got.value.created_at, got.value.id.clone()))
        };
        Ok(head.map(|ours| ours.got).or_else(oldest))
    }
}
