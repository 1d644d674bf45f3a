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
    handlers::{DEFAULT_HANDLER_TIMEOUT, Routes},
    ledger::{AnyInbox, Probes, Target},
    receiver::{BuildError, MAX_DURATION},
    time::ClockWitness,
};

/// Settings of a worker. Created by [`Worker::builder`].
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
            },
        }
    }

    /// How many events may be handled at once. Default 16.
    pub fn concurrency(mut self, events: usize) -> Self {
        self.settings.concurrency = events;
        self
    }

    /// How long a handler may take before it is dropped, which counts as a retryable error. Default
    /// 10 s.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handler_timeout = timeout;
        self
    }

    /// How long a lease lasts unless it is renewed, and so how long the event of a crashed worker
    /// is blocked. Renewed at each third. Default 30 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How often to poll for events without a notification, such as those of another process. Default
    /// 1 s.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval;
        self
    }

    /// The number of failed attempts after which an event becomes a dead letter. Default 20.
    /// Attempts that ended in a crash count.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts;
        self
    }

    /// The age, since the event was stored, after which its next failure makes it a dead letter,
    /// whatever the number of attempts. Default three days.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings.max_age = age;
        self
    }

    /// The pause after the first failure, which doubles with each further failure, and its maximum.
    /// Each pause is a random part of that (full jitter). Defaults: 1 s and 10 min. A pause
    /// requested by a handler is used unchanged.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.settings.backoff = (initial, max);
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
    /// the same events, a setting is zero or out of range, or a handler takes a transaction and the
    /// store's connection pool has no room for one.
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
