//! The ledger in Redis: shared by replicas on any number of hosts, as durable as the server is set to be.
//!
//! A record is one key, so a cluster spreads them, and its value is a line of text:
//!
//! ```text
//! c:00000001:9f86d081884c7d65:2592000000:<digest>      state : attempt : nonce : retention in ms : first digest
//! ```
//!
//! Times are not in it. The key expires one retention after its lease or pause ends; so what the server says is left of the key,
//! less the retention in the value, is what is left of the lease. That is the server's clock and nobody else's, records go away by
//! themselves, and a first claim needs no script.
//!
//! State and token come first and always have the same length, so that finishing an event, which is done once for each, compares and writes
//! those few bytes and leaves the rest of the record, and its expiry, as they are.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use redis::{
    Cmd, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo as _, RedisError, RedisResult, Script,
    ServerErrorKind,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    cmd,
};

use super::{
    Claim, Completion, DEFAULT_RETENTION, Digest, EventKey, Held, Ledger, LedgerError, Token,
    remote::{BadName, Nonces, TIMEOUT, millis, within},
};
use crate::hex::{push_hex, unhex};

/// A [`Ledger`] in Redis (7.0 or later), alone or a cluster.
///
/// Clones share a connection; replicas on any number of hosts share the records.
///
/// - **As durable as the server.** With its common settings (`appendfsync everysec`, asynchronous replication) a crash or a
///   fail-over forgets what was acknowledged in about the last second. A forgotten claim or completion means that the event,
///   should it be delivered once more, is handled once more; it is never lost, since what was not acknowledged to AuthPI
///   comes again. `appendfsync always` and no fail-over is what exactness costs; a database is the better place for it.
/// - **`maxmemory-policy` must be `noeviction`** (the default): an evicted record is a forgotten one. A record takes about
///   200 bytes of memory.
/// - **No dead letters.** What is given up is remembered as dead, its bytes are dropped.
/// - **One round trip per step.** A first claim and one that finds a handled event are a plain `SET … NX GET PX`; what comes
///   upon an unfinished record takes a script, and so a second round trip for the claim.
/// - **Never hangs.** A step fails when it has taken longer than the [`timeout`](RedisOptions::timeout) (default 5 s).
/// - **Keeps itself small.** Records expire one [`retention`](RedisOptions::retention) after the lease ends under which they were
///   finished.
/// - **Cancelled safely.** A step whose future is dropped takes place as a whole or not at all.
/// - **On the server's clock**, so hosts may differ.
///
/// Any connection of the `redis` crate that can be cloned will do: the [`ConnectionManager`] that
/// [`connect`](Redis::connect) makes, or one's own; a `ClusterConnection` (its feature `cluster-async`), to which one key per
/// step, and so one node, is sent. TLS is a feature of that crate as well, which you turn on by depending on it yourself.
///
/// ```no_run
/// # use authpi_sdk::ledger::Redis;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = Redis::options().prefix("billing:authpi:").connect("redis://127.0.0.1").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Redis<C = ConnectionManager> {
    connection: C,
    shared: Arc<Shared>,
}

struct Shared {
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
    /// Opens the ledger over a connection of its own, at `redis://:password@host:port/database`, which is made anew when it
    /// breaks.
    ///
    /// # Errors
    /// When the URL cannot be read, else as for [`open`](Redis::open).
    pub async fn connect(url: &str) -> Result<Self, LedgerError> {
        Self::options().connect(url).await
    }

    /// What can be set before opening.
    pub fn options() -> RedisOptions {
        RedisOptions { prefix: DEFAULT_PREFIX.into(), retention: DEFAULT_RETENTION, timeout: TIMEOUT }
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Redis<C> {
    /// Opens the ledger over `connection`, of which each step uses a clone.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses to write, or is older than Redis 7.0.
    pub async fn open(connection: C) -> Result<Self, LedgerError> {
        Redis::options().open(connection).await
    }

    /// By its hash, and in full where the server does not know it yet.
    async fn run<T: FromRedisValue>(&self, script: &Loaded, key: &str, arguments: &[&str]) -> RedisResult<T> {
        let mut connection = self.connection.clone();
        let known = calling("EVALSHA", script.hash.get_hash(), key, arguments);
        match known.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                calling("EVAL", &script.text, key, arguments).query_async(&mut connection).await
            }
            done => done,
        }
    }

