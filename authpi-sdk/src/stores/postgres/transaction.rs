//! A handler's writes and the completion of its claim, in one transaction: both take place, or
//! neither does.
//!
//! A transaction holds a connection of the pool from before the handler begins until its commit.
//! The claim was committed separately before, so no other claim waits for the transaction. The
//! completion locks the record's row. It is the last statement before the commit.

use std::{
    error::Error,
    fmt, mem,
    ops::{Deref, DerefMut},
    sync::atomic::AtomicBool,
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Connection as _, Database, PgConnection, SqlStr, postgres::PgDatabaseError,
};
use sqlx_core::transaction::TransactionManager as _;
use tokio::{runtime::Handle, time::timeout};

use super::{
    Postgres,
    connection::{Attempts, Borrowed, is_of_no_use_after, is_of_no_use_after_any, sqlstate_among},
    rows::text,
};
use crate::ledger::{
    EventKey, LeaseStatus, LedgerError, PoolTooSmall, Token, TransactionPermit, TransactionPermits,
    Transactional,
};

/// An open transaction of [`Postgres`]. For the handler, it is a [`PgConnection`]: `.execute(&mut
/// *tx)`. The handler may use savepoints (`tx.begin()`), but must not end the transaction.
///
/// If it is dropped without a commit, a task rolls it back. If the server does not answer within
/// the ledger's [timeout](super::PostgresOptions::timeout), the connection is closed.
pub struct PostgresTransaction {
    connection: Borrowed,
    open: bool,
    timeout: Duration,
    /// Released with the connection.
    permit: TransactionPermit,
}

impl Transactional for Postgres {
    type Connection = PgConnection;
    type Transaction = PostgresTransaction;

    async fn begin(&self) -> Result<PostgresTransaction, LedgerError> {
        self.begin_with(TransactionPermit::default()).await
    }

    fn permits(&self) -> Result<TransactionPermits, PoolTooSmall> {
        self.shared.permits.clone()
    }

    async fn begin_with(
        &self,
        permit: TransactionPermit,
    ) -> Result<PostgresTransaction, LedgerError> {
        let asked = AtomicBool::new(false);
        let begun = async {
            let mut attempts = Attempts::on(&self.shared.pool, &asked);
            loop {
                let mut connection = attempts.connection().await?;
                let begun = begin(&mut connection).await;
                if !attempts.again(&mut connection, &begun) {
                    return begun.map(|()| connection);
                }
            }
        };
        let mut connection = self
            .shared
            .within_time("begin a transaction", &asked, begun)
            .await?;
        connection.is_asked();
        Ok(PostgresTransaction {
            connection,
            open: true,
            timeout: self.shared.timeout,
            permit,
        })
    }

    fn abandon(
        &self,
        mut transaction: PostgresTransaction,
        cause: &(dyn Error + 'static),
    ) -> Option<String> {
        // A useless connection is closed, and the server rolls back.
        transaction.open = !is_of_no_use_after_any(cause);
        drop(transaction);
        sqlstate_among(cause).and_then(|error| self.advice(error))
    }

    async fn commit(
        &self,
        mut transaction: PostgresTransaction,
        key: &EventKey,
        token: Token,
    ) -> Result<LeaseStatus, LedgerError> {
        // From here on, the connection is closed if this future is dropped before its end: the
        // outstanding request may be the commit, so no rollback is tried.
        let _permit = mem::take(&mut transaction.permit);
        let mut connection = transaction.connection.take();
        transaction.open = false;
        let ended = async {
            let completed = sqlx::query(AssertSqlSafe(self.shared.statements.committed.clone()))
                .bind(text(key.endpoint()))
                .bind(text(key.event_id()))
                .bind(i64::from(token.attempt))
                .bind(token.nonce.cast_signed())
                .fetch_optional(&mut *connection)
                .await;
            let ended = match completed {
                Ok(Some(_)) => commit(&mut connection).await.map(|()| LeaseStatus::Held),
                Ok(None) => Ok(LeaseStatus::Lost),
                Err(error) => Err(error),
            };
            // The connection is reused only after a commit or a rollback. Otherwise it is closed,
            // and the server rolls back what it has not committed.
            let is_of_use = !ended.as_ref().is_err_and(is_of_no_use_after);
            if is_of_use
                && (matches!(ended, Ok(LeaseStatus::Held))
                    || rollback(&mut connection).await.is_ok())
            {
                connection.answered(None);
            }
            ended
        };
        self.shared
            .within_time("commit", &AtomicBool::new(true), ended)
            .await
    }
}

impl Postgres {
    /// Advice for the handler's author about an error of the database.
    fn advice(&self, error: &PgDatabaseError) -> Option<String> {
        const CANCELED: &str = "57014";
        // The code is the same if an administrator cancels it; only the text differs, at least in
        // English.
        if error.code() != CANCELED || error.message().contains("user request") {
            return None;
        }
        let limit = self.shared.statement_timeout.map_or_else(
            || "the pool's statement_timeout".to_owned(),
            |limit| {
                format!(
                    "statement_timeout = {}ms, which Postgres::connect sets",
                    limit.as_millis()
                )
            },
        );
        Some(format!(
            "a statement of the handler was canceled by {limit}; to allow more, run `SET LOCAL statement_timeout = '30s'` in its \
             Tx, or set statement_timeout in the options of the URL or pool"
        ))
    }
}

impl Deref for PostgresTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for PostgresTransaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl fmt::Debug for PostgresTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresTransaction")
            .finish_non_exhaustive()
    }
}

impl Drop for PostgresTransaction {
    fn drop(&mut self) {
        // Without a runtime, the connection is closed.
        if self.open
            && let Ok(runtime) = Handle::try_current()
        {
            let permit = mem::take(&mut self.permit);
            let (mut connection, limit) = (self.connection.take(), self.timeout);
            runtime.spawn(async move {
                let _permit = permit;
                if let Ok(Ok(())) = timeout(limit, rollback(&mut connection)).await {
                    connection.answered(None);
                }
            });
        }
    }
}

// sqlx's own `Transaction` does not give access to its connection, so it could not be closed. This
// does the same; sqlx counts the savepoints.

/// `READ WRITE`: a standby refuses that at once (0A000), before the handler begins.
async fn begin(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const BEGIN: SqlStr = SqlStr::from_static("BEGIN READ WRITE");
    <sqlx::Postgres as Database>::TransactionManager::begin(connection, Some(BEGIN)).await
}

/// Including open savepoints of the handler.
async fn commit(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    while connection.is_in_transaction() {
        <sqlx::Postgres as Database>::TransactionManager::commit(connection).await?;
    }
    Ok(())
}

async fn rollback(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    while connection.is_in_transaction() {
        <sqlx::Postgres as Database>::TransactionManager::rollback(connection).await?;
    }
    Ok(())
}
