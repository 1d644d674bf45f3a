//! The ledger: one record per event and endpoint, and its state machine.
//!
//! ```text
//! pending -> claimed(lease, token) -> handled | dead(reason, bytes)
//!    ^--------- retry_at -------------'
//! ```
//!
//! Check-then-mark lets two workers through. The receiver *claims* an event instead: a claim is one
//! atomic step that grants a lease, or reports the state of the event. The worker renews the lease
//! while it handles the event, and ends it with [`complete`](Ledger::complete) or
//! [`release`](Ledger::release). The lease of a worker that dies expires. A worker that was too
//! slow finds that its token is stale ([`LeaseStatus::Lost`]).
//!
//! The implementations are in [`stores`](crate::stores).

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "nats"))]
pub(crate) mod dead_letter;
mod digest;
mod dyn_ledger;
mod health_probe;
mod inbox;
mod lease_keeper;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
pub(crate) mod open_check;
pub(crate) mod probe;
mod record_state;
mod transaction;

use std::{borrow::Cow, fmt, future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    hex,
    telemetry::{self, LogLimit},
};

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "nats"))]
pub use dead_letter::DeadLetter;
pub use digest::Digest;
pub(crate) use dyn_ledger::{AnyInbox, AnyLedger, step};
pub(crate) use health_probe::{Probes, Target};
pub use inbox::{Appended, Backlog, Inbox, LeasedEvent, NextEvent, OrderedInbox};
pub(crate) use lease_keeper::LeaseKeeper;
pub(crate) use record_state::RecordState;
pub use transaction::{PoolTooSmall, TransactionPermit, TransactionPermits, Transactional, Tx};

/// Which record: an endpoint's name and the id of AuthPI's event (`data.id`, not the envelope's id,
/// so that a redelivery and a reconciled copy are the same record).
///
/// The endpoint is part of the key, so that two senders' ids never collide.
///
/// A key is bounded, whatever a sender chose: an id of more than 255 bytes, one with control
/// characters, and one that begins with `sha256:`, is replaced by `sha256:` and the hash of its
/// bytes in 64 hex digits, the same in every store. Each function that takes a key finds the record
/// by the original id.
///
/// ```
/// # use authpi_sdk::ledger::EventKey;
/// assert_eq!(EventKey::new("users", "evt_1").event_id(), "evt_1");
/// let long = EventKey::new("users", "x".repeat(3_000));
/// assert_eq!(long.event_id().len(), "sha256:".len() + 64);
/// assert_eq!(EventKey::from_stored("users", long.event_id()), long); // as a log line or a dead letter has it
/// assert_ne!(EventKey::new("users", long.event_id()), long); // no sender can choose another's key
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    endpoint: Arc<str>,
    event_id: Arc<str>,
}

impl EventKey {
    /// How long an endpoint's name may be, in bytes; receivers and workers with a longer one are
    /// not built.
    pub const MAX_ENDPOINT_BYTES: usize = 100;

    /// How long an id may be, in bytes, to be kept as it is.
    const MAX_ID_BYTES: usize = 255;

    /// What a hashed id begins with.
    const HASHED: &str = "sha256:";

    /// Names a record by hand, as an operator's tool does to [`forget`](Ledger::forget) one. Takes
    /// the event's original id. Receivers take the id from a verified event only.
    pub fn new(endpoint: impl Into<Arc<str>>, event_id: impl Into<Arc<str>>) -> Self {
        let event_id = event_id.into();
        let hashed = match Self::bounded(&event_id) {
            Cow::Borrowed(_) => None,
            Cow::Owned(hashed) => Some(hashed.into()),
        };
        Self {
            endpoint: endpoint.into(),
            event_id: hashed.unwrap_or(event_id),
        }
    }

