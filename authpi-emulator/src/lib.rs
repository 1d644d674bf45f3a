//! A local AuthPI: its webhooks API, event log and signed deliveries, in one process and in
//! memory, with an optional file for restarts.
//!
//! For tests and development. It implements all operations of `openapi/authpi.yaml` and AuthPI's
//! rules for credentials, envelopes, pages, `ETags`, idempotency keys and errors. It refuses
//! requests that violate the description, with `fields`. It keeps an event log, delivers each event
//! to the webhooks that subscribe to it, signed, with retries and records, and redelivers on
//! request. `assumptions.rs` lists its decisions about what AuthPI does not document.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use authpi_emulator::{Emulator, NewEvent};
//! use authpi_sdk::event::EventType;
//!
//! let authpi = Emulator::start().await?;
//! println!("AUTHPI_BASE_URL={} AUTHPI_KEY_ID={}", authpi.base_url(), authpi.key_id());
//! // … create a webhook there, then:
//! authpi.trigger(EventType::UserCreated).await?;
//! authpi.trigger(NewEvent::new("user.updated").data(serde_json::json!({"id": "usr_1"}))).await?;
//! authpi.deliveries_settled().await;
//! authpi.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Time
//!
//! With [`EmulatorClock::manual`], time stands still until a test
//! [advances](EmulatorClock::advance) it. Retries that have become due are then sent, and
//! [`Emulator::deliveries_settled`] waits for them. No test needs to sleep.
//!
//! # Triggering events
//!
//! [`Emulator::trigger`] creates an event in the same process. [`RemoteEmulator`] and `authpi
//! trigger` do so from another process. Both call `POST /_emulator/events` with the API's
//! credentials and `{"type": "user.created", "subject": {…}, "data": {…}, "copies": 1,
//! "allow_unknown_type": false}`. Only `type` is required: subject and data default to the examples
//! of `openapi/events`. The response is 201 with the event (`data`) and the number of its pending
//! deliveries (`deliveries`). Changes of webhooks are events too. They are delivered to every
//! webhook that subscribes to them, except the one that they are about.
//!
//! # Inspector
//!
//! With the feature `inspector` (default), a browser shows the webhooks, deliveries, events and
//! faults at [`Emulator::inspector_url`], creates webhooks, triggers events, resends deliveries,
//! and adds and removes faults. `/` redirects there. See [`Builder::inspector`] for who may open
//! it. The requests and responses of attempts are kept for it: the latest 20 of each of the latest
//! 1 000 deliveries, with 4 KiB of each response, and at most 64 MiB in total.
//!
//! # Faults
//!
//! [`Emulator::faults`] makes deliveries and calls go wrong on purpose: duplicates, delays, another
//! order, bursts, bodies that are cut, slow or of a wrong length, wrong secrets, old signatures,
//! connections that are closed; and on the API 429, 5xx, redirects, responses that stall, are cut or
//! are dropped after the call was performed. Other processes use `GET`, `PUT` and `DELETE` of
//! `/_emulator/faults`, with the API's credentials, through [`RemoteEmulator`] or `authpi faults`;
//! a person uses the inspector. A [seed](Builder::seed) repeats a run.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use authpi_emulator::{Emulator, faults::{DeliveryFault, DeliveryRule, FaultPlan}};
//!
//! let authpi = Emulator::start().await?;
//! let twice = DeliveryRule::new(DeliveryFault::Duplicate { copies: 1 });
//! authpi.faults().set(FaultPlan::new().delivery(twice))?;
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//!
//! It delivers over plain HTTP, to this machine and to the hosts in [`Builder::allow_host`]. Only
//! status 200 acknowledges a delivery, and redirects are not followed. It has one account, one API
//! key and one access token, which have all permissions and never expire. Everything is lost when
//! the process ends, unless there is a [state file](Builder::state_file).
//!
//! The event log and the finished deliveries are limited ([`Builder::keep`]), and so are
//! idempotency keys (10 000). Pending deliveries are limited by [`Builder::max_pending`]: beyond
//! it, an event is refused with 503. Credentials are checked before a body is read. A body has at
//! most 1 MiB, and must arrive within [30 seconds](Builder::body_timeout). At most 1024 connections
//! are served at the same time.
//!
//! # Parts
//!
//! `openapi` reads the OpenAPI document and checks requests, and the emulator's own responses,
//! against it. `server` takes a request through credentials and idempotency keys to its operation
//! in `operations`. `store` is the state, and `persist` saves it. `dispatch` sends deliveries.
//! `inspector` serves the page.

