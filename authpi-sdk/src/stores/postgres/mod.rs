//! The ledger in a Postgres database: shared by replicas on any number of hosts, survives restarts,
//! keeps dead letters.
//!
//! ```text
//! schema -> statements -> rows     the tables, the SQL, and its results
//! connection                       a connection of the pool, for one step
//! transaction                      a connection of the pool, for one handler
//! notify                           NOTIFY, for workers of other processes
//! ```
//!
//! Each step is one statement, so one round trip and one transaction. Leasing takes two or more
//! further statements when leases or pauses have ended, each with the step's time limit. A claim
//! reads before it writes, within its statement, so that a duplicate neither locks a row nor makes
//! the server flush its log. All times are from the server's clock.

mod connection;
mod inspect;
mod notify;
mod options;
mod rows;
mod schema;
mod statements;
mod transaction;

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, PgPool, Row as _, postgres::PgRow};

use super::timeout::{Nonces, millis, within};
use crate::ledger::{
    Appended, Backlog, Claim, Completion, DeadLetter, Digest, EventKey, Inbox, LeaseStatus, Ledger,
    LedgerError, LedgerErrorKind, NextEvent, OrderedInbox, PoolTooSmall, Token, TransactionPermits,
    dead_letter::{log_replayed, timestamp},
};
use connection::{Attempts, PgQuery, Presence, kind_of, lost_a_race, rows_in};
use notify::Wake;
use rows::{claim_of, digest_of, letter_of, next_of, text};
use statements::{CLAIMS_PER_PRUNING, PORTION, Statements, WOKEN};

#[cfg(feature = "client")]
pub(crate) use connection::{Borrowed, rows};
pub use inspect::PostgresInspector;
pub use options::PostgresOptions;
pub use transaction::PostgresTransaction;

/// A [`Ledger`] and [`Inbox`] in a Postgres database (12 or later), which keeps dead letters.
///
/// Clones share one pool; replicas on any number of hosts share the tables.
///
/// - **As durable as the server**: with its default `synchronous_commit = on`, a step that returned
///   `Ok` survives a crash. Concurrent steps share a flush of the server's log. A claim that finds
///   a duplicate writes nothing.
/// - **One round trip per step**, on a connection of the pool. Build your own pool with
///   `test_before_acquire(false)`; otherwise sqlx needs another round trip to check that the
///   connection is alive. The pool that [`connect`](Postgres::connect) builds only checks
///   connections that were idle for a while.
/// - **Transactional.** A handler's writes and its claim's completion commit together
///   ([`on_tx`](crate::handlers::Handlers::on_tx)). Such a handler holds a connection of the pool
///   while it runs. Handlers wait for one in a fair queue that clones share. A fifth of the pool's
///   connections, and at least two, are reserved for everything else. With a pool of less than
///   three connections, a receiver or worker with such handlers cannot be built. Such a handler
///   takes three round trips: begin, completion, commit. With `REPEATABLE READ` or `SERIALIZABLE`,
///   a commit may be refused, and is refused after a renewal of the lease; the event is then
///   handled again.
/// - **Notifies workers.** Workers of other processes learn of an append within about 10 ms, by
///   `NOTIFY`. Each process with waiting workers has one more connection for that, in addition to
///   the pool. Without notifications (behind a pooler that assigns connections per transaction),
///   workers poll.
/// - **Never hangs.** A step fails after the [`timeout`](PostgresOptions::timeout) (default 5 s),
///   including the wait for a connection. It is then unknown whether it took place, which every
///   caller of a ledger must handle. The server continues a statement that is no longer awaited,
///   and a lease that it grants is an attempt without a handler. So the pool that
///   [`connect`](Postgres::connect) builds has this timeout as its `statement_timeout`; set the
///   same timeout on a pool of your own. It also applies to the statements of a handler in its
///   transaction.
/// - **Replaces unusable connections**: those to a server that is read-only or shutting down, those
///   that have lost their prepared statements or have outdated plans, and those whose session a
///   handler has changed. A step that the server refused for such a reason is retried on another
///   connection.
/// - **Bounded.** Claims prune records older than the [`retention`](PostgresOptions::retention) in
///   small batches, including dead letters. [`purge`](Postgres::purge) does so at once.
/// - **Cancel safe.** A step whose future is dropped takes place completely or not at all.
/// - **Uses the server's clock**, so hosts may differ. A fail-over to a server with another time
///   shifts leases by the difference.
///
/// The names of the tables begin with `authpi_` ([another prefix](PostgresOptions::prefix) can be
/// set). They are created and migrated when the ledger is opened; any number of replicas may do so
/// at once. Only that requires the privilege to create tables, so a role without it can use
/// existing tables. Tables that a later version of this crate has migrated are refused.
///
/// An event's id and its endpoint's name may have about 2,600 bytes together, Postgres' limit for
/// an index.
///
/// TLS is a feature of sqlx (`tls-rustls`, `tls-native-tls`). Depend on sqlx yourself to enable it.
///
/// ```no_run
/// # use authpi_sdk::stores::Postgres;
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
    shared: Arc<Shared>,
}

