//! AuthPI on one's own machine: its webhooks API, event log and signed deliveries, in one process
//! and in memory.
//!
//! For tests and for trying things out. It has all operations of `openapi/authpi.yaml` and AuthPI's
//! rules for credentials, envelopes, pages, `ETags`, idempotency keys and errors; it refuses what
//! that description refuses, with `fields`. It keeps an event log, delivers each event to the
//! webhooks that want it, signed, with retries and records, and delivers again on request. What
//! AuthPI does not document is decided in `assumptions.rs`, and listed there.
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
//! With [`EmulatorClock::manual`] the time stands still until a test
//! [advances](EmulatorClock::advance) it, and the retries that are due by then are sent;
//! [`Emulator::deliveries_settled`] waits for them. No test needs to sleep.
//!
//! # Events on demand
//!
//! In the same process by [`Emulator::trigger`]; from another by [`RemoteEmulator`] or
//! `authpi trigger`, which both call `POST /_emulator/events` with the API's credentials and
//! `{"type": "user.created", "subject": {…}, "data": {…}, "copies": 1, "allow_unknown_type": false}`,
//! of which only `type` is needed: subject and data are the examples of `openapi/events` unless
//! given. It answers 201 with the event (`data`) and with how many deliveries of it are on their
//! way (`deliveries`). Changes of webhooks are events, too, and delivered to every webhook that
//! wants them but the one they are about.
//!
//! # Limits
//!
//! It delivers over plain HTTP, to this machine and to the hosts that [`Builder::allow_host`]
//! names, and only status 200 is a receipt; redirects are not followed. It has one account, one API
//! key and one access token, which reach everything and never expire. Nothing outlives the process.
//!
//! The event log and the deliveries that are over are bounded ([`Builder::keep`]), idempotency keys
//! too (10 000). Deliveries that are pending are bounded by [`Builder::max_pending`]: beyond it, an
//! event is refused with 503 instead of happening. Credentials are checked before a body is read; a
//! body has at most 1 MiB, and [30 seconds](Builder::body_timeout) to arrive. 1024 connections are
//! served at once.
//!
//! # Parts
//!
//! `description` reads the OpenAPI document and checks requests against it (and the emulator's own
//! answers); `server` takes a request through credentials and idempotency keys to its operation in
//! `operations`; `store` is the state; `dispatch` sends.

mod answer;
mod assumptions;
mod clock;
mod credentials;
mod dispatch;
mod error;
mod idempotency;
mod ids;
mod log;
mod openapi;
mod operations;
mod outgoing;
mod server;
mod settings;
mod state;
mod store;
mod trigger;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
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
use openapi::Description;
use settings::Settings;
use state::State;
use store::Store;

/// A running emulator. Dropping it stops it at once; [`stop`](Self::stop) lets it finish what it is
/// answering.
pub struct Emulator {
    world: Arc<State>,
    address: SocketAddr,
    base_url: String,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    dispatcher: JoinHandle<()>,
}

impl Emulator {
    /// Starts one with all defaults, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// Starts one to order.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where it listens, such as `http://127.0.0.1:40123`: the base URL for a client.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The one account that it has.
    pub fn account_id(&self) -> &str {
        &self.world.account.id
    }

    /// The API key's id, the user of HTTP Basic.
    pub fn key_id(&self) -> &str {
        &self.world.account.key_id
    }

    /// The API key's secret, the password of HTTP Basic.
    pub fn key_secret(&self) -> &str {
        &self.world.account.key_secret
    }

    /// A bearer token of a user of the account.
    pub fn access_token(&self) -> &str {
        &self.world.account.access_token
    }

    /// The clock that it reads.
    pub fn clock(&self) -> &EmulatorClock {
        &self.world.clock
    }

    /// Makes an event happen: it is logged, and on its way to the webhooks that want it when this
    /// returns.
    ///
    /// # Errors
    /// When there is no such event type, when subject or data is no JSON object, or when too many
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

    /// Waits until no attempt is under way and none is due. Retries that are due later by the
    /// emulator's clock are not waited for.
    pub async fn deliveries_settled(&self) {
        self.quiet(false).await;
    }

    /// Waits until each delivery has succeeded or failed permanently, retries and all.
    ///
    /// With a manual clock that nobody advances, a delivery that waits for its retry makes this
    /// wait forever.
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

