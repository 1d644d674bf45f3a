//! A web page for developers: lists webhooks, deliveries, events and faults, and acts
//! on them.
//!
//! [`Inspector`] answers the requests under one path of a server that already exists. What there is
//! to show and to do comes from a [`Source`]: the emulator, or a run of `authpi listen`. The crate
//! knows nothing of its source beyond this trait, and opens no connections.
//!
//! Pages are rendered on the server. Forms and links work without JavaScript; the script only
//! updates open pages and copies texts. Styles and script are part of the program.
//!
//! # Security
//!
//! The page needs no credentials, so it must not be reachable by others:
//!
//! - The `Host` of a request must be this machine (`localhost`, a name under `.localhost`, or a
//!   loopback address) or a host of [`Inspector::allow_host`]. Otherwise the response is 403, also
//!   for reads and for the event stream. This stops DNS rebinding.
//! - A request that changes something must come from the page itself, by its `Origin` or its
//!   `Sec-Fetch-Site`. Without either, it gets 403. Reads by other pages get 403 too, if the
//!   browser reports them; links to a page are allowed.
//! - No response permits cross-origin reads or framing, and the Content-Security-Policy allows only
//!   the embedded style and script.
//! - Secrets of a webhook are shown once, on a page of their own. They are in no URL. Header values
//!   that hold credentials are shown as `REDACTED`.
//!
//! A program that can open connections to the listener can do all of this. So the server should
//! listen on a loopback address.
//!
//! # Limits
//!
//! A page shows 50 items. At most 64 pages receive live updates at the same time, and each receives
//! at most ten signals per second. Bodies over 256 KiB are shown in part.
//!
//! # Adding a tab
//!
//! Add a variant to [`Tab`], a file in `view/`, and the tab's paths in `routes.rs`.

mod body;
mod find;
mod form;
mod guard;
mod routes;
mod signature;
mod source;
mod taken;
mod view;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{Response, request};
use tokio::sync::{Semaphore, watch};

pub use body::Body;
pub use find::contains;
pub use source::{
    Attempt, Delivery, DeliveryFilter, DeliveryRow, DeliveryStatus, Event, EventFilter, EventRow,
    Example, Fault, FaultField, FaultKind, FaultTarget, NewEvent, NewFault, NewWebhook, Page,
    Problem, Secrets, SignatureView, Source, Tab, Webhook, WebhookAction,
};

use taken::ShownOnce;

/// The number of items on a page.
pub const PAGE: usize = 50;

/// The maximum number of event streams.
const MAX_STREAMS: usize = 64;

/// Answers the requests under one path.
pub struct Inspector<S> {
    source: S,
    base: String,
    hosts: Vec<String>,
    secrets: ShownOnce,
    streams: Arc<Semaphore>,
    closed: watch::Sender<bool>,
}

impl<S: Source> Inspector<S> {
    /// A page of `source` under `base`, such as `/_inspector`.
    pub fn new(source: S, base: impl Into<String>) -> Self {
        Self {
            source,
            base: base.into().trim_end_matches('/').to_owned(),
            hosts: Vec::new(),
            secrets: ShownOnce::default(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            closed: watch::Sender::new(false),
        }
    }

    /// Also answers requests whose `Host` is this name or address, at any port (default: this
    /// machine only).
    #[must_use]
    pub fn allow_host(mut self, host: &str) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        self.hosts.push(host.to_ascii_lowercase());
        self
    }

    /// Whether this path belongs to the page.
    pub fn has_path(&self, path: &str) -> bool {
        let rest = path.strip_prefix(&self.base);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Checks a request before its body is read. [`answer`](Self::answer) repeats the check.
    ///
    /// # Errors
    /// The response, if the request must not be answered.
    pub fn admit(&self, head: &request::Parts) -> Result<(), Box<Response<Body>>> {
        guard::check(head, &self.hosts).map_err(|refusal| Box::new(routes::refused(refusal)))
    }

    /// The response to a request.
    pub async fn answer(&self, head: &request::Parts, body: Bytes) -> Response<Body> {
        match self.admit(head) {
            Ok(()) => routes::answer(self, head, &body).await,
            Err(refused) => *refused,
        }
    }

    /// Ends the event streams, so that a server can stop.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }
}

impl<S> fmt::Debug for Inspector<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector")
            .field("base", &self.base)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}
