//! From an HTTP request to the answer that AuthPI wants.
//!
//! ```text
//! request -> cap and body timeout -> hash while it streams in -> authentic? -> envelope -> which handler?
//!         -> claim (commits) -> handler -> complete -> 200       Receiver::inline
//!         -> append (commits) -> 200, and a worker handles it    Receiver::inbox
//! ```
//!
//! A [`Receiver`] is a [`tower_service::Service`] whose error is `Infallible`: with axum it is a
//! `route_service`, and any other framework that speaks `http` types can call
//! [`Receiver::receive`]. Only authentic deliveries get past the verifier, and handlers, ledger
//! keys and logs see nothing else.
//!
//! **Work is detached.** From the claim on, it runs in a task of its own: a sender that hangs up
//! never cancels it. So a receiver needs a running tokio runtime with its timer enabled, and
//! [`Receiver::drain`] waits for what still runs.
//!
//! **The answer** says whose turn it is: 200, exactly, means that we have taken responsibility; 5xx
//! means send it again; 4xx means that sending it again cannot help. The table is `disposition.rs`.
//! A peer never learns why its signature was refused; the log always does.
//!
//! What peers can take, and what bounds it, is in the
//! [security guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/security/).
//!
//! [`Receiver::ingest`] takes events that came another way, and [`Receiver::health`] is for a
//! readiness probe.

#[cfg(feature = "axum")]
mod axum;
#[cfg_attr(not(feature = "axum"), allow(unreachable_pub))]
mod budget;
mod builder;
mod disposition;
mod health;
mod http;
mod in_flight;
mod ingest;
mod process;

use std::{fmt, sync::Arc, time::Duration};

use in_flight::InFlight;

use crate::{
    Clock,
    event::Subject,
    handlers::{AnyHandlers, Handlers, Serves},
    ledger::{AnyInbox, AnyLedger, Inbox, Probes},
    signature::Verifier,
    telemetry::LogLimit,
    time::ClockWitness,
};

pub use budget::BodyBudget;
pub(crate) use builder::LONGEST;
pub use builder::{BuildError, Inline, ReceiverBuilder, StoreFailure, Stored};
pub use health::Health;
pub use ingest::Ingested;

/// How long a peer is asked to wait, unless set.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long a body may take to arrive, unless set.
const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Receives AuthPI's deliveries for one endpoint. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Receiver {
    shared: Arc<Shared>,
}

/// What the clones of a receiver and its running work share.
struct Shared {
    endpoint: Arc<str>,
    verifier: Verifier,
    ledger: AnyLedger,
    mode: Mode,
    settings: Settings,
    /// For the bodies that are not verified yet.
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

/// What is done with a readable event.
enum Mode {
    /// It is handled, and answered then.
    Inline(Box<dyn AnyHandlers>),
    /// It is stored, and answered; a worker handles it.
    Inbox { inbox: AnyInbox, lane: Option<Lane> },
}

/// Which events have to be handled in order: those that have this of their subject in common.
type Lane = fn(&Subject) -> Option<&str>;

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
}

impl Receiver {
    /// A receiver that handles a delivery first and answers then.
    ///
    /// `endpoint` names the endpoint in ledger keys, logs and metrics; two endpoints that share a
    /// ledger need two names.
    ///
    /// Handlers that take a transaction ([`Handlers::on_tx`]) ask for the ledger that they name.
    pub fn inline<S, H>(
        endpoint: impl Into<Arc<str>>,
        verifier: Verifier,
        ledger: impl Serves<H>,
        handlers: Handlers<S, H>,
    ) -> ReceiverBuilder<Inline>
    where
        S: Send + Sync + 'static,
        H: Clone + Send + Sync + 'static,
    {
        let handlers = BuildError::of(handlers, ledger.serve());
        ReceiverBuilder::inline(endpoint.into(), verifier, Arc::new(ledger), handlers)
    }

    /// A receiver that stores a delivery and answers as soon as it is durable; a
    /// [`Worker`](crate::worker::Worker) of the same `endpoint` handles it.
    ///
    /// For handlers that take longer than AuthPI waits for an answer (how long is not documented),
    /// and for events that have to be handled in order.
    pub fn inbox<I: Inbox>(
        endpoint: impl Into<Arc<str>>,
        verifier: Verifier,
        inbox: I,
    ) -> ReceiverBuilder<Stored<I>> {
        ReceiverBuilder::inbox(endpoint.into(), verifier, Arc::new(inbox))
    }

    /// The endpoint's name.
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint
    }

    /// Takes no new work (it is answered with 503, for good) and waits for what runs. For after the
    /// server's own graceful shutdown, on Ctrl-C and on SIGTERM (`shutdown_signal` in the README).
    ///
    /// Deliveries that wait for the outcome of another worker are answered with 503 at once.
    ///
    /// Handlers have their deadline, so with a ledger that answers this ends; to be sure, put it
    /// under a timeout of your own.
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
