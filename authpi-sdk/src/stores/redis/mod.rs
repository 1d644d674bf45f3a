//! The ledger in Redis: shared by replicas on any number of hosts, as durable as the server is
//! configured to be.
//!
//! A record is one key, so a cluster distributes them. Its value is a line of text:
//!
//! ```text
//! c:00000001:9f86d081884c7d65:2592000000:<digest>      state : attempt : nonce : retention in ms : first digest
//! ```
//!
//! It contains no times. The key expires one retention after its lease or pause ends, so the key's
//! remaining time less the retention in the value is what is left of the lease. So only the
//! server's clock counts, records are removed by themselves, and a first claim needs no script.
//!
//! State and token come first and have a fixed length. Finishing an event, which happens once for
//! each, compares and writes only those bytes and leaves the rest of the record, and its expiry,
//! unchanged.

mod connection;
mod failure;

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    future::Future,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use redis::{
    Cmd, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo as _, RedisError,
    RedisResult, Script, ServerErrorKind, Value, aio::ConnectionLike, cmd,
};
use tokio::time::{Instant, timeout};

use self::failure::{Foreign, StepError, Unfit};
use super::timeout::{BadName, Nonces, TIMEOUT, millis};
use crate::{
    hex,
    ledger::{
        Claim, Completion, DEFAULT_RETENTION, Digest, EventKey, LeaseStatus, Ledger, LedgerError,
        LedgerErrorKind, RecordState, Token, open_check::probe_ledger, probe,
    },
};

pub use connection::RedisConnection;

/// A [`Ledger`] in Redis (7.0 or later), a single server or a cluster.
///
/// Clones share a connection; replicas on any number of hosts share the records.
///
/// - **As durable as the server.** With its usual settings (`appendfsync everysec`, asynchronous
///   replication), a crash or a fail-over loses the last second or so. If a claim or completion is
///   lost and the event is delivered again, it is handled again. It is never lost, since AuthPI
///   sends unacknowledged events again. `appendfsync always` without fail-over avoids this, but a
///   database is the better choice then.
/// - **`maxmemory-policy` must be `noeviction`** (the default): an evicted record is forgotten. A
///   record takes about 200 bytes of memory.
/// - **No dead letters.** An event that was given up is remembered as dead; its body is dropped.
/// - **One round trip per step.** A first claim, and one that finds a handled event, are a plain
///   `SET … NX GET PX`. A claim that finds an unfinished record needs a script, and so a second
///   round trip.
/// - **Never hangs.** A step fails after the [`timeout`](RedisOptions::timeout) (default 5 s).
/// - **Bounded.** Records expire one [`retention`](RedisOptions::retention) after the end of the
///   lease under which they were finished.
/// - **Leaves a server that cannot serve.** A ledger that was opened by [`connect`](Redis::connect)
///   replaces its connection when it breaks, when a step had no answer in time, and when the server
///   answers that it is read-only, loading its data, or cannot write (`READONLY`, `LOADING`,
///   `MASTERDOWN`, `CLUSTERDOWN`, `NOREPLICAS`, `MISCONF`, `OOM` and similar). So after a fail-over
///   behind the same address, the step that reaches the old primary continues with the new one.
///   Connecting is retried until it succeeds, for any error, at most a second apart; a step that
///   waits for it fails with the cause. A connection that was passed to [`open`](Redis::open) has
///   to be replaced by its owner, and the error says so.
/// - **Cancel safe.** A step whose future is dropped takes place completely or not at all.
/// - **Uses the server's clock**, so hosts may differ.
///
/// Any connection of the `redis` crate that can be cloned works: the [`RedisConnection`] that
/// [`connect`](Redis::connect) makes, or your own, such as a `ClusterConnection` (its feature
/// `cluster-async`); each step uses one key, and so one node. A `ConnectionManager` of that crate
/// only replaces a connection for I/O errors. TLS is a feature of that crate. Depend on it yourself
/// to enable it.
///
/// ```no_run
/// # use authpi_sdk::stores::Redis;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = Redis::options().prefix("billing:authpi:").connect("redis://127.0.0.1").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Redis<C = RedisConnection> {
    connection: C,
    shared: Arc<Shared>,
}

