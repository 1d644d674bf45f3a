use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    Authenticator, BodyBudget, DEFAULT_BODY_TIMEOUT, DEFAULT_RETRY_AFTER, InFlight, Mode, Receiver,
    Settings, Shared, budget::default_budget,
};
use crate::{
    Clock,
    event::{EventType, Subject},
    handlers::{DEFAULT_HANDLER_TIMEOUT, Handlers, HandlersError, Routes},
    ledger::{
        AnyInbox, AnyLedger, DEFAULT_RETENTION, EventKey, OrderedInbox, PoolTooSmall, Probes,
        Target,
    },
    signature::{KeyRingError, Verifier},
    telemetry::TypeLabels,
    time::ClockWitness,
};

/// The maximum of every duration setting: a year.
pub(crate) const MAX_DURATION: Duration = Duration::from_hours(365 * 24);

/// What to do with a delivery when a step of the ledger fails: the ledger is unreachable, busy or
/// cannot write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StoreFailure {
    /// Refuse it with 503, so that AuthPI sends it again.
    #[default]
    Refuse,
    /// Handle it without a claim, and acknowledge it if the handler succeeds. Logs a warning, since
    /// the event may be handled twice. Also acknowledges an event that was handled, but whose
    /// completion could not be recorded.
    HandleAnyway,
}

/// Settings of a receiver or an [`Authenticator`]. Created by [`Receiver::inline`],
/// [`Receiver::inbox`] and [`Receiver::verify_only`].
///
/// A duration must be greater than zero and at most a year. There are two exceptions:
/// [`in_flight_wait`](ReceiverBuilder::in_flight_wait) may be zero, and
/// [`retry_after`](Self::retry_after) is not limited.
#[must_use]
pub struct ReceiverBuilder<M> {
    endpoint: Arc<str>,
    verifier: Verifier,
    mode: M,
    max_in_flight: usize,
    max_unverified_bytes: Option<usize>,
    settings: Settings,
}

/// The mode of [`Receiver::inline`]: handle the delivery, then answer.
pub struct Inline {
    ledger: AnyLedger,
    handlers: HandlersOrError,
}

type HandlersOrError = Result<Routes, BuildError>;

/// The mode of [`Receiver::inbox`]: store the delivery in an inbox of type `I`, then answer.
pub struct Stored<I> {
    inbox: AnyInbox,
    ordering_key: Option<super::OrderingKey>,
    kind: PhantomData<fn() -> I>,
}

/// The mode of [`Receiver::verify_only`]: verify the delivery, and leave its event to the caller.
pub struct VerifyOnly {
    max_age: Duration,
}

/// The modes that process events, all except [`VerifyOnly`].
pub trait Processes {}
impl Processes for Inline {}
impl<I> Processes for Stored<I> {}

impl<M> ReceiverBuilder<M> {
    fn new(endpoint: Arc<str>, verifier: Verifier, mode: M) -> Self {
        Self {
            endpoint,
            mode,
            max_in_flight: 256,
            max_unverified_bytes: None,
            settings: Settings {
                body_timeout: DEFAULT_BODY_TIMEOUT,
                handler_timeout: DEFAULT_HANDLER_TIMEOUT,
                lease: Duration::from_secs(30),
                in_flight_wait: Duration::from_secs(5),
                retry_after: DEFAULT_RETRY_AFTER,
                max_in_flight: 0,
                store_failure: StoreFailure::default(),
                drop_terminal: false,
                clock: verifier.time_source().clone(),
                type_labels: TypeLabels::default(),
            },
            verifier,
        }
    }

    /// The number of bytes that unverified bodies may hold in total. It must be at least
    /// [`Verifier::max_body`]. Default: 64 MiB, or `4 * max_body` if that is larger.
    ///
    /// Anyone can send a body, so this bounds the memory that senders without the secret can use.
    /// The first 16 KiB of each body do not count and are always accepted. Beyond that, a body
    /// counts by the size of its buffer, not by its `Content-Length`. When the budget is full, the
    /// receiver drops the bodies that hold the most memory relative to their transfer rate, and
    /// answers them with 503. Fast senders are dropped last. The [security
    /// guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/security/) lists the other memory
    /// limits.
    pub fn max_unverified_bytes(mut self, bytes: usize) -> Self {
        self.max_unverified_bytes = Some(bytes);
        self
    }

