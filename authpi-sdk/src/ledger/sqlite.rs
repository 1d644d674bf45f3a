//! The ledger in a SQLite file: survives restarts, keeps dead letters, shared by the processes of one host.
//!
//! Each step is one statement in a transaction of its own, so it is atomic between processes too. All statements of a
//! [`Sqlite`] go through one connection, held by one task: SQLite admits one writer at a time anyway, and steps that wait in
//! our queue go in order, whereas connections that wait for each other poll. The task also runs a step to its end when its
//! caller has gone away, and it is the place where steps that wait together could share a flush.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sqlx::{
    Connection as _, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    Appended, Backlog, Claim, Completion, DEFAULT_RETENTION, DeadLetter, Digest, EventKey, Held, Inbox, Leased, Ledger,
    LedgerError, Next, Token, dead_letter::timestamp,
};
use crate::Clock;

/// A [`Ledger`] and [`Inbox`] in a SQLite file, which keeps dead letters.
///
/// Clones share one connection. Several processes of one host may open the same file; over a network file system they must
/// not, since SQLite's locks do not work there.
///
/// - **Durable.** WAL journal with `synchronous=FULL`: a step that returned `Ok` survives a power cut. That costs one flush
///   of the disk per step; a claim that finds a duplicate writes nothing.
/// - **Keeps itself small.** Claims prune, now and then and some at a time, what is older than the
///   [`retention`](SqliteOptions::retention); dead letters too. [`purge`](Sqlite::purge) does so at once. The file does not
///   shrink, its room is used again.
/// - **Cancelled safely.** A step whose future is dropped takes place as a whole or not at all.
///
/// The tables are called `authpi_…`, so the file may hold an application's own. They are made, and brought up to date, when it
/// is opened; a file that a later version of this crate has brought up to date is refused.
///
/// It runs on the tokio runtime in which it was opened: when that runtime ends, every further step fails.
///
/// ```
/// # use authpi_sdk::ledger::Sqlite;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("authpi-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("hooks.db");
/// let ledger = Sqlite::open(path).await?;
/// for letter in ledger.dead_letters("users", None, 100).await? {
///     eprintln!("{} after {} attempts: {}", letter.key.event_id(), letter.attempts, letter.reason);
/// }
/// # ledger.close().await;
/// # std::fs::remove_dir_all(folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Sqlite {
    requests: mpsc::Sender<Request>,
    retention: Duration,
    /// Told after each append of this process; other processes' workers poll.
    appended: Arc<Notify>,
}

impl Sqlite {
    /// Opens the file, or makes it (its folder must exist).
    ///
    /// # Errors
    /// When the file cannot be opened, is no SQLite database, may not be written, or was brought up to date by a later
    /// version of this crate. The message names the file.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, LedgerError> {
        Self::options().open(path).await
    }

    /// A ledger of its own in memory, gone with the last clone. For tests of code that wants dead letters.
    ///
    /// # Errors
    /// When memory runs out.
    pub async fn in_memory() -> Result<Self, LedgerError> {
        Self::options().in_memory().await
    }

    /// What can be set before opening.
    pub fn options() -> SqliteOptions {
        SqliteOptions { retention: DEFAULT_RETENTION, clock: Clock::system(), busy_timeout: Duration::from_secs(5) }
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
        let after = after.map(|letter| (letter.died_at.as_millisecond(), letter.key.event_id().to_owned()));
        let endpoint = endpoint.to_owned();
        self.ask("list dead letters", |reply| Request::DeadLetters { endpoint, after, limit, reply }).await
    }

    /// Removes at once all records, of every endpoint, that were handled or given up at least `age` ago, dead letters
    /// included, and says how many. An event whose record is gone is handled afresh if it comes again.
    ///
    /// # Errors
    /// When the store fails; some records may have been removed.
    pub async fn purge(&self, age: Duration) -> Result<u64, LedgerError> {
        let mut purged = 0;
        loop {
            // In portions, so that claims get their turn in between.
            let removed = self.ask("purge", |reply| Request::Purge { age, reply }).await?;
            purged += removed;
            if removed < PORTION.unsigned_abs() {
                return Ok(purged);
            }
        }
    }

    /// Closes the file, for all clones, once the steps asked for before are done. Every further step fails.
    ///
    /// Not necessary, but when it returns the file is whole without its `-wal` companion (if no other process has it open).
    pub async fn close(&self) {
        // An error says that it is closed already.
        let _ = self.requests.send(Request::Close).await;
        self.requests.closed().await;
    }

    async fn ask<T>(&self, step: &'static str, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| LedgerError::new(step, Closed))?;
        match answer.await {
            Ok(done) => done.map_err(|error| LedgerError::new(step, error)),
            Err(_) => Err(LedgerError::new(step, Closed)),
        }
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("retention", &self.retention).finish_non_exhaustive()
    }
}

impl Ledger for Sqlite {
    async fn claim(&self, key: &EventKey, digest: Digest, lease: Duration) -> Result<Claim, LedgerError> {
        let key = key.clone();
        self.ask("claim", |reply| Request::Claim { key, digest, lease, reply }).await
    }

    async fn renew(&self, key: &EventKey, token: Token, lease: Duration) -> Result<Held, LedgerError> {
        self.ask("renew", |reply| Request::change(key, token, Change::Renew(lease), reply)).await
    }

    async fn complete(&self, key: &EventKey, token: Token, completion: Completion) -> Result<Held, LedgerError> {
        self.ask("complete", |reply| Request::change(key, token, Change::Complete(completion), reply)).await
    }

    async fn release(&self, key: &EventKey, token: Token, pause: Duration) -> Result<Held, LedgerError> {
        self.ask("release", |reply| Request::change(key, token, Change::Release(pause), reply)).await
    }

    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        let key = key.clone();
        self.ask("forget", |reply| Request::Forget { key, reply }).await
    }

    fn keeps_dead_letters(&self) -> bool {
        true
    }

    fn remembers_for(&self) -> Duration {
        self.retention
    }
}

