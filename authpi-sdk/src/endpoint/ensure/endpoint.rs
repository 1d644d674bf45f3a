//! The result of [`ensure`](crate::client::Webhooks::ensure).

use std::fmt;

use super::Diff;
use crate::client::{ETag, Webhook};

/// The webhook of an endpoint, after [`ensure`](crate::client::Webhooks::ensure).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Endpoint {
    /// The webhook. `ensure` does not change its `status`: a paused webhook stays paused, and a
    /// failing one stays failing until it is enabled (`WebhookPatch::enable`).
    pub webhook: Webhook,
    /// Its ETag, for [`Call::if_match`](crate::client::Call::if_match).
    pub etag: Option<ETag>,
    /// The webhook that will replace it, during a [rotation](crate::client::Webhooks::rotate).
    pub successor: Option<Webhook>,
    /// The ids of deleted webhooks: duplicates created by other replicas at the same time, and
    /// replaced ones.
    pub removed: Vec<String>,
    /// The ids of webhooks with the same name and URL that the SDK does not manage and has not
    /// changed. They may deliver the same events a second time.
    pub others: Vec<String>,
}

/// What [`ensure`](crate::client::Webhooks::ensure) found and did. `Display` writes one line for
/// the log.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Ensured {
    /// There was no webhook, and this call created it.
    Created(Endpoint),
    /// It differed from the spec, and was changed.
    Updated(Endpoint, Diff),
    /// It matched the spec.
    Unchanged(Endpoint),
    /// Its secret was lost, and it was replaced by a webhook whose secret is saved
    /// ([`Ensure::renew_lost_secret`]).
    ///
    /// [`Ensure::renew_lost_secret`]: super::Ensure::renew_lost_secret
    Renewed(Endpoint),
}

impl Ensured {
    /// The webhook and related ids.
    pub fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Created(endpoint)
            | Self::Updated(endpoint, _)
            | Self::Unchanged(endpoint)
            | Self::Renewed(endpoint) => endpoint,
        }
    }
}

impl fmt::Display for Ensured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint {
            webhook,
            successor,
            removed,
            others,
            ..
        } = self.endpoint();
        let id = &webhook.id;
        match self {
            Self::Created(_) => write!(f, "webhook {id} created")?,
            Self::Updated(_, diff) => write!(f, "webhook {id} updated: {diff}")?,
            Self::Unchanged(_) => write!(f, "webhook {id} is up to date")?,
            Self::Renewed(_) => write!(f, "webhook {id} replaces one whose secret was lost")?,
        }
        if let Some(successor) = successor {
            write!(f, "; {} is replacing it", successor.id)?;
        }
        if !removed.is_empty() {
            write!(f, "; deleted {}", removed.join(", "))?;
        }
        if !others.is_empty() {
            write!(
                f,
                "; {} with the same name and URL are not managed by the SDK and were left unchanged",
                others.join(", ")
            )?;
        }
        Ok(())
    }
}