    /// Names a record by the id that a store, a log line or a dead letter shows, which may be a
    /// hash. For stores, which read back what [`event_id`](EventKey::event_id) was, and for
    /// operators.
    pub fn from_stored(endpoint: impl Into<Arc<str>>, event_id: impl Into<Arc<str>>) -> Self {
        let event_id = event_id.into();
        let is_hash = event_id.strip_prefix(Self::HASHED).is_some_and(|hash| {
            hash.len() == 64
                && hash
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        });
        if is_hash {
            Self {
                endpoint: endpoint.into(),
                event_id,
            }
        } else {
            Self::new(endpoint, event_id)
        }
    }

    /// An unreadable body has no id; its key is a hash of its content.
    pub(crate) fn unreadable(endpoint: impl Into<Arc<str>>, body: &[u8]) -> Self {
        Self::new(endpoint, format!("unreadable:{}", hex::sha256(body)))
    }

    /// The key of a delivery that may be an old capture, apart from that of its event.
    pub(crate) fn expired(endpoint: impl Into<Arc<str>>, event_id: &str) -> Self {
        Self::new(endpoint, format!("expired:{event_id}"))
    }

    /// The form in which an id or an ordering key is kept: as it is, or as `sha256:<hex>` if it has
    /// more than 255 bytes or control characters, or begins with `sha256:`. A key does this to its
    /// event's id by itself; an [`Inbox`] does it to the ordering keys that it stores.
    pub fn bounded(name: &str) -> Cow<'_, str> {
        let fits = name.len() <= Self::MAX_ID_BYTES && !name.starts_with(Self::HASHED);
        let plain = name.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if fits && (plain || !name.chars().any(char::is_control)) {
            Cow::Borrowed(name)
        } else {
            Cow::Owned(format!("{}{}", Self::HASHED, hex::sha256(name.as_bytes())))
        }
    }

    /// The endpoint's name, as given to the receiver.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn shared_endpoint(&self) -> &Arc<str> {
        &self.endpoint
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn shared_event_id(&self) -> &Arc<str> {
        &self.event_id
    }

    /// The event's id, or its hash: at most 255 bytes without control characters.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// Another content under a known id is for people to look at; the first one counts.
    pub(crate) fn compare(&self, digest: Digest, first: Digest, log: &LogLimit) {
        let comparable = ![digest, first].contains(&Digest::UNCOMPARED);
        if digest != first && comparable {
            telemetry::count(telemetry::CONTENT_DIFFERS, &self.endpoint);
            log.write(
                "a redelivery's content differs from the first delivery",
                "content_differs",
                |left_out| {
                    tracing::warn!(
                        endpoint = %self.endpoint,
                        event_id = self.event_id(),
                        %digest,
                        %first,
                        left_out,
                        "a redelivery's content differs from the first delivery"
                    );
                },
            );
        }
    }
}

/// Proof of a claim: the attempt's number and 64 random bits, compared for equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// What tells this holder from any other with the same attempt number (after a `forget`, say).
    pub nonce: u64,
}

/// What a claim found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// The caller holds the record now, and must complete, release or lose it.
    Granted {
        /// Needed for every further step.
        token: Token,
        /// The digest that the first claim of this id brought.
        first_digest: Digest,
    },
    /// Somebody else holds it, for at most `lease_left` longer unless renewed.
    InFlight {
        /// On the store's clock.
        lease_left: Duration,
    },
    /// An earlier attempt asked for a pause, which lasts `wait` longer.
    NotYet {
        /// On the store's clock.
        wait: Duration,
    },
    /// It has been handled.
    Handled {
        /// The digest that the first claim of this id brought.
        first_digest: Digest,
    },
    /// It failed terminally and is a dead letter.
    Dead {
        /// The digest that the first claim of this id brought.
        first_digest: Digest,
    },
}

/// How a claimed event ended.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completion {
    /// Its effect has taken place.
    Handled,
    /// It will not be tried again; kept for people to look at.
    Dead {
        /// Why, in a line for the log (no payload).
        reason: String,
        /// The delivery's body, byte for byte.
        body: bytes::Bytes,
    },
}

impl fmt::Debug for Completion {
    /// Leaves the body out: payloads do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handled => f.write_str("Handled"),
            Self::Dead { reason, body } => f
                .debug_struct("Dead")
                .field("reason", reason)
                .field("bytes", &body.len())
                .finish_non_exhaustive(),
        }
    }
}