impl Inbox for Sqlite {
    async fn append(
        &self,
        key: &EventKey,
        digest: Digest,
        lane: Option<&str>,
        body: Bytes,
    ) -> Result<Appended, LedgerError> {
        let (key, lane) = (key.clone(), lane.map(str::to_owned));
        let appended = self.ask("append", |reply| Request::Append { key, digest, lane, body, reply }).await?;
        self.appended.notify_waiters();
        Ok(appended)
    }

    async fn lease_next(&self, endpoint: &str, lease: Duration) -> Result<Next, LedgerError> {
        let endpoint = endpoint.to_owned();
        self.ask("lease the next event", |reply| Request::LeaseNext { endpoint, lease, reply }).await
    }

    fn appended(&self) -> impl Future<Output = ()> + Send {
        self.appended.notified()
    }

    async fn backlog(&self, endpoint: &str) -> Result<Backlog, LedgerError> {
        let endpoint = endpoint.to_owned();
        self.ask("count the backlog", |reply| Request::Backlog { endpoint, reply }).await
    }
}

/// What can be set before a [`Sqlite`] ledger is opened.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `open` or `in_memory`"]
pub struct SqliteOptions {
    retention: Duration,
    clock: Clock,
    busy_timeout: Duration,
}

impl SqliteOptions {
    /// How long handled and dead records are remembered (default 30 days). Processes that share a file should agree.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Where the time comes from (default: the system's clock, which the processes of a host share). For tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// How long a step waits for another process's step to end before it fails (default 5 s).
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Opens the file, or makes it (its folder must exist).
    ///
    /// # Errors
    /// As for [`Sqlite::open`].
    pub async fn open(self, path: impl AsRef<Path>) -> Result<Sqlite, LedgerError> {
        let path = path.as_ref();
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        self.start(connect, Some(path)).await
    }

    /// Opens a ledger of its own in memory.
    ///
    /// # Errors
    /// As for [`Sqlite::in_memory`].
    pub async fn in_memory(self) -> Result<Sqlite, LedgerError> {
        self.start(SqliteConnectOptions::new().in_memory(true), None).await
    }

    async fn start(self, connect: SqliteConnectOptions, path: Option<&Path>) -> Result<Sqlite, LedgerError> {
        use sqlx::ConnectOptions as _;
        let connect = connect.busy_timeout(self.busy_timeout).disable_statement_logging();
        let connection = match self.connect(&connect).await {
            Ok(connection) => connection,
            Err(cause) => {
                let path = path.map_or_else(|| "in memory".into(), Path::to_path_buf);
                return Err(LedgerError::new("open", Unusable { path, cause }));
            }
        };
        let (requests, asked) = mpsc::channel(QUEUE);
        let retention = self.retention;
        let writer = Writer { connection, clock: self.clock, retention, until_prune: 0 };
        tokio::spawn(writer.run(asked));
        Ok(Sqlite { requests, retention, appended: Arc::default() })
    }

    /// SQLite does not wait its busy timeout in all that happens here (the change to WAL is one), so we do: several
    /// processes may be starting at once.
    async fn connect(&self, connect: &SqliteConnectOptions) -> Result<SqliteConnection, OpenError> {
        let started = Instant::now();
        loop {
            match connect_and_migrate(connect).await {
                Err(OpenError::Sqlite(error)) if is_busy(&error) && started.elapsed() < self.busy_timeout => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                done => return done,
            }
        }
    }
}

// The schema.

/// What brings a file from version n to n + 1, for n from 0. Never changed, only added to.
const MIGRATIONS: [&str; 2] = ["
    CREATE TABLE authpi_ledger (
        endpoint TEXT NOT NULL,
        event_id TEXT NOT NULL,
        state INTEGER NOT NULL,             -- 0 pending, 1 claimed, 2 handled, 3 dead
        attempt INTEGER NOT NULL,
        nonce INTEGER NOT NULL,
        at INTEGER NOT NULL,                -- Unix ms: the pause or lease ends, or it was finished
        first_claimed_at INTEGER NOT NULL,  -- Unix ms
        first_digest BLOB NOT NULL,
        reason TEXT,                        -- of dead ones only
        body BLOB,                          -- of dead ones only
        PRIMARY KEY (endpoint, event_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX authpi_ledger_at ON authpi_ledger (at);
    CREATE INDEX authpi_ledger_dead ON authpi_ledger (endpoint, at, event_id) WHERE state = 3;
", "
    -- An event in the inbox has a place, and keeps its body until it is handled; a lane is worked on in the order of places.
    ALTER TABLE authpi_ledger ADD COLUMN place INTEGER;
    ALTER TABLE authpi_ledger ADD COLUMN lane TEXT;
    CREATE INDEX authpi_inbox ON authpi_ledger (endpoint, place) WHERE place IS NOT NULL AND state < 2;
    CREATE INDEX authpi_inbox_lane ON authpi_ledger (endpoint, lane, place) WHERE lane IS NOT NULL AND state < 2;
"];
#[expect(clippy::cast_possible_wrap, reason = "there will never be that many")]
const VERSION: i64 = MIGRATIONS.len() as i64;

async fn connect_and_migrate(options: &SqliteConnectOptions) -> Result<SqliteConnection, OpenError> {
    let mut connection = SqliteConnection::connect_with(options).await?;
    if version(&mut connection).await? == VERSION {
        return Ok(connection);
    }
    // Another process may be at it too: look again under the write lock. What fails here ends with the connection, and the
    // transaction with it.
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await?;
    let found = version(&mut connection).await?;
    if found > VERSION {
        return Err(OpenError::TooNew { found });
    }
    for migration in &MIGRATIONS[usize::try_from(found).map_err(|_| OpenError::TooNew { found })?..] {
        sqlx::raw_sql(*migration).execute(&mut connection).await?;
    }
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS authpi_schema (version INTEGER NOT NULL) STRICT; DELETE FROM authpi_schema",
    )
    .execute(&mut connection)
    .await?;
    sqlx::query("INSERT INTO authpi_schema (version) VALUES (?1)").bind(VERSION).execute(&mut connection).await?;
    sqlx::raw_sql("COMMIT").execute(&mut connection).await?;
    Ok(connection)
}

/// Zero for a file without our tables.
async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let known = sqlx::query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'authpi_schema'");
    if known.fetch_all(&mut *connection).await?.is_empty() {
        return Ok(0);
    }
    let rows = sqlx::query("SELECT version FROM authpi_schema").fetch_all(connection).await?;
    rows.first().map_or(Ok(0), |row| row.try_get(0))
}

fn is_busy(error: &sqlx::Error) -> bool {
    const BUSY: u32 = 5;
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    code.is_some_and(|code| code & 0xff == BUSY)
}

#[derive(Debug)]
enum OpenError {
    Sqlite(sqlx::Error),
    TooNew { found: i64 },
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(error)
    }
}