struct Shared {
    /// The connection, if the ledger has to replace it.
    own: Option<RedisConnection>,
    prefix: String,
    retention: Duration,
    timeout: Duration,
    nonces: Nonces,
    claim: Loaded,
    change: Loaded,
    handled: Loaded,
    dead: Loaded,
}

impl Redis {
    /// Opens the ledger with its own connection, at `redis://user:password@host:port/database`. It
    /// is replaced when it breaks and when its server cannot serve.
    ///
    /// # Errors
    /// When the URL is invalid; when host, port, password or database are wrong, with the cause;
    /// when the server is a replica, a Sentinel or one node of a cluster. (This is read from its
    /// answer to `HELLO`. A server or proxy without that command is asked for its `ROLE`, and taken
    /// for a primary if it does not know that either.) Otherwise as for [`open`](Redis::open).
    pub async fn connect(url: &str) -> Result<Self, LedgerError> {
        Self::options().connect(url).await
    }

    /// Options to set before opening.
    pub fn options() -> RedisOptions {
        RedisOptions {
            prefix: DEFAULT_PREFIX.into(),
            retention: DEFAULT_RETENTION,
            timeout: TIMEOUT,
        }
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Redis<C> {
    /// Opens the ledger with `connection`, of which each step uses a clone.
    ///
    /// Tries each command and script of later steps under the empty endpoint name, which no
    /// receiver can have.
    ///
    /// # Errors
    /// When the server cannot be reached, cannot write, denies the user one of the commands, or is
    /// older than Redis 7.0.
    pub async fn open(connection: C) -> Result<Self, LedgerError> {
        Redis::options().open(connection).await
    }

    /// By its hash, or in full if the server does not know it yet.
    async fn run<T: FromRedisValue>(
        &self,
        script: &Loaded,
        key: &str,
        arguments: &[&str],
    ) -> RedisResult<T> {
        let mut connection = self.connection.clone();
        let known = calling("EVALSHA", script.hash.get_hash(), key, arguments);
        match known.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                calling("EVAL", &script.text, key, arguments)
                    .query_async(&mut connection)
                    .await
            }
            done => done,
        }
    }

