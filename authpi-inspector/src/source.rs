//! What there is to show and to do.

use std::{
    fmt,
    future::{Ready, ready},
    time::Duration,
};

use authpi_sdk::signature::Secret;
use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;

/// The parts of the page. A source has some or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tab {
    /// Deliveries and their attempts.
    Deliveries,
    /// Webhooks.
    Webhooks,
    /// The event log, and triggering events.
    Events,
    /// Faults that are injected into deliveries and calls.
    Faults,
}

impl Tab {
    /// All tabs, in the order of the page.
    pub const ALL: [Self; 4] = [Self::Deliveries, Self::Webhooks, Self::Events, Self::Faults];

    /// The first segment of its paths.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries",
            Self::Webhooks => "webhooks",
            Self::Events => "events",
            Self::Faults => "faults",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Deliveries => "Deliveries",
            Self::Webhooks => "Webhooks",
            Self::Events => "Events",
            Self::Faults => "Faults",
        }
    }
}

/// What a page shows, and what its buttons do.
///
/// Lists are newest first. An id continues a list after the item with this id, also when the item
/// has been dropped meanwhile.
///
/// A source without a [tab](Self::tabs) does not need the methods of that tab.
pub trait Source: Send + Sync + 'static {
    /// Its name, in the title of each page.
    fn name(&self) -> String;

    /// The tabs that it has; at least one (default: all).
    fn tabs(&self) -> &[Tab] {
        &Tab::ALL
    }

    /// Receives each change of what is shown.
    fn changes(&self) -> watch::Receiver<()>;

    /// The known event types.
    fn event_types(&self) -> Vec<String>;

    /// All webhooks.
    fn webhooks(&self) -> impl Future<Output = Result<Vec<Webhook>, Problem>> + Send {
        absent()
    }

    /// Creates a webhook. Returns its id and its secrets.
    fn create_webhook(
        &self,
        _webhook: NewWebhook,
    ) -> impl Future<Output = Result<(String, Secrets), Problem>> + Send {
        absent()
    }

    /// Changes or deletes a webhook. Returns the secrets that are new.
    fn change_webhook(
        &self,
        _id: &str,
        _action: WebhookAction,
    ) -> impl Future<Output = Result<Secrets, Problem>> + Send {
        absent()
    }

    /// A page of at most [`PAGE`](crate::PAGE) deliveries that are older than `before`.
    fn deliveries(
        &self,
        filter: &DeliveryFilter,
        before: Option<&str>,
    ) -> impl Future<Output = Result<Page<DeliveryRow>, Problem>> + Send;

    /// One delivery with its attempts.
    fn delivery(&self, id: &str) -> impl Future<Output = Result<Delivery, Problem>> + Send;

    /// Starts another attempt of a delivery. It does not wait for the response.
    fn resend(&self, id: &str) -> impl Future<Output = Result<(), Problem>> + Send;

    /// A page of at most [`PAGE`](crate::PAGE) events that are older than `before`.
    fn events(
        &self,
        _filter: &EventFilter,
        _before: Option<&str>,
    ) -> impl Future<Output = Result<Page<EventRow>, Problem>> + Send {
        absent()
    }

    /// One event.
    fn event(&self, _id: &str) -> impl Future<Output = Result<Event, Problem>> + Send {
        absent()
    }

    /// What an event of this type looks like.
    fn example(&self, _event_type: &str) -> Example {
        Example::default()
    }

    /// Creates an event. Returns its id.
    fn trigger(&self, _event: NewEvent) -> impl Future<Output = Result<String, Problem>> + Send {
        absent()
    }

    /// The faults, in the order in which they are looked at.
    fn faults(&self) -> impl Future<Output = Result<Vec<Fault>, Problem>> + Send {
        absent()
    }

    /// The kinds of faults, and what the form asks for.
    fn fault_kinds(&self) -> Vec<FaultKind> {
        Vec::new()
    }

    /// Adds a fault, after the present ones.
    fn add_fault(&self, _fault: NewFault) -> impl Future<Output = Result<(), Problem>> + Send {
        absent()
    }

    /// Removes a fault.
    fn remove_fault(&self, _id: &str) -> impl Future<Output = Result<(), Problem>> + Send {
        absent()
    }
}

