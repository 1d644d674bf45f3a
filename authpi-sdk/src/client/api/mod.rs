//! AuthPI's resources, one file each, and the types of its answers.

pub(crate) mod compare;
mod deliveries;
mod events;
mod infer;
mod patch;
mod spec;
mod webhooks;

pub use deliveries::{ListDeliveries, Redeliver, RedeliverFailed};
pub(crate) use events::ListAsWritten;
pub use events::{AggregateEvents, Events, GetEvent, ListEvents};
pub use infer::Applied;
pub use patch::Patch;
pub use spec::{DeliveryAuth, WebhookPatch, WebhookSpec};
pub use webhooks::{
    CreateWebhook, Created, DeleteWebhook, Deleted, GetWebhook, ListWebhooks, UpdateWebhook,
    Updated, Webhooks,
};

pub use crate::generated::api::types::{
    AuthType, BearerAuth, BearerSignatureAuth, CallerAccountAccess, CallerOrganizationAccess,
    CallerType, DeliveryStatus, ErrorCode, Event as LoggedEvent, EventAggregate, FieldError, Me,
    NoneAuth, RedeliverFailedResult, RedeliveredWebhookDelivery, SettableWebhookStatus,
    SignatureAlgorithm, SignatureAuth, UnknownAuthType, UnknownCallerType, UnknownDeliveryStatus,
    UnknownErrorCode, UnknownSignatureAlgorithm, UnknownWebhookAuth, UnknownWebhookStatus, Webhook,
    WebhookAuth, WebhookDelivery, WebhookListItem, WebhookStatus,
};