    async fn claim(&self, key: &EventKey, digest: Digest, lease: Duration) -> Result<Claim, StepError> {
        let key = self.key(key);
        let token = Token { attempt: 1, nonce: self.shared.nonces.mint() };
        let retention = millis(self.shared.retention);
        let fresh = Record { state: State::Claimed, token, retention, first_digest: digest }.write();
        let expiry = self.expiry(lease).max(1).to_string();

        let mut set = Cmd::with_capacity(7, key.len() + fresh.len() + 32);
        set.arg("SET").arg(&key).arg(&fresh).arg("NX").arg("GET").arg("PX").arg(&expiry);
        let found: Option<Vec<u8>> = set.query_async(&mut self.connection.clone()).await?;
        let Some(found) = found else {
            return Ok(Claim::Granted { token, first_digest: digest });
        };
        let Record { state, first_digest, .. } = Record::read(&found)?;
        match state {
            State::Handled => return Ok(Claim::Handled { first_digest }),
            State::Dead => return Ok(Claim::Dead { first_digest }),
            State::Claimed | State::Pending => {}
        }
        // What is left of its lease or pause only the server can tell.
        let (left, found): (i64, Vec<u8>) = self.run(&self.shared.claim, &key, &[&fresh, &expiry]).await?;
        let left = Duration::from_millis(left.try_into().unwrap_or(0));
        let Record { state, token: holder, first_digest, .. } = Record::read(&found)?;
        Ok(match state {
            // So it is too where a connection sent the command twice, having lost the first answer.
            State::Claimed if holder.nonce == token.nonce => Claim::Granted { token: holder, first_digest },
            State::Claimed => Claim::InFlight { lease_left: left },
            State::Pending => Claim::NotYet { wait: left },
            State::Handled => Claim::Handled { first_digest },
            State::Dead => Claim::Dead { first_digest },
        })
    }

    /// What only the holder of the token may do.
    async fn held(
        &self,
        step: &'static str,
        script: &Loaded,
        key: &EventKey,
        arguments: &[&str],
    ) -> Result<Held, LedgerError> {
        let key = self.key(key);
        let changed = within(self.shared.timeout, step, self.run::<i64>(script, &key, arguments)).await?;
        Ok(if changed == 0 { Held::Lost } else { Held::Yes })
    }

    /// Turns the record into one of `state`, with a lease or pause of `length`.
    async fn change(
        &self,
        step: &'static str,
        key: &EventKey,
        token: Token,
        state: State,
        length: Duration,
    ) -> Result<Held, LedgerError> {
        let [held, changed] = [State::Claimed, state].map(|state| mark(state, token));
        let retention = millis(self.shared.retention).to_string();
        let expiry = self.expiry(length).max(1).to_string();
        self.held(step, &self.shared.change, key, &[&held, &changed, &retention, &expiry]).await
    }

    /// The length keeps pairs of names apart.
    fn key(&self, key: &EventKey) -> String {
        let (prefix, endpoint, event_id) = (&*self.shared.prefix, key.endpoint(), key.event_id());
        let mut text = String::with_capacity(prefix.len() + endpoint.len() + event_id.len() + 6);
        // Writing to a string does not fail.
        let _ = write!(text, "{prefix}{}:{endpoint}:{event_id}", endpoint.len());
        text
    }

    /// When a record goes of which `length` is left.
    fn expiry(&self, length: Duration) -> i64 {
        millis(length) + millis(self.shared.retention)
    }
}

