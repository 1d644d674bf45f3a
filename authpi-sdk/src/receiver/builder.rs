use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    BodyBudget, DEFAULT_BODY_TIMEOUT, DEFAULT_RETRY_AFTER, InFlight, Mode, Receiver, Settings,
    Shared, budget::default_budget,
};
use crate::{
    Clock,
    event::Subject,
    handlers::{DEFAULT_HANDLER_TIMEOUT, Handlers, HandlersError, Routes},
    ledger::{AnyInbox, AnyLedger, EventKey, OrderedInbox, PoolTooSmall, Probes, Target},
    signature::{KeyRingError, Verifier},
    time::ClockWitness,
};

/// The maximum of every duration setting: a year.
pub(crate) const MAX_DURATION: Duration = Duration::from_hours(365 * 24);

/// What to do with a delivery when the ledger cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StoreFailure {
    /// Refuse it with 503, so that AuthPI sends it again.
    #[default]
    Refuse,
    /// Handle it without a claim, acknowledge it, and log that the ledger could not record it. The
    /// event may be handled twice.
    HandleAnyway,
}

/// Settings of a receiver. Created by [`Receiver::inline`] and [`Receiver::inbox`]. No duration may
/// be longer than a year, except [`retry_after`](Self::retry_after).
#[must_use]
pub struct ReceiverBuilder<M> {
    endpoint: Arc<str>,
    verifier: Verifier,
    ledger: AnyLedger,
    mode: M,
    max_in_flight: usize,
    max_unverified_bytes: Option<usize>,
    settings: Settings,
}

/// Handle, then answer; see [`Receiver::inline`].
pub struct Inline {
    handlers: HandlersOrError,
}

type HandlersOrError = Result<Routes, BuildError>;

/// Store in an `I`, then answer; see [`Receiver::inbox`].
pub struct Stored<I> {
    inbox: AnyInbox,
    ordering_key: Option<super::OrderingKey>,
    kind: PhantomData<fn() -> I>,
}

impl<M> ReceiverBuilder<M> {
    fn new(endpoint: Arc<str>, verifier: Verifier, ledger: AnyLedger, mode: M) -> Self {
        Self {
            endpoint,
            verifier,
            ledger,
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
                clock: Clock::system(),
            },
        }
    }

    /// The maximum number of authentic deliveries in progress. Further ones are answered with 503.
    /// Default 256.
    ///
    /// A delivery that waits for another worker's outcome
    /// ([`in_flight_wait`](ReceiverBuilder::in_flight_wait)) is not in progress. As many again may
    /// wait.
    pub fn max_in_flight(mut self, deliveries: usize) -> Self {
        self.max_in_flight = deliveries;
        self
    }

    /// The number of bytes that unverified bodies may hold in total. Default 64 MiB, or four times
    /// [`Verifier::max_body`] if that is more. At least the size of one body.
    ///
    /// Anyone can send a body, so this bounds the memory that senders without the secret can use.
    /// The first 16 KiB of each body do not count and are always accepted. A larger body counts
    /// with the size of its buffer, not with the length that was announced. When the budget is
    /// full, the bodies that hold the most for the least progress are dropped and answered with
    /// 503; fast senders are still accepted. The [security
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

    /// The `Retry-After` of a 503 if no better value is known, in whole seconds rounded up, at
    /// least 1. Default 5 s.
    ///
    /// AuthPI does not document whether it honors the header.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.settings.retry_after = wait;
        self
    }

    /// Replaces the system clock. (The verifier has its own clock.)
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    fn finish(
        self,
        mode: impl FnOnce(M) -> Result<Mode, BuildError>,
    ) -> Result<Receiver, BuildError> {
        if self.endpoint.is_empty() {
            return Err(BuildError::NoEndpoint);
        }
        BuildError::check_length(&self.endpoint)?;
        self.verifier.check().map_err(BuildError::Secrets)?;
        let mode = mode(self.mode)?;
        let probes = Probes::new(match &mode {
            Mode::Inline(_) => Target::Ledger(self.ledger.clone()),
            Mode::Inbox { inbox, .. } => Target::Inbox(inbox.clone()),
        });
        let mut settings = self.settings;
        for (name, duration) in [
            ("body_timeout", settings.body_timeout),
            ("handler_timeout", settings.handler_timeout),
            ("lease", settings.lease),
        ] {
            if duration.is_zero() {
                return Err(BuildError::Setting(name));
            }
        }
        for (name, duration) in [
            ("body_timeout", settings.body_timeout),
            ("handler_timeout", settings.handler_timeout),
            ("lease", settings.lease),
            ("in_flight_wait", settings.in_flight_wait),
        ] {
            // Keeps sums with the clock far from overflow.
            if duration > MAX_DURATION {
                return Err(BuildError::Setting(name));
            }
        }
        let max_body = self.verifier.body_limit();
        let unverified = self
            .max_unverified_bytes
            .unwrap_or_else(|| default_budget(max_body));
        if unverified < max_body {
            return Err(BuildError::Setting("max_unverified_bytes"));
        }
        settings.max_in_flight = u32::try_from(self.max_in_flight)
            .ok()
            .filter(|&n| n > 0 && n as usize <= Semaphore::MAX_PERMITS)
            .ok_or(BuildError::Setting("max_in_flight"))?;
        Ok(Receiver {
            shared: Arc::new(Shared {
                endpoint: self.endpoint,
                verifier: self.verifier,
                ledger: self.ledger,
                mode,
                bodies: BodyBudget::new(unverified),
                places: InFlight::new(settings.max_in_flight),
                probes,
                log: Arc::default(),
                witness: ClockWitness::new(),
                settings,
            }),
        })
    }
}