/// The answer of a tab that the source does not have.
fn absent<T>() -> Ready<Result<T, Problem>> {
    ready(Err(Problem::not_found("page")))
}

/// Why something was not done. It is shown, so it contains no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Whether the webhook, delivery or event does not exist.
    pub not_found: bool,
    /// What failed and what to do.
    pub message: String,
}

impl Problem {
    /// Something that was refused or failed.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            not_found: false,
            message: message.into(),
        }
    }

    /// `what` does not exist.
    pub fn not_found(what: &str) -> Self {
        Self {
            not_found: true,
            message: format!("{what} not found"),
        }
    }
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items, newest first.
    pub items: Vec<T>,
    /// Whether older items follow.
    pub has_more: bool,
}

/// A webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where deliveries are sent.
    pub url: String,
    /// Such as `active`.
    pub status: String,
    /// Why it has this status.
    pub reason: Option<String>,
    /// How deliveries are authenticated: the API's name, such as `signature`.
    pub auth: String,
    /// The event types that it subscribes to; `None` for all.
    pub events: Option<Vec<String>>,
    /// Why deliveries to it cannot succeed.
    pub warning: Option<String>,
}

impl Webhook {
    pub(crate) fn is_enabled(&self) -> bool {
        self.status != "disabled"
    }

    pub(crate) fn has_secrets(&self) -> bool {
        self.auth != "none"
    }
}

/// A webhook to create.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NewWebhook {
    /// Its name.
    pub name: String,
    /// Where deliveries are sent.
    pub url: String,
    /// The event types; none for all.
    pub events: Vec<String>,
    /// `none`, `signature`, `bearer` or `bearer+signature`.
    pub auth: String,
}

/// A change of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WebhookAction {
    /// Makes it active.
    Enable,
    /// Stops deliveries to it.
    Disable,
    /// Replaces its secrets.
    Rotate,
    /// Deletes it.
    Delete,
}

/// New secrets of a webhook. `Debug` does not show them.
#[derive(Clone, Default)]
pub struct Secrets {
    /// The secret of signatures.
    pub signature: Option<Secret>,
    /// The bearer token.
    pub bearer: Option<Secret>,
}

impl Secrets {
    /// From the texts of an API's response.
    pub fn new(signature: Option<&str>, bearer: Option<&str>) -> Self {
        Self {
            signature: signature.map(Secret::new),
            bearer: bearer.map(Secret::new),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.signature.is_none() && self.bearer.is_none()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// Which deliveries to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryFilter {
    /// Only of events of this type.
    pub event_type: Option<String>,
    /// Only with this status.
    pub status: Option<DeliveryStatus>,
    /// Only those that contain this text in an id, the webhook's name or URL, the payload or the
    /// last error.
    pub text: Option<String>,
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// An attempt will follow, or is in progress.
    Pending,
    /// It was acknowledged.
    Succeeded,
    /// No attempt will follow.
    Failed,
}

impl DeliveryStatus {
    pub(crate) const ALL: [Self; 3] = [Self::Pending, Self::Succeeded, Self::Failed];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// A delivery in a list.
#[derive(Clone, Debug)]
pub struct DeliveryRow {
    /// Its id.
    pub id: String,
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// The webhook's name.
    pub webhook: String,
    /// The webhook's URL.
    pub url: String,
    /// How far it is.
    pub status: DeliveryStatus,
    /// Whether an attempt is in progress.
    pub in_progress: bool,
    /// The number of attempts.
    pub attempts: u32,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the next attempt is due.
    pub next_attempt_at: Option<Timestamp>,
    /// The status of the last response.
    pub last_status: Option<u16>,
    /// Why the last attempt was not an acknowledgement.
    pub last_error: Option<String>,
}

/// A delivery with its attempts.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What the list shows.
    pub row: DeliveryRow,
    /// The recorded attempts, oldest first. Some or all may be missing.
    pub recorded: Vec<Attempt>,
    /// Why attempts are missing, if any are.
    pub missing: Option<String>,
}

/// An attempt of a delivery.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its number within the delivery, from 1.
    pub number: u32,
    /// When it started.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// Whether it was requested, in addition to the planned ones.
    pub is_resend: bool,
    /// Where it was sent.
    pub url: String,
    /// The headers of the request.
    pub headers: HeaderMap,
    /// The body of the request.
    pub body: Bytes,
    /// How it was signed.
    pub signature: Option<SignatureView>,
    /// The status of the response.
    pub status: Option<u16>,
    /// Why it was not an acknowledgement.
    pub error: Option<String>,
    /// The beginning of the response's body.
    pub answer: Bytes,
    /// Whether the response's body is longer.
    pub answer_cut: bool,
}

/// How a delivery was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureView {
    /// The header with the signature.
    pub header: String,
    /// The algorithm and what it is applied to, such as `HMAC-SHA256 of the body`.
    pub method: String,
    /// The signed bytes before the body.
    pub prefix: String,
}

