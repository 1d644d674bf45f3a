//! The webhook of a spec, as it is.

use super::discover::Standing;
use crate::client::{Error, Webhook, WebhookSpec, Webhooks, WithETag};

impl Webhooks {
    /// The webhook of the spec's name and URL: the one that [`ensure`](Webhooks::ensure) keeps,
    /// whatever its id is by now; where none carries our mark, the oldest of that name and URL.
    /// None if there is none. Nothing is changed, and nothing else of the spec counts.
    ///
    /// While a [rotation](Webhooks::rotate) is under way, it is the one that is about to be
    /// replaced.
    ///
    /// Calls: one list, and a `get` for each of that name and URL.
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
