//! The task that owns the connection: steps that wait together share a flush, and handlers write in
//! turn.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::oneshot;

use super::{
    failure::{Failure, Reply},
    file::{Gone, OpenFile},
    queue::{Asked, Queue},
    steps::{PruneStep, Records},
    transaction::{Returned, SqliteTransaction, Wish},
};
use crate::ledger::{EventKey, LeaseStatus, Token};

/// The number of added events between two prunings. Less than a pruning removes, so that pruning
/// catches up.
const LET_IN_PER_PRUNING: u32 = 64;

pub(super) struct Writer {
    queue: Queue,
    /// `None` in memory.
    file: Option<OpenFile>,
    flushes: Arc<AtomicU64>,
    loan: Arc<AtomicBool>,
    until_prune: u32,
}

impl Writer {
    pub(super) fn new(
        queue: Queue,
        file: Option<OpenFile>,
        flushes: Arc<AtomicU64>,
        loan: Arc<AtomicBool>,
    ) -> Self {
        Self {
            queue,
            file,
            flushes,
            loan,
            until_prune: 0,
        }
    }

    /// Runs until the ledger is closed or all handles are gone.
    pub(super) async fn run(mut self, mut records: Records) {
        while self.queue.gather().await {
            records.follow_clock().await;
            // A group, then a handler, then a group: neither waits for all of the other kind.
            let group = self.queue.next_group();
            self.settle(group, &mut records).await;
            if let Some(reply) = self.queue.next_transaction() {
                self.loan.store(true, Ordering::Relaxed);
                let back = self.loan(records, reply).await;
                self.loan.store(false, Ordering::Relaxed);
                match back {
                    Some(back) => records = back,
                    None => return,
                }
            }
        }
        if let Err(error) = records.connection.close().await {
            tracing::debug!(%error, "closing the ledger's file failed");
        }
    }

    /// Runs the steps, and answers each when its change is durable.
    async fn settle(&mut self, group: Vec<Box<dyn Asked>>, records: &mut Records) {
        let (reads, writes): (Vec<_>, Vec<_>) = group.into_iter().partition(|step| step.reads());
        // Before the others: reads must not see changes that may be rolled back.
        for step in reads {
            self.alone(step, records).await;
        }
        match <[_; 1]>::try_from(writes) {
            Ok([step]) => self.alone(step, records).await,
            Err(writes) if writes.is_empty() => {}
            Err(writes) => self.together(writes, records).await,
        }
        let let_in = std::mem::take(&mut records.let_in);
        self.until_prune = self.until_prune.saturating_sub(let_in);
        if let_in > 0 && self.until_prune == 0 {
            self.until_prune = LET_IN_PER_PRUNING;
            self.queue.put(PruneStep);
        }
    }

    /// One transaction and one flush for all of them.
    async fn together(&mut self, mut steps: Vec<Box<dyn Asked>>, records: &mut Records) {
        if let Err(error) = execute(BEGIN, &mut records.connection).await {
            return fail_all(steps, "begun", error);
        }
        for step in &mut steps {
            if !step.run(records).await && !is_in_transaction(&mut records.connection).await {
                // SQLite undid more than the failed step (for example, because the disk is full).
                // The steps before it have not been answered, so they can run again.
                roll_back(records).await;
                return self.one_by_one(steps, records).await;
            }
        }
        match execute(COMMIT, &mut records.connection).await {
            Ok(()) => {
                self.count_flush(records);
                self.answer(steps);
            }
            Err(error) => {
                roll_back(records).await;
                fail_all(steps, "committed", error);
            }
        }
    }

    /// Each in a transaction of its own, except those that have failed.
    async fn one_by_one(&mut self, steps: Vec<Box<dyn Asked>>, records: &mut Records) {
        for step in steps {
            if step.has_failed() {
                step.answer();
            } else {
                self.alone(step, records).await;
            }
        }
    }

    /// A step changes something with at most one statement, so it needs no `BEGIN` and `COMMIT`.
    async fn alone(&mut self, mut step: Box<dyn Asked>, records: &mut Records) {
        step.run(records).await;
        self.count_flush(records);
        self.answer([step]);
    }

    /// Answers the steps, or fails them if the file was deleted.
    fn answer(&self, steps: impl IntoIterator<Item = Box<dyn Asked>>) {
        let there = is_there(self.file.as_ref());
        for step in steps {
            match &there {
                Ok(()) => step.answer(),
                Err(gone) => step.fail(Box::new(gone.clone())),
            }
        }
    }