mod answer;
mod assumptions;
mod clock;
mod credentials;
mod dispatch;
mod error;
pub mod faults;
mod idempotency;
mod ids;
#[cfg(feature = "inspector")]
mod inspector;
mod log;
mod openapi;
mod operations;
mod outgoing;
mod persist;
mod server;
mod settings;
mod state;
mod store;
mod trigger;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    sync::Mutex,
    time::Duration,
};

use authpi_sdk::signature::SignatureScheme;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use clock::EmulatorClock;
pub use log::LogLine;
pub use store::Event;
pub use trigger::{NewEvent, RemoteEmulator, TriggerError, Triggered};

use credentials::Account;
use faults::FaultState;
use idempotency::Replays;
use openapi::Description;
use persist::{Saver, StateFile};
use settings::Settings;
use state::State;
use store::Store;

/// A running emulator. Dropping it stops it immediately; [`stop`](Self::stop) lets it complete the
/// requests in progress.
pub struct Emulator {
    world: Arc<State>,
    address: SocketAddr,
    base_url: String,
    #[cfg(feature = "inspector")]
    inspector_url: Option<String>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    dispatcher: JoinHandle<()>,
    saver: Option<Saver>,
}

impl Emulator {
    /// Starts an emulator with all defaults, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If no port is available.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// Starts building an emulator with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The base URL for a client, such as `http://127.0.0.1:40123`.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The URL of the inspector page, such as `http://127.0.0.1:40123/_inspector/`; `None` if it is
    /// off. It contains no secret.
    #[cfg(feature = "inspector")]
    pub fn inspector_url(&self) -> Option<&str> {
        self.inspector_url.as_deref()
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The id of its only account.
    pub fn account_id(&self) -> &str {
        &self.world.account.id
    }

    /// The API key's id, the user name of HTTP Basic.
    pub fn key_id(&self) -> &str {
        &self.world.account.key_id
    }

    /// The API key's secret, the password of HTTP Basic.
    pub fn key_secret(&self) -> &str {
        &self.world.account.key_secret
    }

    /// A bearer token of a user in the account.
    pub fn access_token(&self) -> &str {
        &self.world.account.access_token
    }

    /// The emulator's clock.
    pub fn clock(&self) -> &EmulatorClock {
        &self.world.clock
    }

    /// Creates an event. When this returns, it is logged and queued for the webhooks that subscribe
    /// to it.
    ///
    /// # Errors
    /// If the event type is unknown, if subject or data is not a JSON object, or if too many
    /// deliveries are pending ([`Builder::max_pending`]).
    #[expect(
        clippy::unused_async,
        reason = "as for RemoteEmulator; the store may come to be waited for"
    )]
    pub async fn trigger(&self, event: impl Into<NewEvent>) -> Result<Event, TriggerError> {
        match self.world.trigger(event.into()) {
            Ok(recorded) => Ok(Event::clone(&recorded.event)),
            Err(problem) => Err(TriggerError::new(problem.description())),
        }
    }

    /// The faults of this emulator, to be changed while it runs.
    pub fn faults(&self) -> faults::Faults {
        faults::Faults::of(self.world.faults.clone())
    }

    /// Waits until no attempt is in progress and none is due. It does not wait for retries that are
    /// due later by the emulator's clock.
    pub async fn deliveries_settled(&self) {
        self.quiet(false).await;
    }

    /// Waits until each delivery has succeeded or failed permanently, including retries.
    ///
    /// With a manual clock that is not advanced, this waits forever for a delivery's retry.
    pub async fn deliveries_finished(&self) {
        self.quiet(true).await;
    }

    async fn quiet(&self, retries: bool) {
        let mut changes = self.world.changes();
        while !self.world.store().is_quiet(retries) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Stops: no new connections, one second for requests and deliveries in progress, then the rest
    /// is cancelled. Then the [state file](Builder::state_file) is written, if there is one; if
    /// that fails, it is logged as a warning.
    pub async fn stop(self) {
        let log = self.world.log.clone();
        if let Err(error) = self.try_stop().await {
            log.line(|| LogLine::Warning(format!("cannot save the state: {error}")));
        }
    }

    /// Stops like [`stop`](Self::stop), and fails if the state file could not be written.
    ///
    /// # Errors
    /// If the state file could not be written. It then contains the state of the last write that
    /// succeeded. The emulator has stopped in any case.
    pub async fn try_stop(mut self) -> io::Result<()> {
        self.stop.send_replace(true);
        // The server ends only in this way. If it panicked, there is nothing left to stop.
        let _ = (&mut self.server).await;
        self.dispatcher.abort();
        let _ = (&mut self.dispatcher).await;
        match &mut self.saver {
            Some(saver) => saver.finish().await,
            None => Ok(()),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.server.abort();
        self.dispatcher.abort();
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator")
            .field("base_url", &self.base_url)
            .field("account_id", &self.world.account.id)
            .field("clock", &self.world.clock)
            .finish_non_exhaustive()
    }
}

/// The settings of an emulator. Each has a default.
#[derive(Clone)]
pub struct Builder {
    listen: SocketAddr,
    clock: EmulatorClock,
    settings: Settings,
    #[cfg(feature = "inspector")]
    inspector: Option<bool>,
    seed: Option<u64>,
    state_file: Option<PathBuf>,
    faults: faults::FaultPlan,
    /// The first invalid host, and the reason.
    wrong_host: Option<String>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            clock: EmulatorClock::system(),
            settings: Settings {
                retry_delays: assumptions::RETRY_DELAYS.to_vec(),
                delivery_timeout: assumptions::DELIVERY_TIMEOUT,
                failing_after: assumptions::FAILING_AFTER,
                keep: 100_000,
                max_pending: assumptions::MAX_PENDING,
                body_timeout: assumptions::BODY_TIMEOUT,
                hosts: outgoing::Hosts::default(),
                log: log::Log::default(),
                scheme: SignatureScheme::authpi(),
                honor_retry_after: false,
            },
            seed: None,
            state_file: None,
            faults: faults::FaultPlan::default(),
            #[cfg(feature = "inspector")]
            inspector: None,
            wrong_host: None,
        }
    }
}

