//! The ledger in a Postgres database: shared by replicas on any number of hosts, survives restarts, keeps dead letters.
//!
//! Each step is one statement, hence one round trip and a transaction of its own. A claim looks before it writes, within its
//! statement, so that a duplicate neither locks a row nor makes the server flush its log. All times are the server's.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool, Row as _,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::Query,
};

use tokio::sync::Notify;

use super::{
    Appended, Backlog, Claim, Completion, DEFAULT_RETENTION, DeadLetter, Digest, EventKey, Held, Inbox, Leased, Ledger,
    LedgerError, Next, Token,
    dead_letter::timestamp,
    remote::{BadName, Nonces, TIMEOUT, millis, within},
};

/// A [`Ledger`] and [`Inbox`] in a Postgres database (12 or later), which keeps dead letters.
///
/// Clones share one pool; replicas on any number of hosts share the tables.
///
/// - **Durable** as the server is: with its default `synchronous_commit = on`, a step that returned `Ok` survives a crash.
///   Steps that run at the same time share a flush of the server's log; a claim that finds a duplicate writes nothing.
/// - **One round trip per step**, on a connection of the pool. A pool of your own should be built with
///   `test_before_acquire(false)`, or sqlx spends another one on asking whether the connection is alive; the pool that
///   [`connect`](Postgres::connect) makes asks only of connections that were idle for a while.
/// - **Never hangs.** A step fails when it has taken longer than the [`timeout`](PostgresOptions::timeout) (default 5 s), the
///   wait for a connection included. Whether it took place is then unknown, which every caller of a ledger must be ready for.
/// - **Keeps itself small.** Claims prune, now and then and some at a time, what is older than the
///   [`retention`](PostgresOptions::retention); dead letters too. [`purge`](Postgres::purge) does so at once.
/// - **Cancelled safely.** A step whose future is dropped takes place as a whole or not at all.
/// - **On the server's clock**, so hosts may differ. A fail-over to a server whose clock is off moves leases by as much.
///
/// The tables are called `authpi_…` ([another prefix](PostgresOptions::prefix) can be set). They are made, and brought up to
/// date, when the ledger is opened; any number of replicas may do so at once. Only that needs the right to create tables, so a
/// role without it can use tables that another one has made. Tables that a later version of this crate has brought up to date
/// are refused.
///
/// An event's id and its endpoint's name may have about 2,600 bytes together, Postgres' limit for an index.
///
/// TLS is a feature of sqlx (`tls-rustls`, `tls-native-tls`), which you turn on by depending on it yourself.
///
/// ```no_run
/// # use authpi_sdk::ledger::Postgres;
/// # async fn shown(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = Postgres::open(pool).await?;
/// for letter in ledger.dead_letters("users", None, 100).await? {
///     eprintln!("{} after {} attempts: {}", letter.key.event_id(), letter.attempts, letter.reason);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Postgres {
    pool: PgPool,
    shared: Arc<Shared>,
}

struct Shared {
    statements: Statements,
    retention: Duration,
    timeout: Duration,
    nonces: Nonces,
    until_prune: AtomicU32,
    /// Told after each append of this process; other processes' workers poll.
    appended: Notify,
}

impl Postgres {
    /// Opens the ledger in the database of `pool`, and makes its tables if they are not there.
    ///
    /// # Errors
    /// When the server cannot be reached, the tables cannot be made, or they were brought up to date by a later version of
    /// this crate.
    pub async fn open(pool: PgPool) -> Result<Self, LedgerError> {
        Self::options().open(pool).await
    }

    /// Opens the ledger over a pool of its own, of at most 10 connections, at `postgres://user:password@host/database`.
    ///
    /// # Errors
    /// When the URL cannot be read, else as for [`open`](Postgres::open).
    pub async fn connect(url: &str) -> Result<Self, LedgerError> {
        Self::options().connect(url).await
    }

    /// What can be set before opening.
    pub fn options() -> PostgresOptions {
        PostgresOptions { schema: None, prefix: DEFAULT_PREFIX.into(), retention: DEFAULT_RETENTION, timeout: TIMEOUT }
    }