    fn count_flush(&self, records: &mut Records) {
        let flushed = std::mem::take(&mut records.changed);
        self.flushes
            .fetch_add(u64::from(flushed), Ordering::Relaxed);
    }

    /// Lends the connection to a handler, in a transaction, and waits until it returns; `None` if
    /// it was lost.
    async fn loan(
        &mut self,
        mut records: Records,
        reply: Reply<SqliteTransaction>,
    ) -> Option<Records> {
        if let Err(gone) = is_there(self.file.as_ref()) {
            let _ = reply.send(Err(gone.into()));
            return Some(records);
        }
        for statement in [BEGIN, MARK] {
            if let Err(error) = execute(statement, &mut records.connection).await {
                roll_back(&mut records).await;
                let _ = reply.send(Err(error.into()));
                return Some(records);
            }
        }
        let (home, returned) = oneshot::channel();
        // If the handler is gone, the transaction is dropped, and the connection returns.
        let _ = reply.send(Ok(SqliteTransaction::new(records, home)));
        let back = async {
            let Returned { mut records, wish } = returned.await.ok()?;
            match wish {
                Wish::RollBack => roll_back(&mut records).await,
                Wish::Commit { key, token, reply } => {
                    let mut done = commit(&mut records, &key, token).await;
                    if !matches!(done, Ok(LeaseStatus::Held)) {
                        roll_back(&mut records).await;
                    } else if let Err(gone) = is_there(self.file.as_ref()) {
                        done = Err(gone.into());
                    }
                    self.flushes.fetch_add(
                        u64::from(std::mem::take(&mut records.changed)),
                        Ordering::Relaxed,
                    );
                    let _ = reply.send(done);
                }
            }
            Some(records)
        };
        tokio::select! {
            back = back => back,
            never = self.queue.hold() => match never {},
        }
    }
}

/// Takes the write lock at the beginning, where SQLite waits for other processes. A transaction
/// that reads first may fail to write later.
const BEGIN: &str = "BEGIN IMMEDIATE";
const COMMIT: &str = "COMMIT";
/// Exists exactly as long as the transaction that the handler was given.
const MARK: &str = "SAVEPOINT authpi_handler";
const UNMARK: &str = "RELEASE authpi_handler";

async fn execute(
    statement: &'static str,
    connection: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(drop)
}

/// A failed commit has changed nothing either.
async fn roll_back(records: &mut Records) {
    (records.changed, records.let_in) = (false, 0);
    // Fails if SQLite has rolled back by itself.
    if let Err(error) = execute("ROLLBACK", &mut records.connection).await {
        tracing::debug!(%error, "there was nothing to roll back");
    }
}

/// Begins a transaction if there is none: SQLite only reports one by refusing that.
async fn is_in_transaction(connection: &mut SqliteConnection) -> bool {
    const ERROR: &str = "1";
    match execute("BEGIN", connection).await {
        Ok(()) => false,
        Err(error) => error
            .as_database_error()
            .is_some_and(|error| error.code().as_deref() == Some(ERROR)),
    }
}

/// Completes the handler's claim in its transaction, and commits both. Unless it returns `Held`,
/// the transaction has to be rolled back.
async fn commit(
    records: &mut Records,
    key: &EventKey,
    token: Token,
) -> Result<LeaseStatus, Failure> {
    // Fails if the handler's transaction has already ended. Without this check, the completion
    // would be written on its own, outside of that transaction.
    execute(UNMARK, &mut records.connection)
        .await
        .map_err(|cause| Ended { cause })?;
    if records.complete_here(key, token).await? == LeaseStatus::Lost {
        return Ok(LeaseStatus::Lost);
    }
    execute(COMMIT, &mut records.connection).await?;
    Ok(LeaseStatus::Held)
}

fn is_there(file: Option<&OpenFile>) -> Result<(), Gone> {
    file.map_or(Ok(()), OpenFile::check)
}

fn fail_all(steps: Vec<Box<dyn Asked>>, not: &'static str, error: sqlx::Error) {
    let cause = Arc::new(error);
    for step in steps {
        step.fail(Box::new(Undone {
            not,
            cause: Arc::clone(&cause),
        }));
    }
}

/// None of the steps in a transaction took place.
#[derive(Debug)]
struct Undone {
    not: &'static str,
    cause: Arc<sqlx::Error>,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the transaction that this step shares with others could not be {}",
            self.not
        )
    }
}

impl Error for Undone {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

/// The handler's transaction has ended.
#[derive(Debug)]
struct Ended {
    cause: sqlx::Error,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handler's transaction has already ended: the handler ended it with a statement, or ignored an error that ended it")
    }
}

impl Error for Ended {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}