/// The state that clones share.
struct Shared {
    pool: PgPool,
    statements: Statements,
    retention: Duration,
    timeout: Duration,
    nonces: Nonces,
    until_prune: AtomicU32,
    wake: Wake,
    presence: Presence,
    /// The `statement_timeout` of the pool that this crate has built.
    statement_timeout: Option<Duration>,
    /// Permits for handlers with a transaction.
    permits: Result<TransactionPermits, PoolTooSmall>,
}

/// The minimum pause before another attempt to lease an event that is due but could not be leased.
const DUE_BY_NOW: Duration = Duration::from_millis(5);

impl Postgres {
    /// Opens the ledger in the database of `pool`, and creates its tables if they do not exist.
    ///
    /// # Errors
    /// When the server cannot be reached, the tables cannot be created or were migrated by a later
    /// version of this crate, the database's encoding is not UTF-8, or a step does not work: the
    /// server is a standby, or the role is read-only or lacks a privilege.
    /// [`kind`](LedgerError::kind) identifies the last of these.
    pub async fn open(pool: PgPool) -> Result<Self, LedgerError> {
        Self::options().open(pool).await
    }

    /// Opens the ledger with its own pool of at most 10 connections, at
    /// `postgres://user:password@host/database`.
    ///
    /// # Errors
    /// When the URL is invalid, otherwise as for [`open`](Postgres::open).
    pub async fn connect(url: &str) -> Result<Self, LedgerError> {
        Self::options().connect(url).await
    }

    /// Options to set before opening.
    pub fn options() -> PostgresOptions {
        PostgresOptions::default()
    }

