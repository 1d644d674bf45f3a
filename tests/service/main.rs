//! A service as a user would write it, for the crash tests to kill: a receiver, a worker, or both, on any store.
//!
//! It says `ready <port>` when it is, and ends when its standard input does, so that none outlives the tests.

use std::{
    collections::HashMap,
    error::Error,
    io::{Read as _, Write as _},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use authpi_sdk::{
    event::{Event, Subject, types::UserUpdated},
    handlers::{Context, HandlerError, Handlers},
    ledger::{Inbox, Ledger, Postgres, Redis, Sqlite},
    receiver::{Receiver, ReceiverBuilder, Stored},
    signature::{KeyRing, Verifier},
    worker::Worker,
};
use authpi_tests::trial::{ENDPOINT, Entry, EventId, Journal, Mode, Role, SECRET, Setup, Store};
use axum::Router;
use tokio::net::TcpListener;
use tracing::{Level, Metadata, Subscriber, field::Visit, span};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What this process is; there is one, and crash points are plain functions.
static SERVICE: OnceLock<Service> = OnceLock::new();

struct Service {
    setup: Setup,
    journal: Journal,
    dice: Mutex<fastrand::Rng>,
    /// Which event the work in a task is about. A crash point tells its name alone.
    at_work_on: Mutex<HashMap<tokio::task::Id, EventId>>,
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

    /// Takes up to half the time that handling takes.
    async fn work(&self) {
        let most = self.setup.handling * 1000 / 2;
        let took = self.dice(|dice| dice.u64(0..=most));
        tokio::time::sleep(Duration::from_micros(took)).await;
    }

    fn fails(&self) -> bool {
        self.dice(|dice| dice.u32(0..1000)) < self.setup.failing
    }

    fn verifier() -> Verifier {
        Verifier::authpi(KeyRing::new().with("crash", SECRET))
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.setup.lease)
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let setup = std::env::args().nth(1).ok_or("the crash tests start this program, with its setup as argument")?;
    let setup: Setup = serde_json::from_str(&setup)?;
    let service = Service {
        journal: Journal::open(&setup.journal)?,
        dice: Mutex::new(fastrand::Rng::with_seed(setup.seed)),
        at_work_on: Mutex::default(),
        setup,
    };
    let service = SERVICE.get_or_init(|| service);
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    tracing::subscriber::set_global_default(Log)?;

    match (&service.setup.store, service.setup.mode) {
        (Store::Sqlite(file), Mode::Inline) => inline(service, Sqlite::open(file).await?).await,
        (Store::Sqlite(file), Mode::Inbox) => inbox(service, Sqlite::open(file).await?, in_lanes).await,
        (Store::Postgres(url, prefix), mode) => {
            let store = Postgres::options().prefix(prefix).connect(url).await?;
            match mode {
                Mode::Inline => inline(service, store).await,
                Mode::Inbox => inbox(service, store, in_lanes).await,
                Mode::InlineTx | Mode::InboxTx => Err("not yet".into()),
            }
        }
        (Store::Redis(url, prefix), Mode::Inline) => {
            inline(service, Redis::options().prefix(prefix).connect(url).await?).await
        }
        (store, mode) => Err(format!("{store:?} cannot do {mode:?}").into()),
    }
}

async fn inline(service: &'static Service, ledger: impl Ledger) -> Result<()> {
    let receiver = Receiver::inline(ENDPOINT, Service::verifier(), ledger, journaled());
    // Longer than a lease, so that whoever waits for the dead sees their lease run out.
    let receiver = receiver.lease(service.lease()).patience(service.lease() * 2);
    serve(Some(receiver.build()?), None).await
}

async fn inbox<I: Inbox + Clone>(
    service: &'static Service,
    store: I,
    in_lanes: fn(ReceiverBuilder<Stored>) -> ReceiverBuilder<Stored>,
) -> Result<()> {
    let role = service.setup.role;
    let receiver = matches!(role, Role::Receiver | Role::Both)
        .then(|| in_lanes(Receiver::inbox(ENDPOINT, Service::verifier(), store.clone())).build());
    let worker = matches!(role, Role::Worker | Role::Both).then(|| {
        let pause = Duration::from_millis(20);
        let worker = Worker::new(ENDPOINT, store, journaled()).lease(service.lease());
        // Being killed must not use up an event's attempts.
        worker.poll(pause * 5).pauses(pause, pause * 5).attempts(10_000).build()
    });
    serve(receiver.transpose()?, worker.transpose()?).await
}

fn in_lanes(receiver: ReceiverBuilder<Stored>) -> ReceiverBuilder<Stored> {
    receiver.in_order_per(Subject::user_id)
}

async fn serve(receiver: Option<Receiver>, worker: Option<Worker>) -> Result<()> {
    let worker = worker.map(|worker| tokio::spawn(async move { worker.run(std::future::pending()).await }));
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

/// Writes the effect into the journal.
fn journaled() -> Handlers<()> {
    Handlers::new(()).on(async |event: Event<UserUpdated>, cx: Context<()>| {
        let (service, id) = begin(&event, &cx)?;
        service.work().await;
        if service.fails() {
            return Err(HandlerError::retryable("the dice fell so"));
        }
        service.journal.write(&Entry::Effect(service.process(), id));
        end(service, id).await;
        Ok(())
    })
}

fn begin(
    event: &Event<UserUpdated>,
    cx: &Context<()>,
) -> std::result::Result<(&'static Service, EventId), HandlerError> {
    let service = Service::get();
    let id: EventId = event.id().parse().map_err(|_| HandlerError::terminal("none of the driver's events"))?;
    service.journal.write(&Entry::Tried(service.process(), id, cx.attempt()));
    Ok((service, id))
}

/// The rest of an attempt after its effect.
async fn end(service: &Service, id: EventId) {
    service.work().await;
    if let Some(task) = tokio::task::try_id() {
        service.at_work_on.lock().unwrap_or_else(PoisonError::into_inner).insert(task, id);
    }
}

/// Shows warnings, and writes into the journal which leases were lost.
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
        struct Line {
            event_id: Option<EventId>,
            text: String,
        }
        impl Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.text += &format!(" {field}={value:?}");
                if field.name() == "event_id" {
                    self.event_id = format!("{value:?}").trim_matches('"').parse().ok();
                }
            }
        }
        let mut line = Line { event_id: None, text: String::new() };
        event.record(&mut line);
        eprintln!("{}{}", event.metadata().level(), line.text);
        if let Some(id) = line.event_id.filter(|_| line.text.contains("the lease was lost")) {
            let service = Service::get();
            service.journal.write(&Entry::LeaseLost(service.process(), id));
        }
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