impl<C> fmt::Debug for Redis<C> {
    /// Leaves the connection out: there is a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("prefix", &self.shared.prefix)
            .field("retention", &self.shared.retention)
            .field("timeout", &self.shared.timeout)
            .finish_non_exhaustive()
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Ledger for Redis<C> {
    async fn claim(&self, key: &EventKey, digest: Digest, lease: Duration) -> Result<Claim, LedgerError> {
        within(self.shared.timeout, "claim", Redis::claim(self, key, digest, lease)).await
    }

    async fn renew(&self, key: &EventKey, token: Token, lease: Duration) -> Result<Held, LedgerError> {
        self.change("renew", key, token, State::Claimed, lease).await
    }

    async fn complete(&self, key: &EventKey, token: Token, completion: Completion) -> Result<Held, LedgerError> {
        let finish = match completion {
            Completion::Handled => &self.shared.handled,
            Completion::Dead { .. } => &self.shared.dead,
        };
        self.held("complete", finish, key, &[&mark(State::Claimed, token)]).await
    }

    async fn release(&self, key: &EventKey, token: Token, pause: Duration) -> Result<Held, LedgerError> {
        self.change("release", key, token, State::Pending, pause).await
    }

    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        let mut delete = cmd("DEL");
        delete.arg(self.key(key));
        let removed = async { delete.query_async::<i64>(&mut self.connection.clone()).await };
        Ok(within(self.shared.timeout, "forget", removed).await? > 0)
    }

    fn keeps_dead_letters(&self) -> bool {
        false
    }

    fn remembers_for(&self) -> Duration {
        self.shared.retention
    }

    fn store_id(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.shared).addr())
    }
}

/// What can be set before a [`Redis`] ledger is opened.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `open` or `connect`"]
pub struct RedisOptions {
    prefix: String,
    retention: Duration,
    timeout: Duration,
}

impl RedisOptions {
    /// What every key begins with (default `authpi:`): ledgers with different prefixes know nothing of each other, unless one
    /// prefix begins with the other. ASCII letters, digits and `:._/-`, 1 to 100 of them.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long handled and dead records are remembered (default 30 days), from the end of the lease under which they were finished. It is
    /// fixed for a record by its claim, or by its last renewal or release.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// How long a step may take before it fails (default 5 s). A connection of your own may have a shorter one.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens the ledger over `connection`, of which each step uses a clone.
    ///
    /// # Errors
    /// As for [`Redis::open`]; and when the prefix cannot be used.
    pub async fn open<C>(self, connection: C) -> Result<Redis<C>, LedgerError>
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        let usable = |c: char| c.is_ascii_alphanumeric() || ":._/-".contains(c);
        if !(1..=100).contains(&self.prefix.len()) || !self.prefix.chars().all(usable) {
            let allowed = "ASCII letters, digits and :._/-, 1 to 100 of them";
            return Err(LedgerError::new("open", BadName { what: "a prefix of keys", name: self.prefix, allowed }));
        }
        let shared = Shared {
            prefix: self.prefix,
            retention: self.retention,
            timeout: self.timeout,
            nonces: Nonces::default(),
            claim: Loaded::new(CLAIM),
            change: Loaded::new(CHANGE),
            handled: Loaded::new(FINISH.replace("STATE", State::Handled.letter())),
            dead: Loaded::new(FINISH.replace("STATE", State::Dead.letter())),
        };
        let ledger = Redis { connection, shared: Arc::new(shared) };
        ledger.probe().await?;
        Ok(ledger)
    }

    /// Opens the ledger over a connection of its own.
    ///
    /// # Errors
    /// As for [`Redis::connect`]; and when the prefix cannot be used.
    pub async fn connect(self, url: &str) -> Result<Redis, LedgerError> {
        let connection = within(self.timeout, "open", async {
            let config = ConnectionManagerConfig::new()
                // Each step has its own.
                .set_response_timeout(None)
                .set_connection_timeout(Some(self.timeout))
                .set_max_delay(Duration::from_secs(1));
            ConnectionManager::new_with_config(redis::Client::open(self.server(url)?)?, config).await
        });
        let connection = connection.await?;
        self.open(connection).await
    }
}

