use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use tokio::sync::{Notify, Semaphore};

use super::{Settings, Shared, Worker};
use crate::{
    Clock,
    event::EventType,
    handlers::{DEFAULT_HANDLER_TIMEOUT, Routes},
    ledger::{AnyInbox, Probes, Target},
    receiver::{BuildError, MAX_DURATION},
    telemetry::TypeLabels,
    time::ClockWitness,
};

/// Settings of a worker. Created by [`Worker::builder`].
///
/// `handler_timeout`, `lease` and `poll_interval` must be greater than zero and at most a year.
#[must_use]
pub struct WorkerBuilder {
    endpoint: Arc<str>,
    inbox: AnyInbox,
    handlers: Result<Routes, BuildError>,
    settings: Settings,
}

impl WorkerBuilder {
    pub(super) fn new(
        endpoint: Arc<str>,
        inbox: AnyInbox,
        handlers: Result<Routes, BuildError>,
    ) -> Self {
        Self {
            endpoint,
            inbox,
            handlers,
            settings: Settings {
                concurrency: 16,
                handler_timeout: DEFAULT_HANDLER_TIMEOUT,
                lease: Duration::from_secs(30),
                poll_interval: Duration::from_secs(1),
                max_attempts: 20,
                max_age: Duration::from_hours(72),
                backoff: (Duration::from_secs(1), Duration::from_mins(10)),
                clock: Clock::system(),
                type_labels: TypeLabels::default(),
            },
        }
    }

    /// How many events may be handled at once. Default 16; must not be zero.
    pub fn concurrency(mut self, events: usize) -> Self {
        self.settings.concurrency = events;
        self
    }

    /// How long a handler may take. After that, it is dropped, which counts as a retryable error.
    /// Default 10 s.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handler_timeout = timeout;
        self
    }

    /// How long a lease lasts without a renewal. If the process crashes, its events stay blocked
    /// for at most this long. While a handler runs, the lease is renewed every third of this time.
    /// Default 30 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How often to poll. A worker finds events by polling if the store does not notify it of them,
    /// such as events that another process has stored in SQLite. Default 1 s.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval;
        self
    }

    /// The number of failed attempts after which an event becomes a dead letter. Attempts that
    /// ended in a crash count too. Default 20; must not be zero.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts;
        self
    }

    /// An event whose attempt fails this long after it was stored, or later, becomes a dead letter,
    /// whatever the number of attempts. Default three days.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings.max_age = age;
        self
    }

    /// The backoff after a failed attempt: `initial` after the first failure, doubled with each
    /// further failure, at most `max`. The actual pause is a random part of this value (full
    /// jitter). Defaults: 1 s and 10 min. A pause that a handler has requested is used unchanged.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.settings.backoff = (initial, max);
        self
    }

    /// Adds the label `type` to the metrics of attempts and handlers. Its values are the names of
    /// these event types, `other` for the rest, and `none` if the event was not read. Default: no
    /// label.
    ///
    /// Each type adds time series to these metrics. A type that this version of the SDK does not
    /// know is counted as `other`.
    pub fn label_event_types(mut self, types: impl IntoIterator<Item = EventType>) -> Self {
        let names = types.into_iter().filter_map(|of| of.known_name());
        self.settings.type_labels = TypeLabels::new(names);
        self
    }

    /// Replaces the system clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Builds the worker.
    ///
    /// # Errors
    /// When the endpoint's name is empty or longer than 100 bytes, two handlers are registered for
    /// the same events, a setting is out of range, or a handler takes a transaction and the store's
    /// connection pool has no room for one.
    pub fn build(self) -> Result<Worker, BuildError> {
        if self.endpoint.is_empty() {
            return Err(BuildError::NoEndpoint);
        }
        BuildError::check_length(&self.endpoint)?;
        let handlers = self.handlers?;
        let settings = self.settings;
        for (name, duration) in [
            ("handler_timeout", settings.handler_timeout),
            ("lease", settings.lease),
            ("poll_interval", settings.poll_interval),
        ] {
            if duration.is_zero() || duration > MAX_DURATION {
                return Err(BuildError::Setting(name));
            }
        }
        if settings.concurrency == 0 || settings.concurrency > Semaphore::MAX_PERMITS {
            return Err(BuildError::Setting("concurrency"));
        }
        if settings.max_attempts == 0 {
            return Err(BuildError::Setting("max_attempts"));
        }
        let Self {
            endpoint, inbox, ..
        } = self;
        let probes = Probes::new(Target::Inbox(inbox.clone()));
        let shared = Shared {
            endpoint,
            inbox,
            permits: handlers.permits_of_all(),
            handlers,
            settings,
            settled: Notify::new(),
            in_flight: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            probes,
            log: Arc::default(),
            witness: ClockWitness::new(),
        };
        Ok(Worker {
            shared: Arc::new(shared),
        })
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("endpoint", &self.endpoint)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
