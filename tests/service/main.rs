//! A service as a user would write it, for the crash tests to kill: a receiver, a worker, or both,
//! on any store. As `service reconcile FOLDER` it is one of the processes in the tests of
//! `reconcile`.
//!
//! With the arguments `in-memory <bytes>` it is a receiver with the memory ledger and that budget
//! for unverified bodies.
//!
//! It prints `ready <port>` when it is ready, and ends when its standard input is closed, so that
//! it does not outlive the tests.

mod reconcile;

use std::{
    collections::HashMap,
    error::Error,
    fmt::Write as _,
    io::{Read as _, Write as _},
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    event::{Event, Subject, types::UserUpdated},
    handlers::{Context, HandlerError, Handlers, SupportsHandlers},
    ledger::{Inbox, LedgerError, OrderedInbox, Transactional, Tx},
    receiver::{Receiver, ReceiverBuilder, Stored},
    signature::{KeyRing, Verifier},
    stores::{Memory, Nats, NatsOptions, Postgres, Redis, Sqlite},
    telemetry::{LEASES_LOST, STORE_FAILURES},
    unstable::on_crash_point,
    worker::Worker,
};
use authpi_tests::allow_open_files;
use authpi_tests::harness::{ENDPOINT, Entry, EventId, Journal, Mode, Role, SECRET, Setup, Store};
use axum::Router;
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Recorder, SharedString, Unit};
use rustix::process::{Signal, getpid, kill_process};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::net::TcpListener;
use tracing::{Level, Metadata, Subscriber, field::Visit, span};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// This process. It is global because crash points are plain functions.
static SERVICE: OnceLock<Service> = OnceLock::new();

struct Service {
    setup: Setup,
    journal: Journal,
    /// How often the crash point at which this process dies was passed.
    passed: AtomicU32,
    dice: Mutex<fastrand::Rng>,
    /// The event of each task, since a crash point has only a name.
    working_on: Mutex<HashMap<tokio::task::Id, EventId>>,
    /// The event that a handler was started for in each task.
    tried: Mutex<HashMap<tokio::task::Id, EventId>>,
}

impl Service {
    fn get() -> &'static Self {
        SERVICE.get().expect("it is set before anything else")
    }

    fn process(&self) -> u32 {
        self.setup.process
    }

    fn dice<T>(&self, throw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        throw(&mut self.dice.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up to half the handling time, and never none, so that the work is in its own task.
    async fn work(&self) {
        let most = self.setup.handling * 1000 / 2;
        let took = self.dice(|dice| dice.u64(1..=most.max(1)));
        tokio::time::sleep(Duration::from_micros(took)).await;
    }

    fn fails(&self) -> bool {
        self.dice(|dice| dice.u32(0..1000)) < self.setup.failing
    }

    fn verifier() -> Verifier {
        Verifier::authpi(KeyRing::new().with("crash", SECRET))
    }

    /// The event of the current task, if a handler has ended there.
    fn current_event(&self) -> Option<EventId> {
        let task = tokio::task::try_id()?;
        self.working_on
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&task)
            .copied()
    }

    /// The event that the current task handles, or has handled.
    fn tried(&self) -> Option<EventId> {
        let task = tokio::task::try_id()?;
        self.tried
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&task)
            .copied()
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.setup.timeout)
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.setup.lease)
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut arguments = std::env::args().skip(1);
    let setup = arguments
        .next()
        .ok_or("the tests start this program, with its setup as argument")?;
    if setup == "in-memory" {
        return in_memory(
            arguments
                .next()
                .ok_or("how many bytes of unverified bodies?")?
                .parse()?,
        )
        .await;
    }
    if setup == "reconcile" {
        return reconcile::run(Path::new(
            &arguments.next().ok_or("usage: service reconcile FOLDER")?,
        ))
        .await;
    }
    let setup: Setup = serde_json::from_str(&setup)?;
    let service = Service {
        journal: Journal::open(&setup.journal)?,
        passed: AtomicU32::new(0),
        dice: Mutex::new(fastrand::Rng::with_seed(setup.seed)),
        working_on: Mutex::default(),
        tried: Mutex::default(),
        setup,
    };
    let service = SERVICE.get_or_init(|| service);
    tracing::subscriber::set_global_default(Log)?;
    metrics::set_global_recorder(Counts)?;
    on_crash_point(pass);

    match (&service.setup.store, service.setup.mode) {
        (Store::Sqlite(file), mode) => {
            let store = Sqlite::open(file).await?;
            match mode {
                Mode::Inline => inline(service, store, journaled()).await,
                Mode::Inbox => inbox(service, store, journaled(), in_ordering_keys).await,
                Mode::InlineTx => inline(service, store, written_to_sqlite()).await,
                Mode::InboxTx => inbox(service, store, written_to_sqlite(), in_ordering_keys).await,
            }
        }
        (Store::Postgres(url, prefix), mode) => {
            let store = postgres(service, url, prefix).await?;
            match mode {
                Mode::Inline => inline(service, store, journaled()).await,
                Mode::Inbox => inbox(service, store, journaled(), in_ordering_keys).await,
                Mode::InlineTx => {
                    inline(service, store, written_to_postgres::<Postgres>(prefix)).await
                }
                Mode::InboxTx => {
                    inbox(
                        service,
                        store,
                        written_to_postgres::<Postgres>(prefix),
                        in_ordering_keys,
                    )
                    .await
                }
            }
        }
        (Store::Redis(url, prefix), Mode::Inline) => {
            inline(service, redis(service, url, prefix).await?, journaled()).await
        }
        (Store::Nats(url, name, ledger), mode) => match (&**ledger, mode) {
            (Store::Redis(ledger, prefix), Mode::Inbox) => {
                let store = nats(service, name)
                    .connect(url, redis(service, ledger, prefix).await?)
                    .await?;
                inbox(service, store, journaled(), in_any_order).await
            }
            (Store::Postgres(ledger, prefix), Mode::InboxTx) => {
                let store = nats(service, name)
                    .connect(url, postgres(service, ledger, prefix).await?)
                    .await?;
                inbox(
                    service,
                    store,
                    written_to_postgres::<Nats<Postgres>>(prefix),
                    in_any_order,
                )
                .await
            }
            (ledger, mode) => {
                Err(format!("no trial needs {mode:?} with {ledger:?} under NATS").into())
            }
        },
        (store, mode) => Err(format!("{store:?} cannot do {mode:?}").into()),
    }
}