    /// The dead letters of an endpoint, oldest first, at most `limit`; those after the letter
    /// `after`, if given.
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
        let rows = self.rows(
            "list dead letters",
            &self.shared.statements.dead_letters,
            |query| {
                query
                    .bind(text(endpoint))
                    .bind(at)
                    .bind(event_id.clone())
                    .bind(i64::from(limit))
            },
        );
        let rows = rows.await?;
        let endpoint: Arc<str> = endpoint.into();
        rows.iter()
            .map(|row| letter_of(row, endpoint.clone()))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|e| LedgerError::new("list dead letters", e))
    }

    /// Puts a dead letter back into the inbox, like an event that was just stored: without
    /// attempts, and as the last event with its ordering key. Returns whether there was such a dead
    /// letter.
    ///
    /// A worker of its endpoint handles it. An endpoint that is handled inline has no worker: the
    /// event waits until one runs or AuthPI delivers it again. The
    /// [guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/dead_letters/) shows how to run
    /// one. The receiver's health and `authpi_inbox_depth` show it. A dead letter of an inline
    /// receiver has no ordering key, so it neither waits for other events nor blocks them.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn replay(&self, key: &EventKey) -> Result<bool, LedgerError> {
        let rows = self.rows("replay", &self.shared.statements.replay, |query| {
            query.bind(text(key.endpoint())).bind(text(key.event_id()))
        });
        let replayed = !rows.await?.is_empty();
        if replayed {
            log_replayed(key);
            self.ring();
        }
        Ok(replayed)
    }

    /// The statements of a claim, its completion, an append, a lease, a wake-up and a pruning.
    #[cfg(feature = "unstable")]
    pub(crate) fn statements(&self) -> [Arc<str>; 6] {
        let statements = &self.shared.statements;
        [
            &statements.claim,
            &statements.handled,
            &statements.append,
            &statements.lease_next,
            &statements.wake,
            &statements.prune,
        ]
        .map(Arc::clone)
    }

    /// Removes all records, of every endpoint, that were handled or given up at least `age` ago,
    /// including dead letters. Returns their number. An event whose record is gone is handled as
    /// new if it is delivered again.
    ///
    /// # Errors
    /// When the store fails; some records may have been removed.
    pub async fn purge(&self, age: Duration) -> Result<u64, LedgerError> {
        let mut purged = 0;
        loop {
            // In batches, so that no statement runs for long.
            let removed = self
                .remove("purge", &self.shared.statements.purge, age)
                .await?;
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

    /// Runs one statement. Repeats it if it did nothing because it lost a race, which `complete`
    /// recognizes by its rows, or which the database's isolation level reports as an error.
    async fn rows_if<'q>(
        &self,
        complete: fn(&[PgRow]) -> bool,
        step: &'static str,
        statement: &Arc<str>,
        bind: impl Fn(PgQuery<'q>) -> PgQuery<'q>,
    ) -> Result<Vec<PgRow>, LedgerError> {
        let asked = AtomicBool::new(false);
        let work = async {
            loop {
                let attempts = Attempts::on(&self.shared.pool, &asked);
                match rows_in(attempts, || {
                    bind(sqlx::query(AssertSqlSafe(statement.clone())))
                })
                .await
                {
                    Err(error) if lost_a_race(&error) => {}
                    Ok(rows) if !complete(&rows) => {}
                    done => return done,
                }
            }
        };
        self.shared.within_time(step, &asked, work).await
    }

    async fn held<'q>(
        &self,
        step: &'static str,
        statement: &Arc<str>,
        (key, token): (&'q EventKey, Token),
        bind: impl Fn(PgQuery<'q>) -> PgQuery<'q>,
    ) -> Result<LeaseStatus, LedgerError> {
        let rows = self.rows(step, statement, |query| {
            let query = query.bind(text(key.endpoint())).bind(text(key.event_id()));
            bind(
                query
                    .bind(i64::from(token.attempt))
                    .bind(token.nonce.cast_signed()),
            )
        });
        Ok(if rows.await?.is_empty() {
            LeaseStatus::Lost
        } else {
            LeaseStatus::Held
        })
    }

    async fn remove(
        &self,
        step: &'static str,
        statement: &Arc<str>,
        age: Duration,
    ) -> Result<u64, LedgerError> {
        // Planned each time: a plan from when the table was small would scan all of it.
        let rows = self
            .rows(step, statement, |query| {
                query.bind(millis(age)).bind(PORTION).persistent(false)
            })
            .await?;
        Ok(rows.len() as u64)
    }

    /// Prunes from time to time, in a task: the claim is already granted, so a failure is only
    /// logged.
    fn prune_in_turn(&self) {
        let left = |left: u32| Some(left.checked_sub(1).unwrap_or(CLAIMS_PER_PRUNING - 1));
        if self
            .shared
            .until_prune
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
            != Ok(0)
        {
            return;
        }
        let ledger = self.clone();
        tokio::spawn(async move {
            let pruned = ledger
                .remove(
                    "prune",
                    &ledger.shared.statements.prune,
                    ledger.shared.retention,
                )
                .await;
            if let Err(error) = pruned {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "pruning the ledger failed"
                );
            }
        });
    }
}

impl Shared {
    /// Runs a step within the time limit, and classifies its failure. `asked` is true while an
    /// answer of the server is outstanding.
    async fn within_time<T>(
        &self,
        step: &'static str,
        asked: &AtomicBool,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, LedgerError> {
        let _at_work = self.presence.begin();
        // Boxed, since each future around it would store it twice.
        let mut work = Box::pin(work);
        let error = match within(self.timeout, step, async {
            Ok::<_, sqlx::Error>(work.as_mut().await)
        })
        .await
        {
            Ok(Ok(done)) => {
                self.presence.answered();
                return Ok(done);
            }
            Ok(Err(error)) => {
                match error {
                    sqlx::Error::Database(_) => self.presence.answered(),
                    sqlx::Error::PoolTimedOut => self.presence.waited_in_vain(&self.pool),
                    sqlx::Error::PoolClosed => {}
                    _ => self.presence.missed(),
                }
                let kind = kind_of(&error);
                LedgerError::new(step, error).with_kind(kind)
            }
            Err(too_slow) => {
                if asked.load(Ordering::Relaxed) {
                    self.presence.missed();
                } else {
                    self.presence.waited_in_vain(&self.pool);
                }
                too_slow
            }
        };
        let is_busy = error.kind() == LedgerErrorKind::Unreachable && self.is_busy();
        Err(if is_busy {
            error.with_kind(LedgerErrorKind::Busy)
        } else {
            error
        })
    }

    fn is_busy(&self) -> bool {
        self.presence.is_busy(&self.pool, self.timeout)
    }
}

impl fmt::Debug for Postgres {
    /// Omits the connection settings, which contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("retention", &self.shared.retention)
            .field("timeout", &self.shared.timeout)
            .finish_non_exhaustive()
    }
}

impl Ledger for Postgres {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        let nonce = self.shared.nonces.mint();
        // No row: another step took place between the statement's read and its write.
        let reported = |rows: &[PgRow]| !rows.is_empty();
        let rows = self.rows_if(reported, "claim", &self.shared.statements.claim, |query| {
            query
                .bind(text(key.endpoint()))
                .bind(text(key.event_id()))
                .bind(nonce.cast_signed())
                .bind(millis(lease))
                .bind(digest.to_bytes())
                .bind(millis(self.shared.retention))
        });
        let rows = rows.await?;
        let claim = rows
            .first()
            .ok_or(sqlx::Error::RowNotFound)
            .and_then(|row| claim_of(row, nonce));
        let claim = claim.map_err(|error| LedgerError::new("claim", error))?;
        if matches!(claim, Claim::Granted { .. }) {
            self.prune_in_turn();
        }
        Ok(claim)
    }

    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        let renew = &self.shared.statements.renew;
        self.held("renew", renew, (key, token), |query| {
            query.bind(millis(lease))
        })
        .await
    }

    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        let Statements { handled, dead, .. } = &self.shared.statements;
        match completion {
            Completion::Handled => {
                self.held("complete", handled, (key, token), |query| query)
                    .await
            }
            Completion::Dead { reason, body } => {
                let reason = text(&reason).into_owned();
                self.held("complete", dead, (key, token), |query| {
                    query.bind(reason.clone()).bind(body.to_vec())
                })
                .await
            }
        }
    }

    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        let release = &self.shared.statements.release;
        self.held("release", release, (key, token), |query| {
            query.bind(millis(pause))
        })
        .await
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

    fn retention(&self) -> Duration {
        self.shared.retention
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, LedgerError> {
        const STEP: &str = "read the server's clock";
        let rows = self
            .rows(STEP, &self.shared.statements.clock, |query| query)
            .await?;
        let now = rows
            .first()
            .ok_or(sqlx::Error::RowNotFound)
            .and_then(|row| row.try_get::<i64, _>(0));
        Ok(Some(timestamp(
            now.map_err(|error| LedgerError::new(STEP, error))?,
        )))
    }

    fn is_busy(&self) -> bool {
        self.shared.is_busy()
    }

    async fn waiting(&self, endpoint: &str) -> Result<Option<Backlog>, LedgerError> {
        self.backlog(endpoint).await.map(Some)
    }

    fn store_id(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.shared).addr())
    }
}