#[derive(Debug)]
struct Unusable {
    path: PathBuf,
    cause: OpenError,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.cause {
            OpenError::Sqlite(_) => write!(f, "{path} cannot be used as a SQLite database"),
            OpenError::TooNew { found } => write!(
                f,
                "{path} has version {found} of the ledger's tables, and this authpi-sdk knows them up to version \
                 {VERSION}: use the authpi-sdk that made them, or a later one"
            ),
        }
    }
}

impl std::error::Error for Unusable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            OpenError::Sqlite(error) => Some(error),
            OpenError::TooNew { .. } => None,
        }
    }
}

#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ledger is closed, or the runtime in which it was opened has ended")
    }
}

impl std::error::Error for Closed {}

// The task that holds the connection.

/// How many steps wait for the writer before callers wait to ask.
const QUEUE: usize = 1024;
/// How many rows a statement removes, at most.
const PORTION: i64 = 256;
/// How many claims are granted between two prunings. Below `PORTION`, so that pruning catches up.
const CLAIMS_PER_PRUNING: u32 = 64;

type Reply<T> = oneshot::Sender<Result<T, sqlx::Error>>;

enum Request {
    Claim {
        key: EventKey,
        digest: Digest,
        lease: Duration,
        reply: Reply<Claim>,
    },
    Change {
        key: EventKey,
        token: Token,
        change: Change,
        reply: Reply<Held>,
    },
    Forget {
        key: EventKey,
        reply: Reply<bool>,
    },
    Append {
        key: EventKey,
        digest: Digest,
        lane: Option<String>,
        body: Bytes,
        reply: Reply<Appended>,
    },
    LeaseNext {
        endpoint: String,
        lease: Duration,
        reply: Reply<Next>,
    },
    Backlog {
        endpoint: String,
        reply: Reply<Backlog>,
    },
    DeadLetters {
        endpoint: String,
        after: Option<(i64, String)>,
        limit: u32,
        reply: Reply<Vec<DeadLetter>>,
    },
    Purge {
        age: Duration,
        reply: Reply<u64>,
    },
    Close,
    /// How many pages the file may have from now on.
    #[cfg(test)]
    Pages {
        pages: i64,
    },
}

impl Request {
    fn change(key: &EventKey, token: Token, change: Change, reply: Reply<Held>) -> Self {
        Self::Change { key: key.clone(), token, change, reply }
    }
}

/// What only the holder of the token may do.
enum Change {
    Renew(Duration),
    Complete(Completion),
    Release(Duration),
}

struct Writer {
    connection: SqliteConnection,
    clock: Clock,
    retention: Duration,
    until_prune: u32,
}

const CLAIM: &str = "
    INSERT INTO authpi_ledger (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest)
    VALUES (?1, ?2, 1, 1, random(), ?3, ?4, ?5)
    ON CONFLICT (endpoint, event_id) DO UPDATE SET
        state = 1,
        attempt = CASE WHEN state < 2 THEN min(attempt + 1, 4294967295) ELSE 1 END,
        nonce = excluded.nonce,
        at = excluded.at,
        first_claimed_at = CASE WHEN state < 2 THEN first_claimed_at ELSE excluded.first_claimed_at END,
        first_digest = CASE WHEN state < 2 THEN first_digest ELSE excluded.first_digest END,
        reason = NULL,
        body = CASE WHEN state < 2 THEN body END,
        place = CASE WHEN state < 2 THEN place END,
        lane = CASE WHEN state < 2 THEN lane END
    WHERE at <= CASE WHEN state < 2 THEN ?4 ELSE ?6 END
    RETURNING attempt, nonce, first_digest";
const LOOK: &str = "SELECT state, at, first_digest FROM authpi_ledger WHERE endpoint = ?1 AND event_id = ?2";
const RENEW: &str = "
    UPDATE authpi_ledger SET at = ?5
    WHERE endpoint = ?1 AND event_id = ?2 AND attempt = ?3 AND nonce = ?4 AND state = 1";
const HANDLED: &str = "
    UPDATE authpi_ledger SET at = CASE WHEN state = 1 THEN ?5 ELSE at END, state = 2, body = NULL
    WHERE endpoint = ?1 AND event_id = ?2 AND attempt = ?3 AND nonce = ?4 AND state IN (1, 2)";
const DEAD: &str = "
    UPDATE authpi_ledger SET
        at = CASE WHEN state = 1 THEN ?5 ELSE at END,
        reason = CASE WHEN state = 1 THEN ?6 ELSE reason END,
        body = CASE WHEN state = 1 THEN ?7 ELSE body END,
        state = 3
    WHERE endpoint = ?1 AND event_id = ?2 AND attempt = ?3 AND nonce = ?4 AND state IN (1, 3)";