    /// The dead letters of an endpoint, oldest first, at most `limit` of them; those after the letter `after`, if given.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn dead_letters(
        &self,
        endpoint: &str,
        after: Option<&DeadLetter>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, LedgerError> {
        let at = after.map_or(i64::MIN, |letter| letter.died_at.as_millisecond());
        let event_id = after.map_or(Cow::Borrowed(""), |letter| text(letter.key.event_id()));
        let rows = self.rows("list dead letters", &self.shared.statements.dead_letters, |query| {
            query.bind(text(endpoint)).bind(at).bind(event_id.clone()).bind(i64::from(limit))
        });
        let rows = rows.await?;
        let endpoint: Arc<str> = endpoint.into();
        let letter = |row: &PgRow| {
            Ok(DeadLetter {
                key: EventKey::new(endpoint.clone(), untext(row.try_get(0)?)),
                reason: untext(row.try_get::<Option<_>, _>(1)?.unwrap_or_default()),
                attempts: row.try_get::<i64, _>(2)?.try_into().unwrap_or(u32::MAX),
                body: row.try_get::<Option<Vec<u8>>, _>(3)?.unwrap_or_default().into(),
                first_claimed_at: timestamp(row.try_get(4)?),
                died_at: timestamp(row.try_get(5)?),
            })
        };
        rows.iter()
            .map(letter)
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|e| LedgerError::new("list dead letters", e))
    }

    /// Removes at once all records, of every endpoint, that were handled or given up at least `age` ago, dead letters
    /// included, and says how many. An event whose record is gone is handled afresh if it comes again.
    ///
    /// # Errors
    /// When the store fails; some records may have been removed.
    pub async fn purge(&self, age: Duration) -> Result<u64, LedgerError> {
        let mut purged = 0;
        loop {
            // In portions, so that no statement runs for long.
            let removed = self.remove("purge", &self.shared.statements.purge, age).await?;
            purged += removed;
            if removed < PORTION.unsigned_abs() {
                return Ok(purged);
            }
        }
    }

    async fn rows<'q>(
        &self,
        step: &'static str,
        statement: &Arc<str>,
        bind: impl Fn(PgQuery<'q>) -> PgQuery<'q>,
    ) -> Result<Vec<PgRow>, LedgerError> {
        self.rows_if(|_| true, step, statement, bind).await
    }

    /// Runs one statement; again where it did nothing since it lost a race, which `told` sees in its rows, or the database's
    /// isolation level makes an error of.
    async fn rows_if<'q>(
        &self,
        told: fn(&[PgRow]) -> bool,
        step: &'static str,
        statement: &Arc<str>,
        bind: impl Fn(PgQuery<'q>) -> PgQuery<'q>,
    ) -> Result<Vec<PgRow>, LedgerError> {
        within(self.shared.timeout, step, async {
            loop {
                let mut connection = Borrowed { connection: self.pool.acquire().await?, in_use: true };
                let query = bind(sqlx::query(AssertSqlSafe(statement.clone())));
                let done = query.fetch_all(&mut *connection.connection).await;
                connection.in_use = false;
                match done {
                    Err(error) if lost_a_race(&error) => {}
                    Ok(rows) if !told(&rows) => {}
                    done => return done,
                }
            }
        })
        .await
    }

    async fn held<'q>(
        &self,
        step: &'static str,
        statement: &Arc<str>,
        (key, token): (&'q EventKey, Token),
        bind: impl Fn(PgQuery<'q>) -> PgQuery<'q>,
    ) -> Result<Held, LedgerError> {
        let rows = self.rows(step, statement, |query| {
            let query = query.bind(text(key.endpoint())).bind(text(key.event_id()));
            bind(query.bind(i64::from(token.attempt)).bind(token.nonce.cast_signed()))
        });
        Ok(if rows.await?.is_empty() { Held::Lost } else { Held::Yes })
    }

    async fn remove(&self, step: &'static str, statement: &Arc<str>, age: Duration) -> Result<u64, LedgerError> {
        let rows = self.rows(step, statement, |query| query.bind(millis(age)).bind(PORTION)).await?;
        Ok(rows.len() as u64)
    }

    /// Now and then, in a task of its own: the claim has been granted, and a failure is nobody's but the log's.
    fn prune_in_turn(&self) {
        let left = |left: u32| Some(left.checked_sub(1).unwrap_or(CLAIMS_PER_PRUNING - 1));
        if self.shared.until_prune.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left) != Ok(0) {
            return;
        }
        let ledger = self.clone();
        tokio::spawn(async move {
            let pruned = ledger.remove("prune", &ledger.shared.statements.prune, ledger.shared.retention).await;
            if let Err(error) = pruned {
                tracing::warn!(error = &error as &dyn std::error::Error, "pruning the ledger failed");
            }
        });
    }
}

impl fmt::Debug for Postgres {
    /// Leaves out how to connect: there is a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("retention", &self.shared.retention)
            .field("timeout", &self.shared.timeout)
            .finish_non_exhaustive()
    }
}

