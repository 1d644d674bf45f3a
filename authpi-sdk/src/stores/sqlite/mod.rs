//! The ledger in a SQLite file: survives restarts, keeps dead letters, shared by the processes of
//! one host.
//!
//! Every step goes to one task, the [writer], which holds the only connection. SQLite allows only
//! one writer at a time. Steps in the [queue] run in order, whereas several connections would have
//! to poll for the lock. Steps that wait together are committed together and share one flush of the
//! disk (group commit). A failed step does not affect the others, and a step runs to its end even
//! if its caller no longer waits. The writer also passes its connection to handlers that write in a
//! [transaction].
//!
//! The operations are in [steps], their SQL in [statements], the tables in [schema]. [file] opens
//! and watches the file.

mod failure;
mod file;
mod inspect;
mod open_error;
mod options;
mod queue;
mod schema;
mod statements;
mod steps;
#[cfg(test)]
mod tests;
mod transaction;
mod writer;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};

use self::{
    failure::{Closed, Failure, Reply, kind_of},
    queue::{Request, Wanted},
    steps::{
        AppendStep, BacklogStep, Change, ChangeStep, ClaimStep, DeadLettersStep, ForgetStep,
        LeaseNextStep, PurgeStep, ReplayStep, Step, WakeStep,
    },
};
pub use self::{inspect::SqliteInspector, options::SqliteOptions, transaction::SqliteTransaction};
use crate::ledger::{
    Appended, Backlog, Claim, Completion, DeadLetter, Digest, EventKey, Inbox, LeaseStatus, Ledger,
    LedgerError, NextEvent, OrderedInbox, Token, TransactionPermits, dead_letter::log_replayed,
};

/// A [`Ledger`] and [`Inbox`] in a SQLite file, which keeps dead letters.
///
/// Clones share one connection. Several processes on one host may open the same file, but not over
/// a network file system, where SQLite's locks do not work.
///
/// - **Durable.** WAL journal with `synchronous=FULL`: a step that returned `Ok` survives a power
///   cut. Concurrent steps share one flush of the disk, up to 256 of them; none is delayed for
///   that. A claim that finds a duplicate flushes nothing.
/// - **Isolated failures.** A step that fails does not affect the steps in the same transaction. If
///   the commit fails (the disk is full), none of them took place, and each caller gets the error.
/// - **Detects deletion.** SQLite continues to write to a deleted file. Before a step is answered,
///   the file and its `-wal` are looked up by name. If one was deleted or replaced, each step fails
///   until it is back or the process restarts.
/// - **Bounded.** Claims prune records older than the [`retention`](SqliteOptions::retention) in
///   small batches, including dead letters. [`purge`](Sqlite::purge) does so at once. The file does
///   not shrink; its space is reused.
/// - **Cancel safe.** A step whose future is dropped takes place completely or not at all.
/// - **Transactional.** A handler may write its own tables in the transaction that completes its
///   claim. Nothing else is written meanwhile: see [`SqliteTransaction`].
/// - **Notifies workers** that use the same `Sqlite` or a clone of it. Workers in other processes,
///   or with a `Sqlite` opened separately, find new events when they poll.
///
/// The names of the tables begin with `authpi_`, so the file may contain an application's own
/// tables. They are created and migrated when the file is opened. A file that a later version of
/// this crate has migrated is refused.
///
/// Leases and pauses use the host's clock. If that clock is set back, a lease or pause that would
/// become longer than requested is restarted.
///
/// The store runs on the tokio runtime in which it was opened. When that runtime ends, every
/// further step fails.
///
/// ```
/// # use authpi_sdk::stores::Sqlite;
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
    /// Notified after each append through this `Sqlite`. SQLite cannot notify other processes.
    appended: Arc<Notify>,
    flushes: Arc<AtomicU64>,
    /// Whether a handler's transaction holds the connection.
    loan: Arc<AtomicBool>,
    /// Permits for handlers with a transaction: one at a time.
    permits: TransactionPermits,
}

