//! Connections of the pool, and when they are closed or replaced.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{
    Connection as _, PgConnection, PgPool,
    pool::PoolConnection,
    postgres::{PgArguments, PgDatabaseError, PgRow, PgSeverity},
    query::Query,
};
use tokio::runtime::Handle;

use crate::ledger::{LedgerError, LedgerErrorKind};

pub(super) type PgQuery<'q> = Query<'q, sqlx::Postgres, PgArguments>;

/// A connection that is closed instead of returned to the pool if it is dropped while an answer is
/// outstanding: the answer may take long, and the pool would wait for it.
pub(crate) struct Borrowed {
    /// `None` once taken.
    connection: Option<PoolConnection<sqlx::Postgres>>,
    outstanding: bool,
}

impl Borrowed {
    /// Waits for the pool. Counts as having an answer outstanding until
    /// [`answered`](Self::answered) is called.
    pub(crate) async fn from(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: Some(pool.acquire().await?),
            outstanding: true,
        })
    }

    /// The request has been answered, with this error if it failed. The connection may return to
    /// the pool, unless the error says that it is useless: it would fail every further step.
    pub(crate) fn answered(&mut self, failed: Option<&sqlx::Error>) {
        self.outstanding =
            failed.is_some_and(|error| is_of_no_use_after(error) || is_changed(error));
    }

    /// Another request is sent.
    pub(super) fn is_asked(&mut self) {
        self.outstanding = true;
    }

    /// Moves the connection out. This value can no longer be used.
    pub(super) fn take(&mut self) -> Self {
        Self {
            connection: self.connection.take(),
            outstanding: self.outstanding,
        }
    }
}

const TAKEN: &str = "a connection that was taken away is not asked for";

impl Deref for Borrowed {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect(TAKEN)
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(TAKEN)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if Handle::try_current().is_err() {
            // The pool would need a runtime to take it back. The server notices that the connection
            // is closed.
            drop(connection.detach());
        } else if self.outstanding {
            connection.close_on_drop();
        }
    }
}

/// The connections of one step. If the server refuses the step because of its connection, the step
/// has certainly not begun, and is tried on another connection: on those that are idle now, and on
/// a new one.
pub(super) struct Attempts<'p> {
    pool: &'p PgPool,
    /// How many more. A pool's `after_connect` may prepare statements, so that no connection looks
    /// new.
    left: u32,
    is_new: bool,
    /// Set when there is a connection and a request is sent.
    asked: &'p AtomicBool,
}

impl<'p> Attempts<'p> {
    pub(super) fn on(pool: &'p PgPool, asked: &'p AtomicBool) -> Self {
        Self {
            pool,
            left: pool.options().get_max_connections(),
            is_new: false,
            asked,
        }
    }

    /// Waits for the pool.
    pub(super) async fn connection(&mut self) -> Result<Borrowed, sqlx::Error> {
        let some_were_idle = self.pool.num_idle() > 0;
        self.asked.store(false, Ordering::Relaxed);
        let connection = Borrowed::from(self.pool).await?;
        self.asked.store(true, Ordering::Relaxed);
        self.is_new = !some_were_idle && connection.cached_statements_size() == 0;
        Ok(connection)
    }

    /// Records the answer. Returns whether the step should be tried on another connection.
    pub(super) fn again<T>(
        &mut self,
        connection: &mut Borrowed,
        answer: &Result<T, sqlx::Error>,
    ) -> bool {
        let failed = answer.as_ref().err();
        connection.answered(failed);
        let Some(error) = failed.filter(|error| !self.is_new && has_certainly_not_begun(error))
        else {
            return false;
        };
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        tracing::debug!(%error, "the connection is unusable; trying another one");
        true
    }
}

/// Runs one statement on a connection of the pool.
#[cfg(feature = "client")]
pub(crate) async fn rows<'q>(
    pool: &PgPool,
    query: impl Fn() -> PgQuery<'q>,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let asked = AtomicBool::new(false);
    rows_in(Attempts::on(pool, &asked), query).await
}

/// As [`rows`].
pub(super) async fn rows_in<'q>(
    mut attempts: Attempts<'_>,
    query: impl Fn() -> PgQuery<'q>,
) -> Result<Vec<PgRow>, sqlx::Error> {
    loop {
        let mut connection = attempts.connection().await?;
        let answer = query().fetch_all(&mut *connection).await;
        if !attempts.again(&mut connection, &answer) {
            return answer;
        }
    }
}

fn database_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref())
}

/// Whether the connection would fail other steps too: it is broken, leads to a server that cannot
/// serve (25006: read-only; 57P: shutting down or starting), has lost its prepared statements
/// (26000) or has outdated plans (0A000).
pub(super) fn is_of_no_use_after(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        error => database_error(error).is_some_and(spoils),
    }
}