impl ReceiverBuilder<Inline> {
    pub(super) fn inline(
        endpoint: Arc<str>,
        verifier: Verifier,
        ledger: AnyLedger,
        handlers: HandlersOrError,
    ) -> Self {
        Self::new(endpoint, verifier, ledger, Inline { handlers })
    }

    /// How long a handler may take before it is dropped, which counts as a retryable error. Default
    /// 10 s.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handler_timeout = timeout;
        self
    }

    /// How long a claim lasts unless it is renewed, and so how long the event of a crashed process
    /// is blocked. Renewed at each third. Default 30 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long to wait for the outcome if another worker is handling the same event. Default 5 s;
    /// zero does not wait.
    ///
    /// At most four deliveries of one event wait, and at most
    /// [`max_in_flight`](Self::max_in_flight) in total. Further ones are answered with 503 at once.
    pub fn in_flight_wait(mut self, wait: Duration) -> Self {
        self.settings.in_flight_wait = wait;
        self
    }

    /// What to do when the ledger cannot be reached. Default: refuse. An event whose handler takes
    /// a transaction is always refused, since its handler needs the store.
    pub fn on_store_failure(mut self, policy: StoreFailure) -> Self {
        self.settings.store_failure = policy;
        self
    }

    /// Acknowledges events that failed terminally although the ledger cannot keep dead letters.
    /// These events are lost.
    ///
    /// Without this, they are answered with 503 and stay with AuthPI.
    pub fn drop_terminal_failures(mut self) -> Self {
        self.settings.drop_terminal = true;
        self
    }

    /// Builds the receiver.
    ///
    /// # Errors
    /// When the endpoint's name is empty or longer than 100 bytes, the secrets or handlers are not
    /// usable, a setting is zero or out of range, or a handler takes a transaction and the store's
    /// connection pool has no room for one.
    pub fn build(self) -> Result<Receiver, BuildError> {
        self.finish(|mode| Ok(Mode::Inline(mode.handlers?)))
    }
}

impl<I> ReceiverBuilder<Stored<I>> {
    pub(super) fn inbox(endpoint: Arc<str>, verifier: Verifier, inbox: AnyInbox) -> Self {
        let ledger = inbox.clone();
        Self::new(
            endpoint,
            verifier,
            ledger,
            Stored {
                inbox,
                ordering_key: None,
                kind: PhantomData,
            },
        )
    }

    /// Handles events with the same value of this member of the subject one at a time, in the order
    /// in which they were stored. For example, `Subject::user_id` orders the events of each user.
    /// Events without the member are handled in any order, as all events are by default.
    ///
    /// The order is the order of arrival. AuthPI may deliver out of order, so a handler still has
    /// to compare [`Event::time`].
    ///
    /// Requires a store that keeps the order: with a queue, this does not compile.
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
    /// setting is zero or out of range.
    pub fn build(self) -> Result<Receiver, BuildError> {
        self.finish(
            |Stored {
                 inbox,
                 ordering_key,
                 ..
             }| {
                Ok(Mode::Inbox {
                    inbox,
                    ordering_key,
                })
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
    /// This setting is zero or out of range.
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
            Self::Handlers(_) => f.write_str("the handlers contradict each other"),
            Self::Pool(_) => {
                f.write_str("the store's connection pool is too small for the handlers")
            }
            Self::Setting(name) => write!(f, "{name} is zero or out of range"),
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
