//! Handles the events of an inbox.
//!
//! A [`Receiver::inbox`](crate::receiver::Receiver::inbox) acknowledges a delivery as soon as it is
//! stored. A [`Worker`] takes the events, oldest first, and runs the same [`Handlers`] as an inline
//! receiver would. Any number of workers, in any number of processes, can share one store: an event
//! is leased to one of them at a time, and the lease of a worker that dies expires.
//!
//! An event without a handler for its type is dropped, as in an inline receiver: it is counted, not
//! recorded, and AuthPI can deliver it again. But it was acknowledged. If old and new versions of a
//! service run side by side, or no acknowledged event may be dropped, keep it as a dead letter:
//! `.fallback(async |_: Event, _| Err(HandlerError::terminal("no handler")))`.
//!
//! A failed handler is retried after a pause that doubles each time, with full jitter. After a
//! [`terminal`](crate::handlers::Terminal) error, or the last attempt, the event becomes a dead
//! letter. Until then a failing event blocks the later events with its ordering key, and no others.
//!
//! ```no_run
//! # use authpi_sdk::{event::{Event, Subject, types::UserCreated}, handlers::Handlers, stores::Sqlite, worker::Worker};
//! # use authpi_sdk::{receiver::Receiver, signature::{KeyRing, Secret, Verifier}};
//! # async fn example(keys: KeyRing, stop: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
//! let store = Sqlite::open("hooks.db").await?;
//! let hook = Receiver::inbox("users", Verifier::authpi(keys), store.clone()).ordered_by(Subject::user_id).build()?;
//! let handlers = Handlers::new(()).on(async |_: Event<UserCreated>, _cx| Ok(()));
//! let worker = Worker::builder("users", store, handlers).concurrency(16).build()?;
//! // `hook` goes to the server, and beside it:
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
    telemetry::{self, LogLimit},
    time::ClockWitness,
};

pub use crate::receiver::{BuildError, Health};
pub use builder::WorkerBuilder;

/// Leases the events of one endpoint from an inbox and handles them. Cheap to clone; clones share
/// everything.
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Arc<str>,
    inbox: AnyInbox,
    handlers: Routes,
    /// If every handler takes a transaction: nothing is leased before there is room for one.
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

/// The least time between two measurements of the inbox.
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
    /// If the store cannot be reached, that is logged, and the worker tries again after a second,
    /// or the poll interval if that is shorter. Needs a tokio runtime with its timer enabled.
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
                    // Events that are appended meanwhile are found afterwards.
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

    /// The events that wait for this endpoint's workers; for a health probe.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses.
    pub async fn backlog(&self) -> Result<Backlog, LedgerError> {
        self.shared.inbox.backlog(&self.shared.endpoint).await
    }

    /// The health of this worker: two steps of the store, within two seconds.
    ///
    /// Appends and forgets a record under the empty endpoint name (a queue: claims and forgets one
    /// in its ledger), and reads the backlog. A store is probed at most once a second and never
    /// concurrently, however often this is called: the receivers and workers of a process share the
    /// answer.
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