    /// The time limit for a body to arrive. Default 10 s.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.settings.body_timeout = timeout;
        self
    }

    /// The `Retry-After` header of a 503. If a handler has requested a pause
    /// ([`HandlerError::after`](crate::HandlerError::after)), the rest of that pause is sent
    /// instead. The header is in whole seconds, rounded up, at least 1. Default 5 s.
    ///
    /// AuthPI does not document whether it honors the header.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.settings.retry_after = wait;
        self
    }

    /// Replaces the clock, also for verification. Default: the verifier's clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Checks what all modes share, and returns the budget for unverified bodies.
    fn check(&self) -> Result<BodyBudget, BuildError> {
        if self.endpoint.is_empty() {
            return Err(BuildError::NoEndpoint);
        }
        BuildError::check_length(&self.endpoint)?;
        self.verifier.check().map_err(BuildError::Secrets)?;
        in_range("body_timeout", self.settings.body_timeout)?;
        let max_body = self.verifier.body_limit();
        let unverified = self
            .max_unverified_bytes
            .unwrap_or_else(|| default_budget(max_body));
        if unverified < max_body {
            return Err(BuildError::Setting("max_unverified_bytes"));
        }
        Ok(BodyBudget::new(unverified))
    }
}

/// Checks that the duration is greater than zero and at most [`MAX_DURATION`]. Adding such a
/// duration to a time cannot overflow.
fn in_range(name: &'static str, duration: Duration) -> Result<(), BuildError> {
    if duration.is_zero() || duration > MAX_DURATION {
        return Err(BuildError::Setting(name));
    }
    Ok(())
}

impl<M: Processes> ReceiverBuilder<M> {
    /// The maximum number of authentic deliveries and [ingested](Receiver::ingest) events in
    /// progress. Further deliveries are answered with 503. Default 256; must not be zero.
    ///
    /// A delivery that waits for another worker's outcome
    /// ([`in_flight_wait`](ReceiverBuilder::in_flight_wait)) does not count. The number of waiting
    /// deliveries has a separate limit of the same size.
    pub fn max_in_flight(mut self, deliveries: usize) -> Self {
        self.max_in_flight = deliveries;
        self
    }

    /// Adds the label `type` to the metrics of deliveries, ingested events and handlers. Its values
    /// are the names of these event types, `other` for the rest, and `none` for a delivery whose
    /// event was not read. Default: no label.
    ///
    /// Each type adds time series to these metrics. A type that this version of the SDK does not
    /// know is counted as `other`.
    pub fn label_event_types(mut self, types: impl IntoIterator<Item = EventType>) -> Self {
        let names = types.into_iter().filter_map(|of| of.known_name());
        self.settings.type_labels = TypeLabels::new(names);
        self
    }

    fn finish(
        self,
        mode: impl FnOnce(M) -> Result<(Mode, AnyLedger), BuildError>,
    ) -> Result<Receiver, BuildError> {
        let bodies = self.check()?;
        let (mode, ledger) = mode(self.mode)?;
        let probes = Probes::new(match &mode {
            Mode::Inline(_) => Target::Ledger(ledger.clone()),
            Mode::Inbox { inbox, .. } => Target::Inbox(inbox.clone()),
        });
        let mut settings = self.settings;
        in_range("handler_timeout", settings.handler_timeout)?;
        in_range("lease", settings.lease)?;
        if settings.in_flight_wait > MAX_DURATION {
            return Err(BuildError::Setting("in_flight_wait"));
        }
        settings.max_in_flight = u32::try_from(self.max_in_flight)
            .ok()
            .filter(|&n| n > 0 && n as usize <= Semaphore::MAX_PERMITS)
            .ok_or(BuildError::Setting("max_in_flight"))?;
        let shared = Shared {
            endpoint: self.endpoint,
            verifier: self.verifier,
            ledger,
            mode,
            bodies,
            places: InFlight::new(settings.max_in_flight),
            probes,
            log: Arc::default(),
            witness: ClockWitness::new(),
            settings,
        };
        Ok(Receiver {
            shared: Arc::new(shared),
            runtime: None,
        })
    }
}