/// Which events to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventFilter {
    /// Only of this type.
    pub event_type: Option<String>,
    /// Only those that contain this text in the id, the subject or the payload.
    pub text: Option<String>,
}

/// An event in a list.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// Its id.
    pub id: String,
    /// Its type.
    pub event_type: String,
    /// When it happened.
    pub at: Timestamp,
    /// What caused it.
    pub trigger: String,
    /// Whom and what it is about.
    pub subject: Value,
}

/// An event.
#[derive(Clone, Debug)]
pub struct Event {
    /// What the list shows.
    pub row: EventRow,
    /// The event as the API shows it.
    pub shown: Value,
}

/// What an event looks like.
#[derive(Clone, Debug, Default)]
pub struct Example {
    /// Its subject.
    pub subject: Value,
    /// Its payload.
    pub data: Value,
}

/// An event to create.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewEvent {
    /// Its type.
    pub event_type: String,
    /// Whom and what it is about.
    pub subject: Value,
    /// Its payload.
    pub data: Value,
}

impl NewEvent {
    pub(crate) fn new(event_type: String, subject: Value, data: Value) -> Self {
        Self {
            event_type,
            subject,
            data,
        }
    }
}

/// What a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultTarget {
    /// Attempts of deliveries.
    Deliveries,
    /// Calls of the API.
    Calls,
}

impl FaultTarget {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Deliveries => "Deliveries",
            Self::Calls => "API",
        }
    }
}

/// A fault in the list.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its id, until it is removed.
    pub id: String,
    /// What it is about.
    pub target: FaultTarget,
    /// The name of its kind.
    pub kind: String,
    /// Its values, and what it is limited to, by name.
    pub values: Vec<(String, String)>,
    /// How often it was applied.
    pub applied: u32,
    /// How often it is applied at most.
    pub times: Option<u32>,
}

/// A kind of faults.
#[derive(Clone, Debug)]
pub struct FaultKind {
    /// Its name, such as `slow_body`.
    pub name: &'static str,
    /// What it is about.
    pub target: FaultTarget,
    /// What happens.
    pub description: &'static str,
    /// What the form asks for.
    pub fields: Vec<FaultField>,
}

/// A field of the form that adds a fault.
#[derive(Clone, Debug)]
pub struct FaultField {
    /// The member's name.
    pub name: &'static str,
    /// What the form shows.
    pub label: &'static str,
    /// What the form contains at first.
    pub value: &'static str,
    /// Whether it may not be empty.
    pub is_required: bool,
    /// The values to select from, with what the form shows; none for any text.
    pub choices: Vec<(String, String)>,
}

/// A fault to add.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NewFault {
    /// The name of its kind.
    pub kind: String,
    /// The fields that are not empty, by name.
    pub values: Vec<(String, String)>,
}