const DEFAULT_PREFIX: &str = "authpi:";

impl RedisOptions {
    /// With a limit to how long the kernel waits for a host that went away without a word.
    fn server(&self, url: &str) -> Result<ConnectionInfo, RedisError> {
        let server = url.into_connection_info()?;
        let settings = server.tcp_settings().clone();
        #[cfg(target_os = "linux")]
        let settings = settings.set_user_timeout(self.timeout);
        Ok(server.set_tcp_settings(settings))
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Redis<C> {
    /// Tries the command that older servers do not know, on a key of its own, so that this shows at the start.
    async fn probe(&self) -> Result<(), LedgerError> {
        let key = format!("{}open", self.shared.prefix);
        let mut connection = self.connection.clone();
        let set = cmd("SET").arg(key).arg("").arg("NX").arg("GET").arg("PX").arg(1).to_owned();
        within(self.shared.timeout, "open", async {
            let probed: Result<Option<Vec<u8>>, RedisError> = set.query_async(&mut connection).await;
            match probed {
                Ok(_) => Ok(()),
                Err(error) if error.detail().is_some_and(|detail| detail.contains("syntax")) => {
                    Err(OpenError::TooOld(error))
                }
                Err(error) => Err(OpenError::Redis(error)),
            }
        })
        .await
    }
}

#[derive(Debug)]
enum OpenError {
    Redis(RedisError),
    TooOld(RedisError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis(_) => "the server cannot be used",
            Self::TooOld(_) => "the server does not know SET with both NX and GET: it must be Redis 7.0 or later",
        })
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Redis(error) | Self::TooOld(error) => Some(error),
        }
    }
}

type StepError = Box<dyn std::error::Error + Send + Sync>;

/// Why what lies under one of the ledger's keys is not read.
#[derive(Debug, PartialEq, Eq)]
enum Foreign {
    /// No version of the ledger that this one knows has written it.
    Unknown,
    /// Versions before the first release kept a SHA-256 in each record.
    Unreleased,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "a key of the ledger holds something else: set a prefix that nobody else uses",
            Self::Unreleased => {
                "a key of the ledger holds a record of an unreleased authpi-sdk, with a SHA-256 digest, which this version \
                 cannot use: delete the keys under this prefix, or set another prefix"
            }
        })
    }
}

impl std::error::Error for Foreign {}

// The record.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Claimed,
    Handled,
    Dead,
}

impl State {
    const fn letter(self) -> &'static str {
        match self {
            Self::Pending => "p",
            Self::Claimed => "c",
            Self::Handled => "h",
            Self::Dead => "d",
        }
    }

    fn read(letter: &str) -> Option<Self> {
        [Self::Pending, Self::Claimed, Self::Handled, Self::Dead].into_iter().find(|state| state.letter() == letter)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Record {
    state: State,
    token: Token,
    /// In milliseconds.
    retention: i64,
    first_digest: Digest,
}

/// What a record in this state under this token begins with: 27 bytes.
fn mark(state: State, Token { attempt, nonce }: Token) -> String {
    let mut text = String::with_capacity(LONGEST);
    text.push_str(state.letter());
    text.push(':');
    push_hex(&mut text, &attempt.to_be_bytes());
    text.push(':');
    push_hex(&mut text, &nonce.to_be_bytes());
    text
}

/// Whatever the retention, a record is no longer than this.
const LONGEST: usize = 96;

impl Record {
    fn write(&self) -> String {
        let mut text = mark(self.state, self.token);
        // Writing to a string does not fail.
        let _ = write!(text, ":{}:", self.retention);
        push_hex(&mut text, &self.first_digest.to_bytes());
        text
    }

    fn read(value: &[u8]) -> Result<Self, Foreign> {
        let (record, digest) = Self::split(value).ok_or(Foreign::Unknown)?;
        let first_digest = match Digest::from_hex(digest) {
            Some(first_digest) => first_digest,
            None if unhex::<32>(digest).is_some() => return Err(Foreign::Unreleased),
            None => return Err(Foreign::Unknown),
        };
        Ok(Self { first_digest, ..record })
    }

    /// All of it but the digest, and what stands in the digest's place.
    fn split(value: &[u8]) -> Option<(Self, &str)> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let state = State::read(parts.next()?)?;
        let attempt = u32::from_str_radix(parts.next().filter(|hex| hex.len() == 8)?, 16).ok()?;
        let nonce = u64::from_str_radix(parts.next().filter(|hex| hex.len() == 16)?, 16).ok()?;
        let retention = parts.next()?.parse().ok()?;
        let digest = parts.next()?;
        let token = Token { attempt, nonce };
        let record = Self { state, token, retention, first_digest: Digest::UNCOMPARED };
        parts.next().is_none().then_some((record, digest))
    }
}

