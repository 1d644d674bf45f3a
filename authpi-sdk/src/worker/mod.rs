//! Handles the events of an inbox.
//!
//! A [`Receiver::inbox`](crate::receiver::Receiver::inbox) acknowledges a delivery as soon as it is
//! stored. A [`Worker`] leases the events, oldest first, and runs [`Handlers`], as an inline
//! receiver does. Any number of workers, in any number of processes, can share one store: an event
//! is leased to one of them at a time, and the lease of a worker that dies expires.
//!
//! If no handler is registered for an event's type, the event is counted and its record is removed,
//! as in an inline receiver. AuthPI has already received 200 for it, so it does not send the event
//! again unless someone redelivers it. If no acknowledged event may be dropped, or old and new
//! versions of a service run side by side, keep such events as dead letters: `.fallback(async |_:
//! Event, _| Err(HandlerError::terminal("no handler")))`.
//!
//! After a failed attempt, the event is retried with exponential backoff and full jitter. After a
//! [`terminal`](crate::handlers::Terminal) error, or the last attempt, it becomes a dead letter.
//! Until then, it blocks the later events with its ordering key, but no other events.
//!
//! ```no_run
//! # use authpi_sdk::{event::{Event, Subject, types::UserCreated}, handlers::Handlers, stores::Sqlite, worker::Worker};
//! # use authpi_sdk::{receiver::Receiver, signature::{KeyRing, Secret, Verifier}};
//! # async fn example(keys: KeyRing, stop: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
//! let store = Sqlite::open("hooks.db").await?;
//! let hook = Receiver::inbox("users", Verifier::authpi(keys), store.clone()).ordered_by(Subject::user_id).build()?;
//! let handlers = Handlers::new(()).on(async |_: Event<UserCreated>, _cx| Ok(()));
//! let worker = Worker::builder("users", store, handlers).concurrency(16).build()?;
//! // `hook` goes to the server. The worker runs next to it:
//! worker.run(stop).await;
//! # Ok(()) }
//! ```

mod builder;
mod process;

use std::{
    fmt,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    select,
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    Clock,
    handlers::{Handlers, Routes, SupportsHandlers},
    ledger::{AnyInbox, Backlog, Inbox, LedgerError, NextEvent, Probes, TransactionPermits},
    telemetry::{self, LogLimit, TypeLabels},
    time::ClockWitness,
};

pub use crate::receiver::{BuildError, Health};
pub use builder::WorkerBuilder;

/// Leases the events of one endpoint from an inbox and handles them. Cheap to clone; clones share
/// all state.
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Arc<str>,
    inbox: AnyInbox,
    handlers: Routes,
    /// `Some` if every handler takes a transaction: the worker then takes a permit before it leases
    /// an event.
    permits: Option<TransactionPermits>,
    settings: Settings,
    /// Notified when an event is finished: the next one with its ordering key may be due.
    settled: Notify,
    /// How many events are being handled.
    in_flight: AtomicUsize,
    stopping: AtomicBool,
    probes: Probes,
    log: Arc<LogLimit>,
    witness: ClockWitness,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.log.flush(&self.endpoint);
    }
}

/// The pause after the store has failed.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// The minimum time between two measurements of the inbox.
const MEASURED_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
struct Settings {
    concurrency: usize,
    handler_timeout: Duration,
    lease: Duration,
    poll_interval: Duration,
    max_attempts: u32,
    max_age: Duration,
    backoff: (Duration, Duration),
    clock: Clock,
    type_labels: TypeLabels,
}

impl Worker {
    /// A worker for the events that the receiver of this `endpoint` stores in `inbox`.
    pub fn builder<S, H>(
        endpoint: impl Into<Arc<str>>,
        inbox: impl Inbox + SupportsHandlers<H>,
        handlers: Handlers<S, H>,
    ) -> WorkerBuilder
    where
        S: Send + Sync + 'static,
        H: Clone + Send + Sync + 'static,
    {
        let handlers = BuildError::of(handlers, inbox.handler_store());
        WorkerBuilder::new(endpoint.into(), Arc::new(inbox), handlers)
    }

