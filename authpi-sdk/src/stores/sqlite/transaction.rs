//! Handlers write in the transaction that completes their claim.
//!
//! The writer passes its own connection to the handler. It is the only one per file and process, so
//! handlers never wait for SQLite's lock because of the ledger's own steps, and a ledger in memory
//! supports transactions too. The connection is inside a transaction, and the writer gets it back
//! when that is dropped. The writer then ends the transaction, which nothing can cancel.

use std::{
    fmt, mem,
    ops::{Deref, DerefMut},
};

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::oneshot;

use super::{
    Sqlite,
    failure::{Closed, Reply, kind_of},
    steps::Records,
};
use crate::ledger::{
    EventKey, LeaseStatus, LedgerError, PoolTooSmall, Token, TransactionPermit, TransactionPermits,
    Transactional,
};

/// An open transaction in a [`Sqlite`] ledger's file. It is rolled back when dropped.
///
/// While it is open, **nothing else is written to the file**: it holds SQLite's write lock and the
/// process's only connection. Claims, renewals, appends and other transactions wait for at most the
/// [`busy_timeout`](super::SqliteOptions::busy_timeout), and then fail. So it suits a handler that
/// writes a few rows, not one that makes network calls. A handler must not await a step of the same
/// ledger, which would wait for the handler. Handlers with a transaction wait for each other in a
/// fair queue, which the busy timeout does not limit: see
/// [`on_tx`](crate::handlers::Handlers::on_tx).
///
/// `sqlx::Connection::begin` on it creates a savepoint. Statements that end the transaction itself
/// (`COMMIT`, `ROLLBACK`) are detected at the commit, which then fails. A `PRAGMA` would change the
/// connection for later steps, so do not use any.
pub struct SqliteTransaction {
    /// `None` only while it is dropped or committed.
    loan: Option<Loan>,
    /// Released with the connection.
    permit: TransactionPermit,
}

struct Loan {
    records: Records,
    home: oneshot::Sender<Returned>,
}

/// Makes sqlx assume an open transaction at all times, so that `begin` on the connection creates a
/// savepoint. sqlx counts its own calls, which the writer does not use.
pub(super) async fn nest(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    mem::forget(connection.begin().await?);
    sqlx::query("ROLLBACK").execute(connection).await.map(drop)
}

/// A returned connection, in any state.
pub(super) struct Returned {
    pub(super) records: Records,
    pub(super) wish: Wish,
}

/// How the transaction ends.
pub(super) enum Wish {
    RollBack,
    Commit {
        key: EventKey,
        token: Token,
        reply: Reply<LeaseStatus>,
    },
}

impl SqliteTransaction {
    pub(super) fn new(records: Records, home: oneshot::Sender<Returned>) -> Self {
        Self {
            loan: Some(Loan { records, home }),
            permit: TransactionPermit::default(),
        }
    }
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        if let Some(Loan { records, home }) = self.loan.take() {
            // If the writer is gone, so are the connection and the transaction.
            let _ = home.send(Returned {
                records,
                wish: Wish::RollBack,
            });
        }
    }
}

impl Deref for SqliteTransaction {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self
            .loan
            .as_ref()
            .expect("only dropping or committing takes it")
            .records
            .connection
    }
}

impl DerefMut for SqliteTransaction {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self
            .loan
            .as_mut()
            .expect("only dropping or committing takes it")
            .records
            .connection
    }
}

impl fmt::Debug for SqliteTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteTransaction").finish_non_exhaustive()
    }
}

/// Handlers write one after another, each in a transaction that begins before the handler: see
/// [`SqliteTransaction`].
impl Transactional for Sqlite {
    type Connection = SqliteConnection;
    type Transaction = SqliteTransaction;

    async fn begin(&self) -> Result<SqliteTransaction, LedgerError> {
        self.begin_transaction().await
    }

    fn permits(&self) -> Result<TransactionPermits, PoolTooSmall> {
        Ok(self.permits.clone())
    }

    async fn begin_with(
        &self,
        permit: TransactionPermit,
    ) -> Result<SqliteTransaction, LedgerError> {
        let mut transaction = self.begin().await?;
        transaction.permit = permit;
        Ok(transaction)
    }

    async fn commit(
        &self,
        mut transaction: SqliteTransaction,
        key: &EventKey,
        token: Token,
    ) -> Result<LeaseStatus, LedgerError> {
        const STEP: &str = "complete and commit";
        let (reply, answer) = oneshot::channel();
        if let Some(Loan { records, home }) = transaction.loan.take() {
            let wish = Wish::Commit {
                key: key.clone(),
                token,
                reply,
            };
            // If the writer is gone, so is the reply.
            let _ = home.send(Returned { records, wish });
        }
        match answer.await {
            Ok(done) => done.map_err(|error| {
                let kind = kind_of(&error);
                LedgerError::new(STEP, error).with_kind(kind)
            }),
            Err(_) => Err(LedgerError::new(STEP, Closed)),
        }
    }
}