impl Sqlite {
    /// Opens the file, or creates it (its folder must exist), with mode 0600 on Unix.
    ///
    /// Claims, completes, stores, leases and forgets an event under the empty endpoint name, to
    /// prove that the store works.
    ///
    /// # Errors
    /// When the file cannot be opened or written, is not a SQLite database, or was migrated by a
    /// later version of this crate; and when the path names no file (`""`, `":memory:"`, a `file:`
    /// URI of a database in memory): use [`in_memory`](Sqlite::in_memory) for that. The message
    /// names the file.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, LedgerError> {
        Self::options().open(path).await
    }

    /// A separate ledger in memory, lost with its last clone. For tests of code that needs dead
    /// letters.
    ///
    /// # Errors
    /// When memory runs out.
    pub async fn in_memory() -> Result<Self, LedgerError> {
        Self::options().in_memory().await
    }

    /// Options to set before opening.
    pub fn options() -> SqliteOptions {
        SqliteOptions::new()
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
        let after = after.map(|letter| {
            (
                letter.died_at.as_millisecond(),
                letter.key.event_id().to_owned(),
            )
        });
        self.ask(
            "list dead letters",
            DeadLettersStep {
                endpoint: endpoint.into(),
                after,
                limit,
            },
        )
        .await
    }

    /// Puts a dead letter back into the inbox, as if it had just been appended: pending, without
    /// attempts, after the waiting events with its ordering key. Returns whether there was such a
    /// dead letter.
    ///
    /// A worker has to handle it. An endpoint that is handled inline has no worker: the event waits
    /// until one runs or AuthPI delivers it again. The
    /// [guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/dead_letters/) shows how to run
    /// one. The receiver's health and `authpi_inbox_depth` show it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn replay(&self, key: &EventKey) -> Result<bool, LedgerError> {
        let replayed = self
            .ask("replay a dead letter", ReplayStep { key: key.clone() })
            .await?;
        if replayed {
            log_replayed(key);
            self.appended.notify_waiters();
        }
        Ok(replayed)
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
            // In batches, so that claims can run in between.
            let (removed, more) = self.ask("purge", PurgeStep { age }).await?;
            purged += removed;
            if !more {
                return Ok(purged);
            }
        }
    }

    /// Closes the file, for all clones, after the steps that were requested before. Every further
    /// step fails.
    ///
    /// This is optional. Afterwards, the file is complete without its `-wal` file, if no other
    /// process has it open.
    pub async fn close(&self) {
        // An error means that it is already closed.
        let _ = self.requests.send(Request::new(Wanted::Close)).await;
        self.requests.closed().await;
    }

    /// The statements of a claim, its completion and an append.
    #[cfg(feature = "unstable")]
    pub(crate) fn statements() -> [&'static str; 3] {
        [statements::CLAIM, statements::HANDLED, statements::APPEND]
    }

    /// The number of disk flushes since the file was opened.
    #[cfg(any(test, feature = "unstable"))]
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    async fn ask<S: Step>(&self, name: &'static str, step: S) -> Result<S::Answer, LedgerError> {
        self.request(name, |reply| Wanted::step(step, reply)).await
    }

    async fn begin_transaction(&self) -> Result<SqliteTransaction, LedgerError> {
        self.request("begin a transaction", Wanted::Transaction)
            .await
    }

    async fn request<T>(
        &self,
        name: &'static str,
        wanted: impl FnOnce(Reply<T>) -> Wanted,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let failed = |failure: Failure| {
            let kind = kind_of(&failure);
            LedgerError::new(name, failure).with_kind(kind)
        };
        self.requests
            .send(Request::new(wanted(reply)))
            .await
            .map_err(|_| failed(Closed.into()))?;
        answer
            .await
            .map_err(|_| failed(Closed.into()))?
            .map_err(failed)
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite")
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

impl Ledger for Sqlite {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        self.ask(
            "claim",
            ClaimStep {
                key: key.clone(),
                digest,
                lease,
            },
        )
        .await
    }

    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.ask(
            "renew",
            ChangeStep {
                key: key.clone(),
                token,
                change: Change::Renew(lease),
            },
        )
        .await
    }

    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        self.ask(
            "complete",
            ChangeStep {
                key: key.clone(),
                token,
                change: Change::Complete(completion),
            },
        )
        .await
    }

    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.ask(
            "release",
            ChangeStep {
                key: key.clone(),
                token,
                change: Change::Release(pause),
            },
        )
        .await
    }

    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        self.ask("forget", ForgetStep { key: key.clone() }).await
    }

    fn keeps_dead_letters(&self) -> bool {
        true
    }

    fn retention(&self) -> Duration {
        self.retention
    }

    fn is_busy(&self) -> bool {
        self.loan.load(Ordering::Relaxed)
    }

    async fn waiting(&self, endpoint: &str) -> Result<Option<Backlog>, LedgerError> {
        self.backlog(endpoint).await.map(Some)
    }

    fn store_id(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.flushes).addr())
    }
}

impl Inbox for Sqlite {
    async fn append(
        &self,
        key: &EventKey,
        digest: Digest,
        ordering_key: Option<&str>,
        body: Bytes,
    ) -> Result<Appended, LedgerError> {
        let step = AppendStep {
            key: key.clone(),
            digest,
            ordering_key: ordering_key
                .map(|ordering_key| EventKey::bounded(ordering_key).into_owned()),
            body,
        };
        let appended = self.ask("append", step).await?;
        self.appended.notify_waiters();
        Ok(appended)
    }

    async fn lease_next(&self, endpoint: &str, lease: Duration) -> Result<NextEvent, LedgerError> {
        const STEP: &str = "lease the next event";
        let endpoint: Arc<str> = endpoint.into();
        let mut woken = false;
        loop {
            let look = LeaseNextStep {
                endpoint: Arc::clone(&endpoint),
                lease,
                woken,
            };
            if let Some(next) = self.ask(STEP, look).await? {
                return Ok(next);
            }
            // In batches, so that other steps can run in between.
            while self
                .ask(
                    STEP,
                    WakeStep {
                        endpoint: Arc::clone(&endpoint),
                    },
                )
                .await?
            {}
            woken = true;
        }
    }

    fn appended(&self) -> impl Future<Output = ()> + Send {
        self.appended.notified()
    }

    async fn backlog(&self, endpoint: &str) -> Result<Backlog, LedgerError> {
        self.ask(
            "count the backlog",
            BacklogStep {
                endpoint: endpoint.to_owned(),
            },
        )
        .await
    }
}

impl OrderedInbox for Sqlite {}