impl Ledger for Postgres {
    async fn claim(&self, key: &EventKey, digest: Digest, lease: Duration) -> Result<Claim, LedgerError> {
        let nonce = self.shared.nonces.mint();
        // No row: another step took place between what the statement saw and what it would have written.
        let told = |rows: &[PgRow]| !rows.is_empty();
        let rows = self.rows_if(told, "claim", &self.shared.statements.claim, |query| {
            query
                .bind(text(key.endpoint()))
                .bind(text(key.event_id()))
                .bind(nonce.cast_signed())
                .bind(millis(lease))
                .bind(&digest.0[..])
                .bind(millis(self.shared.retention))
        });
        let rows = rows.await?;
        let claim = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(|row| claim_of(row, nonce));
        let claim = claim.map_err(|error| LedgerError::new("claim", error))?;
        if matches!(claim, Claim::Granted { .. }) {
            self.prune_in_turn();
        }
        Ok(claim)
    }

    async fn renew(&self, key: &EventKey, token: Token, lease: Duration) -> Result<Held, LedgerError> {
        let renew = &self.shared.statements.renew;
        self.held("renew", renew, (key, token), |query| query.bind(millis(lease))).await
    }

    async fn complete(&self, key: &EventKey, token: Token, completion: Completion) -> Result<Held, LedgerError> {
        let Statements { handled, dead, .. } = &self.shared.statements;
        match completion {
            Completion::Handled => self.held("complete", handled, (key, token), |query| query).await,
            Completion::Dead { reason, body } => {
                let reason = text(&reason).into_owned();
                self.held("complete", dead, (key, token), |query| query.bind(reason.clone()).bind(body.to_vec())).await
            }
        }
    }

    async fn release(&self, key: &EventKey, token: Token, pause: Duration) -> Result<Held, LedgerError> {
        let release = &self.shared.statements.release;
        self.held("release", release, (key, token), |query| query.bind(millis(pause))).await
    }

    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        let rows = self.rows("forget", &self.shared.statements.forget, |query| {
            query.bind(text(key.endpoint())).bind(text(key.event_id()))
        });
        Ok(!rows.await?.is_empty())
    }

    fn keeps_dead_letters(&self) -> bool {
        true
    }

    fn remembers_for(&self) -> Duration {
        self.shared.retention
    }
}

impl Inbox for Postgres {
    async fn append(
        &self,
        key: &EventKey,
        digest: Digest,
        lane: Option<&str>,
        body: Bytes,
    ) -> Result<Appended, LedgerError> {
        // No row: the record came, or went, between what the statement saw and what it would have written.
        let told = |rows: &[PgRow]| !rows.is_empty();
        let rows = self.rows_if(told, "append", &self.shared.statements.append, |query| {
            let query = query.bind(text(key.endpoint())).bind(text(key.event_id())).bind(digest.0.to_vec());
            query.bind(body.to_vec()).bind(lane.map(text)).bind(millis(self.shared.retention))
        });
        let rows = rows.await?;
        let known = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(|row| row.try_get::<Option<&[u8]>, _>(0));
        let known = known.map_err(|error| LedgerError::new("append", error))?;
        let Some(known) = known else {
            self.shared.appended.notify_waiters();
            self.prune_in_turn();
            return Ok(Appended::Stored);
        };
        let first_digest = digest_of(known).map_err(|error| LedgerError::new("append", error))?;
        Ok(Appended::Known { first_digest })
    }

    async fn lease_next(&self, endpoint: &str, lease: Duration) -> Result<Next, LedgerError> {
        const STEP: &str = "lease the next event";
        let nonce = self.shared.nonces.mint();
        let rows = self.rows(STEP, &self.shared.statements.lease_next, |query| {
            query.bind(text(endpoint)).bind(millis(lease)).bind(nonce.cast_signed())
        });
        let rows = rows.await?;
        let next = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(|row| next_of(row, endpoint, nonce));
        next.map_err(|error| LedgerError::new(STEP, error))
    }

    fn appended(&self) -> impl Future<Output = ()> + Send {
        self.shared.appended.notified()
    }

    async fn backlog(&self, endpoint: &str) -> Result<Backlog, LedgerError> {
        const STEP: &str = "count the backlog";
        let rows = self.rows(STEP, &self.shared.statements.backlog, |query| query.bind(text(endpoint)));
        let read = |row: &PgRow| {
            let age = |ms: i64| Duration::from_millis(ms.try_into().unwrap_or(0));
            Ok(Backlog {
                depth: row.try_get::<i64, _>(0)?.try_into().unwrap_or(0),
                oldest: row.try_get::<Option<i64>, _>(1)?.map(age),
            })
        };
        let rows = rows.await?;
        rows.first().ok_or(sqlx::Error::RowNotFound).and_then(read).map_err(|error| LedgerError::new(STEP, error))
    }
}