const RELEASE: &str = "
    UPDATE authpi_ledger SET at = ?5, state = 0
    WHERE endpoint = ?1 AND event_id = ?2 AND attempt = ?3 AND nonce = ?4 AND state = 1";
const FORGET: &str = "DELETE FROM authpi_ledger WHERE endpoint = ?1 AND event_id = ?2";
/// An abandoned claim or attempt counts from when it could be taken up; what the inbox has still to do stays.
const PRUNE: &str = "
    DELETE FROM authpi_ledger WHERE (endpoint, event_id) IN
        (SELECT endpoint, event_id FROM authpi_ledger
         WHERE at <= ?1 AND (place IS NULL OR state >= 2) ORDER BY at LIMIT ?2)";
/// Takes the place of a record past its retention, and gives one to an event that was claimed inline and is not done.
const APPEND: &str = "
    INSERT INTO authpi_ledger
        (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, lane, place)
    VALUES (?1, ?2, 0, 0, random(), ?3, ?3, ?4, ?5, ?6,
        (SELECT coalesce(max(place), 0) + 1 FROM authpi_ledger WHERE endpoint = ?1 AND place IS NOT NULL AND state < 2))
    ON CONFLICT (endpoint, event_id) DO UPDATE SET
        state = CASE WHEN state < 2 THEN state ELSE 0 END,
        attempt = CASE WHEN state < 2 THEN attempt ELSE 0 END,
        nonce = CASE WHEN state < 2 THEN nonce ELSE excluded.nonce END,
        at = CASE WHEN state < 2 THEN at ELSE excluded.at END,
        first_claimed_at = CASE WHEN state < 2 THEN first_claimed_at ELSE excluded.first_claimed_at END,
        first_digest = CASE WHEN state < 2 THEN first_digest ELSE excluded.first_digest END,
        reason = NULL,
        body = excluded.body,
        lane = excluded.lane,
        place = excluded.place
    WHERE (state < 2 AND place IS NULL) OR (state >= 2 AND at <= ?7)
    RETURNING 1";
const LEASE_NEXT: &str = "
    UPDATE authpi_ledger SET state = 1, attempt = min(attempt + 1, 4294967295), nonce = random(), at = ?3
    WHERE (endpoint, event_id) = (
        SELECT endpoint, event_id FROM authpi_ledger AS due
        WHERE endpoint = ?1 AND place IS NOT NULL AND state < 2 AND at <= ?2 AND (lane IS NULL OR NOT EXISTS (
            SELECT 1 FROM authpi_ledger AS earlier
            WHERE earlier.endpoint = due.endpoint AND earlier.lane = due.lane AND earlier.state < 2
                AND earlier.place < due.place))
        ORDER BY place LIMIT 1)
    RETURNING event_id, attempt, nonce, body, first_claimed_at";
const NEXT_DUE: &str = "
    SELECT min(at) FROM authpi_ledger WHERE endpoint = ?1 AND place IS NOT NULL AND state < 2 AND at > ?2";
const BACKLOG: &str = "
    SELECT count(*), min(first_claimed_at) FROM authpi_ledger
    WHERE endpoint = ?1 AND place IS NOT NULL AND state < 2";
const PURGE: &str = "
    DELETE FROM authpi_ledger WHERE (endpoint, event_id) IN
        (SELECT endpoint, event_id FROM authpi_ledger WHERE at <= ?1 AND state >= 2 ORDER BY at LIMIT ?2)";
const DEAD_LETTERS: &str = "
    SELECT event_id, reason, attempt, body, first_claimed_at, at FROM authpi_ledger
    WHERE state = 3 AND endpoint = ?1 AND (at, event_id) > (?2, ?3)
    ORDER BY at, event_id LIMIT ?4";