/// As [`is_of_no_use_after`], for an error of a handler, in which that of its statement may be one
/// of the causes.
pub(super) fn is_of_no_use_after_any(error: &(dyn std::error::Error + 'static)) -> bool {
    causes(error).any(|error| {
        error.downcast_ref().is_some_and(is_of_no_use_after)
            || error.downcast_ref().is_some_and(spoils)
    })
}

/// The SQLSTATE of a handler's error, if a statement was the cause.
pub(super) fn sqlstate_among<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e PgDatabaseError> {
    causes(error).find_map(|error| {
        error
            .downcast_ref::<PgDatabaseError>()
            .or_else(|| error.downcast_ref().and_then(database_error))
    })
}

fn causes<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn spoils(error: &PgDatabaseError) -> bool {
    let code = error.code();
    matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
        || matches!(code, "25006" | "26000" | "0A000")
        || code.starts_with("08")
        || code.starts_with("57P")
}

/// Whether one of our own statements did not find what existed when the ledger was opened. A
/// handler may have changed the session with `SET search_path` or `SET ROLE`, or left it in a
/// failed transaction.
fn is_changed(error: &sqlx::Error) -> bool {
    database_error(error).is_some_and(|error| {
        let code = error.code();
        code.starts_with("42") || matches!(code, "3F000" | "25P02")
    })
}

/// Whether the server refused the statement because of its connection. A server that is shutting
/// down may have begun it.
fn has_certainly_not_begun(error: &sqlx::Error) -> bool {
    is_changed(error)
        || database_error(error).is_some_and(|error| {
            matches!(
                error.code(),
                "25006" | "26000" | "0A000" | "57P03" | "57P05"
            )
        })
}

/// A serialization failure or a deadlock: the server undid the statement, and it should be
/// repeated.
pub(super) fn lost_a_race(error: &sqlx::Error) -> bool {
    database_error(error).is_some_and(|error| matches!(error.code(), "40001" | "40P01"))
}

/// What an error says about the store.
pub(super) fn kind_of(error: &sqlx::Error) -> LedgerErrorKind {
    let Some(error) = database_error(error) else {
        return LedgerErrorKind::Unreachable;
    };
    let code = error.code();
    match code {
        // A server without free transaction ids reports the same as for a key that is too long for
        // an index.
        "54000"
            if error
                .routine()
                .is_some_and(|routine| routine.starts_with("GetNew")) =>
        {
            LedgerErrorKind::CannotWrite
        }
        "53300" => LedgerErrorKind::Busy,
        // Read-only; no privilege; no disk space or memory; a failing disk; missing tables.
        "25006" | "53000" | "53100" | "53200" | "58030" => LedgerErrorKind::CannotWrite,
        _ if code.starts_with("42") || code == "3F000" => LedgerErrorKind::CannotWrite,
        _ if code.starts_with("22") || code.starts_with("54") => LedgerErrorKind::Content,
        _ => LedgerErrorKind::Unreachable,
    }
}

/// Whether a step failed because the role lacks a privilege.
pub(super) fn is_without_right(error: &LedgerError) -> bool {
    sqlstate_among(error).is_some_and(|error| error.code() == "42501")
}

/// Whether the server is reachable, according to the steps.
pub(super) struct Presence {
    /// Steps that wait for a connection or an answer; not handlers' transactions.
    steps: AtomicU32,
    found: Mutex<Found>,
}

struct Found {
    answered_at: Instant,
    /// Whether a step had no answer since.
    is_missed: bool,
}

impl Presence {
    pub(super) fn new() -> Self {
        Self {
            steps: AtomicU32::new(0),
            found: Mutex::new(Found {
                answered_at: Instant::now(),
                is_missed: false,
            }),
        }
    }

    pub(super) fn begin(&self) -> AtWork<'_> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        AtWork(self)
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server answered, even if it refused.
    pub(super) fn answered(&self) {
        *self.found() = Found {
            answered_at: Instant::now(),
            is_missed: false,
        };
    }

    /// A step failed, or the server could not be reached.
    pub(super) fn missed(&self) {
        self.found().is_missed = true;
    }

    /// A step had no connection in time. If there are as many steps as connections, all of them may
    /// be trying to connect to a server that is unreachable.
    pub(super) fn waited_in_vain(&self, pool: &PgPool) {
        if self.steps.load(Ordering::Relaxed) >= pool.options().get_max_connections() {
            self.missed();
        }
    }

    /// Whether all connections are in use although the server is reachable: it answered within
    /// `recently`, or no step has failed since.
    pub(super) fn is_busy(&self, pool: &PgPool, recently: Duration) -> bool {
        // sqlx updates the count of idle connections after handing one out, so it may seem to be
        // less than zero.
        let is_none_idle = pool.num_idle() == 0 || pool.num_idle() > pool.size() as usize;
        let in_use = is_none_idle && pool.size() >= pool.options().get_max_connections();
        let found = self.found();
        in_use && (!found.is_missed || found.answered_at.elapsed() < recently)
    }
}

/// A step in progress, until dropped.
pub(super) struct AtWork<'p>(&'p Presence);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.steps.fetch_sub(1, Ordering::Relaxed);
    }
}
