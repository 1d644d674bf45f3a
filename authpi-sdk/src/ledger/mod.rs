//! The ledger: one record per event and endpoint, and its state machine.
//!
//! ```text
//! pending -> claimed(lease, token) -> handled | dead(reason, bytes)
//!    ^---- retry -----'
//! ```
//!
//! If a worker first checked whether an event is handled, and marked it later, two workers could
//! both pass the check. So a worker *claims* the event: a claim is one atomic step that grants a
//! lease, or reports the state of the event. The worker renews the lease while it handles the
//! event, and ends it with [`complete`](Ledger::complete) or [`release`](Ledger::release). If a
//! worker dies, its lease expires, and another worker can claim the event. If the first worker was
//! only slow, its token is then stale ([`LeaseStatus::Lost`]).
//!
//! The implementations are in [`stores`](crate::stores).

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub(crate) mod dead_letter;
mod digest;
mod dyn_ledger;
mod health_probe;
mod inbox;
pub mod inspect;
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

pub use dead_letter::DeadLetter;
pub use digest::Digest;
pub(crate) use dyn_ledger::{AnyInbox, AnyLedger, step};
pub(crate) use health_probe::{Probes, Target};
pub use inbox::{Appended, Backlog, Inbox, LeasedEvent, NextEvent, OrderedInbox};
pub(crate) use lease_keeper::LeaseKeeper;
pub use record_state::RecordState;
pub use transaction::{PoolTooSmall, TransactionPermit, TransactionPermits, Transactional, Tx};

/// The key of a record: the endpoint's name and the id of AuthPI's event. The id is `data.id`, not
/// the envelope's, so a redelivery has the same record, and so has the event's copy in AuthPI's
/// event log.
///
/// The endpoint is part of the key, so equal ids at two endpoints never collide.
///
/// A key is bounded. An id is replaced by `sha256:` and the hash of its bytes in 64 hex digits if
/// it is longer than 255 bytes, contains a control character, or begins with `sha256:`. This does
/// not depend on the store, so a key made from the original id always finds the record.
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
    /// The maximum length of an endpoint's name, in bytes. `build` of a receiver or worker refuses
    /// a longer name.
    pub const MAX_ENDPOINT_BYTES: usize = 100;

    /// The maximum length, in bytes, of an id that is kept as it is.
    const MAX_ID_BYTES: usize = 255;

    /// The prefix of a hashed id.
    const HASHED: &str = "sha256:";

    /// A key from the event's original id. Receivers only take the id from a verified event. An
    /// operators' tool may use any id, for example to [forget](Ledger::forget) its record.
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

    /// A key from the id in a store, a log line or a dead letter, which may be a hash. For
    /// operators' tools, and for stores that read back an [`event_id`](EventKey::event_id).
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

    /// The key of an unreadable body, which has no id: a hash of its content.
    pub(crate) fn unreadable(endpoint: impl Into<Arc<str>>, body: &[u8]) -> Self {
        Self::new(endpoint, format!("unreadable:{}", hex::sha256(body)))
    }

    /// The key of a delivery that is so old, by the `time` in its body, that it may be a replay of
    /// a captured request. It differs from the key of the event.
    pub(crate) fn expired(endpoint: impl Into<Arc<str>>, event_id: &str) -> Self {
        Self::new(endpoint, format!("expired:{event_id}"))
    }

    /// The form in which an id or an ordering key is kept: unchanged, or as `sha256:<hex>` if it is
    /// longer than 255 bytes, contains a control character, or begins with `sha256:`. An `EventKey`
    /// already contains its id in this form. An [`Inbox`] has to convert the ordering keys that it
    /// stores.
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

    /// Logs and counts a delivery whose content differs from the first delivery. The first delivery
    /// wins.
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