/// What can be set before a [`Postgres`] ledger is opened.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `open` or `connect`"]
pub struct PostgresOptions {
    schema: Option<String>,
    prefix: String,
    retention: Duration,
    timeout: Duration,
}

impl PostgresOptions {
    /// The schema that the tables are in, which must exist (default: the first of the connection's `search_path`). Small
    /// letters, digits and `_`, at most 63, not beginning with a digit.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// What the names of tables and indexes begin with (default `authpi_`): ledgers with different prefixes know nothing of
    /// each other. Small letters, digits and `_`, at most 40, not beginning with a digit.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long handled and dead records are remembered (default 30 days). Replicas that share the tables should agree.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// How long a step may take, the wait for a connection included, before it fails (default 5 s). Opening, which may wait
    /// for other replicas that make the tables, has a minute at least.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens the ledger in the database of `pool`, and makes its tables if they are not there.
    ///
    /// # Errors
    /// As for [`Postgres::open`]; and when the prefix or the schema's name cannot be used.
    pub async fn open(self, pool: PgPool) -> Result<Postgres, LedgerError> {
        let tables = Tables::of(&self).map_err(|error| LedgerError::new("open", error))?;
        within(self.timeout.max(OPENING), "open", async {
            let mut connection = Borrowed { connection: pool.acquire().await?, in_use: true };
            let done = migrate(&mut connection.connection, &tables).await;
            connection.in_use = false;
            done
        })
        .await?;
        Ok(self.over(pool, &tables))
    }

