//! The handler's writes and the completion of its claim in one transaction: both take place, or neither.
//!
//! A transaction keeps a connection of the pool from the begin of the handler to its commit. The claim was committed before,
//! by itself, so nobody waits for the transaction; the record's row is locked from the completion on, which is its last
//! statement but the commit.

use std::{
    fmt, mem,
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection as _, Database, PgConnection};
use sqlx_core::transaction::TransactionManager as _;
use tokio::{runtime::Handle, time::timeout};

use super::{Postgres, connection::Borrowed, rows::text};
use crate::ledger::{
    EventKey, Held, LedgerError, PoolTooSmall, Token, TransactionPermit, TransactionPermits, Transactional,
    remote::within,
};

/// An open transaction of [`Postgres`], a [`PgConnection`] to the handler: `.execute(&mut *tx)`. Savepoints (`tx.begin()`) can be
/// had in it; it is not the handler that ends it.
///
/// Dropped without a commit, it is rolled back in a task of its own; if the server does not answer that within the ledger's
/// [timeout](super::PostgresOptions::timeout), by closing the connection.
pub struct PostgresTransaction {
    connection: Borrowed,
    open: bool,
    timeout: Duration,
    /// Given back with the connection.
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

    async fn begin_with(&self, permit: TransactionPermit) -> Result<PostgresTransaction, LedgerError> {
        let timeout = self.shared.timeout;
        within(timeout, "begin a transaction", async {
            let mut connection = Borrowed::from(&self.shared.pool).await?;
            begin(&mut connection).await?;
            Ok::<_, sqlx::Error>(PostgresTransaction { connection, open: true, timeout, permit })
        })
        .await
    }

    async fn commit(
        &self,
        mut transaction: PostgresTransaction,
        key: &EventKey,
        token: Token,
    ) -> Result<Held, LedgerError> {
        // From here on it is closed if it is dropped midway: what it was asked may be the commit.
        let _permit = mem::take(&mut transaction.permit);
        let mut connection = transaction.connection.take();
        transaction.open = false;
        within(self.shared.timeout, "commit", async {
            let completed = sqlx::query(AssertSqlSafe(self.shared.statements.committed.clone()))
                .bind(text(key.endpoint()))
                .bind(text(key.event_id()))
                .bind(i64::from(token.attempt))
                .bind(token.nonce.cast_signed())
                .fetch_optional(&mut *connection)
                .await;
            let ended = match completed {
                Ok(Some(_)) => commit(&mut connection).await.map(|()| Held::Yes),
                Ok(None) => Ok(Held::Lost),
                Err(error) => Err(error),
            };
            // Where this fails, the connection is closed, and the server rolls back what it has not committed.
            if matches!(ended, Ok(Held::Yes)) || rollback(&mut connection).await.is_ok() {
                connection.answered();
            }
            ended
        })
        .await
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
        f.debug_struct("PostgresTransaction").finish_non_exhaustive()
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
                    connection.answered();
                }
            });
        }
    }
}

// sqlx's own `Transaction` keeps its connection to itself, so that it could not be closed. This is what it does; sqlx counts the
// savepoints.

async fn begin(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    <sqlx::Postgres as Database>::TransactionManager::begin(connection, None).await
}

/// Savepoints that the handler has left open included.
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
