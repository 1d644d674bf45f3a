//! The handler's writes and the completion of its claim, committed together.

use std::{
    fmt,
    future::Future,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{EventKey, LeaseStatus, Ledger, LedgerError, Token};

/// A ledger in a database that can commit a handler's writes together with the completion of its
/// claim.
///
/// ```text
/// claim (commits alone) -> begin -> handler -> complete(token) -> commit
/// ```
///
/// The claim commits by itself, so that duplicates never wait inside a transaction and attempts are
/// counted. The effect and the record's `handled` then become durable in one commit, or neither
/// does: **the effect takes place exactly once**. A worker whose lease was taken over meanwhile
/// finds its token stale, and its writes are rolled back.
///
/// `Sqlite` and `Postgres` are transactional. A handler asks for such a ledger by taking a [`Tx`]
/// of it: [`Handlers::on_tx`](crate::handlers::Handlers::on_tx).
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

    /// The queue in which handlers wait for their turn to have a transaction. Clones of a store
    /// share it. Default: no limit.
    ///
    /// Receivers take a permit before they claim an event whose handler takes a [`Tx`], so that
    /// what waits holds no claim and no connection.
    ///
    /// # Errors
    /// When the store has room for no transaction at all. Receivers and workers with such handlers
    /// are not built then.
    fn permits(&self) -> Result<TransactionPermits, PoolTooSmall> {
        Ok(TransactionPermits::unlimited())
    }

    /// As [`begin`](Self::begin), for a handler that has a permit. A store that limits its
    /// [`permits`](Self::permits) keeps the permit in the transaction until the connection is free
    /// for another; by default it is given back.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    fn begin_with(
        &self,
        permit: TransactionPermit,
    ) -> impl Future<Output = Result<Self::Transaction, LedgerError>> + Send {
        drop(permit);
        self.begin()
    }

    /// Rolls the transaction of a handler back that failed, and says what its author can do about
    /// the cause, where the store knows. By default, drops it.
    fn abandon(
        &self,
        transaction: Self::Transaction,
        cause: &(dyn std::error::Error + 'static),
    ) -> Option<String> {
        let _ = cause;
        drop(transaction);
        None
    }

    /// Completes the claim as handled, in the transaction, and commits it. `Lost`: the token was no
    /// longer the record's; the transaction was rolled back.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses. If the answer to the commit is what was lost,
    /// the commit may have taken place; the next claim of the event tells.
    fn commit(
        &self,
        transaction: Self::Transaction,
        key: &EventKey,
        token: Token,
    ) -> impl Future<Output = Result<LeaseStatus, LedgerError>> + Send;
}

/// The transaction in which a handler writes: `&mut *tx` is a connection of sqlx's.
///
/// The handler owns it (a borrowed one could not cross the `.await`s of an async closure that has
/// to be `Send`) and gives it back by dropping it, as every handler does at its end. It must
/// neither commit it nor roll it back, which a `COMMIT` in its SQL would do: it returns `Ok`, and
/// the SDK completes the claim in it and commits, or an error, and all that was written is undone.
/// `sqlx::Connection::begin` on it makes a savepoint.
///
/// A handler that puts its `Tx` away (into a task that outlives it, or a static) has failed. What
/// was written in it is never committed: it is rolled back when that `Tx` is dropped. Until then it
/// keeps what a transaction keeps: in Postgres a connection and locks, **in SQLite the whole
/// file**, so that every step fails after the busy timeout, and `Sqlite::close` waits.
pub struct Tx<L: Transactional> {
    /// None only while it is dropped.
    transaction: Option<L::Transaction>,
    home: Home<L>,
}

type Home<L> = Arc<Mutex<Option<<L as Transactional>::Transaction>>>;

impl<L: Transactional> Tx<L> {
    /// The transaction as a handler gets it, and where it will be found when the handler has
    /// dropped it.
    pub(crate) fn loan(transaction: L::Transaction) -> (Self, Loan<L>) {
        let home = Home::<L>::default();
        (
            Self {
                transaction: Some(transaction),
                home: home.clone(),
            },
            Loan(home),
        )
    }
}

impl<L: Transactional> Deref for Tx<L> {
    type Target = L::Connection;

    fn deref(&self) -> &L::Connection {
        self.transaction.as_ref().expect("released on drop")
    }
}

impl<L: Transactional> DerefMut for Tx<L> {
    fn deref_mut(&mut self) -> &mut L::Connection {
        self.transaction.as_mut().expect("released on drop")
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
pub(crate) struct Loan<L: Transactional>(Home<L>);

impl<L: Transactional> Loan<L> {
    /// The transaction, if its [`Tx`] was dropped.
    pub(crate) fn returned(self) -> Result<L::Transaction, TxKept> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or(TxKept)
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

/// How many handlers may have a transaction of a store at once; a fair queue for those that wait.
#[derive(Clone, Debug)]
pub struct TransactionPermits {
    /// None if there is no limit.
    places: Option<Arc<Semaphore>>,
}

/// A handler's place among those that may have a transaction at once; given back when it is
/// dropped.
#[derive(Debug, Default)]
#[must_use = "released on drop"]
pub struct TransactionPermit(
    #[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>,
);

/// How many connections of a pool are reserved, at least, for claims, renewals and completions.
const RESERVED: u32 = 2;

impl TransactionPermits {
    /// Any number of transactions at once.
    pub fn unlimited() -> Self {
        Self { places: None }
    }

    /// At most so many at once.
    pub fn at_most(transactions: usize) -> Self {
        Self {
            places: Some(Arc::new(Semaphore::new(
                transactions.min(Semaphore::MAX_PERMITS),
            ))),
        }
    }

    /// As many as a pool of so many connections has room for: all but a fifth of them, and all but
    /// two at least, which are reserved for claims, renewals and completions.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn in_pool_of(connections: u32) -> Result<Self, PoolTooSmall> {
        match connections.saturating_sub(RESERVED.max(connections / 5)) {
            0 => Err(PoolTooSmall {
                connections,
                needed: RESERVED + 1,
            }),
            transactions => Ok(Self::at_most(
                usize::try_from(transactions).unwrap_or(usize::MAX),
            )),
        }
    }

    /// Waits for a permit, behind those who asked before.
    pub async fn acquire(&self) -> TransactionPermit {
        let Some(places) = &self.places else {
            return TransactionPermit(None);
        };
        // It is never closed.
        TransactionPermit(Arc::clone(places).acquire_owned().await.ok())
    }
}

/// A store's connection pool has no room for a handler's transaction beside the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolTooSmall {
    /// How many connections the pool may have.
    pub connections: u32,
    /// How many it needs, at least.
    pub needed: u32,
}

impl fmt::Display for PoolTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connections,
            needed,
        } = self;
        write!(
            f,
            "the store's pool of {connections} connections is too small for a handler's transaction: {RESERVED} are reserved for \
             claims, renewals and completions; raise max_connections to {needed} or more"
        )
    }
}

impl std::error::Error for PoolTooSmall {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_leave_a_fifth_of_the_pool_and_two_connections_at_least() {
        let places = |connections| {
            let permits =
                TransactionPermits::in_pool_of(connections).map_err(|error| error.needed)?;
            Ok::<_, u32>(permits.places.unwrap().available_permits())
        };
        assert_eq!([0, 1, 2].map(places), [Err(3); 3]);
        assert_eq!([3, 10, 20, 100].map(places), [Ok(1), Ok(8), Ok(16), Ok(80)]);
        assert!(places(u32::MAX).is_ok());
    }
}