impl Inbox for Postgres {
    async fn append(
        &self,
        key: &EventKey,
        digest: Digest,
        ordering_key: Option<&str>,
        body: Bytes,
    ) -> Result<Appended, LedgerError> {
        // No row: the record was created or removed between the statement's read and its write.
        let reported = |rows: &[PgRow]| !rows.is_empty();
        let rows =
            self.rows_if(
                reported,
                "append",
                &self.shared.statements.append,
                |query| {
                    let query = query
                        .bind(text(key.endpoint()))
                        .bind(text(key.event_id()))
                        .bind(digest.to_bytes());
                    query
                        .bind(body.to_vec())
                        .bind(ordering_key.map(|ordering_key| {
                            text(&EventKey::bounded(ordering_key)).into_owned()
                        }))
                        .bind(millis(self.shared.retention))
                },
            );
        let rows = rows.await?;
        let known = rows
            .first()
            .ok_or(sqlx::Error::RowNotFound)
            .and_then(|row| row.try_get::<Option<&[u8]>, _>(0));
        let known = known.map_err(|error| LedgerError::new("append", error))?;
        let Some(known) = known else {
            // Workers do not handle a probe's record.
            if !key.endpoint().is_empty() {
                self.ring();
            }
            self.prune_in_turn();
            return Ok(Appended::Stored);
        };
        let first_digest = digest_of(known).map_err(|error| LedgerError::new("append", error))?;
        Ok(Appended::Duplicate { first_digest })
    }