/// Whether the caller's token was still the record's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a lost lease means that another worker may be handling the same event"]
pub enum LeaseStatus {
    /// The lease was still held, and the step took place.
    Held,
    /// The lease was lost: it ran out and another took over, or the record was forgotten. Nothing
    /// was changed.
    Lost,
}

/// A store of records. Every step is atomic and, for durable stores, durable when its future
/// resolves with `Ok`.
///
/// A token is the record's from the claim that granted it until the claim ends or another one is
/// granted: a lease that ran out unnoticed can still be renewed, completed or released by its
/// holder, since nobody else is at work.
///
/// Leases run on the store's clock, so that hosts with differing clocks can share one. A future may
/// be dropped at any point: the step has then taken place as a whole or not at all.
///
/// # Errors
/// Each step fails with [`LedgerError`] when the store cannot be reached or refuses; nothing is
/// known then of the record. It has to fail within seconds rather than hang: whoever waits for it
/// is a delivery, and one of the receiver's places is taken meanwhile.
pub trait Ledger: Send + Sync + 'static {
    /// Claims the record for `lease`: makes it if there is none, takes it over if its lease ran out
    /// or its pause is over.
    fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> impl Future<Output = Result<Claim, LedgerError>> + Send;

    /// Extends the holder's lease to `lease` from now.
    fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> impl Future<Output = Result<LeaseStatus, LedgerError>> + Send;

    /// Ends the claim. Repeating the call with the same token and the same kind of
    /// completion is `Yes` again and changes nothing, so that a caller whose connection broke need
    /// not know how far it came. A ledger whose [`keeps_dead_letters`](Ledger::keeps_dead_letters)
    /// is false drops the body of a dead one.
    fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> impl Future<Output = Result<LeaseStatus, LedgerError>> + Send;

    /// Gives the claim back, to be claimed again by anyone once `pause` is over (zero: at once).
    /// The attempt still counts.
    fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> impl Future<Output = Result<LeaseStatus, LedgerError>> + Send;

    /// Forgets the record in whatever state, so that a redelivery is handled afresh. Says whether
    /// there was one.
    fn forget(&self, key: &EventKey) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// Whether dead letters survive, bytes and all: only then may a receiver acknowledge what it
    /// gave up.
    fn keeps_dead_letters(&self) -> bool;

    /// How long a handled or dead record is remembered, at least, from the last claim or renewal
    /// on; once twice that is over since its lease ended, a claim is a fresh one. Deliveries signed
    /// longer ago than this are not handled, so that an old capture cannot come back after its
    /// record is gone.
    fn retention(&self) -> Duration;

    /// What time it is by the store's own clock, for a store that has one: a server elsewhere.
    /// `None`, the default, for a store that runs on this machine's clock, and for one that cannot
    /// tell.
    ///
    /// The receiver asks only when a delivery seems to be older than
    /// [`retention`](Ledger::retention), as a second witness: if this machine's clock is
    /// wrong, every delivery seems to be.
    fn server_time(&self) -> impl Future<Output = Result<Option<Timestamp>, LedgerError>> + Send {
        async { Ok(None) }
    }

    /// Shows that the store can write, for a health probe: by default, claims and forgets a record
    /// under the empty endpoint name, which no receiver can have.
    ///
    /// Receivers and workers of one process call it at most once a second for each store, and never
    /// twice at a time.
    fn check_write(&self) -> impl Future<Output = Result<(), LedgerError>> + Send {
        probe::check_write(self)
    }

    /// Whether the store works but cannot take a step just now: no connection is free, or its only
    /// writer is held by a handler's transaction. Asked when a health probe had no answer in time;
    /// `false` by default.
    fn is_busy(&self) -> bool {
        false
    }

    /// What waits in the store for a worker of this endpoint, such as dead letters that were
    /// replayed; `None`, the default, for a store that is no [`Inbox`].
    ///
    /// An inline receiver shows it in its health: it handles deliveries only, so what was replayed
    /// needs a worker or a redelivery.
    fn waiting(
        &self,
        endpoint: &str,
    ) -> impl Future<Output = Result<Option<Backlog>, LedgerError>> + Send {
        let _ = endpoint;
        async { Ok(None) }
    }

    /// What clones of one store have in common and no other store of this process has, such as the
    /// address of what they share: their receivers and workers share one health probe then. `None`
    /// by default.
    fn store_id(&self) -> Option<usize> {
        None
    }
}