    /// Opens the ledger over a pool of its own, of at most 10 connections.
    ///
    /// # Errors
    /// As for [`Postgres::connect`]; and when the prefix or the schema's name cannot be used.
    pub async fn connect(self, url: &str) -> Result<Postgres, LedgerError> {
        let tables = Tables::of(&self).map_err(|error| LedgerError::new("open", error))?;
        let server: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| LedgerError::new("open", error))?;
        let server = server.disable_statement_logging();
        within(self.timeout.max(OPENING), "open", async {
            // Not by the pool, which tries again until its time is over, and does not say why.
            let mut connection = PgConnection::connect_with(&server).await?;
            migrate(&mut connection, &tables).await?;
            Ok::<_, OpenError>(connection.close().await?)
        })
        .await?;
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .acquire_timeout(self.timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, metadata| {
                Box::pin(async move {
                    if metadata.idle_for > IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(server);
        Ok(self.over(pool, &tables))
    }

    fn over(self, pool: PgPool, tables: &Tables) -> Postgres {
        let shared = Shared {
            statements: Statements::on(tables),
            retention: self.retention,
            timeout: self.timeout,
            nonces: Nonces::default(),
            until_prune: AtomicU32::new(0),
            appended: Notify::new(),
        };
        Postgres { pool, shared: Arc::new(shared) }
    }
}

// The schema.

const DEFAULT_PREFIX: &str = "authpi_";
/// How long opening may take at least.
const OPENING: Duration = Duration::from_mins(1);
/// After how long without use [`PostgresOptions::connect`]'s pool asks whether a connection is alive.
const IDLE: Duration = Duration::from_secs(1);
/// What replicas that migrate wait for each other at; an arbitrary number, the same in every version.
const MIGRATING: i64 = 0x6175_7468_7069_0001;

/// What brings the tables from version n to n + 1, for n from 0; `{…}` are filled in. Never changed, only added to.
const MIGRATIONS: [&str; 2] = [
    r#"
    CREATE TABLE {schema}{prefix}ledger (
        endpoint TEXT COLLATE "C" NOT NULL,
        event_id TEXT COLLATE "C" NOT NULL,
        state SMALLINT NOT NULL,            -- 0 pending, 1 claimed, 2 handled, 3 dead
        attempt BIGINT NOT NULL,
        nonce BIGINT NOT NULL,
        at BIGINT NOT NULL,                 -- Unix ms: the pause or lease ends, or it was finished
        first_claimed_at BIGINT NOT NULL,   -- Unix ms
        first_digest BYTEA NOT NULL,
        reason TEXT,                        -- of dead ones only
        body BYTEA,                         -- of dead ones only
        PRIMARY KEY (endpoint, event_id)
    );
    CREATE INDEX {prefix}ledger_at ON {schema}{prefix}ledger (at);
    CREATE INDEX {prefix}ledger_dead ON {schema}{prefix}ledger (endpoint, at, event_id) WHERE state = 3;
"#,
    r#"
    -- An event in the inbox has a place, and keeps its body until it is handled; a lane is worked on in the order of places.
    ALTER TABLE {schema}{prefix}ledger ADD COLUMN place BIGINT, ADD COLUMN lane TEXT COLLATE "C";
    CREATE SEQUENCE {schema}{prefix}places;
    CREATE INDEX {prefix}inbox ON {schema}{prefix}ledger (endpoint, place) WHERE place IS NOT NULL AND state < 2;
    CREATE INDEX {prefix}inbox_lane ON {schema}{prefix}ledger (endpoint, lane, place)
        WHERE lane IS NOT NULL AND state < 2;
"#,
];
#[expect(clippy::cast_possible_wrap, reason = "there will never be that many")]
const VERSION: i64 = MIGRATIONS.len() as i64;

/// Names that were found to be harmless in SQL.
struct Tables {
    /// With its quotes and a dot, or empty.
    schema: String,
    prefix: String,
}

impl Tables {
    fn of(options: &PostgresOptions) -> Result<Self, BadName> {
        let usable = |name: &str, most| {
            name.len() <= most
                && name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
                && name.chars().all(|other| other.is_ascii_lowercase() || other.is_ascii_digit() || other == '_')
        };
        if !usable(&options.prefix, 40) {
            let allowed = "small letters, digits and _, at most 40, not beginning with a digit";
            return Err(BadName { what: "a prefix of tables", name: options.prefix.clone(), allowed });
        }
        let schema = match &options.schema {
            None => String::new(),
            Some(schema) if usable(schema, 63) => format!("\"{schema}\"."),
            Some(schema) => {
                let allowed = "small letters, digits and _, at most 63, not beginning with a digit";
                return Err(BadName { what: "a schema", name: schema.clone(), allowed });
            }
        };
        Ok(Self { schema, prefix: options.prefix.clone() })
    }

    fn fill_in(&self, sql: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(sql.replace("{schema}", &self.schema).replace("{prefix}", &self.prefix))
    }
}

async fn migrate(connection: &mut PgConnection, tables: &Tables) -> Result<(), OpenError> {
    if version(connection, tables).await? == VERSION {
        return Ok(());
    }
    // Another replica may be at it too: look again under the lock, which ends with the transaction. The isolation level is
    // the one at which a statement sees what was committed while the one before it waited.
    let mut migrating = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATING).execute(&mut *migrating).await?;
    let found = version(&mut migrating, tables).await?;
    if found > VERSION {
        return Err(OpenError::TooNew { prefix: tables.prefix.clone(), found });
    }
    let known = usize::try_from(found).unwrap_or_default();
    for migration in &MIGRATIONS[known..] {
        sqlx::raw_sql(tables.fill_in(migration)).execute(&mut *migrating).await?;
    }
    if known < MIGRATIONS.len() {
        let note = "
            CREATE TABLE IF NOT EXISTS {schema}{prefix}schema (version BIGINT NOT NULL);
            DELETE FROM {schema}{prefix}schema";
        sqlx::raw_sql(tables.fill_in(note)).execute(&mut *migrating).await?;
        let note = tables.fill_in("INSERT INTO {schema}{prefix}schema (version) VALUES ($1)");
        sqlx::query(note).bind(VERSION).execute(&mut *migrating).await?;
    }
    migrating.commit().await?;
    Ok(())
}

/// Zero for a database without our tables.
async fn version(connection: &mut PgConnection, tables: &Tables) -> Result<i64, sqlx::Error> {
    let AssertSqlSafe(table) = tables.fill_in("{schema}{prefix}schema");
    // Reading a table makes the server hear of those made meanwhile; without, it may answer from what it remembers.
    let known = "SELECT to_regclass($1) IS NOT NULL FROM pg_catalog.pg_class LIMIT 1";
    let known = sqlx::query(known).bind(table).fetch_one(&mut *connection).await?;
    if !known.try_get::<bool, _>(0)? {
        return Ok(0);
    }
    let rows = sqlx::query(tables.fill_in("SELECT version FROM {schema}{prefix}schema")).fetch_all(connection).await?;
    rows.first().map_or(Ok(0), |row| row.try_get(0))
}

#[derive(Debug)]
enum OpenError {
    Postgres(sqlx::Error),
    TooNew { prefix: String, found: i64 },
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(_) => f.write_str("the database cannot be used"),
            Self::TooNew { prefix, found } => write!(
                f,
                "the tables {prefix}… have version {found}, and this authpi-sdk knows them up to version {VERSION}: use \
                 the authpi-sdk that made them, or a later one"
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Postgres(error) => Some(error),
            Self::TooNew { .. } => None,
        }
    }
}

// The statements.

/// How many rows a statement removes, at most.
const PORTION: i64 = 256;
/// How many claims are granted between two prunings. Below `PORTION`, so that pruning catches up.
const CLAIMS_PER_PRUNING: u32 = 64;

type PgQuery<'q> = Query<'q, sqlx::Postgres, PgArguments>;

struct Statements {
    claim: Arc<str>,
    renew: Arc<str>,
    handled: Arc<str>,
    dead: Arc<str>,
    release: Arc<str>,
    forget: Arc<str>,
    prune: Arc<str>,
    purge: Arc<str>,
    dead_letters: Arc<str>,
    append: Arc<str>,
    lease_next: Arc<str>,
    backlog: Arc<str>,
}

/// `found` is what stands in the way of a claim as the statement saw it at its start; only without it is anything written. A
/// row that came in the way since is left alone by the last WHERE, and nothing is told of it: the next try sees it.
const CLAIM: &str = "
    WITH clock AS MATERIALIZED (SELECT {now} AS now),
    found AS (
        SELECT state, at - now AS remaining, first_digest FROM {ledger}, clock
        WHERE endpoint = $1 AND event_id = $2 AND at > CASE WHEN state < 2 THEN now ELSE now - $6 END
    ),
    granted AS (
        INSERT INTO {ledger} AS known
            (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest)
        SELECT $1, $2, 1, 1, $3, now + $4, now, $5 FROM clock WHERE NOT EXISTS (SELECT FROM found)
        ON CONFLICT (endpoint, event_id) DO UPDATE SET
            state = 1,
            attempt = CASE WHEN known.state < 2 THEN least(known.attempt + 1, 4294967295) ELSE 1 END,
            nonce = excluded.nonce,
            at = excluded.at,
            first_claimed_at =
                CASE WHEN known.state < 2 THEN known.first_claimed_at ELSE excluded.first_claimed_at END,
            first_digest = CASE WHEN known.state < 2 THEN known.first_digest ELSE excluded.first_digest END,
            reason = NULL,
            body = CASE WHEN known.state < 2 THEN known.body END,
            place = CASE WHEN known.state < 2 THEN known.place END,
            lane = CASE WHEN known.state < 2 THEN known.lane END
        WHERE known.at <= excluded.first_claimed_at - CASE WHEN known.state < 2 THEN 0 ELSE $6 END
        RETURNING attempt, first_digest
    )
    SELECT attempt, NULL::smallint, NULL::bigint, first_digest FROM granted
    UNION ALL
    SELECT NULL::bigint, state, remaining, first_digest FROM found";
const RENEW: &str = "
    UPDATE {ledger} SET at = {now} + $5
    WHERE endpoint = $1 AND event_id = $2 AND attempt = $3 AND nonce = $4 AND state = 1 RETURNING 1";
const HANDLED: &str = "
    UPDATE {ledger} SET at = CASE WHEN state = 1 THEN {now} ELSE at END, state = 2, body = NULL
    WHERE endpoint = $1 AND event_id = $2 AND attempt = $3 AND nonce = $4 AND state IN (1, 2) RETURNING 1";
const DEAD: &str = "
    UPDATE {ledger} SET
        at = CASE WHEN state = 1 THEN {now} ELSE at END,
        reason = CASE WHEN state = 1 THEN $5 ELSE reason END,
        body = CASE WHEN state = 1 THEN $6 ELSE body END,
        state = 3
    WHERE endpoint = $1 AND event_id = $2 AND attempt = $3 AND nonce = $4 AND state IN (1, 3) RETURNING 1";
const RELEASE: &str = "
    UPDATE {ledger} SET at = {now} + $5, state = 0
    WHERE endpoint = $1 AND event_id = $2 AND attempt = $3 AND nonce = $4 AND state = 1 RETURNING 1";
const FORGET: &str = "DELETE FROM {ledger} WHERE endpoint = $1 AND event_id = $2 RETURNING 1";
/// An abandoned claim or attempt counts from when it could be taken up; what the inbox has still to do stays. Rows that another
/// replica is at are left to it.
const PRUNE: &str = "
    DELETE FROM {ledger} WHERE (endpoint, event_id) IN (
        SELECT endpoint, event_id FROM {ledger} WHERE at <= {now} - $1 AND (place IS NULL OR state >= 2)
        ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
    ) RETURNING 1";
const PURGE: &str = "
    DELETE FROM {ledger} WHERE (endpoint, event_id) IN (
        SELECT endpoint, event_id FROM {ledger} WHERE at <= {now} - $1 AND state >= 2
        ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
    ) RETURNING 1";
const DEAD_LETTERS: &str = "
    SELECT event_id, reason, attempt, body, first_claimed_at, at FROM {ledger}
    WHERE state = 3 AND endpoint = $1 AND (at, event_id) > ($2, $3)
    ORDER BY at, event_id LIMIT $4";
/// Takes the place of a record past its retention, and gives one to an event that was claimed inline and is not done. Appends to
/// one lane go one after another (the lock ends with the statement), so that places are taken in the order of commits.
const APPEND: &str = "
    WITH turn AS MATERIALIZED (
        SELECT CASE WHEN $5::text IS NOT NULL
            THEN pg_advisory_xact_lock(hashtextextended($1::text || chr(10) || $5::text, 0)) END
    ),
    clock AS MATERIALIZED (SELECT {now} AS now FROM turn),
    stored AS (
        INSERT INTO {ledger} AS known
            (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, lane, place)
        SELECT $1, $2, 0, 0, 0, now, now, $3, $4, $5, nextval('{schema}{prefix}places') FROM clock
        ON CONFLICT (endpoint, event_id) DO UPDATE SET
            state = CASE WHEN known.state < 2 THEN known.state ELSE 0 END,
            attempt = CASE WHEN known.state < 2 THEN known.attempt ELSE 0 END,
            at = CASE WHEN known.state < 2 THEN known.at ELSE excluded.at END,
            first_claimed_at =
                CASE WHEN known.state < 2 THEN known.first_claimed_at ELSE excluded.first_claimed_at END,
            first_digest = CASE WHEN known.state < 2 THEN known.first_digest ELSE excluded.first_digest END,
            reason = NULL,
            body = excluded.body,
            lane = excluded.lane,
            place = excluded.place
        WHERE (known.state < 2 AND known.place IS NULL) OR (known.state >= 2 AND known.at <= excluded.at - $6)
        RETURNING 1
    )
    SELECT NULL::bytea FROM stored
    UNION ALL
    SELECT first_digest FROM {ledger} WHERE endpoint = $1 AND event_id = $2 AND NOT EXISTS (SELECT FROM stored)";
/// A row that another worker is just leasing is passed over.
const LEASE_NEXT: &str = "
    WITH clock AS MATERIALIZED (SELECT {now} AS now),
    due AS (
        SELECT endpoint, event_id FROM {ledger} AS candidate
        WHERE endpoint = $1 AND place IS NOT NULL AND state < 2 AND at <= (SELECT now FROM clock)
            AND (lane IS NULL OR NOT EXISTS (
                SELECT FROM {ledger} AS earlier
                WHERE earlier.endpoint = candidate.endpoint AND earlier.lane = candidate.lane AND earlier.state < 2
                    AND earlier.place < candidate.place))
        ORDER BY place LIMIT 1 FOR UPDATE SKIP LOCKED
    ),
    leased AS (
        UPDATE {ledger} AS record SET
            state = 1, attempt = least(record.attempt + 1, 4294967295), nonce = $3, at = clock.now + $2
        FROM due, clock WHERE record.endpoint = due.endpoint AND record.event_id = due.event_id
        RETURNING record.event_id, record.attempt, record.body, record.first_claimed_at
    )
    SELECT event_id, attempt, body, first_claimed_at FROM leased
    UNION ALL
    SELECT NULL, (SELECT min(at) - now FROM {ledger} WHERE endpoint = $1 AND place IS NOT NULL AND state < 2 AND at > now),
        NULL, NULL
    FROM clock WHERE NOT EXISTS (SELECT FROM leased)";
const BACKLOG: &str = "
    SELECT count(*), {now} - min(first_claimed_at) FROM {ledger}
    WHERE endpoint = $1 AND place IS NOT NULL AND state < 2";
/// Unix ms by the server's clock, which moves on within a transaction.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

impl Statements {
    fn on(tables: &Tables) -> Self {
        let statement = |sql: &str| {
            let AssertSqlSafe(sql) = tables.fill_in(&sql.replace("{ledger}", "{schema}{prefix}ledger"));
            sql.replace("{now}", NOW).into()
        };
        Self {
            claim: statement(CLAIM),
            renew: statement(RENEW),
            handled: statement(HANDLED),
            dead: statement(DEAD),
            release: statement(RELEASE),
            forget: statement(FORGET),
            prune: statement(PRUNE),
            purge: statement(PURGE),
            dead_letters: statement(DEAD_LETTERS),
            append: statement(APPEND),
            lease_next: statement(LEASE_NEXT),
            backlog: statement(BACKLOG),
        }
    }
}

fn digest_of(bytes: &[u8]) -> Result<Digest, sqlx::Error> {
    let digest =
        bytes.try_into().map_err(|_| sqlx::Error::Protocol("the ledger's table holds half a digest".into()))?;
    Ok(Digest(digest))
}

fn next_of(row: &PgRow, endpoint: &str, nonce: u64) -> Result<Next, sqlx::Error> {
    let number: Option<i64> = row.try_get(1)?;
    let Some(event_id) = row.try_get::<Option<String>, _>(0)? else {
        let due_in = number.map(|ms| Duration::from_millis(ms.try_into().unwrap_or(0)));
        return Ok(Next::Nothing { due_in });
    };
    let token = Token { attempt: number.unwrap_or(1).try_into().unwrap_or(u32::MAX), nonce };
    let body = row.try_get::<Option<Vec<u8>>, _>(2)?.unwrap_or_default();
    let key = EventKey::new(endpoint, untext(event_id));
    Ok(Next::Leased(Leased::new(key, token, body.into(), timestamp(row.try_get(3)?))))
}

fn claim_of(row: &PgRow, nonce: u64) -> Result<Claim, sqlx::Error> {
    let first_digest = digest_of(row.try_get(3)?)?;
    if let Some(attempt) = row.try_get::<Option<i64>, _>(0)? {
        let token = Token { attempt: attempt.try_into().unwrap_or(u32::MAX), nonce };
        return Ok(Claim::Granted { token, first_digest });
    }
    let remaining = Duration::from_millis(row.try_get::<i64, _>(2)?.try_into().unwrap_or(0));
    match row.try_get::<i16, _>(1)? {
        0 => Ok(Claim::NotYet { wait: remaining }),
        1 => Ok(Claim::InFlight { lease_left: remaining }),
        2 => Ok(Claim::Handled { first_digest }),
        3 => Ok(Claim::Dead { first_digest }),
        state => Err(sqlx::Error::Protocol(format!("the ledger's table holds a record of state {state}"))),
    }
}

/// A connection that is closed, not given back to the pool, if it is dropped with an answer outstanding: that answer may be
/// long in coming, and the pool would wait for it.
struct Borrowed {
    connection: PoolConnection<sqlx::Postgres>,
    in_use: bool,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if self.in_use {
            self.connection.close_on_drop();
        }
    }
}

