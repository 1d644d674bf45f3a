//! A handler writes in the transaction that completes its claim.
//!
//! The writer lends its own connection: there is one to each file and process, so no two of our own
//! ever wait for SQLite's lock, and a ledger in memory can do it too. It is lent inside a
//! transaction and comes back by itself; what happens then is done by the writer, which nobody can
//! cancel.

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

/// An open transaction in a [`Sqlite`] ledger's file; rolled back when it is dropped.
///
/// While there is one, **nothing else is written to the file**: it holds SQLite's write lock, as
/// any transaction that writes does, and the one connection that the process has to it. Claims,
/// renewals, appends and other transactions wait, for at most the
/// [`busy_timeout`](super::SqliteOptions::busy_timeout), and then fail. So it suits a handler that
/// writes a few rows, not one that makes a call over the network; and a handler must not await a
/// step of the same ledger meanwhile, which would wait for the handler. Handlers with a transaction
/// wait for each other in a fair queue, before their events are claimed: that wait is part of their
/// deadline, and not limited by the busy timeout.
///
/// `sqlx::Connection::begin` on it makes a savepoint. Statements that end the transaction itself
/// (`COMMIT`, `ROLLBACK`) are found out at the commit, which then fails. Settings made by `PRAGMA`
/// would stay with the connection, so make none.
pub struct SqliteTransaction {
    /// None only while it is dropped or committed.
    loan: Option<Loan>,
    /// Given back with the connection.
    permit: TransactionPermit,
}

struct Loan {
    records: Records,
    home: oneshot::Sender<Returned>,
}

/// Makes sqlx believe permanently that there is a transaction, so that `begin` on a connection that
/// is lent makes a savepoint. sqlx counts by calls of its own, which the writer does not use.
pub(super) async fn nest(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    mem::forget(connection.begin().await?);
    sqlx::query("ROLLBACK").execute(connection).await.map(drop)
}

/// A connection that is back, in whatever state.
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
            // If the writer is gone, so is the connection, and the transaction with it.
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

/// Handlers write one after another, each in a transaction that begins before the handler does: see
/// [`SqliteTransaction`] for what that means to others.
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
            // If the writer is gone, the reply is gone with it.
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