/// Proof of a claim: the attempt's number and a nonce. A step with a token other than the record's
/// changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Distinguishes holders with the same attempt number, for example after a `forget`.
    pub nonce: u64,
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// The caller now holds the record. It should complete or release the record; otherwise, the
    /// lease expires.
    Granted {
        /// Required for every further step.
        token: Token,
        /// The digest that was first recorded for this id.
        first_digest: Digest,
    },
    /// Another worker holds the record, for at most `lease_left` unless it renews the lease.
    InFlight {
        /// On the store's clock.
        lease_left: Duration,
    },
    /// An earlier attempt released the record with a pause, of which `wait` is left.
    NotYet {
        /// On the store's clock.
        wait: Duration,
    },
    /// The event has been handled.
    Handled {
        /// The digest that was first recorded for this id.
        first_digest: Digest,
    },
    /// The event was given up.
    Dead {
        /// The digest that was first recorded for this id.
        first_digest: Digest,
    },
}

/// How a claimed event ended.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completion {
    /// The event was handled.
    Handled,
    /// The event failed for good and is not retried. A ledger that keeps dead letters keeps the
    /// event's body for inspection.
    Dead {
        /// The reason, as one line without payload.
        reason: String,
        /// The delivery's body, byte for byte.
        body: bytes::Bytes,
    },
}

impl fmt::Debug for Completion {
    /// Omits the body: payloads do not belong in logs.
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

/// Whether the caller's token is still valid for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a lost lease means that another worker may be handling the same event"]
pub enum LeaseStatus {
    /// The lease is held, and the step took place.
    Held,
    /// The token is not valid any more, and nothing was changed: another worker took over after the
    /// lease had expired, the claim had already ended, or the record was forgotten.
    Lost,
}

/// A store of records. Each step is atomic. In a durable store, it is durable when its future
/// resolves with `Ok`.
///
/// A token is valid from the claim that granted it until the claim is completed or released,
/// another claim of the record is granted, or the record is removed. It does not become invalid
/// when the lease expires: the holder can still renew, complete or release the claim, as long as no
/// other worker has claimed the record.
///
/// Leases run on the store's clock, so hosts with different clocks can share a store. A step's
/// future may be dropped at any point: the step then takes place completely or not at all.
///
/// # Errors
/// Each step fails with [`LedgerError`] when the store cannot be reached or refuses. The state of
/// the record is then unknown. A step must not hang, but fail within seconds: the delivery that
/// waits for it counts towards the receiver's limit of deliveries in progress.
pub trait Ledger: Send + Sync + 'static {
    /// Claims the record for `lease`. Creates it if there is none, and takes it over if its lease
    /// or pause has ended.
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

    /// Ends the claim with a result. Repeating the call with the same token and the same kind of
    /// completion returns `Held` again and changes nothing, so a caller may repeat it after a
    /// broken connection. A ledger whose [`keeps_dead_letters`](Ledger::keeps_dead_letters) is
    /// false drops the body of a dead record.
    fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> impl Future<Output = Result<LeaseStatus, LedgerError>> + Send;

    /// Ends the claim without a result. The record can be claimed again after `pause` (zero: at
    /// once). The attempt counts.
    fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> impl Future<Output = Result<LeaseStatus, LedgerError>> + Send;

    /// Deletes the record in any state, so that a redelivery is handled like a new event. Returns
    /// whether there was a record.
    fn forget(&self, key: &EventKey) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// Whether dead letters are kept durably, including their bodies. If not, a receiver does not
    /// acknowledge an event that failed terminally, unless
    /// `ReceiverBuilder::drop_terminal_failures` is set.
    fn keeps_dead_letters(&self) -> bool;

    /// The minimum time for which a handled or dead record is kept, counted from its last claim or
    /// renewal. A ledger with a limited capacity, such as [`Memory`](crate::stores::Memory), may
    /// evict a record earlier, and [`forget`](Ledger::forget) removes one at once.
    ///
    /// There is a maximum too: two retentions after the end of the record's last lease. From then
    /// on, a claim is granted as if the event were new. A delivery whose body has a `time` of more
    /// than one retention ago is not handled, so a captured request cannot be replayed after the
    /// record was pruned.
    fn retention(&self) -> Duration;