    /// Stops: no new connections, one second for what is being answered or delivered, then whatever
    /// is left is cut off.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // The server only ends this way; if it panicked, there is nothing left to stop.
        let _ = (&mut self.server).await;
        self.dispatcher.abort();
        let _ = (&mut self.dispatcher).await;
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

/// What an emulator should be like. Everything has a default.
#[derive(Clone)]
pub struct Builder {
    listen: SocketAddr,
    clock: EmulatorClock,
    settings: Settings,
    /// The first host that is none, and what is wrong with it.
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
            },
            wrong_host: None,
        }
    }
}

impl Builder {
    /// Where to listen (default 127.0.0.1, a free port).
    #[must_use]
    pub fn listen(self, address: SocketAddr) -> Self {
        Self {
            listen: address,
            ..self
        }
    }

    /// The clock to read (default the system's).
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

    /// How long to wait for a receiver's answer (default 10 s). Always in the system's time.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delivery_timeout = timeout;
        self
    }

    /// After how many failed deliveries in a row a webhook is `failing` (default 10).
    #[must_use]
    pub fn failing_after(mut self, deliveries: u32) -> Self {
        self.settings.failing_after = deliveries.max(1);
        self
    }

    /// How many events, and how many deliveries that are over, to remember (default 100 000 of
    /// each, at least 1).
    ///
    /// One event and its delivery take about 5 kB with the catalogue's examples.
    #[must_use]
    pub fn keep(mut self, count: usize) -> Self {
        self.settings.keep = count.max(1);
        self
    }

    /// How many deliveries may be pending, waiting for an attempt or under way (default 10 000, at
    /// least 1).
    ///
    /// An event whose deliveries would be more than that does not happen: [`Emulator::trigger`]
    /// fails, and the control endpoint answers
    /// 503. A change of a webhook is an event that cannot be refused: its deliveries fail at once.
    #[must_use]
    pub fn max_pending(mut self, count: usize) -> Self {
        self.settings.max_pending = count.max(1);
        self
    }

    /// Lets deliveries go to this host, too, at any port: a name or an address without scheme and
    /// port, such as `app` or `host.docker.internal` (default: this machine only).
    ///
    /// What is no such host makes [`start`](Self::start) fail.
    #[must_use]
    pub fn allow_host(mut self, host: &str) -> Self {
        if let Err(wrong) = self.settings.hosts.allow(host) {
            self.wrong_host.get_or_insert(wrong);
        }
        self
    }

    /// How long the body of a call may take to arrive (default 30 s); after that it is answered
    /// 408. Always in the system's time.
    #[must_use]
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.settings.body_timeout = timeout;
        self
    }

    /// Where to report each attempt of a delivery, and warnings (default nowhere; `authpi emulate`
    /// prints them on standard error).
    ///
    /// It is called within the emulator's tasks, so it must not block.
    #[must_use]
    pub fn log(mut self, to: impl Fn(&LogLine) + Send + Sync + 'static) -> Self {
        self.settings.log = log::Log::new(to);
        self
    }

    /// Starts the emulator, in tasks of the tokio runtime that this is called in.
    ///
    /// # Errors
    /// When the address cannot be listened on, or [`allow_host`](Self::allow_host) was given what
    /// is no host.
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
        let account = Account::new(self.clock.millis());
        let (redeliveries, to_dispatcher) = mpsc::unbounded_channel();
        let world = Arc::new(State {
            store: Mutex::new(Store::new(
                account.id.clone(),
                self.clock.clone(),
                self.settings.clone(),
            )),
            account,
            clock: self.clock,
            description: Description::get(),
            sender: outgoing::Sender::new(self.settings.delivery_timeout, self.settings.hosts),
            log: self.settings.log,
            max_pending: self.settings.max_pending,
            body_timeout: self.settings.body_timeout,
            replays: idempotency::Replays::default(),
            redeliveries,
            changed: watch::Sender::new(()),
        });
        let stop = watch::Sender::new(false);
        Ok(Emulator {
            server: tokio::spawn(server::run(world.clone(), listener, stop.subscribe())),
            dispatcher: tokio::spawn(dispatch::run(world.clone(), to_dispatcher)),
            world,
            address,
            base_url: format!("http://{}", reachable(address)),
            stop,
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

/// Whoever listens on all addresses can be reached on the loopback one.
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
