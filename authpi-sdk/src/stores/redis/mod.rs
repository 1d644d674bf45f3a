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
//! server's clock counts, the server removes old records, and a first claim needs no script.
//!
//! State and token come first and have a fixed length. Finishing an event, which happens once for
//! each, compares and writes only those bytes and leaves the rest of the record, and its expiry,
//! unchanged.

mod connection;
mod failure;
mod inspect;
mod options;
mod record;
mod scripts;

use std::{
    fmt::{self, Write as _},
    future::Future,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, aio::ConnectionLike,
    cmd,
};
use tokio::time::{Instant, timeout};

use self::{
    failure::StepError,
    options::DEFAULT_PREFIX,
    record::{Record, mark},
    scripts::{Loaded, calling},
};
use super::timeout::{Nonces, TIMEOUT, millis};
use crate::ledger::{
    Claim, Completion, DEFAULT_RETENTION, Digest, EventKey, LeaseStatus, Ledger, LedgerError,
    RecordState, Token,
};

pub use connection::RedisConnection;
pub use inspect::RedisInspector;
pub use options::RedisOptions;

/// A [`Ledger`] in Redis (7.0 or later), a single server or a cluster.
///
/// Clones share a connection; replicas on any number of hosts share the records.
///
/// - **As durable as the server.** With its usual settings (`appendfsync everysec`, asynchronous
///   replication), a crash or a fail-over loses the last second or so. If a claim or completion is
///   lost and the event is delivered again, it is handled again. The event itself is not lost,
///   since AuthPI sends unacknowledged events again. `appendfsync always` without fail-over avoids
///   this, but a database is the better choice then.
/// - **`maxmemory-policy` must be `noeviction`** (the default). If a record is evicted, a
///   redelivery of its event is handled again. A record takes about 200 bytes of memory.
/// - **No dead letters.** The record of an event that was given up is kept; its body is not.
/// - **One round trip per step.** A first claim, and one that finds a handled event, are a plain
///   `SET … NX GET PX`. A claim that finds an unfinished record needs a script, and so a second
///   round trip.
/// - **Never hangs.** A step fails after the [`timeout`](RedisOptions::timeout) (default 5 s).
/// - **Bounded.** Records expire one [`retention`](RedisOptions::retention) after the end of the
///   lease under which they were finished.
/// - **Replaces its connection** if the server cannot serve. A ledger that was opened by
///   [`connect`](Redis::connect) replaces its connection when it breaks, when a step had no answer
///   in time, and when the server answers that it is read-only, loading its data, or cannot write
///   (`READONLY`, `LOADING`, `MASTERDOWN`, `CLUSTERDOWN`, `NOREPLICAS`, `MISCONF`, `OOM` and
///   similar). So after a fail-over behind the same address, the step that reaches the old primary
///   continues with the new one. Connecting is retried until it succeeds, for any error, at most a
///   second apart; a step that waits for it fails with the cause. A connection that was passed to
///   [`open`](Redis::open) has to be replaced by its owner, and the error says so.
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
    /// Opens the ledger with its own connection, at `redis://user:password@host:port/database`. The
    /// connection is replaced when it breaks and when its server cannot serve.
    ///
    /// # Errors
    /// When the URL is invalid; when host, port, password or database are wrong, with the cause;
    /// when the server is a replica, a Sentinel or one node of a cluster. (The answer to `HELLO`
    /// says so. If a server or proxy does not know that command, `ROLE` is sent. If it does not
    /// know either of them, it is treated as a primary.) Otherwise as for [`open`](Redis::open).
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

    /// Runs a script by its hash, or in full if the server does not know it yet.
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
        // A release is not repeated after a broken connection: if the first one was applied, the
        // second would return `Lost`.
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

    /// The length prevents that two pairs of names have the same key.
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