impl Builder {
    /// The address to listen on (default 127.0.0.1, a free port).
    #[must_use]
    pub fn listen(self, address: SocketAddr) -> Self {
        Self {
            listen: address,
            ..self
        }
    }

    /// The clock (default: the system clock).
    #[must_use]
    pub fn clock(self, clock: EmulatorClock) -> Self {
        Self { clock, ..self }
    }

    /// Pauses between the attempts of one delivery (default 5 s, 30 s, 2 min, 15 min, 1 h); none
    /// for a single attempt.
    #[must_use]
    pub fn retry_delays(mut self, delays: impl IntoIterator<Item = Duration>) -> Self {
        self.settings.retry_delays = delays.into_iter().collect();
        self
    }

    /// How deliveries are signed (default [`SignatureScheme::authpi`]).
    #[must_use]
    pub fn signature_scheme(mut self, scheme: SignatureScheme) -> Self {
        self.settings.scheme = scheme;
        self
    }

    /// The timeout of a receiver's response (default 10 s). Always in system time.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delivery_timeout = timeout;
        self
    }

    /// The number of consecutive failed deliveries after which a webhook is `failing` (default 10).
    #[must_use]
    pub fn failing_after(mut self, deliveries: u32) -> Self {
        self.settings.failing_after = deliveries.max(1);
        self
    }

    /// The number of events, and the number of finished deliveries, to keep (default 100 000 each,
    /// at least 1).
    ///
    /// One event and its delivery use about 5 kB with the catalogue's examples.
    #[must_use]
    pub fn keep(mut self, count: usize) -> Self {
        self.settings.keep = count.max(1);
        self
    }

    /// The maximum number of pending deliveries, waiting or in progress (default 10 000, at least
    /// 1).
    ///
    /// An event whose deliveries would exceed it does not happen: [`Emulator::trigger`] fails, and
    /// the control endpoint returns 503. A change of a webhook is an event that cannot be refused:
    /// its deliveries fail immediately.
    #[must_use]
    pub fn max_pending(mut self, count: usize) -> Self {
        self.settings.max_pending = count.max(1);
        self
    }

    /// Also allows deliveries to this host, at any port: a name or an address without scheme and
    /// port, such as `app` or `host.docker.internal` (default: this machine only).
    ///
    /// An invalid host makes [`start`](Self::start) fail.
    #[must_use]
    pub fn allow_host(mut self, host: &str) -> Self {
        if let Err(wrong) = self.settings.hosts.allow(host) {
            self.wrong_host.get_or_insert(wrong);
        }
        self
    }

    /// The time limit for the body of a call (default 30 s); slower ones get 408. Always in system
    /// time.
    #[must_use]
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.settings.body_timeout = timeout;
        self
    }

    /// Whether to serve the inspector page under `/_inspector/` (default: only if the emulator
    /// listens on a loopback address).
    ///
    /// The page needs no credentials, and shows and does everything that the API does. A browser
    /// must reach it by a loopback address, by `localhost`, by the address that the emulator
    /// listens on, or by a host of [`allow_host`](Self::allow_host). Other programs that can
    /// connect to the listener can use it too.
    #[cfg(feature = "inspector")]
    #[must_use]
    pub fn inspector(self, is_on: bool) -> Self {
        Self {
            inspector: Some(is_on),
            ..self
        }
    }

    /// Whether a receiver's `Retry-After`, in seconds or as a date, replaces the pause before the
    /// next attempt, up to a day (default: no). What AuthPI does is not documented.
    #[must_use]
    pub fn honor_retry_after(mut self, honor: bool) -> Self {
        self.settings.honor_retry_after = honor;
        self
    }

    /// The seed of everything random that is meant to be repeated: the account's id, the API key
    /// and the access token, and the draws of [`faults`](Self::faults) (default: new credentials
    /// each time, and draws as of seed 0).
    ///
    /// Whoever knows the seed knows the credentials.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self {
            seed: Some(seed),
            ..self
        }
    }

    /// The file that keeps the state over a restart (default: none, everything is lost when the
    /// process ends).
    ///
    /// If the file exists, the emulator continues with its account and credentials, webhooks and
    /// secrets, event log, deliveries and idempotency keys. Deliveries that were pending are sent
    /// when they are due; an attempt that was in progress is made again. Settings, faults and the
    /// inspector's copies of requests and responses are not saved.
    ///
    /// The file is written at the start, after changes, and by [`Emulator::stop`]. Between two
    /// writes, there are at least 200 ms and ten times the duration of the write, so a process that
    /// is killed loses the changes of that time. A write replaces the file atomically. It contains
    /// secrets and has mode 0600. The files with `.lock` and `.tmp` appended to its name belong to
    /// the emulator, too.
    ///
    /// It is JSON that begins with `{"format":"authpi-emulator-state","version":1`. A file with
    /// another format or version, or that is damaged, makes [`start`](Self::start) fail and is not
    /// changed. The same holds for a file that another emulator uses, and for a
    /// [`seed`](Self::seed) that gives other credentials.
    #[must_use]
    pub fn state_file(self, path: impl Into<PathBuf>) -> Self {
        Self {
            state_file: Some(path.into()),
            ..self
        }
    }

    /// The faults from the beginning (default: none). [`Emulator::faults`] changes them later.
    ///
    /// A value out of its range makes [`start`](Self::start) fail.
    #[must_use]
    pub fn faults(self, plan: faults::FaultPlan) -> Self {
        Self {
            faults: plan,
            ..self
        }
    }

    /// The function that receives each delivery attempt, and warnings (default: none; `authpi
    /// emulate` prints them to standard error).
    ///
    /// It is called within the emulator's tasks, so it must not block.
    #[must_use]
    pub fn log(mut self, to: impl Fn(&LogLine) + Send + Sync + 'static) -> Self {
        self.settings.log = log::Log::new(to);
        self
    }

    /// Starts the emulator, in tasks of the current tokio runtime.
    ///
    /// # Errors
    /// If it cannot listen on the address, if a host given to [`allow_host`](Self::allow_host)
    /// is invalid, or if the [`state_file`](Self::state_file) cannot be used.
    pub async fn start(self) -> Result<Emulator, StartError> {
        if let Some(wrong) = self.wrong_host {
            return Err(StartError {
                what: wrong,
                cause: None,
            });
        }
        let failed = |cause| StartError {
            what: format!("the emulator cannot listen on {}", self.listen),
            cause: Some(cause),
        };
        let listener = TcpListener::bind(self.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        #[cfg(feature = "inspector")]
        let has_inspector = self.inspector.unwrap_or(address.ip().is_loopback());
        let changed = watch::Sender::new(());
        let seed = self.seed.unwrap_or_default();
        let faults = FaultState::new(seed, self.faults, changed.clone());
        let faults = faults.map_err(|invalid| StartError {
            what: format!("the fault plan is invalid: {invalid}"),
            cause: None,
        })?;
        let (redeliveries, to_dispatcher) = mpsc::unbounded_channel();
        let account = Account::new(self.clock.millis(), self.seed);
        let (state_file, begin) = match self.state_file {
            Some(path) => {
                let (file, begin) =
                    Begin::open(path, account, self.seed, &self.clock, &self.settings).await?;
                (Some(file), begin)
            }
            None => (None, Begin::new(account, &self.clock, &self.settings)),
        };
        let Begin {
            account,
            store,
            replays,
        } = begin;
        let world = Arc::new(State {
            store: Mutex::new(store),
            account,
            clock: self.clock,
            description: Description::get(),
            sender: outgoing::Sender::new(self.settings.delivery_timeout, self.settings.hosts),
            log: self.settings.log,
            faults: Arc::new(faults),
            max_pending: self.settings.max_pending,
            body_timeout: self.settings.body_timeout,
            replays,
            redeliveries,
            changed,
            #[cfg(feature = "inspector")]
            inspector: has_inspector,
        });
        let base_url = format!("http://{}", reachable(address));
        let served = server::Served {
            world: world.clone(),
            #[cfg(feature = "inspector")]
            page: has_inspector
                .then(|| inspector::InspectorPage::new(world.clone(), address.ip()).into()),
        };
        let stop = watch::Sender::new(false);
        let saver = match state_file {
            Some(file) => {
                let what = format!("cannot write the state file {}", file.path().display());
                let saver = Saver::start(world.clone(), file, stop.subscribe()).await;
                let cause = |error| StartError {
                    what,
                    cause: Some(error),
                };
                Some(saver.map_err(cause)?)
            }
            None => None,
        };
        Ok(Emulator {
            server: tokio::spawn(server::run(served, listener, stop.subscribe())),
            dispatcher: tokio::spawn(dispatch::run(world.clone(), to_dispatcher)),
            world,
            address,
            #[cfg(feature = "inspector")]
            inspector_url: has_inspector.then(|| format!("{base_url}{}/", inspector::PATH)),
            base_url,
            stop,
            saver,
        })
    }
}

