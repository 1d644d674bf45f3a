//! The typed client for AuthPI's webhook endpoints, deliveries and event log.
//!
//! ```no_run
//! use authpi_sdk::{client::{Client, WebhookSpec}, event::EventType};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let authpi = Client::from_env()?;
//! let spec = WebhookSpec::new("users", "https://example.com/hooks/authpi").events([EventType::UserCreated]).signed();
//! let made = authpi.webhooks().create(&spec).await?;
//! // The secret is shown this once: keep it where the receiver finds it.
//! let secret = made.secret.ok_or("a signed webhook comes with a secret")?;
//! # let _ = secret;
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::builder`] takes the credential and says at once what is wrong with the settings; nothing here panics. A client is
//! cheap to clone, and its clones share connections. [`Client::webhooks`], [`Client::events`] and [`Client::whoami`] lead to
//! the operations. Each of them gives a [`Call`]: it can be given options (a deadline, an idempotency key, an ETag) and runs
//! when it is awaited. All calls take one way, in `call.rs`: check the arguments, find the account, send under one deadline,
//! and turn whatever comes back into a value or an [`Error`] that says whether the server may have acted.
//!
//! What it does not do: it sends each call once, and leaves repeating to its caller; it follows no redirect, since a
//! credential must not travel to an address that nobody configured.

mod account;
mod answer;
mod builder;
mod call;
mod connection;
mod deliveries;
mod error;
mod etag;
mod events;
mod idempotency;
mod ids;
mod page;
mod patch;
mod spec;
mod tls;
mod webhooks;

pub use account::WhoAmI;
pub use builder::{BuildError, Client, ClientBuilder, DEFAULT_BASE_URL, DEFAULT_TIMEOUT};
pub use call::{Call, Conditional, Keyed, Operation, Paged, Posted, Tagged};
pub(crate) use connection::Connection;
pub use deliveries::{ListDeliveries, Redeliver, RedeliverFailed};
pub use error::Error;
pub use etag::{ETag, InvalidETag};
pub use events::{AggregateEvents, Events, GetEvent, ListEvents};
pub use page::Page;
pub use patch::Patch;
pub use spec::{DeliveryAuth, WebhookPatch, WebhookSpec};
pub use webhooks::{CreateWebhook, Created, DeleteWebhook, GetWebhook, ListWebhooks, UpdateWebhook, Updated, Webhooks};

pub use crate::generated::api::types::{
    AuthType, BearerAuth, BearerSignatureAuth, CallerAccountAccess, CallerOrganizationAccess, CallerType,
    DeliveryStatus, ErrorCode, Event as LoggedEvent, EventAggregate, FieldError, Me, NoneAuth, RedeliverFailedResult,
    RedeliveredWebhookDelivery, SettableWebhookStatus, SignatureAlgorithm, SignatureAuth, UnknownAuthType,
    UnknownCallerType, UnknownDeliveryStatus, UnknownErrorCode, UnknownSignatureAlgorithm, UnknownWebhookAuth,
    UnknownWebhookStatus, Webhook, WebhookAuth, WebhookDelivery, WebhookListItem, WebhookStatus,
};
