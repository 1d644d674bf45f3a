//! Which webhook is reconciled.

use super::error::Kind;
use crate::client::{Client, Webhook, WebhookSpec};

/// A webhook: by its id, or by the spec with which a service
/// [declares](crate::client::Webhooks::ensure) it.
///
/// An id always refers to the same webhook. A spec refers to the current webhook with its name and
/// URL ([`find`](crate::client::Webhooks::find)), including one that replaced another, for example
/// after a [rotation](crate::client::Webhooks::rotate).
#[derive(Clone, Debug)]
pub struct WebhookRef(By);

#[derive(Clone, Debug)]
enum By {
    Id(String),
    Spec(Box<WebhookSpec>),
}

impl From<String> for WebhookRef {
    fn from(id: String) -> Self {
        Self(By::Id(id))
    }
}

impl From<&String> for WebhookRef {
    fn from(id: &String) -> Self {
        id.as_str().into()
    }
}

impl From<&str> for WebhookRef {
    fn from(id: &str) -> Self {
        id.to_owned().into()
    }
}

impl From<WebhookSpec> for WebhookRef {
    fn from(spec: WebhookSpec) -> Self {
        Self(By::Spec(Box::new(spec)))
    }
}

impl From<&WebhookSpec> for WebhookRef {
    fn from(spec: &WebhookSpec) -> Self {
        spec.clone().into()
    }
}

impl WebhookRef {
    /// The webhook's current state.
    pub(super) async fn look(&self, client: &Client) -> Result<Webhook, Kind> {
        match &self.0 {
            By::Id(id) => Ok(client.webhooks().get(id).await?.value),
            By::Spec(spec) => Ok(client
                .webhooks()
                .find(spec)
                .await?
                .ok_or(Kind::NoWebhook)?
                .value),
        }
    }
}