    /// The time on the store's own clock, if the store is a server. `None`, the default, for a
    /// store that uses this machine's clock, and for a server that cannot report its time.
    ///
    /// If this machine's clock is wrong, every event may seem to be too old. So the store's time is
    /// checked too in three cases: a receiver gets a delivery that seems to be older than
    /// [`retention`](Ledger::retention); a worker gets an event that seems to be older than the
    /// worker's maximum age; or reconciling would read events that seem to be older than the
    /// retention.
    fn server_time(&self) -> impl Future<Output = Result<Option<Timestamp>, LedgerError>> + Send {
        async { Ok(None) }
    }

    /// Proves that the store can write, for a health probe. The default claims and forgets a record
    /// under the empty endpoint name, which no receiver can have.
    ///
    /// The receivers and workers of a process that share a [`store_id`](Self::store_id) call it at
    /// most once a second, and never concurrently.
    fn check_write(&self) -> impl Future<Output = Result<(), LedgerError>> + Send {
        probe::check_write(self)
    }

    /// Whether the store works but cannot run a step at present: no connection is free, or a
    /// handler's transaction holds the store's only writer. Called when a health probe times out.
    /// The default is `false`.
    fn is_busy(&self) -> bool {
        false
    }

    /// The events that wait in the store for a worker of this endpoint, such as replayed dead
    /// letters. `None`, the default, for a store that is not an [`Inbox`].
    ///
    /// An inline receiver reports them in its [`health`](crate::receiver::Health). It only handles
    /// deliveries, so a replayed event needs a worker or a redelivery.
    fn waiting(
        &self,
        endpoint: &str,
    ) -> impl Future<Output = Result<Option<Backlog>, LedgerError>> + Send {
        let _ = endpoint;
        async { Ok(None) }
    }

    /// An id that the clones of one store share and no other store of this process has, such as the
    /// address of their shared state. Receivers and workers whose stores have the same id share
    /// write probes: one for all that use the store as a ledger, and another for all that use it as
    /// an inbox. With `None`, the default, nothing is shared.
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

/// The retention of the SDK's stores, unless another one is set: 30 days.
pub const DEFAULT_RETENTION: Duration = Duration::from_hours(30 * 24);

/// The store failed. Its own error is the [`source`](std::error::Error::source).
#[derive(Clone, Debug)]
pub struct LedgerError {
    step: &'static str,
    kind: LedgerErrorKind,
    source: Arc<dyn std::error::Error + Send + Sync>,
}

/// The kind of a [`LedgerError`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LedgerErrorKind {
    /// The store could not be reached, did not answer in time, or failed in another way.
    #[default]
    Unreachable,
    /// The store works, but no connection is free, or a handler's transaction holds its only
    /// writer.
    Busy,
    /// The store answers but cannot write: it is read-only, a standby, out of memory or disk, or
    /// the role lacks a privilege.
    CannotWrite,
    /// The store works and refuses the content of this event. Retrying the same event cannot help.
    Content,
}

impl LedgerError {
    /// `step` names the failed step (`claim`, `open`, …). The kind is
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

    /// Sets the kind.
    #[must_use]
    pub fn with_kind(self, kind: LedgerErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// The kind of the error.
    pub fn kind(&self) -> LedgerErrorKind {
        self.kind
    }

    /// The failed step (`claim`, `open`, …).
    pub fn step(&self) -> &'static str {
        self.step
    }

    /// The error and its causes on one line, for the reason of a dead letter.
    pub(crate) fn chain(&self) -> String {
        format!("{self}: {}", self.causes())
    }

    /// The chain of causes on one line, without texts that drivers repeat.
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

    /// Logs and counts the failure. Receivers, workers and lease keepers share it.
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