    /// Runs until `stop` resolves. Then it leases no more events, waits for running handlers, and
    /// returns. If this future is dropped, the worker leases no more events either, and running
    /// handlers continue as long as the runtime does.
    ///
    /// If the store fails, the worker logs the failure and tries again after a second, or after the
    /// poll interval if that is shorter. Requires a tokio runtime with its timer enabled.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        self.shared.stopping.store(false, Ordering::Release);
        select! {
            // Boxed, since it is as large as the caller's `stop`.
            () = Box::pin(self.work(stop)) => {}
            () = self.shared.measure() => {}
        }
    }

    async fn work(&self, stop: impl Future<Output = ()>) {
        let shared = &self.shared;
        let slots = Arc::new(Semaphore::new(shared.settings.concurrency));
        let mut stop = pin!(stop);
        let mut running = Running::default();
        loop {
            // Finished tasks are dropped, so that the set is never larger than the concurrency.
            while running.0.try_join_next().is_some() {}
            let slot = select! {
                biased;
                () = &mut stop => break,
                slot = Arc::clone(&slots).acquire_owned() => slot,
            };
            let permit = match &shared.permits {
                None => None,
                Some(permits) => select! {
                    biased;
                    () = &mut stop => break,
                    permit = permits.acquire() => Some(permit),
                },
            };
            // Created before the inbox is read, so that no notification in between is missed.
            let (appended, settled) = (shared.inbox.appended(), shared.settled.notified());
            let asked = Instant::now();
            let wait = match shared
                .inbox
                .lease_next(&shared.endpoint, shared.settings.lease)
                .await
            {
                Ok(NextEvent::Leased(leased)) => {
                    let shared = Arc::clone(shared);
                    running.0.spawn(async move {
                        let at_work = InFlightGuard::begin(&shared.in_flight);
                        shared.handle(leased, asked, permit).await;
                        drop(at_work);
                        shared.settled.notify_waiters();
                        drop(slot);
                    });
                    continue;
                }
                Ok(NextEvent::Empty { due_in }) => due_in
                    .unwrap_or(Duration::MAX)
                    .min(shared.settings.poll_interval),
                Err(error) => {
                    error.report(&shared.endpoint, &shared.log);
                    drop((slot, permit));
                    // Events that are appended during this pause are found after it.
                    select! {
                        () = &mut stop => break,
                        () = sleep(shared.settings.poll_interval.min(AFTER_A_FAILURE)) => continue,
                    }
                }
            };
            drop((slot, permit));
            select! {
                () = &mut stop => break,
                () = appended => {}
                () = settled => {}
                () = sleep(wait) => {}
            }
        }
        shared.stopping.store(true, Ordering::Release);
        while running.0.join_next().await.is_some() {}
        shared.log.flush(&shared.endpoint);
    }

    /// The number and age of the events that wait for this endpoint's workers.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses.
    pub async fn backlog(&self) -> Result<Backlog, LedgerError> {
        self.shared.inbox.backlog(&self.shared.endpoint).await
    }

    /// The health of this worker. Probes the store and returns within two seconds.
    ///
    /// There are two probes. Each runs at most once a second and never concurrently; calls in
    /// between share its last answer.
    ///
    /// - The write probe appends a record under the empty endpoint name and forgets it (a queue
    ///   only checks its ledger). The workers and inbox receivers of a process share this probe if
    ///   they use clones of one store.
    /// - The backlog probe counts the waiting events of this endpoint. It is only shared by clones
    ///   of this worker.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn health(&self) -> Health {
        let shared = &self.shared;
        let draining = shared.stopping.load(Ordering::Acquire);
        shared.log.tick(&shared.endpoint);
        Health::ask(
            &shared.probes,
            &shared.endpoint,
            draining,
            shared.in_flight.load(Ordering::Relaxed),
        )
        .await
    }
}

impl Shared {
    /// Updates the metrics of the inbox from time to time. Not for each event, since counting is
    /// expensive.
    async fn measure(&self) {
        loop {
            // A failing store is logged where the worker leases events.
            if let Ok(Backlog { depth, oldest }) = self.inbox.backlog(&self.endpoint).await {
                telemetry::inbox(&self.endpoint, depth, oldest);
            }
            self.log.tick(&self.endpoint);
            sleep(self.settings.poll_interval.max(MEASURED_EVERY)).await;
        }
    }
}

/// The tasks of running handlers. Dropping it does not abort them: a handler must not be aborted
/// between its effect and the completion.
#[derive(Default)]
struct Running(JoinSet<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.detach_all();
    }
}

/// Counts one running handler, until dropped.
struct InFlightGuard<'w>(&'w AtomicUsize);

impl<'w> InFlightGuard<'w> {
    fn begin(in_flight: &'w AtomicUsize) -> Self {
        in_flight.fetch_add(1, Ordering::Relaxed);
        Self(in_flight)
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("endpoint", &self.shared.endpoint)
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
