//! One stored secret.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{UnixMillis, signature::Secret};

/// The secrets of one webhook.
///
/// `Debug` shows no secret. Serialized, **it contains the secrets in plain text**, because a store
/// needs that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoredSecret {
    /// The account that the webhook belongs to.
    pub account_id: String,
    /// The webhook's id.
    pub webhook_id: String,
    /// When the webhook was created, in Unix milliseconds by AuthPI's clock.
    pub created_at: UnixMillis,
    /// The secret that signs its deliveries, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// The bearer token of its deliveries, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<Secret>,
    /// The time until which the secrets are trusted, in Unix milliseconds by this machine's clock.
    /// `None`, unless the webhook was replaced or deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<UnixMillis>,
}

impl StoredSecret {
    /// The secrets of a webhook, without an expiry and initially empty.
    pub fn new(
        account_id: impl Into<String>,
        webhook_id: impl Into<String>,
        created_at: Timestamp,
    ) -> Self {
        Self {
            account_id: account_id.into(),
            webhook_id: webhook_id.into(),
            created_at: created_at.into(),
            secret: None,
            bearer_token: None,
            valid_until: None,
        }
    }

    pub(super) fn is_of(&self, account_id: &str, webhook_id: &str) -> bool {
        self.account_id == account_id && self.webhook_id == webhook_id
    }

    /// Replaces the entry of the same webhook, or adds one.
    pub(super) fn put_into(&self, all: &mut Vec<Self>) {
        match all
            .iter_mut()
            .find(|other| other.is_of(&self.account_id, &self.webhook_id))
        {
            Some(same) => same.clone_from(self),
            None => all.push(self.clone()),
        }
    }

    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.valid_until
            .is_some_and(|until| until < UnixMillis::from(now))
    }
}