impl ReceiverBuilder<VerifyOnly> {
    pub(super) fn verify_only(endpoint: Arc<str>, verifier: Verifier) -> Self {
        let max_age = DEFAULT_RETENTION;
        Self::new(endpoint, verifier, VerifyOnly { max_age })
    }

    /// The maximum age of a delivery, by the `time` in its body. Older ones are answered with 400,
    /// or with 503 if no recent delivery has confirmed this machine's clock. Default 30 days.
    ///
    /// It should not be longer than your service remembers events. Otherwise, a captured delivery
    /// can be replayed after its event was forgotten.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.mode.max_age = age;
        self
    }

    /// Builds the authenticator.
    ///
    /// # Errors
    /// When the endpoint's name is empty or longer than 100 bytes, the secrets are not usable, or a
    /// setting is zero or out of range.
    pub fn build(self) -> Result<Authenticator, BuildError> {
        let bodies = self.check()?;
        in_range("max_age", self.mode.max_age)?;
        let (settings, max_age) = (&self.settings, self.mode.max_age);
        Ok(Authenticator::new(
            self.endpoint,
            self.verifier,
            bodies,
            settings,
            max_age,
        ))
    }
}

impl ReceiverBuilder<Inline> {
    pub(super) fn inline(
        endpoint: Arc<str>,
        verifier: Verifier,
        ledger: AnyLedger,
        handlers: HandlersOrError,
    ) -> Self {
        Self::new(endpoint, verifier, Inline { ledger, handlers })
    }

    /// How long a handler may take. A handler that takes longer is dropped, which counts as a
    /// retryable error. Default 10 s.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handler_timeout = timeout;
        self
    }

    /// How long a claim lasts without a renewal. If the process crashes, its events stay blocked
    /// for at most this long. While a handler runs, the claim is renewed every third of this time.
    /// Default 30 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long to wait for the outcome if another worker is handling the same event. Default 5 s;
    /// zero means not to wait.
    ///
    /// At most four deliveries of one event wait, and at most
    /// [`max_in_flight`](Self::max_in_flight) in total. Further ones are answered with 503 at once.
    pub fn in_flight_wait(mut self, wait: Duration) -> Self {
        self.settings.in_flight_wait = wait;
        self
    }

    /// What to do when a step of the ledger fails. Default: [`StoreFailure::Refuse`].
    /// [`StoreFailure::HandleAnyway`] does not apply to an event whose handler takes a transaction:
    /// that handler needs the store, so the delivery is refused.
    pub fn on_store_failure(mut self, policy: StoreFailure) -> Self {
        self.settings.store_failure = policy;
        self
    }

    /// Acknowledges events that failed terminally, even if the ledger cannot keep them as dead
    /// letters. An event that is not kept is lost.
    ///
    /// Default: if the ledger cannot keep the event, the answer is 503, so that AuthPI retries it.
    pub fn drop_terminal_failures(mut self) -> Self {
        self.settings.drop_terminal = true;
        self
    }

    /// Builds the receiver.
    ///
    /// # Errors
    /// When the endpoint's name is empty or longer than 100 bytes, the secrets are not usable, two
    /// handlers are registered for the same events, a setting is out of range, or a handler takes a
    /// transaction and the store's connection pool has no room for one.
    pub fn build(self) -> Result<Receiver, BuildError> {
        self.finish(|mode| Ok((Mode::Inline(mode.handlers?), mode.ledger)))
    }
}