    async fn lease_next(&self, endpoint: &str, lease: Duration) -> Result<NextEvent, LedgerError> {
        const STEP: &str = "lease the next event";
        let Statements {
            lease_next, wake, ..
        } = &self.shared.statements;
        let mut woken = false;
        loop {
            let nonce = self.shared.nonces.mint();
            let rows = self.rows(STEP, lease_next, |query| {
                query
                    .bind(text(endpoint))
                    .bind(millis(lease))
                    .bind(nonce.cast_signed())
                    .bind(woken)
            });
            let rows = rows.await?;
            let next = rows
                .first()
                .ok_or(sqlx::Error::RowNotFound)
                .and_then(|row| next_of(row, endpoint, nonce));
            match next.map_err(|error| LedgerError::new(STEP, error))? {
                NextEvent::Empty {
                    due_in: Some(Duration::ZERO),
                } if !woken => {}
                // The time until the next event. If it is zero, an event has become due since the
                // wake statement, or another worker is leasing the one that is due.
                NextEvent::Empty {
                    due_in: Some(due_in),
                } => {
                    return Ok(NextEvent::Empty {
                        due_in: Some(due_in.max(DUE_BY_NOW)),
                    });
                }
                next => return Ok(next),
            }
            // In batches, so that no statement runs for long.
            while self
                .rows(STEP, wake, |query| query.bind(text(endpoint)).bind(WOKEN))
                .await?
                .len() as u64
                == WOKEN.unsigned_abs()
            {}
            woken = true;
        }
    }

    fn appended(&self) -> impl Future<Output = ()> + Send {
        self.heard()
    }

    async fn backlog(&self, endpoint: &str) -> Result<Backlog, LedgerError> {
        const STEP: &str = "count the backlog";
        let rows = self.rows(STEP, &self.shared.statements.backlog, |query| {
            query.bind(text(endpoint))
        });
        let read = |row: &PgRow| {
            let age = |ms: i64| Duration::from_millis(ms.try_into().unwrap_or(0));
            Ok(Backlog {
                depth: row.try_get::<i64, _>(0)?.try_into().unwrap_or(0),
                oldest: row.try_get::<Option<i64>, _>(1)?.map(age),
            })
        };
        let rows = rows.await?;
        rows.first()
            .ok_or(sqlx::Error::RowNotFound)
            .and_then(read)
            .map_err(|error| LedgerError::new(STEP, error))
    }
}

impl OrderedInbox for Postgres {}