/// What an emulator starts with.
struct Begin {
    account: Account,
    store: Store,
    replays: Replays,
}

impl Begin {
    fn new(account: Account, clock: &EmulatorClock, settings: &Settings) -> Self {
        Self {
            store: Store::new(account.id.clone(), clock.clone(), settings.clone()),
            account,
            replays: Replays::default(),
        }
    }

    /// Continues with the content of a file, or begins with `account` if there is none yet.
    async fn open(
        path: PathBuf,
        account: Account,
        seed: Option<u64>,
        clock: &EmulatorClock,
        settings: &Settings,
    ) -> Result<(StateFile, Self), StartError> {
        let (clock, settings) = (clock.clone(), settings.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let (file, content) = StateFile::open(&path)?;
            let Some(content) = content else {
                let begin = Self::new(account, &clock, &settings);
                return Ok((file, begin));
            };
            if let Some(seed) = seed
                && content.account != account
            {
                return Err(StartError {
                    what: format!(
                        "the state file {} has other credentials than the seed {seed} gives: omit \
                         the seed, or give another file",
                        path.display()
                    ),
                    cause: None,
                });
            }
            let damaged = |what| persist::damaged(file.path(), what);
            let id = content.account.id.clone();
            let begin = Self {
                store: Store::restored(content.store, id, clock, settings).map_err(damaged)?,
                account: content.account,
                replays: Replays::restored(content.idempotency_keys)
                    .ok_or_else(|| damaged("an idempotency key has another form"))?,
            };
            Ok((file, begin))
        });
        opened.await.unwrap_or_else(|error| {
            Err(StartError {
                what: "cannot read the state file".to_owned(),
                cause: Some(io::Error::other(error)),
            })
        })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("listen", &self.listen)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

/// A server that listens on all addresses is reachable at the loopback address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// The emulator could not start.
#[derive(Debug)]
pub struct StartError {
    what: String,
    cause: Option<io::Error>,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}