    async fn claim(
        &self,
        key: &EventKey,
        token: Token,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, StepError> {
        let key = self.key(key);
        let retention = millis(self.shared.retention);
        let fresh = Record {
            state: RecordState::Claimed,
            token,
            retention,
            first_digest: digest,
        }
        .write();
        let expiry = self.expiry(lease).max(1).to_string();

        let mut set = Cmd::with_capacity(7, key.len() + fresh.len() + 32);
        set.arg("SET")
            .arg(&key)
            .arg(&fresh)
            .arg("NX")
            .arg("GET")
            .arg("PX")
            .arg(&expiry);
        let found: Option<Vec<u8>> = set.query_async(&mut self.connection.clone()).await?;
        let Some(found) = found else {
            return Ok(Claim::Granted {
                token,
                first_digest: digest,
            });
        };
        let Record {
            state,
            first_digest,
            ..
        } = Record::read(&found)?;
        match state {
            RecordState::Handled => return Ok(Claim::Handled { first_digest }),
            RecordState::Dead => return Ok(Claim::Dead { first_digest }),
            RecordState::Claimed | RecordState::Pending => {}
        }
        // Only the server knows what is left of the lease or pause.
        let (left, found): (i64, Vec<u8>) = self
            .run(&self.shared.claim, &key, &[&fresh, &expiry])
            .await?;
        let left = Duration::from_millis(left.try_into().unwrap_or(0));
        let Record {
            state,
            token: holder,
            first_digest,
            ..
        } = Record::read(&found)?;
        Ok(match state {
            // This also happens if a connection sent the command twice, because it lost the first
            // answer.
            RecordState::Claimed if holder.nonce == token.nonce => Claim::Granted {
                token: holder,
                first_digest,
            },
            RecordState::Claimed => Claim::InFlight { lease_left: left },
            RecordState::Pending => Claim::NotYet { wait: left },
            RecordState::Handled => Claim::Handled { first_digest },
            RecordState::Dead => Claim::Dead { first_digest },
        })
    }

    /// Runs a step within the timeout. Repeats it once if its connection breaks and it is
    /// `repeatable`, because it is idempotent.
    async fn step<T, F>(
        &self,
        step: &'static str,
        repeatable: bool,
        work: impl Fn() -> F,
    ) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, StepError>>,
    {
        let (began, own) = (Instant::now(), self.shared.own.as_ref());
        let once = async || {
            if let Some(own) = own {
                own.connected().await?;
            }
            work().await
        };
        let done = timeout(self.shared.timeout, async {
            match once().await {
                Err(error) if repeatable && own.is_some() && is_broken(&error) => once().await,
                done => done,
            }
        });
        let server = own.map(RedisConnection::server);
        match done.await {
            Ok(done) => done.map_err(|error| failure::failed(step, error, server)),
            Err(_) => Err(match own.and_then(|own| own.unanswered(began)) {
                Some(unconnected) => LedgerError::new(step, unconnected),
                None => failure::too_slow(step, self.shared.timeout, server),
            }),
        }
    }

    /// A step that only the holder of the token may take.
    async fn held(
        &self,
        step: &'static str,
        script: &Loaded,
        key: &EventKey,
        arguments: &[&str],
    ) -> Result<LeaseStatus, LedgerError> {
        let key = self.key(key);
        let run = || async { Ok(self.run::<i64>(script, &key, arguments).await?) };
        // A second release would find that the first has ended the claim.
        let changed = self.step(step, step != RELEASE, run).await?;
        Ok(if changed == 0 {
            LeaseStatus::Lost
        } else {
            LeaseStatus::Held
        })
    }

    /// Changes the record's state, with a lease or pause of `length`.
    async fn change(
        &self,
        step: &'static str,
        key: &EventKey,
        token: Token,
        state: RecordState,
        length: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        let [held, changed] = [RecordState::Claimed, state].map(|state| mark(state, token));
        let retention = millis(self.shared.retention).to_string();
        let expiry = self.expiry(length).max(1).to_string();
        self.held(
            step,
            &self.shared.change,
            key,
            &[&held, &changed, &retention, &expiry],
        )
        .await
    }

    /// The length keeps different pairs of names apart.
    fn key(&self, key: &EventKey) -> String {
        let (prefix, endpoint, event_id) = (&*self.shared.prefix, key.endpoint(), key.event_id());
        let mut text = String::with_capacity(prefix.len() + endpoint.len() + event_id.len() + 6);
        // Writing to a string does not fail.
        let _ = write!(text, "{prefix}{}:{endpoint}:{event_id}", endpoint.len());
        text
    }

    /// The expiry of a record whose lease or pause has this `length`.
    fn expiry(&self, length: Duration) -> i64 {
        millis(length) + millis(self.shared.retention)
    }
}

const RELEASE: &str = "release";

/// Whether the answer was lost with the connection.
fn is_broken(error: &StepError) -> bool {
    error
        .downcast_ref::<RedisError>()
        .is_some_and(RedisError::is_connection_dropped)
}

impl<C> fmt::Debug for Redis<C> {
    /// Omits the connection, which contains a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("prefix", &self.shared.prefix)
            .field("retention", &self.shared.retention)
            .field("timeout", &self.shared.timeout)
            .finish_non_exhaustive()
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Ledger for Redis<C> {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        // The same token if the request is repeated.
        let token = Token {
            attempt: 1,
            nonce: self.shared.nonces.mint(),
        };
        self.step("claim", true, || {
            Redis::claim(self, key, token, digest, lease)
        })
        .await
    }

    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.change("renew", key, token, RecordState::Claimed, lease)
            .await
    }

    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        let finish = match completion {
            Completion::Handled => &self.shared.handled,
            Completion::Dead { .. } => &self.shared.dead,
        };
        self.held(
            "complete",
            finish,
            key,
            &[&mark(RecordState::Claimed, token)],
        )
        .await
    }

    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.change(RELEASE, key, token, RecordState::Pending, pause)
            .await
    }

    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        let mut delete = cmd("DEL");
        delete.arg(self.key(key));
        let delete = || async {
            Ok(delete
                .query_async::<i64>(&mut self.connection.clone())
                .await?)
        };
        Ok(self.step("forget", false, delete).await? > 0)
    }

    fn keeps_dead_letters(&self) -> bool {
        false
    }

    fn retention(&self) -> Duration {
        self.shared.retention
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, LedgerError> {
        let ask = || async {
            match cmd("TIME")
                .query_async::<(i64, i64)>(&mut self.connection.clone())
                .await
            {
                Ok((seconds, micros)) => {
                    let at = seconds
                        .checked_mul(1_000_000)
                        .and_then(|at| at.checked_add(micros));
                    Ok(at.and_then(|at| Timestamp::from_microsecond(at).ok()))
                }
                // The user lacks the permission, or a proxy does not know the command.
                Err(error) if !error.is_io_error() && !failure::cannot_serve(&error) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        self.step("read the clock", true, ask).await
    }

    fn store_id(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.shared).addr())
    }
}