impl<I> ReceiverBuilder<Stored<I>> {
    pub(super) fn inbox(endpoint: Arc<str>, verifier: Verifier, inbox: AnyInbox) -> Self {
        Self::new(
            endpoint,
            verifier,
            Stored {
                inbox,
                ordering_key: None,
                kind: PhantomData,
            },
        )
    }

    /// Handles events with the same ordering key one at a time, in the order in which they were
    /// stored. `ordering_key` returns a member of the event's subject. For example,
    /// `Subject::user_id` orders the events of each user. Events for which it returns `None` are
    /// handled in any order, as all events are by default.
    ///
    /// The order is the order of arrival. AuthPI may deliver out of order, so a handler still has
    /// to compare [`Event::time`].
    ///
    /// The inbox must be an [`OrderedInbox`]. With a message broker such as NATS JetStream, this
    /// does not compile.
    ///
    /// [`Event::time`]: crate::event::Event::time
    pub fn ordered_by(mut self, ordering_key: fn(&Subject) -> Option<&str>) -> Self
    where
        I: OrderedInbox,
    {
        self.mode.ordering_key = Some(ordering_key);
        self
    }

    /// Builds the receiver.
    ///
    /// # Errors
    /// When the endpoint's name is empty or longer than 100 bytes, the secrets are not usable, or a
    /// setting is out of range.
    pub fn build(self) -> Result<Receiver, BuildError> {
        self.finish(
            |Stored {
                 inbox,
                 ordering_key,
                 ..
             }| {
                let ledger: AnyLedger = inbox.clone();
                let mode = Mode::Inbox {
                    inbox,
                    ordering_key,
                };
                Ok((mode, ledger))
            },
        )
    }
}

impl<M> fmt::Debug for ReceiverBuilder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiverBuilder")
            .field("endpoint", &self.endpoint)
            .field("verifier", &self.verifier)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Why a receiver or a worker could not be built.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The endpoint's name is empty.
    NoEndpoint,
    /// The endpoint's name is longer than [`EventKey::MAX_ENDPOINT_BYTES`].
    EndpointTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The secrets are not usable.
    Secrets(KeyRingError),
    /// Two handlers are registered for the same events.
    Handlers(HandlersError),
    /// A handler takes a transaction, and the store's connection pool has no room for one.
    Pool(PoolTooSmall),
    /// The setting of this name is out of range. Its documentation states the range.
    Setting(&'static str),
}

impl BuildError {
    pub(crate) fn check_length(endpoint: &str) -> Result<(), Self> {
        let bytes = endpoint.len();
        if bytes > EventKey::MAX_ENDPOINT_BYTES {
            Err(Self::EndpointTooLong { bytes })
        } else {
            Ok(())
        }
    }

    /// Checks the handlers and binds them to the store of a receiver or worker.
    pub(crate) fn of<S, H>(handlers: Handlers<S, H>, store: H) -> Result<Routes, Self>
    where
        S: Send + Sync + 'static,
        H: Clone + Send + Sync + 'static,
    {
        handlers.check().map_err(Self::Handlers)?;
        handlers.bind(&store).map_err(Self::Pool)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEndpoint => f.write_str("the endpoint's name must not be empty"),
            Self::EndpointTooLong { bytes } => {
                write!(
                    f,
                    "the endpoint's name is {bytes} bytes long; use at most {}",
                    EventKey::MAX_ENDPOINT_BYTES
                )
            }
            Self::Secrets(_) => f.write_str("the verifier's secrets are not usable"),
            Self::Handlers(_) => f.write_str("the handlers conflict with each other"),
            Self::Pool(_) => {
                f.write_str("the store's connection pool is too small for the handlers")
            }
            Self::Setting(name) => write!(f, "{name} is out of range"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Secrets(error) => Some(error),
            Self::Handlers(error) => Some(error),
            Self::Pool(error) => Some(error),
            Self::NoEndpoint | Self::EndpointTooLong { .. } | Self::Setting(_) => None,
        }
    }
}
