//! Commits a handler's writes together with the completion of its claim.

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
/// The claim commits separately. So duplicates never wait inside a transaction, and an attempt is
/// counted even if its transaction is rolled back. The handler's writes and the record's `handled`
/// then become durable in one commit, or neither does: **the effect takes place exactly once**. If
/// another worker has taken over the lease, the token is stale and the writes are rolled back.
///
/// `Sqlite` and `Postgres` are transactional. `Nats` is transactional if the ledger that it uses
/// is. A handler requires such a ledger by taking its [`Tx`]:
/// [`Handlers::on_tx`](crate::handlers::Handlers::on_tx).
pub trait Transactional: Ledger + Clone {
    /// The connection that handlers use: sqlx's.
    type Connection: Send;
    /// An open transaction. It is rolled back when dropped.
    type Transaction: DerefMut<Target = Self::Connection> + Send + 'static;

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses.
    fn begin(&self) -> impl Future<Output = Result<Self::Transaction, LedgerError>> + Send;

    /// The permits for transactions of handlers, which clones of a store share. Default: any number
    /// of concurrent transactions, so no handler waits.
    ///
    /// Receivers take a permit before they claim an event whose handler takes a [`Tx`], so a
    /// waiting delivery holds no claim and no connection.
    ///
    /// # Errors
    /// When the store has no room for any transaction. Receivers and workers with handlers that
    /// take a [`Tx`] then cannot be built.
    fn permits(&self) -> Result<TransactionPermits, PoolTooSmall> {
        Ok(TransactionPermits::unlimited())
    }

    /// As [`begin`](Self::begin), for a handler with a permit. A store that limits its
    /// [`permits`](Self::permits) keeps the permit until the transaction's connection is free
    /// again. The default drops it.
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

    /// Rolls back the transaction of a failed handler. Returns advice about the cause, if the store
    /// knows any. The default drops the transaction.
    fn abandon(
        &self,
        transaction: Self::Transaction,
        cause: &(dyn std::error::Error + 'static),
    ) -> Option<String> {
        let _ = cause;
        drop(transaction);
        None
    }

    /// Completes the claim as handled, in the transaction, and commits it. Returns `Lost` if the
    /// token is stale; the transaction is then rolled back.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses. If the answer to the commit was lost, the
    /// commit may have taken place; the next claim of the event then reports it as handled.
    fn commit(
        &self,
        transaction: Self::Transaction,
        key: &EventKey,
        token: Token,
    ) -> impl Future<Output = Result<LeaseStatus, LedgerError>> + Send;
}

/// The transaction in which a handler writes: `&mut *tx` is a connection of sqlx's.
///
/// The handler owns it. Dropping it does not roll back: it gives the transaction back to the SDK.
/// (A borrowed one could not be held across the `.await`s of an async closure that has to be
/// `Send`.) The handler must not end it, for example with `COMMIT`. If the handler returns `Ok`,
/// the SDK completes the claim in the transaction and commits it. If the handler returns an error,
/// all writes are rolled back. `sqlx::Connection::begin` on the connection creates a savepoint.
///
/// A handler that leaks its `Tx`, for example into a static or a task that outlives the handler,
/// fails. Its writes are never committed; they are rolled back when that `Tx` is dropped. Until
/// then the transaction stays open: in Postgres it holds a connection and locks, **in SQLite it
/// locks the whole file**, so that every step fails after the busy timeout, and `Sqlite::close`
/// waits.
pub struct Tx<L: Transactional> {
    /// `None` only during drop.
    transaction: Option<L::Transaction>,
    home: Home<L>,
}

type Home<L> = Arc<Mutex<Option<<L as Transactional>::Transaction>>>;

impl<L: Transactional> Tx<L> {
    /// The transaction for the handler, and a handle that gets it back when the handler drops it.
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

/// A transaction that a handler holds.
pub(crate) struct Loan<L: Transactional>(Home<L>);

impl<L: Transactional> Loan<L> {
    /// The transaction, if the handler has dropped its [`Tx`].
    pub(crate) fn returned(self) -> Result<L::Transaction, TxKept> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or(TxKept)
    }
}

/// The handler has returned without dropping its [`Tx`].
#[derive(Debug)]
pub(crate) struct TxKept;

impl fmt::Display for TxKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handler leaked its transaction: it is not committed, and stays open until it is dropped")
    }
}

impl std::error::Error for TxKept {}

/// Limits the concurrent transactions of handlers in one store. Handlers wait in a fair queue.
#[derive(Clone, Debug)]
pub struct TransactionPermits {
    /// `None` for no limit.
    places: Option<Arc<Semaphore>>,
}

/// Allows a handler one transaction, until dropped.
#[derive(Debug, Default)]
#[must_use = "released on drop"]
pub struct TransactionPermit(
    #[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>,
);

/// The minimum number of pool connections that are reserved for claims, renewals and completions.
const RESERVED: u32 = 2;

impl TransactionPermits {
    /// Any number of concurrent transactions.
    pub fn unlimited() -> Self {
        Self { places: None }
    }

    /// At most this many concurrent transactions.
    pub fn at_most(transactions: usize) -> Self {
        Self {
            places: Some(Arc::new(Semaphore::new(
                transactions.min(Semaphore::MAX_PERMITS),
            ))),
        }
    }

    /// As many transactions as fit in a pool of this size. A fifth of the connections, and at least
    /// two, are reserved for claims, renewals and completions.
    ///
    /// # Errors
    /// When no connection is left.
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

    /// Waits for a permit, first come, first served.
    pub async fn acquire(&self) -> TransactionPermit {
        let Some(places) = &self.places else {
            return TransactionPermit(None);
        };
        // The semaphore is never closed.
        TransactionPermit(Arc::clone(places).acquire_owned().await.ok())
    }
}

/// The store's connection pool has no room for a handler's transaction in addition to the reserved
/// connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolTooSmall {
    /// The pool's maximum number of connections.
    pub connections: u32,
    /// The minimum that it needs.
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