/// Options of a [`Redis`] ledger, set before it is opened.
#[derive(Clone, Debug)]
#[must_use = "does nothing until `open` or `connect`"]
pub struct RedisOptions {
    prefix: String,
    retention: Duration,
    timeout: Duration,
}

impl RedisOptions {
    /// The prefix of every key (default `authpi:`). Ledgers with different prefixes are
    /// independent, unless one prefix begins with the other. 1 to 100 ASCII letters, digits and
    /// `:._/-`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long handled and dead records are kept (default 30 days), from the end of the lease
    /// under which they were finished. A record's claim, or its last renewal or release, fixes it.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// The time limit of a step (default 5 s). A connection of your own may have a shorter one.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens the ledger with `connection`, of which each step uses a clone.
    ///
    /// # Errors
    /// As for [`Redis::open`]; and when the prefix is invalid.
    pub async fn open<C>(self, connection: C) -> Result<Redis<C>, LedgerError>
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        self.open_over(connection, None).await
    }

    /// Opens the ledger with its own connection.
    ///
    /// # Errors
    /// As for [`Redis::connect`]; and when the prefix is invalid.
    pub async fn connect(self, url: &str) -> Result<Redis, LedgerError> {
        let client = self
            .server(url)
            .and_then(redis::Client::open)
            .map_err(|error| LedgerError::new(OPEN, error))?;
        let connection = RedisConnection::new(client, self.timeout);
        self.open_over(connection.clone(), Some(connection)).await
    }

    async fn open_over<C>(
        self,
        connection: C,
        own: Option<RedisConnection>,
    ) -> Result<Redis<C>, LedgerError>
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        let usable = |c: char| c.is_ascii_alphanumeric() || ":._/-".contains(c);
        if !(1..=100).contains(&self.prefix.len()) || !self.prefix.chars().all(usable) {
            let allowed = "ASCII letters, digits and :._/-, 1 to 100 of them";
            return Err(LedgerError::new(
                OPEN,
                BadName {
                    what: "a prefix of keys",
                    name: self.prefix,
                    allowed,
                },
            ));
        }
        let shared = Shared {
            own,
            prefix: self.prefix,
            retention: self.retention,
            timeout: self.timeout,
            nonces: Nonces::default(),
            claim: Loaded::new(CLAIM),
            change: Loaded::new(CHANGE),
            handled: Loaded::new(FINISH.replace("STATE", letter(RecordState::Handled))),
            dead: Loaded::new(FINISH.replace("STATE", letter(RecordState::Dead))),
        };
        let ledger = Redis {
            connection,
            shared: Arc::new(shared),
        };
        ledger.check_role().await?;
        ledger.check_version().await?;
        ledger.check_scripts().await?;
        probe_ledger(&ledger).await?;
        Ok(ledger)
    }

    /// Adds a limit to how long the kernel waits for a host that has disappeared.
    fn server(&self, url: &str) -> Result<ConnectionInfo, RedisError> {
        let server = url.into_connection_info()?;
        let settings = server.tcp_settings().clone();
        #[cfg(target_os = "linux")]
        let settings = settings.set_user_timeout(self.timeout);
        Ok(server.set_tcp_settings(settings))
    }
}

