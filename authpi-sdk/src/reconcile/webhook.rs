//! Whose events are reconciled.

use super::error::Kind;
use crate::client::{Client, Webhook, WebhookSpec};

/// Names a webhook: by its id, or by the spec that a service
/// [declares](crate::client::Webhooks::ensure).
///
/// An id is one webhook for ever. A spec is whatever webhook has its name and URL at the time
/// ([`find`](crate::client::Webhooks::find)): also after another took its place, as by a
/// [rotation](crate::client::Webhooks::rotate).
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
    /// The webhook as it is now.
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