impl Writer {
    /// Takes the steps in order until all handles are gone. A caller who no longer waits for the reply changes nothing.
    async fn run(mut self, mut asked: mpsc::Receiver<Request>) {
        while let Some(request) = asked.recv().await {
            match request {
                Request::Claim { key, digest, lease, reply } => {
                    let claim = self.claim(&key, digest, lease).await;
                    let granted = matches!(claim, Ok(Claim::Granted { .. }));
                    let _ = reply.send(claim);
                    if granted {
                        self.prune_in_turn().await;
                    }
                }
                Request::Change { key, token, change, reply } => {
                    let _ = reply.send(self.change(&key, token, change).await);
                }
                Request::Forget { key, reply } => {
                    let _ = reply.send(self.forget(&key).await);
                }
                Request::Append { key, digest, lane, body, reply } => {
                    let appended = self.append(&key, digest, lane.as_deref(), &body).await;
                    let stored = matches!(appended, Ok(Appended::Stored));
                    let _ = reply.send(appended);
                    if stored {
                        self.prune_in_turn().await;
                    }
                }
                Request::LeaseNext { endpoint, lease, reply } => {
                    let _ = reply.send(self.lease_next(&endpoint, lease).await);
                }
                Request::Backlog { endpoint, reply } => {
                    let _ = reply.send(self.backlog(&endpoint).await);
                }
                Request::DeadLetters { endpoint, after, limit, reply } => {
                    let _ = reply.send(self.dead_letters(&endpoint, after, limit).await);
                }
                Request::Purge { age, reply } => {
                    let before = self.now().saturating_sub(millis(age));
                    let _ = reply.send(self.remove(PURGE, before).await);
                }
                Request::Close => break,
                #[cfg(test)]
                Request::Pages { pages } => {
                    let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
                    sqlx::raw_sql(limit).execute(&mut self.connection).await.unwrap();
                }
            }
        }
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "closing the ledger's file failed");
        }
    }

    async fn claim(&mut self, key: &EventKey, digest: Digest, lease: Duration) -> Result<Claim, sqlx::Error> {
        loop {
            let now = self.now();
            let horizon = now.saturating_sub(millis(self.retention));
            // Read to the end even where one row is wanted: only then has SQLite committed.
            let granted = sqlx::query(CLAIM)
                .bind(key.endpoint())
                .bind(key.event_id())
                .bind(now.saturating_add(millis(lease)))
                .bind(now)
                .bind(&digest.0[..])
                .bind(horizon)
                .fetch_all(&mut self.connection)
                .await?;
            if let Some(row) = granted.first() {
                return Ok(Claim::Granted { token: token_at(row, 0)?, first_digest: digest_at(row, 2)? });
            }
            let found =
                sqlx::query(LOOK).bind(key.endpoint()).bind(key.event_id()).fetch_all(&mut self.connection).await?;
            // Gone or free by now: another process was here between the two statements.
            let Some(row) = found.first() else { continue };
            let (state, at): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            let first_digest = digest_at(row, 2)?;
            let left = Duration::from_millis(at.saturating_sub(now).try_into().unwrap_or(0));
            match state {
                0 if !left.is_zero() => return Ok(Claim::NotYet { wait: left }),
                1 if !left.is_zero() => return Ok(Claim::InFlight { lease_left: left }),
                2 if at > horizon => return Ok(Claim::Handled { first_digest }),
                3 if at > horizon => return Ok(Claim::Dead { first_digest }),
                0..=3 => {}
                _ => return Err(sqlx::Error::Protocol(format!("the ledger's file holds a record of state {state}"))),
            }
        }
    }

    async fn change(&mut self, key: &EventKey, token: Token, change: Change) -> Result<Held, sqlx::Error> {
        let now = self.now();
        let statement = match change {
            Change::Renew(_) => RENEW,
            Change::Complete(Completion::Handled) => HANDLED,
            Change::Complete(Completion::Dead { .. }) => DEAD,
            Change::Release(_) => RELEASE,
        };
        let query = sqlx::query(statement)
            .bind(key.endpoint())
            .bind(key.event_id())
            .bind(i64::from(token.attempt))
            .bind(token.nonce.cast_signed());
        let query = match &change {
            Change::Renew(length) | Change::Release(length) => query.bind(now.saturating_add(millis(*length))),
            Change::Complete(Completion::Handled) => query.bind(now),
            Change::Complete(Completion::Dead { reason, body }) => {
                query.bind(now).bind(reason.as_str()).bind(&body[..])
            }
        };
        let changed = query.execute(&mut self.connection).await?.rows_affected();
        Ok(if changed == 0 { Held::Lost } else { Held::Yes })
    }

    async fn forget(&mut self, key: &EventKey) -> Result<bool, sqlx::Error> {
        let query = sqlx::query(FORGET).bind(key.endpoint()).bind(key.event_id());
        Ok(query.execute(&mut self.connection).await?.rows_affected() > 0)
    }

    async fn append(
        &mut self,
        key: &EventKey,
        digest: Digest,
        lane: Option<&str>,
        body: &[u8],
    ) -> Result<Appended, sqlx::Error> {
        loop {
            let now = self.now();
            let stored = sqlx::query(APPEND)
                .bind(key.endpoint())
                .bind(key.event_id())
                .bind(now)
                .bind(&digest.0[..])
                .bind(body)
                .bind(lane)
                .bind(now.saturating_sub(millis(self.retention)))
                .fetch_all(&mut self.connection)
                .await?;
            if !stored.is_empty() {
                return Ok(Appended::Stored);
            }
            let found =
                sqlx::query(LOOK).bind(key.endpoint()).bind(key.event_id()).fetch_all(&mut self.connection).await?;
            // None: forgotten by another process between the two statements, so it is to be stored after all.
            if let Some(row) = found.first() {
                return Ok(Appended::Known { first_digest: digest_at(row, 2)? });
            }
        }
    }

    async fn lease_next(&mut self, endpoint: &str, lease: Duration) -> Result<Next, sqlx::Error> {
        let now = self.now();
        let until = now.saturating_add(millis(lease));
        let leased =
            sqlx::query(LEASE_NEXT).bind(endpoint).bind(now).bind(until).fetch_all(&mut self.connection).await?;
        if let Some(row) = leased.first() {
            let key = EventKey::new(endpoint, row.try_get::<String, _>(0)?);
            let body = row.try_get::<Option<Vec<u8>>, _>(3)?.unwrap_or_default();
            return Ok(Next::Leased(Leased::new(key, token_at(row, 1)?, body.into(), timestamp(row.try_get(4)?))));
        }
        let due = sqlx::query(NEXT_DUE).bind(endpoint).bind(now).fetch_all(&mut self.connection).await?;
        let due: Option<i64> = due.first().map_or(Ok(None), |row| row.try_get(0))?;
        let due_in = due.map(|at| Duration::from_millis(at.saturating_sub(now).try_into().unwrap_or(0)));
        Ok(Next::Nothing { due_in })
    }

    async fn backlog(&mut self, endpoint: &str) -> Result<Backlog, sqlx::Error> {
        let rows = sqlx::query(BACKLOG).bind(endpoint).fetch_all(&mut self.connection).await?;
        let Some(row) = rows.first() else { return Ok(Backlog::default()) };
        let oldest: Option<i64> = row.try_get(1)?;
        let age = |at: i64| Duration::from_millis(self.now().saturating_sub(at).try_into().unwrap_or(0));
        Ok(Backlog { depth: row.try_get::<i64, _>(0)?.try_into().unwrap_or(0), oldest: oldest.map(age) })
    }

    async fn dead_letters(
        &mut self,
        endpoint: &str,
        after: Option<(i64, String)>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, sqlx::Error> {
        let (at, event_id) = after.unwrap_or((i64::MIN, String::new()));
        let query = sqlx::query(DEAD_LETTERS).bind(endpoint).bind(at).bind(event_id).bind(i64::from(limit));
        let rows = query.fetch_all(&mut self.connection).await?;
        let endpoint: Arc<str> = endpoint.into();
        let letter = |row: &SqliteRow| {
            Ok(DeadLetter {
                key: EventKey::new(endpoint.clone(), row.try_get::<String, _>(0)?),
                reason: row.try_get::<Option<String>, _>(1)?.unwrap_or_default(),
                attempts: row.try_get::<i64, _>(2)?.try_into().unwrap_or(u32::MAX),
                body: row.try_get::<Option<Vec<u8>>, _>(3)?.unwrap_or_default().into(),
                first_claimed_at: timestamp(row.try_get(4)?),
                died_at: timestamp(row.try_get(5)?),
            })
        };
        rows.iter().map(letter).collect()
    }

    /// The claim that it follows has been answered, so a failure is nobody's but the log's; the next turn tries again.
    async fn prune_in_turn(&mut self) {
        if let Some(left) = self.until_prune.checked_sub(1) {
            self.until_prune = left;
            return;
        }
        self.until_prune = CLAIMS_PER_PRUNING - 1;
        let before = self.now().saturating_sub(millis(self.retention));
        if let Err(error) = self.remove(PRUNE, before).await {
            tracing::warn!(%error, "pruning the ledger failed");
        }
    }

    async fn remove(&mut self, statement: &'static str, before: i64) -> Result<u64, sqlx::Error> {
        let query = sqlx::query(statement).bind(before).bind(PORTION);
        Ok(query.execute(&mut self.connection).await?.rows_affected())
    }

    fn now(&self) -> i64 {
        self.clock.now().as_millisecond()
    }
}

