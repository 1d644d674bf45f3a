//! AuthPI on one's own machine: its webhooks API, event log and signed deliveries, in one process and in memory.
//!
//! For tests and for trying things out. It has all operations of `openapi/authpi.yaml` and AuthPI's rules for credentials,
//! envelopes, pages, `ETags`, idempotency keys and errors; it refuses what that description refuses, with `fields`. It keeps an
//! event log, delivers each event to the webhooks that want it, signed, with retries and records, and delivers again on request.
//! What AuthPI does not document is decided in `assumptions.rs`, and listed there.
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
//! With [`EmulatorClock::manual`] the time stands still until a test [advances](EmulatorClock::advance) it, and the retries that
//! are due by then are sent; [`Emulator::deliveries_settled`] waits for them. No test needs to sleep.
//!
//! # Events on demand
//!
//! In the same process by [`Emulator::trigger`]; from another by [`RemoteEmulator`] or `authpi trigger`, which both call
//! `POST /_emulator/events` with the API's credentials and `{"type": "user.created", "subject": {…}, "data": {…}, "copies": 1}`, of
//! which only `type` is needed: subject and data are the examples of `openapi/events` unless given. It answers 201 with the event.
//! Changes of webhooks are events, too, and delivered to every webhook that wants them but the one they are about.
//!
//! # Limits
//!
//! It delivers only to loopback addresses over plain HTTP, and only status 200 is a receipt; redirects are not followed. It
//! has one account, one API key and one access token, which reach everything and never expire. Nothing outlives the process.
//! The event log and the deliveries that are over are bounded ([`Builder::keep`]), idempotency keys too (10 000).
//!
//! # Parts
//!
//! `description` reads the OpenAPI document and checks requests against it (and the emulator's own answers); `server` takes a
//! request through credentials and idempotency keys to its operation in `operations`; `store` is the state; `dispatch` sends.

mod assumptions;
mod clock;
mod credentials;
mod description;
mod dispatch;
mod idempotency;
mod ids;
mod operations;
mod problem;
mod server;
mod settings;
mod store;
mod trigger;
mod world;

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
pub use store::Event;
pub use trigger::{NewEvent, RemoteEmulator, TriggerError};

use credentials::Account;
use description::Description;
use settings::Settings;
use store::Store;
use world::World;

/// A running emulator. Dropping it stops it at once; [`stop`](Self::stop) lets it finish what it is answering.
pub struct Emulator {
    world: Arc<World>,
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

    /// Makes an event happen: it is logged, and on its way to the webhooks that want it when this returns.
    ///
    /// # Errors
    /// When there is no such event type, or when subject or data is no JSON object.
    #[expect(clippy::unused_async, reason = "as for RemoteEmulator; the store may come to be waited for")]
    pub async fn trigger(&self, event: impl Into<NewEvent>) -> Result<Event, TriggerError> {
        let NewEvent { event_type, subject, data, copies } = event.into();
        match self.world.trigger(&event_type, subject, data, copies) {
            Ok(event) => Ok(Event::clone(&event)),
            Err(problem) => Err(TriggerError::new(problem.description())),
        }
    }

    /// Waits until no attempt is under way and none is due. Retries that are due later by the emulator's clock are not waited for.
    pub async fn deliveries_settled(&self) {
        self.quiet(false).await;
    }

    /// Waits until each delivery has succeeded or failed for good, retries and all.
    ///
    /// With a manual clock that nobody advances, a delivery that waits for its retry makes this wait forever.
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

    /// Stops: no new connections, one second for what is being answered or delivered, then whatever is left is cut off.
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
                scheme: SignatureScheme::authpi(),
            },
        }
    }
}

impl Builder {
    /// Where to listen (default 127.0.0.1, a free port).
    #[must_use]
    pub fn listen(self, address: SocketAddr) -> Self {
        Self { listen: address, ..self }
    }

    /// The clock to read (default the system's).
    #[must_use]
    pub fn clock(self, clock: EmulatorClock) -> Self {
        Self { clock, ..self }
    }

    /// Pauses between the attempts of one delivery (default 5 s, 30 s, 2 min, 15 min, 1 h); none for a single attempt.
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

    /// How many events, and how many deliveries that are over, to remember (default 100 000 of each, at least 1).
    #[must_use]
    pub fn keep(mut self, count: usize) -> Self {
        self.settings.keep = count.max(1);
        self
    }

    /// Starts the emulator, in tasks of the tokio runtime that this is called in.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(self) -> Result<Emulator, StartError> {
        let failed = |cause| StartError { address: self.listen, cause };
        let listener = TcpListener::bind(self.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let account = Account::new(self.clock.millis());
        let (asked_for, to_dispatcher) = mpsc::unbounded_channel();
        let world = Arc::new(World {
            store: Mutex::new(Store::new(account.id.clone(), self.clock.clone(), self.settings.clone())),
            account,
            clock: self.clock,
            description: Description::get(),
            sender: dispatch::Sender::new(self.settings.delivery_timeout),
            replays: idempotency::Replays::default(),
            asked_for,
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
        f.debug_struct("Builder").field("listen", &self.listen).field("clock", &self.clock).finish_non_exhaustive()
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

/// The emulator could not listen.
#[derive(Debug)]
pub struct StartError {
    address: SocketAddr,
    cause: io::Error,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the emulator cannot listen on {}", self.address)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}
