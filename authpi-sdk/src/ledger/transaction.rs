//! The handler's writes and the completion of its claim, committed together.

use std::{
    fmt,
    future::Future,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use super::{EventKey, Held, Ledger, LedgerError, Token};

/// A ledger in a database that can commit a handler's writes together with the completion of its claim.
///
/// ```text
/// claim (commits alone) -> begin -> handler -> complete(token) -> commit
/// ```
///
/// The claim commits by itself, so that duplicates never wait inside a transaction and attempts are counted. The effect and the
/// record's `handled` then become durable in one commit, or neither does: **the effect takes place exactly once**. A worker whose
/// lease was taken over meanwhile finds its token stale, and its writes are rolled back.
///
/// `Sqlite` and `Postgres` are transactional. A handler asks for such a ledger by taking a [`Tx`] of it:
/// [`Handlers::on_tx`](crate::handlers::Handlers::on_tx).
pub trait Transactional: Ledger + Clone {
    /// What a handler writes with: sqlx's connection.
    type Connection: Send;
    /// An open transaction, which is rolled back when it is dropped.
    type Transaction: DerefMut<Target = Self::Connection> + Send + 'static;

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses.
    fn begin(&self) -> impl Future<Output = Result<Self::Transaction, LedgerError>> + Send;

    /// Completes the claim as handled, in the transaction, and commits it. `Lost`: the token was no longer the record's; the
    /// transaction was rolled back.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses. If the answer to the commit is what was lost, the commit may have taken place;
    /// the next claim of the event tells.
    fn commit(
        &self,
        transaction: Self::Transaction,
        key: &EventKey,
        token: Token,
    ) -> impl Future<Output = Result<Held, LedgerError>> + Send;
}

/// The transaction in which a handler writes: `&mut *tx` is a connection of sqlx's.
///
/// The handler owns it (a borrowed one could not cross the `.await`s of an async closure that has to be `Send`) and gives it back by
/// dropping it, as every handler does at its end. It must neither commit it nor roll it back, which a `COMMIT` in its SQL would do: it returns `Ok`, and the SDK completes
/// the claim in it and commits, or an error, and all that was written is undone. `sqlx::Connection::begin` on it makes a savepoint.
///
/// A handler that puts its `Tx` away (into a task that outlives it, or a static) has failed. What was written in it is
/// never committed: it is rolled back when that `Tx` is dropped. Until then it keeps what a transaction keeps: in
/// Postgres a connection and locks, **in SQLite the whole file**, so that every step fails after the busy timeout, and `Sqlite::close`
/// waits.
pub struct Tx<L: Transactional> {
    /// None only while it is dropped.
    transaction: Option<L::Transaction>,
    home: Home<L>,
}

type Home<L> = Arc<Mutex<Option<<L as Transactional>::Transaction>>>;

impl<L: Transactional> Tx<L> {
    /// The transaction as a handler gets it, and where it will be found when the handler has dropped it.
    pub(crate) fn lend(transaction: L::Transaction) -> (Self, Lent<L>) {
        let home = Home::<L>::default();
        (Self { transaction: Some(transaction), home: home.clone() }, Lent(home))
    }
}

impl<L: Transactional> Deref for Tx<L> {
    type Target = L::Connection;

    fn deref(&self) -> &L::Connection {
        self.transaction.as_ref().expect("it is given back by drop alone")
    }
}

impl<L: Transactional> DerefMut for Tx<L> {
    fn deref_mut(&mut self) -> &mut L::Connection {
        self.transaction.as_mut().expect("it is given back by drop alone")
    }
}

impl<L: Transactional> Drop for Tx<L> {
    fn drop(&mut self) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = self.transaction.take();
    }
}

impl<L: Transactional> fmt::Debug for Tx<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

/// A transaction that is out.
pub(crate) struct Lent<L: Transactional>(Home<L>);

impl<L: Transactional> Lent<L> {
    /// The transaction, if its [`Tx`] was dropped.
    pub(crate) fn returned(self) -> Result<L::Transaction, TxKept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(TxKept)
    }
}

/// The handler is done and its [`Tx`] is not back.
#[derive(Debug)]
pub(crate) struct TxKept;

impl fmt::Display for TxKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handler has put its transaction away instead of dropping it: it is not committed, and stays open until it is dropped")
    }
}

impl std::error::Error for TxKept {}