// The scripts. Numbers up to 2⁵³ are exact in them, but must not be turned into text by themselves.

/// A script and its hash.
struct Loaded {
    text: String,
    hash: Script,
}

impl Loaded {
    fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { hash: Script::new(&text), text }
    }
}

/// A call of a script, by its text or its hash.
fn calling(how: &str, script: &str, key: &str, arguments: &[&str]) -> Cmd {
    let mut call = Cmd::with_capacity(4 + arguments.len(), script.len() + key.len() + 128);
    call.arg(how).arg(script).arg(1).arg(key).arg(arguments);
    call
}

/// KEYS: the record. ARGV: the record of a first claim, its expiry. Answers what is left of a lease or pause, and the record
/// as it is now.
const CLAIM: &str = "
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

/// KEYS: the record. ARGV: how the record begins if it is the token's, how it is to begin, its retention, its expiry. Answers 1 if
/// the token was the record's.
const CHANGE: &str = "
local found = redis.call('GET', KEYS[1])
if not found or string.sub(found, 1, 27) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2] .. ':' .. ARGV[3] .. ':' .. string.sub(found, -32), 'PX', ARGV[4])
return 1
";

/// KEYS: the record. ARGV: how the record begins if it is the token's. Answers 1 if the token was the record's. The same completion
/// once more changes nothing. Every event takes it once, so it does no more than it must: it takes little more than half the time that
/// writing the record anew does. (Numbers that Lua has to turn into text would cost it some of that.)
const FINISH: &str = "
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

    fn record(state: State) -> Record {
        let token = Token { attempt: u32::MAX, nonce: 0x0123_4567_89ab_cdef };
        Record { state, token, retention: 2_592_000_000, first_digest: Digest::from_bytes([0xa5; 16]) }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        for state in [State::Pending, State::Claimed, State::Handled, State::Dead] {
            assert_eq!(Record::read(record(state).write().as_bytes()), Ok(record(state)));
        }
        let small = Record { token: Token { attempt: 1, nonce: 0 }, retention: 0, ..record(State::Claimed) };
        assert_eq!(small.write(), format!("c:00000001:0000000000000000:0:{}", "a5".repeat(16)));
        for token in [small.token, record(State::Claimed).token] {
            assert_eq!(mark(State::Claimed, token).len(), 27, "what the scripts compare");
        }
        assert_eq!(Record::read(small.write().as_bytes()), Ok(small));
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        let good = record(State::Claimed).write();
        let longer = format!("{good}:");
        let wide = good.replace("a5a5a5", "é5a5");
        for bad in ["", "c", "c:1", &good[1..], &good[..good.len() - 1], &longer, &wide, &good.replacen('c', "x", 1)] {
            assert_eq!(Record::read(bad.as_bytes()), Err(Foreign::Unknown), "{bad}");
        }
        assert_eq!(Record::read(b"\xff"), Err(Foreign::Unknown));
        let unreleased = good.replace(&"a5".repeat(16), &"a5".repeat(32));
        assert_eq!(Record::read(unreleased.as_bytes()), Err(Foreign::Unreleased));
    }
}
