//! Receives deliveries: from an HTTP request to the answer for AuthPI.
//!
//! ```text
//! request -> cap and body timeout -> hash while it streams in -> authentic? -> envelope -> which handler?
//!         -> claim (commits) -> handler -> complete -> 200       Receiver::inline
//!         -> append (commits) -> 200, and a worker handles it    Receiver::inbox
//! ```
//!
//! A [`Receiver`] is a [`tower_service::Service`] whose error is `Infallible`. In axum, mount it
//! with `route_service`. The [guide to web
//! frameworks](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/frameworks/) shows how to mount
//! it in others. Any code that has an `http::Request` can call [`Receiver::receive`]. The content
//! of a delivery reaches handlers, ledger keys and logs only after it was verified.
//!
//! **Handling is detached.** Once a delivery is verified, it is handled in a task of its own,
//! unless the handling finishes without waiting for anything. So a sender that hangs up cancels
//! nothing. A receiver therefore needs a running tokio runtime with its timer enabled.
//! [`Receiver::drain`] waits for the tasks that are still running.
//!
//! **The answer.** 200, and only 200, acknowledges: the receiver is now responsible for the event.
//! 5xx asks AuthPI to retry. 4xx says that the same request would be refused again, with three
//! exceptions: 408 (the body was too slow), 400 after the sender hung up, and 401 if the
//! signature's timestamp differs from now by more than the scheme's tolerance. A 200 has an empty
//! body if the event was handled or stored now; otherwise its body says what happened: `duplicate`,
//! `unhandled`, `dead_letter` or `dropped`. [How it
//! works](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/how_it_works/) has the table of
//! answers.
//!
//! The peer never learns why a signature was refused. Each refusal is counted by reason in
//! [`authpi_rejected_total`](crate::telemetry::REJECTED), and logged with its reason; repeated log
//! lines are rate-limited.
//!
//! The [security guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/security/) lists what an
//! unauthenticated peer can do, and every limit.
//!
//! [`Receiver::ingest`] takes events that did not come as a delivery. [`Receiver::health`] is for
//! readiness probes.

mod authenticator;
#[cfg(feature = "axum")]
mod axum;
mod budget;
mod builder;
mod claim;
mod dead_letter;
mod disposition;
mod health;
mod http;
mod in_flight;
mod ingest;
mod process;

use std::{fmt, sync::Arc, time::Duration};

use budget::BodyBudget;
use in_flight::InFlight;

use tokio::runtime::Handle;

use crate::{
    Clock,
    event::Subject,
    handlers::{Handlers, Routes, SupportsHandlers},
    ledger::{AnyInbox, AnyLedger, Inbox, Probes},
    signature::Verifier,
    telemetry::{LogLimit, TypeLabels},
    time::ClockWitness,
};

pub use authenticator::Authenticator;
pub(crate) use builder::MAX_DURATION;
pub use builder::{BuildError, Inline, ReceiverBuilder, StoreFailure, Stored, VerifyOnly};
pub use health::Health;
pub use ingest::Ingested;

/// The default of the `Retry-After` header.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);
/// The default time limit for a body.
const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Receives AuthPI's deliveries for one endpoint. Cheap to clone. Clones share everything except
/// the runtime of [`on_runtime`](Self::on_runtime).
#[derive(Clone)]
pub struct Receiver {
    shared: Arc<Shared>,
    /// Where the work runs. `None` for the runtime of the caller.
    runtime: Option<Handle>,
}

/// The state that a receiver's clones and its running work share.
struct Shared {
    endpoint: Arc<str>,
    verifier: Verifier,
    ledger: AnyLedger,
    mode: Mode,
    settings: Settings,
    /// For bodies that are not verified yet.
    bodies: BodyBudget,
    places: Arc<InFlight>,
    probes: Probes,
    log: Arc<LogLimit>,
    witness: ClockWitness,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.log.flush(&self.endpoint);
    }
}

/// What the receiver does with a readable event.
enum Mode {
    /// Handles it, then answers.
    Inline(Routes),
    /// Stores it, then answers; a worker handles it.
    Inbox {
        inbox: AnyInbox,
        ordering_key: Option<OrderingKey>,
    },
}

/// Returns the ordering key of an event: a member of its subject.
type OrderingKey = fn(&Subject) -> Option<&str>;

#[derive(Clone, Debug)]
struct Settings {
    body_timeout: Duration,
    handler_timeout: Duration,
    lease: Duration,
    in_flight_wait: Duration,
    retry_after: Duration,
    max_in_flight: u32,
    store_failure: StoreFailure,
    drop_terminal: bool,
    clock: Clock,
    type_labels: TypeLabels,
}

impl Receiver {
    /// A receiver that handles a delivery, then answers.
    ///
    /// `endpoint` names the endpoint in ledger keys, logs and metrics. Two endpoints that share a
    /// ledger need different names.
    ///
    /// Handlers that take a transaction ([`Handlers::on_tx`]) require `ledger` to be the store of
    /// that transaction.
    pub fn inline<S, H>(
        endpoint: impl Into<Arc<str>>,
        verifier: Verifier,
        ledger: impl SupportsHandlers<H>,
        handlers: Handlers<S, H>,
    ) -> ReceiverBuilder<Inline>
    where
        S: Send + Sync + 'static,
        H: Clone + Send + Sync + 'static,
    {
        let handlers = BuildError::of(handlers, ledger.handler_store());
        ReceiverBuilder::inline(endpoint.into(), verifier, Arc::new(ledger), handlers)
    }

    /// A receiver that stores each event and answers as soon as the event is durable. A
    /// [`Worker`](crate::worker::Worker) of the same `endpoint` handles the event.
    ///
    /// Use it for handlers that take longer than AuthPI waits for an answer (AuthPI does not
    /// document how long that is), and for events that have to be handled in order.
    pub fn inbox<I: Inbox>(
        endpoint: impl Into<Arc<str>>,
        verifier: Verifier,
        inbox: I,
    ) -> ReceiverBuilder<Stored<I>> {
        ReceiverBuilder::inbox(endpoint.into(), verifier, Arc::new(inbox))
    }

    /// Only verifies deliveries, for a service that handles them itself.
    ///
    /// `endpoint` names the endpoint in logs and metrics.
    pub fn verify_only(
        endpoint: impl Into<Arc<str>>,
        verifier: Verifier,
    ) -> ReceiverBuilder<VerifyOnly> {
        ReceiverBuilder::verify_only(endpoint.into(), verifier)
    }

    /// Handles events on `runtime`, instead of the runtime on which [`receive`](Self::receive) or
    /// [`ingest`](Self::ingest) is called. Applies to this clone and to later clones of it.
    ///
    /// Use it with a server whose runtime may end before handlers do. For example, actix-web has a
    /// runtime for each worker thread, and drops these runtimes when it stops.
    #[must_use]
    pub fn on_runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The endpoint's name.
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint
    }

    /// Refuses new deliveries with 503 and waits for running handlers. Call it after the server's
    /// own graceful shutdown. `examples/shutdown.rs` in the repository shows how to wait for Ctrl-C
    /// and SIGTERM.
    ///
    /// Deliveries that wait for another worker's outcome are answered with 503 at once.
    ///
    /// Handlers time out, so this returns unless the ledger hangs. To be safe, put a timeout around
    /// it.
    pub async fn drain(&self) {
        self.shared.places.drain().await;
        self.shared.log.flush(&self.shared.endpoint);
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("endpoint", &self.shared.endpoint)
            .field("verifier", &self.shared.verifier)
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