impl<L: Ledger> Ledger for Arc<L> {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        L::claim(self, key, digest, lease).await
    }

    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        L::renew(self, key, token, lease).await
    }

    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        L::complete(self, key, token, completion).await
    }

    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        L::release(self, key, token, pause).await
    }

    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        L::forget(self, key).await
    }

    fn keeps_dead_letters(&self) -> bool {
        L::keeps_dead_letters(self)
    }

    fn retention(&self) -> Duration {
        L::retention(self)
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, LedgerError> {
        L::server_time(self).await
    }

    async fn check_write(&self) -> Result<(), LedgerError> {
        L::check_write(self).await
    }

    fn is_busy(&self) -> bool {
        L::is_busy(self)
    }

    async fn waiting(&self, endpoint: &str) -> Result<Option<Backlog>, LedgerError> {
        L::waiting(self, endpoint).await
    }

    fn store_id(&self) -> Option<usize> {
        L::store_id(self)
    }
}

/// The default of [`Ledger::retention`]: 30 days.
pub const DEFAULT_RETENTION: Duration = Duration::from_hours(30 * 24);

/// The store failed; its own error is the [`source`](std::error::Error::source).
#[derive(Clone, Debug)]
pub struct LedgerError {
    step: &'static str,
    kind: LedgerErrorKind,
    source: Arc<dyn std::error::Error + Send + Sync>,
}

/// What a [`LedgerError`] says about the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LedgerErrorKind {
    /// The store could not be reached, did not answer in time, or failed in a way that has no kind
    /// of its own.
    #[default]
    Unreachable,
    /// The store works, but no connection is free, or its only writer is held by a handler's
    /// transaction.
    Busy,
    /// The store answers and cannot write: it is read-only, a standby, out of memory or disk, or
    /// the role lacks a right.
    CannotWrite,
    /// The store works and refuses what this event contains. Trying the same event again cannot
    /// help.
    Content,
}

impl LedgerError {
    /// `step` names what was tried (`claim`, `open`, …). The kind is
    /// [`LedgerErrorKind::Unreachable`].
    pub fn new(
        step: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            step,
            kind: LedgerErrorKind::default(),
            source: source.into().into(),
        }
    }

    /// Sets what the error says about the store.
    #[must_use]
    pub fn with_kind(self, kind: LedgerErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// What the error says about the store.
    pub fn kind(&self) -> LedgerErrorKind {
        self.kind
    }

    /// What was tried (`claim`, `open`, …).
    pub fn step(&self) -> &'static str {
        self.step
    }

    /// The error and its causes in a line, for the reason of a dead letter.
    pub(crate) fn chain(&self) -> String {
        format!("{self}: {}", self.causes())
    }

    /// The chain of causes on one line; drivers repeat some of theirs, which is left out.
    fn causes(&self) -> String {
        let mut line = self.source.to_string();
        let (mut last, mut cause) = (line.clone(), self.source.source());
        while let Some(error) = cause {
            let text = error.to_string();
            if text != last {
                line = format!("{line}: {text}");
            }
            (last, cause) = (text, error.source());
        }
        line
    }

    /// Tells the log and the metrics: receivers, workers and lease keepers in the same words.
    pub(crate) fn report(&self, endpoint: &Arc<str>, log: &LogLimit) {
        log.write("the store failed", self.step, |left_out| {
            tracing::error!(%endpoint, error = %self, source = self.causes(), left_out, "the store failed");
        });
        telemetry::count_by(telemetry::STORE_FAILURES, endpoint, "step", self.step);
    }
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the ledger failed to {}", self.step)
    }
}

impl std::error::Error for LedgerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}