const DEFAULT_PREFIX: &str = "authpi:";
const OPEN: &str = "open";

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Redis<C> {
    /// Refuses a server that would refuse most steps, although it may accept some.
    async fn check_role(&self) -> Result<(), LedgerError> {
        // The caller's connection may be one to a cluster, and ask any of its nodes.
        if self.shared.own.is_none() {
            return Ok(());
        }
        let unfit = self
            .step(OPEN, true, || async { Ok(self.unfit().await?) })
            .await?;
        unfit.map_or(Ok(()), |unfit| {
            Err(LedgerError::new(OPEN, unfit).with_kind(LedgerErrorKind::CannotWrite))
        })
    }

    async fn unfit(&self) -> RedisResult<Option<Unfit>> {
        let mut connection = self.connection.clone();
        let is = |value: Option<&Value>, name: &[u8]| match value {
            Some(Value::BulkString(text)) => text == name,
            Some(Value::SimpleString(text)) => text.as_bytes() == name,
            _ => false,
        };
        // Old servers and some proxies do not know it, or do not allow it.
        let asked: RedisResult<HashMap<String, Value>> =
            cmd("HELLO").query_async(&mut connection).await;
        let unknown = match asked {
            Ok(hello) => {
                let (mode, role) = (hello.get("mode"), hello.get("role"));
                return Ok(if is(mode, b"cluster") {
                    Some(Unfit::Cluster)
                } else if is(mode, b"sentinel") {
                    Some(Unfit::Sentinel)
                } else if is(role, b"replica") || is(role, b"slave") {
                    Some(Unfit::Replica)
                } else {
                    None
                });
            }
            Err(error) => error,
        };
        if unknown.is_io_error() || failure::cannot_serve(&unknown) {
            return Err(unknown);
        }
        let role: RedisResult<Vec<Value>> = cmd("ROLE").query_async(&mut connection).await;
        Ok(role
            .ok()
            .filter(|role| is(role.first(), b"slave"))
            .map(|_| Unfit::Replica))
    }

    /// Tries the command that older servers do not know.
    async fn check_version(&self) -> Result<(), LedgerError> {
        let key = probe::probe_key();
        let set = cmd("SET")
            .arg(self.key(&key))
            .arg("")
            .arg("NX")
            .arg("GET")
            .arg("PX")
            .arg(10_000)
            .to_owned();
        let set = || async {
            match set
                .query_async::<Option<Vec<u8>>>(&mut self.connection.clone())
                .await
            {
                Err(error)
                    if error
                        .detail()
                        .is_some_and(|detail| detail.contains("syntax")) =>
                {
                    Err(Unfit::TooOld(error).into())
                }
                done => Ok(done.map(drop)?),
            }
        };
        self.step(OPEN, true, set).await?;
        // Its expiry might otherwise be persisted.
        self.forget(&key).await.map(drop)
    }

    /// Tries everything that steps may need: a script by its text, as after a restart of the
    /// server, and by its hash.
    async fn check_scripts(&self) -> Result<(), LedgerError> {
        let (key, lease) = (probe::probe_key(), Duration::from_secs(10));
        let name = self.key(&key);
        let load = || async {
            let call = calling("EVAL", &self.shared.change.text, &name, &["", "", "", ""]);
            Ok(call
                .query_async::<i64>(&mut self.connection.clone())
                .await?)
        };
        self.step(OPEN, true, load).await?;
        let tried = async {
            if let Claim::Granted { token, .. } =
                Ledger::claim(self, &key, Digest::UNCOMPARED, lease).await?
            {
                Ledger::claim(self, &key, Digest::UNCOMPARED, lease).await?;
                // A lost lease is fine too.
                let _held = self.release(&key, token, Duration::ZERO).await?;
            }
            Ok(())
        };
        let tried = tried.await;
        let forgotten = self.forget(&key).await;
        tried.and(forgotten.map(drop))
    }
}