/// From the columns `attempt` and `nonce`, in this order.
fn token_at(row: &SqliteRow, column: usize) -> Result<Token, sqlx::Error> {
    Ok(Token {
        attempt: row.try_get::<i64, _>(column)?.try_into().unwrap_or(u32::MAX),
        nonce: row.try_get::<i64, _>(column + 1)?.cast_unsigned(),
    })
}

fn digest_at(row: &SqliteRow, column: usize) -> Result<Digest, sqlx::Error> {
    let bytes: &[u8] = row.try_get(column)?;
    let digest = bytes.try_into().map_err(|_| sqlx::Error::Protocol("the ledger's file holds half a digest".into()))?;
    Ok(Digest(digest))
}

/// Rounded up, so that a lease or pause of any length at all has one.
fn millis(duration: Duration) -> i64 {
    duration.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        error::Error as _,
        sync::{
            Arc,
            atomic::{AtomicI64, AtomicU32, Ordering},
        },
    };

    use jiff::Timestamp;

    use super::*;
    use crate::ledger::conformance;

    const LEASE: Duration = Duration::from_secs(30);
    const DIGEST: Digest = Digest([7; 32]);

    /// A folder of its own for each test, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static FOLDERS: AtomicU32 = AtomicU32::new(0);
            let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("authpi-sqlite-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("hooks.db")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A clock that stands still until told.
    fn clock_at_rest() -> (Clock, Arc<AtomicI64>) {
        let millis = Arc::new(AtomicI64::new(1_700_000_000_000));
        let told = millis.clone();
        (Clock::from_fn(move || Timestamp::from_millisecond(told.load(Ordering::Relaxed)).unwrap()), millis)
    }

    fn key(n: usize) -> EventKey {
        EventKey::new("users", format!("evt_{n}"))
    }

    async fn granted(ledger: &Sqlite, n: usize) -> Token {
        match ledger.claim(&key(n), DIGEST, LEASE).await.unwrap() {
            Claim::Granted { token, .. } => token,
            other => panic!("the claim of event {n} ended as {other:?}"),
        }
    }

    fn dead(reason: &str, body: &'static [u8]) -> Completion {
        Completion::Dead { reason: reason.into(), body: Bytes::from_static(body) }
    }

    async fn count(ledger: &Path) -> i64 {
        let mut other = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(ledger)).await.unwrap();
        let row = sqlx::query("SELECT count(*) FROM authpi_ledger").fetch_one(&mut other).await.unwrap();
        row.get(0)
    }

    /// Each error in the chain, as a log would show it.
    fn chain(error: &LedgerError) -> String {
        let causes = std::iter::successors(error.source(), |&error| error.source());
        causes.fold(error.to_string(), |text, cause| text + ": " + &cause.to_string())
    }

    struct Databases {
        folder: Option<Folder>,
        made: AtomicU32,
        clock: Clock,
        time: Arc<AtomicI64>,
    }

    impl Databases {
        fn new(folder: Option<Folder>) -> Self {
            let (clock, time) = clock_at_rest();
            Self { folder, made: AtomicU32::new(0), clock, time }
        }
    }

    impl conformance::Harness for Databases {
        type Ledger = Sqlite;

        async fn fresh(&self) -> Sqlite {
            let options = Sqlite::options().clock(self.clock.clone());
            match &self.folder {
                Some(folder) => {
                    let number = self.made.fetch_add(1, Ordering::Relaxed);
                    options.open(folder.0.join(format!("{number}.db"))).await.unwrap()
                }
                None => options.in_memory().await.unwrap(),
            }
        }

        async fn advance(&self, _: &Sqlite, by: Duration) {
            self.time.fetch_add(by.as_millis().try_into().unwrap(), Ordering::Relaxed);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_conforms_in_a_file() {
        conformance::run(&Databases::new(Some(Folder::new()))).await;
        conformance::inbox::run(&Databases::new(Some(Folder::new()))).await;
    }

    #[tokio::test]
    async fn it_conforms_in_memory() {
        conformance::run(&Databases::new(None)).await;
        conformance::inbox::run(&Databases::new(None)).await;
    }

    #[tokio::test]
    async fn records_leases_and_dead_letters_survive_reopening() {
        let folder = Folder::new();
        let ledger = Sqlite::open(folder.file()).await.unwrap();
        let handled = granted(&ledger, 0).await;
        assert_eq!(ledger.complete(&key(0), handled, Completion::Handled).await.unwrap(), Held::Yes);
        let claimed = granted(&ledger, 1).await;
        let given_up = granted(&ledger, 2).await;
        assert_eq!(ledger.complete(&key(2), given_up, dead("no such user", b"{\xff}")).await.unwrap(), Held::Yes);
        ledger.close().await;
        assert!(!folder.0.join("hooks.db-wal").exists(), "closing left the journal behind");

        let ledger = Sqlite::open(folder.file()).await.unwrap();
        assert_eq!(ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(), Claim::Handled { first_digest: DIGEST });
        assert!(matches!(ledger.claim(&key(1), DIGEST, LEASE).await.unwrap(), Claim::InFlight { .. }));
        assert_eq!(ledger.renew(&key(1), claimed, LEASE).await.unwrap(), Held::Yes);
        assert_eq!(ledger.claim(&key(2), DIGEST, LEASE).await.unwrap(), Claim::Dead { first_digest: DIGEST });
        let letters = ledger.dead_letters("users", None, 10).await.unwrap();
        assert_eq!(letters.len(), 1);
        assert_eq!((letters[0].reason.as_str(), &letters[0].body[..]), ("no such user", &b"{\xff}"[..]));
    }

    #[tokio::test]
    async fn dead_letters_tell_what_happened_and_come_in_pages() {
        let (clock, time) = clock_at_rest();
        let ledger = Sqlite::options().clock(clock).in_memory().await.unwrap();
        for n in 0..5 {
            let token = granted(&ledger, n).await;
            time.fetch_add(1_000, Ordering::Relaxed);
            assert_eq!(ledger.release(&key(n), token, Duration::ZERO).await.unwrap(), Held::Yes);
            let token = granted(&ledger, n).await;
            // Three of them in the same millisecond.
            time.fetch_add(i64::from(n % 3 == 0), Ordering::Relaxed);
            assert_eq!(
                ledger.complete(&key(n), token, dead(&format!("reason {n}"), b"body")).await.unwrap(),
                Held::Yes
            );
        }
        let all = ledger.dead_letters("users", None, 100).await.unwrap();
        assert_eq!(all.len(), 5);
        let letter = &all[0];
        assert_eq!((letter.key.event_id(), letter.attempts, letter.reason.as_str()), ("evt_0", 2, "reason 0"));
        assert_eq!(letter.died_at.duration_since(letter.first_claimed_at).as_millis(), 1_001);
        assert!(!format!("{letter:?}").contains("body:"), "a payload in Debug: {letter:?}");

        let mut paged = ledger.dead_letters("users", None, 2).await.unwrap();
        loop {
            let page = ledger.dead_letters("users", paged.last(), 2).await.unwrap();
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, all);
        assert!(ledger.dead_letters("other", None, 100).await.unwrap().is_empty(), "another endpoint's letter");

        assert!(ledger.forget(&key(0)).await.unwrap());
        assert_eq!(ledger.dead_letters("users", None, 100).await.unwrap().len(), 4);
        assert_eq!(granted(&ledger, 0).await.attempt, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_handles_on_one_file_one_is_granted() {
        let folder = Folder::new();
        let ledgers = [Sqlite::open(folder.file()).await.unwrap(), Sqlite::open(folder.file()).await.unwrap()];
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..8 {
            let ledger = ledgers[worker % 2].clone();
            workers.spawn(async move {
                let mut won = Vec::new();
                for n in 0..50 {
                    match ledger.claim(&key(n), DIGEST, LEASE).await.unwrap() {
                        Claim::Granted { token, .. } => {
                            let held = ledger.complete(&key(n), token, Completion::Handled).await.unwrap();
                            assert_eq!(held, Held::Yes);
                            won.push(n);
                        }
                        Claim::InFlight { .. } | Claim::Handled { .. } => {}
                        other => panic!("a raced claim ended as {other:?}"),
                    }
                }
                won
            });
        }
        let mut won = workers.join_all().await.concat();
        won.sort_unstable();
        assert_eq!(won, (0..50).collect::<Vec<_>>());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_new_file_can_be_opened_by_many_at_once() {
        let folder = Folder::new();
        let mut opening = tokio::task::JoinSet::new();
        for n in 0..8 {
            let file = folder.file();
            opening.spawn(async move {
                let ledger = Sqlite::open(file).await.unwrap();
                granted(&ledger, n).await;
            });
        }
        opening.join_all().await;
        assert_eq!(count(&folder.file()).await, 8);
    }

    #[tokio::test]
    async fn a_file_shared_with_other_tables_is_left_otherwise_alone() {
        let folder = Folder::new();
        let options = SqliteConnectOptions::new().filename(folder.file()).create_if_missing(true);
        let mut own = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql("CREATE TABLE users (id TEXT); INSERT INTO users VALUES ('u'); PRAGMA user_version = 42")
            .execute(&mut own)
            .await
            .unwrap();
        let ledger = Sqlite::open(folder.file()).await.unwrap();
        granted(&ledger, 0).await;
        let row = sqlx::query("SELECT user_version, (SELECT count(*) FROM users) FROM pragma_user_version")
            .fetch_one(&mut own)
            .await
            .unwrap();
        assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (42, 1));
    }

    #[tokio::test]
    async fn claims_prune_what_is_past_its_retention_and_purge_does_at_once() {
        let folder = Folder::new();
        let (clock, time) = clock_at_rest();
        let ledger =
            Sqlite::options().clock(clock).retention(Duration::from_hours(24)).open(folder.file()).await.unwrap();
        let day = 24 * 60 * 60 * 1000;
        for n in 0..100 {
            let token = granted(&ledger, n).await;
            let completion = if n % 2 == 0 { Completion::Handled } else { dead("reason", b"body") };
            assert_eq!(ledger.complete(&key(n), token, completion).await.unwrap(), Held::Yes);
        }
        time.fetch_add(day, Ordering::Relaxed);
        let mut tokens = Vec::new();
        for n in 100..200 {
            tokens.push(granted(&ledger, n).await);
        }
        // Pruning follows a claim's answer; any later step comes after it.
        assert!(!ledger.forget(&key(1000)).await.unwrap());
        assert_eq!(count(&folder.file()).await, 100);

        assert_eq!(ledger.purge(Duration::ZERO).await.unwrap(), 0, "claimed records were purged");
        for n in 100..150 {
            assert_eq!(ledger.complete(&key(n), tokens[n - 100], Completion::Handled).await.unwrap(), Held::Yes);
        }
        assert_eq!(ledger.purge(Duration::from_secs(1)).await.unwrap(), 0);
        time.fetch_add(1_000, Ordering::Relaxed);
        assert_eq!(ledger.purge(Duration::from_secs(1)).await.unwrap(), 50);
        assert_eq!(count(&folder.file()).await, 50);
    }

    #[tokio::test]
    async fn more_than_one_portion_is_purged() {
        let ledger = Sqlite::in_memory().await.unwrap();
        for n in 0..600 {
            let token = granted(&ledger, n).await;
            assert_eq!(ledger.complete(&key(n), token, Completion::Handled).await.unwrap(), Held::Yes);
        }
        assert_eq!(ledger.purge(Duration::ZERO).await.unwrap(), 600);
    }

    #[tokio::test]
    async fn a_later_versions_file_is_refused_and_left_alone() {
        let folder = Folder::new();
        Sqlite::open(folder.file()).await.unwrap().close().await;
        let mut other =
            SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.file())).await.unwrap();
        sqlx::raw_sql("UPDATE authpi_schema SET version = 99").execute(&mut other).await.unwrap();
        let error = chain(&Sqlite::open(folder.file()).await.unwrap_err());
        assert!(error.contains("hooks.db has version 99"), "{error}");
        let row = sqlx::query("SELECT version FROM authpi_schema").fetch_one(&mut other).await.unwrap();
        assert_eq!(row.get::<i64, _>(0), 99);
    }

    #[tokio::test]
    async fn an_unusable_file_is_named_in_the_error() {
        let folder = Folder::new();
        let missing = folder.0.join("no such folder").join("hooks.db");
        let error = chain(&Sqlite::open(&missing).await.unwrap_err());
        assert!(error.contains(&*missing.to_string_lossy()) && error.contains("unable to open"), "{error}");

        std::fs::write(folder.file(), "not a database, but long enough to look like one".repeat(100)).unwrap();
        let error = chain(&Sqlite::open(folder.file()).await.unwrap_err());
        assert!(error.contains("hooks.db") && error.contains("not a database"), "{error}");

        let error = chain(&Sqlite::open(&folder.0).await.unwrap_err());
        assert!(error.contains("failed to open"), "{error}");
    }

    #[tokio::test]
    async fn a_corrupted_file_fails_the_step_and_nothing_else() {
        let folder = Folder::new();
        let ledger = Sqlite::open(folder.file()).await.unwrap();
        for n in 0..100 {
            granted(&ledger, n).await;
        }
        ledger.close().await;
        let mut bytes = std::fs::read(folder.file()).unwrap();
        bytes[4096..].fill(0xa5);
        std::fs::write(folder.file(), bytes).unwrap();
        let error = match Sqlite::open(folder.file()).await {
            Ok(ledger) => ledger.claim(&key(0), DIGEST, LEASE).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(chain(&error).contains("malformed"), "{}", chain(&error));
    }

    #[tokio::test]
    async fn a_full_disk_fails_the_step_which_can_be_repeated_when_there_is_room() {
        static LARGE: [u8; 100_000] = [b'x'; 100_000];
        let folder = Folder::new();
        let ledger = Sqlite::open(folder.file()).await.unwrap();
        let token = granted(&ledger, 0).await;
        // SQLite counts pages as a disk counts blocks, and gives the same error.
        let pages = |pages: i64| Request::Pages { pages };
        ledger.requests.send(pages(1)).await.ok().unwrap();
        let error = ledger.complete(&key(0), token, dead("reason", &LARGE)).await.unwrap_err();
        assert!(chain(&error).contains("full"), "{}", chain(&error));
        assert!(matches!(ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(), Claim::InFlight { .. }));
        ledger.requests.send(pages(1_000_000)).await.ok().unwrap();
        assert_eq!(ledger.complete(&key(0), token, dead("reason", &LARGE)).await.unwrap(), Held::Yes);
        assert_eq!(ledger.dead_letters("users", None, 1).await.unwrap()[0].body, &LARGE[..]);
    }

    #[tokio::test]
    async fn a_file_locked_for_too_long_fails_the_step_and_recovers() {
        let folder = Folder::new();
        let ledger = Sqlite::options().busy_timeout(Duration::from_millis(20)).open(folder.file()).await.unwrap();
        let mut other =
            SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.file())).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        let error = ledger.claim(&key(0), DIGEST, LEASE).await.unwrap_err();
        assert!(chain(&error).contains("locked"), "{}", chain(&error));
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        assert_eq!(granted(&ledger, 0).await.attempt, 1);
    }

    #[tokio::test]
    async fn a_closed_ledger_says_so() {
        let ledger = Sqlite::in_memory().await.unwrap();
        let clone = ledger.clone();
        ledger.close().await;
        ledger.close().await;
        let error = chain(&clone.claim(&key(0), DIGEST, LEASE).await.unwrap_err());
        assert!(error.contains("closed"), "{error}");
    }

    #[test]
    fn a_ledger_outliving_its_runtime_fails_rather_than_hangs() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first = runtime();
        let ledger = first.block_on(Sqlite::in_memory()).unwrap();
        drop(first);
        let error = runtime().block_on(ledger.claim(&key(0), DIGEST, LEASE)).unwrap_err();
        assert!(chain(&error).contains("runtime"), "{}", chain(&error));
    }
}