/// For many peers that send anything, at any speed.
async fn in_memory(max_unverified_bytes: usize) -> Result<()> {
    allow_open_files(4096)?;
    let handlers = Handlers::new(()).on(async |_: Event<UserUpdated>, _: Context<()>| Ok(()));
    let receiver = Receiver::inline(ENDPOINT, Service::verifier(), Memory::new(), handlers)
        .max_unverified_bytes(max_unverified_bytes)
        .body_timeout(Duration::from_hours(1));
    serve(Some(receiver.build()?), None).await
}

async fn postgres(
    service: &Service,
    url: &str,
    prefix: &str,
) -> std::result::Result<Postgres, LedgerError> {
    Postgres::options()
        .timeout(service.timeout())
        .prefix(prefix)
        .connect(url)
        .await
}

async fn redis(
    service: &Service,
    url: &str,
    prefix: &str,
) -> std::result::Result<Redis, LedgerError> {
    Redis::options()
        .timeout(service.timeout())
        .prefix(prefix)
        .connect(url)
        .await
}

fn nats(service: &Service, name: &str) -> NatsOptions {
    Nats::options()
        .timeout(service.timeout())
        .stream(name)
        .subjects(name)
        .ack_wait(service.lease())
}

/// The action at a crash point.
fn pass(point: &'static str) {
    let service = Service::get();
    if matches!(point, "completed" | "committed")
        && let Some(event) = service.current_event()
    {
        service
            .journal
            .write(&Entry::Completed(service.process(), event));
    }
    let Some((at, pass)) = &service.setup.death else {
        return;
    };
    if at == point && service.passed.fetch_add(1, Ordering::Relaxed) + 1 == *pass {
        service
            .journal
            .write(&Entry::Dying(service.process(), point.to_owned()));
        let _ = kill_process(getpid(), Signal::KILL);
        // The signal arrives immediately, and nothing happens in between.
        loop {
            std::thread::park();
        }
    }
}

async fn inline<H>(
    service: &'static Service,
    ledger: impl SupportsHandlers<H>,
    handlers: Handlers<(), H>,
) -> Result<()>
where
    H: Clone + Send + Sync + 'static,
{
    let receiver = Receiver::inline(ENDPOINT, Service::verifier(), ledger, handlers);
    // Longer than a lease, so that a delivery that waits for a dead process sees its lease expire.
    let receiver = receiver
        .lease(service.lease())
        .in_flight_wait(service.lease() * 2);
    serve(Some(receiver.build()?), None).await
}

async fn inbox<H, I>(
    service: &'static Service,
    store: I,
    handlers: Handlers<(), H>,
    ordered: fn(ReceiverBuilder<Stored<I>>) -> ReceiverBuilder<Stored<I>>,
) -> Result<()>
where
    H: Clone + Send + Sync + 'static,
    I: Inbox + SupportsHandlers<H> + Clone,
{
    let receiver = ordered(Receiver::inbox(
        ENDPOINT,
        Service::verifier(),
        store.clone(),
    ));
    let pause = Duration::from_millis(20);
    let worker = Worker::builder(ENDPOINT, store, handlers)
        .lease(service.lease())
        .poll_interval(pause * 5)
        .backoff(pause, pause * 5);
    // Kills must not use up an event's attempts.
    let worker = worker.max_attempts(10_000).build()?;
    match service.setup.role {
        Role::Receiver => serve(Some(receiver.build()?), None).await,
        Role::Worker => serve(None, Some(worker)).await,
        Role::Both => serve(Some(receiver.build()?), Some(worker)).await,
    }
}