// The record.

/// The first letter of a record.
const fn letter(state: RecordState) -> &'static str {
    match state {
        RecordState::Pending => "p",
        RecordState::Claimed => "c",
        RecordState::Handled => "h",
        RecordState::Dead => "d",
    }
}

fn state_of(written: &str) -> Option<RecordState> {
    use RecordState::{Claimed, Dead, Handled, Pending};
    [Pending, Claimed, Handled, Dead]
        .into_iter()
        .find(|state| letter(*state) == written)
}

#[derive(Debug, PartialEq, Eq)]
struct Record {
    state: RecordState,
    token: Token,
    /// In milliseconds.
    retention: i64,
    first_digest: Digest,
}

/// The first 27 bytes of a record with this state and token.
fn mark(state: RecordState, Token { attempt, nonce }: Token) -> String {
    let mut text = String::with_capacity(MAX_RECORD_BYTES);
    text.push_str(letter(state));
    text.push(':');
    hex::push(&mut text, &attempt.to_be_bytes());
    text.push(':');
    hex::push(&mut text, &nonce.to_be_bytes());
    text
}

/// The maximum length of a record, with any retention.
const MAX_RECORD_BYTES: usize = 96;

impl Record {
    fn write(&self) -> String {
        let mut text = mark(self.state, self.token);
        // Writing to a string does not fail.
        let _ = write!(text, ":{}:", self.retention);
        hex::push(&mut text, &self.first_digest.to_bytes());
        text
    }

    fn read(value: &[u8]) -> Result<Self, Foreign> {
        let (record, digest) = Self::split(value).ok_or(Foreign::Unknown)?;
        let first_digest = match Digest::from_hex(digest) {
            Some(first_digest) => first_digest,
            None if hex::decode::<32>(digest).is_some() => return Err(Foreign::Unreleased),
            None => return Err(Foreign::Unknown),
        };
        Ok(Self {
            first_digest,
            ..record
        })
    }

    /// Everything but the digest, and the digest's text.
    fn split(value: &[u8]) -> Option<(Self, &str)> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let state = state_of(parts.next()?)?;
        let attempt = u32::from_str_radix(parts.next().filter(|hex| hex.len() == 8)?, 16).ok()?;
        let nonce = u64::from_str_radix(parts.next().filter(|hex| hex.len() == 16)?, 16).ok()?;
        let retention = parts.next()?.parse().ok()?;
        let digest = parts.next()?;
        let token = Token { attempt, nonce };
        let record = Self {
            state,
            token,
            retention,
            first_digest: Digest::UNCOMPARED,
        };
        parts.next().is_none().then_some((record, digest))
    }
}

// The scripts. Their first line makes a server that cannot write refuse them at once: otherwise a
// replica would answer from old records, up to the first write. Numbers up to 2⁵³ are exact in Lua,
// but must not be converted to text implicitly.

/// A script and its hash.
struct Loaded {
    text: String,
    hash: Script,
}

impl Loaded {
    fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            hash: Script::new(&text),
            text,
        }
    }
}

/// A call of a script, by its text or its hash.
fn calling(how: &str, script: &str, key: &str, arguments: &[&str]) -> Cmd {
    let mut call = Cmd::with_capacity(4 + arguments.len(), script.len() + key.len() + 128);
    call.arg(how).arg(script).arg(1).arg(key).arg(arguments);
    call
}