/// A serialization failure or a deadlock: the server undid the statement, and asks for it once more.
fn lost_a_race(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "40001" || code == "40P01")
}

/// A string as Postgres can hold it: `\0` for the character NUL, which its texts cannot have, and so `\\` for `\`.
fn text(text: &str) -> Cow<'_, str> {
    if text.contains(['\0', '\\']) { text.replace('\\', "\\\\").replace('\0', "\\0").into() } else { text.into() }
}

/// Reverses [`text`].
fn untext(text: String) -> String {
    if !text.contains('\\') {
        return text;
    }
    let mut original = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        original.push(match c {
            '\\' if rest.next() == Some('0') => '\0',
            c => c,
        });
    }
    original
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_held_without_nul_and_comes_back() {
        for original in ["", "evt_1", "\0", "\\", "\\0", "\0\\", "\\\0\\0\\\\0", "a\0b\\c", "事件\0"] {
            let held = text(original);
            assert!(!held.contains('\0'), "{held:?}");
            assert_eq!(untext(held.into_owned()), original);
        }
        assert_ne!(text("\0"), text("\\0"));
    }

    #[test]
    fn only_harmless_names_reach_a_statement() {
        for name in ["authpi_", "a", "_", "a1_", &"x".repeat(40)] {
            let tables = Tables::of(&Postgres::options().prefix(name).schema(name)).unwrap();
            assert_eq!((tables.prefix, tables.schema), (name.to_owned(), format!("\"{name}\".")));
        }
        let bad = [
            "",
            "1a",
            "A",
            "a-b",
            "a b",
            "a.b",
            "a\"b",
            "a'b",
            "a;--",
            "a\0",
            "é",
            "{schema}",
            "$1",
            "a\n",
            &"x".repeat(64),
        ];
        for name in bad {
            assert!(Tables::of(&Postgres::options().prefix(name)).is_err(), "the prefix {name:?} was let through");
            assert!(Tables::of(&Postgres::options().schema(name)).is_err(), "the schema {name:?} was let through");
        }
    }

    #[test]
    fn every_place_in_a_statement_is_filled_in() {
        let tables = Tables::of(&Postgres::options().schema("hooks")).unwrap();
        let Statements {
            claim,
            renew,
            handled,
            dead,
            release,
            forget,
            prune,
            purge,
            dead_letters,
            append,
            lease_next,
            backlog,
        } = Statements::on(&tables);
        let ledger = [claim, renew, handled, dead, release, forget, prune, purge, dead_letters];
        for statement in ledger.into_iter().chain([append, lease_next, backlog]) {
            assert!(!statement.contains(['{', '}']) && statement.contains("\"hooks\".authpi_ledger"), "{statement}");
        }
    }
}