fn in_ordering_keys<I: OrderedInbox>(
    receiver: ReceiverBuilder<Stored<I>>,
) -> ReceiverBuilder<Stored<I>> {
    receiver.ordered_by(Subject::user_id)
}

fn in_any_order<I: Inbox>(receiver: ReceiverBuilder<Stored<I>>) -> ReceiverBuilder<Stored<I>> {
    receiver
}

async fn serve(receiver: Option<Receiver>, worker: Option<Worker>) -> Result<()> {
    let worker =
        worker.map(|worker| tokio::spawn(async move { worker.run(std::future::pending()).await }));
    if let Some(receiver) = receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ready(listener.local_addr()?.port())?;
        axum::serve(listener, Router::new().route_service("/", receiver)).await?;
    } else if let Some(worker) = worker {
        ready(0)?;
        worker.await?;
    }
    Err("it has nothing left to do".into())
}

fn ready(port: u16) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "ready {port}")?;
    Ok(out.flush()?)
}

/// Writes the effect to the journal.
fn journaled() -> Handlers<()> {
    Handlers::new(()).on(async |event: Event<UserUpdated>, cx: Context<()>| {
        let (service, id) = begin(&event, &cx).await?;
        if service.fails() {
            return Err(HandlerError::retryable("the dice fell so"));
        }
        service.journal.write(&Entry::Effect(service.process(), id));
        end(service, id).await;
        Ok(())
    })
}

/// Writes the effect to a table in the ledger's database, with the completion of the claim.
fn written_to_sqlite() -> Handlers<(), Sqlite> {
    Handlers::new(()).on_tx(
        async |event: Event<UserUpdated>, cx: Context<()>, mut tx: Tx<Sqlite>| {
            let (service, id) = begin(&event, &cx).await?;
            sqlx::query("INSERT INTO effects (event) VALUES (?)")
                .bind(id.to_string())
                .execute(&mut *tx)
                .await?;
            end_tx(service, id).await
        },
    )
}

/// The same; the ledger may be under another inbox.
fn written_to_postgres<L>(prefix: &str) -> Handlers<(), L>
where
    L: Transactional<Connection = PgConnection>,
{
    let insert: Arc<str> = format!("INSERT INTO {prefix}effects (event) VALUES ($1)").into();
    Handlers::new(()).on_tx(
        move |event: Event<UserUpdated>, cx: Context<()>, mut tx: Tx<L>| {
            let insert = AssertSqlSafe(insert.clone());
            async move {
                let (service, id) = begin(&event, &cx).await?;
                sqlx::query(insert)
                    .bind(id.to_string())
                    .execute(&mut *tx)
                    .await?;
                end_tx(service, id).await
            }
        },
    )
}

/// The part of an attempt before its effect, if it has one.
async fn begin(
    event: &Event<UserUpdated>,
    cx: &Context<()>,
) -> std::result::Result<(&'static Service, EventId), HandlerError> {
    let service = Service::get();
    let id: EventId = event
        .id()
        .parse()
        .map_err(|_| HandlerError::terminal("none of the driver's events"))?;
    service
        .journal
        .write(&Entry::Tried(service.process(), id, cx.attempt()));
    if let Some(task) = tokio::task::try_id() {
        service
            .tried
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(task, id);
    }
    service.work().await;
    if service.setup.store.gives_up(id) {
        service.journal.write(&Entry::GaveUp(service.process(), id));
        end(service, id).await;
        return Err(HandlerError::terminal("no try helps"));
    }
    Ok((service, id))
}

/// The rest of an attempt after its row was written: if it fails now, the row must be rolled back.
async fn end_tx(service: &Service, id: EventId) -> std::result::Result<(), HandlerError> {
    end(service, id).await;
    if service.fails() {
        Err(HandlerError::retryable("the dice fell so"))
    } else {
        Ok(())
    }
}

/// The rest of an attempt after its effect, or without one.
async fn end(service: &Service, id: EventId) {
    service.work().await;
    if let Some(task) = tokio::task::try_id() {
        service
            .working_on
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(task, id);
    }
}

/// Shows warnings.
struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, " {field}={value:?}");
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        eprintln!("{}{}", event.metadata().level(), line.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Writes lost leases and failed completions to the journal. Metrics count each of them, while log
/// lines are rate-limited.
struct Counts;

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &metrics::Metadata<'_>) -> Counter {
        match key.name() {
            LEASES_LOST => Counter::from_arc(Arc::new(Count(Service::tried, Entry::LeaseLost))),
            STORE_FAILURES => {
                Counter::from_arc(Arc::new(Count(Service::current_event, Entry::NotCompleted)))
            }
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &metrics::Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &metrics::Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Which event the task is about, and what to write of it.
struct Count(fn(&Service) -> Option<EventId>, fn(u32, EventId) -> Entry);

impl CounterFn for Count {
    fn increment(&self, _: u64) {
        let service = Service::get();
        if let Some(id) = (self.0)(service) {
            service.journal.write(&(self.1)(service.process(), id));
        }
    }

    fn absolute(&self, _: u64) {}
}