/// KEYS: the record. ARGV: the record of a first claim, its expiry. Returns what is left of a lease
/// or pause, and the current record.
const CLAIM: &str = "#!lua
local found = redis.call('GET', KEYS[1])
local state, attempt, retention, digest
if found then
    state, attempt, retention, digest = string.match(found, '^(%l):(%x+):%x+:(%d+):(%x+)$')
    if not state or #digest ~= 32 then return {0, found} end
    if state ~= 'c' and state ~= 'p' then return {0, found} end
    local left = redis.call('PTTL', KEYS[1]) - tonumber(retention)
    if left > 0 then return {left, found} end
end
local claimed = ARGV[1]
if found then
    local rest = string.match(claimed, '^c:%x+(:%x+:%d+:)')
    attempt = math.min(tonumber(attempt, 16) + 1, 4294967295)
    claimed = 'c:' .. string.format('%08x', attempt) .. rest .. digest
end
redis.call('SET', KEYS[1], claimed, 'PX', ARGV[2])
return {0, claimed}
";

/// KEYS: the record. ARGV: how the record begins if the token is valid, how it should begin, its
/// retention, its expiry. Returns 1 if the token was valid.
const CHANGE: &str = "#!lua
local found = redis.call('GET', KEYS[1])
if not found or string.sub(found, 1, 27) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2] .. ':' .. ARGV[3] .. ':' .. string.sub(found, -32), 'PX', ARGV[4])
return 1
";

/// KEYS: the record. ARGV: how the record begins if the token is valid. Returns 1 if the token was
/// valid. Repeating the same completion changes nothing. This runs once per event, so it is
/// minimal: it takes little more than half the time of rewriting the record. (Converting numbers to
/// text in Lua would lose some of that.)
const FINISH: &str = "#!lua
local held = redis.call('GETRANGE', KEYS[1], '0', '26')
if held == ARGV[1] then
    redis.call('SETRANGE', KEYS[1], '0', 'STATE')
    return 1
end
if held == 'STATE' .. string.sub(ARGV[1], 2) then return 1 end
return 0
";

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: RecordState) -> Record {
        let token = Token {
            attempt: u32::MAX,
            nonce: 0x0123_4567_89ab_cdef,
        };
        Record {
            state,
            token,
            retention: 2_592_000_000,
            first_digest: Digest::from_bytes([0xa5; 16]),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        for state in [
            RecordState::Pending,
            RecordState::Claimed,
            RecordState::Handled,
            RecordState::Dead,
        ] {
            assert_eq!(
                Record::read(record(state).write().as_bytes()),
                Ok(record(state))
            );
        }
        let small = Record {
            token: Token {
                attempt: 1,
                nonce: 0,
            },
            retention: 0,
            ..record(RecordState::Claimed)
        };
        assert_eq!(
            small.write(),
            format!("c:00000001:0000000000000000:0:{}", "a5".repeat(16))
        );
        for token in [small.token, record(RecordState::Claimed).token] {
            assert_eq!(
                mark(RecordState::Claimed, token).len(),
                27,
                "what the scripts compare"
            );
        }
        assert_eq!(Record::read(small.write().as_bytes()), Ok(small));
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        let good = record(RecordState::Claimed).write();
        let longer = format!("{good}:");
        let wide = good.replace("a5a5a5", "é5a5");
        for bad in [
            "",
            "c",
            "c:1",
            &good[1..],
            &good[..good.len() - 1],
            &longer,
            &wide,
            &good.replacen('c', "x", 1),
        ] {
            assert_eq!(Record::read(bad.as_bytes()), Err(Foreign::Unknown), "{bad}");
        }
        assert_eq!(Record::read(b"\xff"), Err(Foreign::Unknown));
        let unreleased = good.replace(&"a5".repeat(16), &"a5".repeat(32));
        assert_eq!(
            Record::read(unreleased.as_bytes()),
            Err(Foreign::Unreleased)
        );
    }
}
