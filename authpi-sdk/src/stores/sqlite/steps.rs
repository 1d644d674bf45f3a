//! The steps: their statements and their results.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use sqlx::{
    Row as _, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::statements::{
    APPEND, BACKLOG, CLAIM, DEAD, DEAD_LETTERS, FORGET, HANDLED, HANDLED_HERE, IS_AHEAD,
    LEASE_NEXT, LOOK, NEXT_DUE, PRUNE, PURGE, RELEASE, RENEW, REPLAY, SET_BACK, WAKE,
};
use crate::{
    Clock,
    ledger::{
        Appended, Backlog, Claim, Completion, DeadLetter, Digest, EventKey, LeaseStatus,
        LeasedEvent, NextEvent, RecordState, Token, dead_letter::timestamp,
    },
};

/// The maximum number of rows that a statement removes.
const PORTION: i64 = 256;
/// The maximum number of rows that a statement wakes.
const WOKEN: i64 = 4096;

/// A difference of the clock, in ms, that does not count as setting it back. The clocks that two
/// processes have read may differ by this much, and so may a clock that is slewed.
const WOBBLE: i64 = 1_000;

/// The connection, and the state that every step needs.
pub(super) struct Records {
    pub(super) connection: SqliteConnection,
    pub(super) clock: Clock,
    pub(super) retention: Duration,
    /// Whether a step has changed something since the last check: only then does a commit flush.
    pub(super) changed: bool,
    /// How many events claims and appends have added since the last check.
    pub(super) let_in: u32,
    /// The time at the last look at the clock.
    pub(super) latest: i64,
}

pub(super) type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

impl Records {
    /// Counts an event, for pruning. Not that of a health probe: on a machine whose clock is ahead,
    /// and which accepts no deliveries because of that, probes must not prune.
    fn let_in(&mut self, key: &EventKey) {
        self.let_in += u32::from(!key.endpoint().is_empty());
    }

    fn now(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    /// Corrects leases and pauses that a clock set back would prolong: at the first look, which may
    /// be after a restart, and whenever time goes back.
    pub(super) async fn follow_clock(&mut self) {
        let now = self.now();
        if now.saturating_add(WOBBLE) < self.latest
            && let Err(error) = self.set_back(now).await
        {
            tracing::warn!(%error, "the clock was set back, and the ledger's leases and pauses could not be");
            return;
        }
        self.latest = now;
    }

    async fn set_back(&mut self, now: i64) -> Result<(), sqlx::Error> {
        let ahead = now.saturating_add(WOBBLE);
        let found = self.read(sqlx::query(IS_AHEAD).bind(ahead)).await?;
        if found.first().map_or(Ok(false), |row| row.try_get(0))? {
            let changed = self
                .change(sqlx::query(SET_BACK).bind(ahead).bind(now))
                .await?;
            tracing::warn!(
                records = changed,
                "the clock was set back; leases and pauses are restarted"
            );
        }
        Ok(())
    }

    /// Records that were finished at or before this time count as removed.
    fn horizon(&self, now: i64) -> i64 {
        now.saturating_sub(millis(self.retention))
    }

    /// The rows of a statement that changes nothing.
    async fn read(&mut self, statement: Statement<'_>) -> Result<Vec<SqliteRow>, sqlx::Error> {
        statement.fetch_all(&mut self.connection).await
    }

    /// The row that a statement changed and returned. The result is read to its end, since the
    /// statement is only complete then.
    async fn change_one(
        &mut self,
        statement: Statement<'_>,
    ) -> Result<Option<SqliteRow>, sqlx::Error> {
        let row = statement
            .fetch_all(&mut self.connection)
            .await?
            .into_iter()
            .next();
        self.changed |= row.is_some();
        Ok(row)
    }

    /// The number of rows that a statement changed.
    async fn change(&mut self, statement: Statement<'_>) -> Result<u64, sqlx::Error> {
        let rows = statement
            .execute(&mut self.connection)
            .await?
            .rows_affected();
        self.changed |= rows > 0;
        Ok(rows)
    }

    /// Completes a claim in the transaction of its handler.
    pub(super) async fn complete_here(
        &mut self,
        key: &EventKey,
        token: Token,
    ) -> Result<LeaseStatus, sqlx::Error> {
        let statement = of_holder(HANDLED_HERE, key, token).bind(self.now());
        Ok(held(self.change(statement).await?))
    }
}

/// A step of a caller.
pub(super) trait Step: Send + Sync + 'static {
    /// The answer for the caller.
    type Answer: Send + 'static;

    /// Whether it changes nothing, and so needs no transaction.
    const READS: bool = false;
    /// Whether it is skipped if its caller has gone away: its result would be lost.
    const FOR_ITS_CALLER: bool = false;

    /// Runs the step, with at most one statement that changes anything: SQLite undoes that alone if
    /// it fails, and keeps the rest of the transaction. May be run again after the transaction was
    /// rolled back.
    fn run(
        &self,
        records: &mut Records,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send;
}

pub(super) struct ClaimStep {
    pub(super) key: EventKey,
    pub(super) digest: Digest,
    pub(super) lease: Duration,
}

impl Step for ClaimStep {
    type Answer = Claim;
    const FOR_ITS_CALLER: bool = true;

    async fn run(&self, records: &mut Records) -> Result<Claim, sqlx::Error> {
        loop {
            let now = records.now();
            let horizon = records.horizon(now);
            let statement = of_event(CLAIM, &self.key)
                .bind(now.saturating_add(millis(self.lease)))
                .bind(now)
                .bind(self.digest.to_bytes().to_vec())
                .bind(horizon);
            if let Some(row) = records.change_one(statement).await? {
                records.let_in(&self.key);
                return Ok(Claim::Granted {
                    token: token_at(&row, 0)?,
                    first_digest: digest_at(&row, 2)?,
                });
            }
            let found = records.read(of_event(LOOK, &self.key)).await?;
            // Another process changed the record between the two statements.
            let Some(row) = found.first() else { continue };
            let (state, at): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            let first_digest = digest_at(row, 2)?;
            let left = left(at, row.try_get(3)?, now);
            match RecordState::from_number(state)? {
                RecordState::Pending if !left.is_zero() => {
                    return Ok(Claim::NotYet { wait: left });
                }
                RecordState::Claimed if !left.is_zero() => {
                    return Ok(Claim::InFlight { lease_left: left });
                }
                RecordState::Handled if at > horizon => {
                    return Ok(Claim::Handled { first_digest });
                }
                RecordState::Dead if at > horizon => return Ok(Claim::Dead { first_digest }),
                _ => {}
            }
        }
    }
}

/// A step that only the holder of the token may take.
pub(super) struct ChangeStep {
    pub(super) key: EventKey,
    pub(super) token: Token,
    pub(super) change: Change,
}

pub(super) enum Change {
    Renew(Duration),
    Complete(Completion),
    Release(Duration),
}

impl Step for ChangeStep {
    type Answer = LeaseStatus;

    async fn run(&self, records: &mut Records) -> Result<LeaseStatus, sqlx::Error> {
        let now = records.now();
        let text = match self.change {
            Change::Renew(_) => RENEW,
            Change::Complete(Completion::Handled) => HANDLED,
            Change::Complete(Completion::Dead { .. }) => DEAD,
            Change::Release(_) => RELEASE,
        };
        let statement = of_holder(text, &self.key, self.token);
        let statement = match &self.change {
            Change::Renew(length) | Change::Release(length) => statement
                .bind(now.saturating_add(millis(*length)))
                .bind(now),
            Change::Complete(Completion::Handled) => statement.bind(now),
            Change::Complete(Completion::Dead { reason, body }) => {
                statement.bind(now).bind(reason.as_str()).bind(&body[..])
            }
        };
        Ok(held(records.change(statement).await?))
    }
}

pub(super) struct ForgetStep {
    pub(super) key: EventKey,
}

impl Step for ForgetStep {
    type Answer = bool;

    async fn run(&self, records: &mut Records) -> Result<bool, sqlx::Error> {
        Ok(records.change(of_event(FORGET, &self.key)).await? > 0)
    }
}

pub(super) struct AppendStep {
    pub(super) key: EventKey,
    pub(super) digest: Digest,
    pub(super) ordering_key: Option<String>,
    pub(super) body: Bytes,
}

impl Step for AppendStep {
    type Answer = Appended;

    async fn run(&self, records: &mut Records) -> Result<Appended, sqlx::Error> {
        loop {
            let now = records.now();
            let statement = of_event(APPEND, &self.key)
                .bind(now)
                .bind(self.digest.to_bytes().to_vec())
                .bind(&self.body[..])
                .bind(self.ordering_key.as_deref())
                .bind(records.horizon(now));
            if records.change_one(statement).await?.is_some() {
                records.let_in(&self.key);
                return Ok(Appended::Stored);
            }
            let found = records.read(of_event(LOOK, &self.key)).await?;
            // `None`: another process forgot it between the two statements, so it is stored after
            // all.
            if let Some(row) = found.first() {
                return Ok(Appended::Duplicate {
                    first_digest: digest_at(row, 2)?,
                });
            }
        }
    }
}

/// Leases the next event. Returns nothing while events have to be woken first, unless that has been
/// done.
pub(super) struct LeaseNextStep {
    pub(super) endpoint: Arc<str>,
    pub(super) lease: Duration,
    pub(super) woken: bool,
}

impl Step for LeaseNextStep {
    type Answer = Option<NextEvent>;
    const FOR_ITS_CALLER: bool = true;

    async fn run(&self, records: &mut Records) -> Result<Option<NextEvent>, sqlx::Error> {
        let now = records.now();
        let until = now.saturating_add(millis(self.lease));
        let statement = sqlx::query(LEASE_NEXT)
            .bind(self.endpoint.clone())
            .bind(now)
            .bind(until)
            .bind(self.woken);
        if let Some(row) = records.change_one(statement).await? {
            let key = EventKey::from_stored(self.endpoint.clone(), row.try_get::<String, _>(0)?);
            let body = row.try_get::<Option<Vec<u8>>, _>(3)?.unwrap_or_default();
            let leased = LeasedEvent::new(
                key,
                token_at(&row, 1)?,
                body.into(),
                timestamp(row.try_get(4)?),
            );
            return Ok(Some(NextEvent::Leased(leased)));
        }
        let due = records
            .read(sqlx::query(NEXT_DUE).bind(self.endpoint.clone()))
            .await?;
        let due_in = match due.first() {
            Some(row) => Some(left(row.try_get(0)?, row.try_get(1)?, now)),
            None => None,
        };
        if !self.woken && due_in == Some(Duration::ZERO) {
            return Ok(None);
        }
        Ok(Some(NextEvent::Empty { due_in }))
    }
}

/// Makes a batch of events leasable whose lease or pause has ended. Returns whether there may be
/// more.
pub(super) struct WakeStep {
    pub(super) endpoint: Arc<str>,
}

impl Step for WakeStep {
    type Answer = bool;
    const FOR_ITS_CALLER: bool = true;

    async fn run(&self, records: &mut Records) -> Result<bool, sqlx::Error> {
        let statement = sqlx::query(WAKE)
            .bind(self.endpoint.clone())
            .bind(records.now())
            .bind(WOKEN);
        Ok(records.change(statement).await? == WOKEN.unsigned_abs())
    }
}

pub(super) struct BacklogStep {
    pub(super) endpoint: String,
}

impl Step for BacklogStep {
    type Answer = Backlog;
    const READS: bool = true;
    const FOR_ITS_CALLER: bool = true;

    async fn run(&self, records: &mut Records) -> Result<Backlog, sqlx::Error> {
        let rows = records
            .read(sqlx::query(BACKLOG).bind(self.endpoint.as_str()))
            .await?;
        let Some(row) = rows.first() else {
            return Ok(Backlog::default());
        };
        let oldest: Option<i64> = row.try_get(1)?;
        let age = |at: i64| {
            Duration::from_millis(records.now().saturating_sub(at).try_into().unwrap_or(0))
        };
        Ok(Backlog {
            depth: row.try_get::<i64, _>(0)?.try_into().unwrap_or(0),
            oldest: oldest.map(age),
        })
    }
}

pub(super) struct DeadLettersStep {
    pub(super) endpoint: Arc<str>,
    pub(super) after: Option<(i64, String)>,
    pub(super) limit: u32,
}

impl Step for DeadLettersStep {
    type Answer = Vec<DeadLetter>;
    const READS: bool = true;
    const FOR_ITS_CALLER: bool = true;

    async fn run(&self, records: &mut Records) -> Result<Vec<DeadLetter>, sqlx::Error> {
        let (at, event_id) = self
            .after
            .as_ref()
            .map_or((i64::MIN, ""), |(at, event_id)| (*at, event_id));
        let statement = sqlx::query(DEAD_LETTERS)
            .bind(self.endpoint.clone())
            .bind(at)
            .bind(event_id);
        let rows = records.read(statement.bind(i64::from(self.limit))).await?;
        let letters = rows.iter().map(|row| letter_at(row, self.endpoint.clone()));
        letters.collect()
    }
}

/// The dead letter of a row: its event, reason, attempts, body and times.
pub(super) fn letter_at(
    row: &SqliteRow,
    endpoint: impl Into<Arc<str>>,
) -> Result<DeadLetter, sqlx::Error> {
    Ok(DeadLetter {
        key: EventKey::from_stored(endpoint, row.try_get::<String, _>(0)?),
        reason: row.try_get::<Option<String>, _>(1)?.unwrap_or_default(),
        attempts: row.try_get::<i64, _>(2)?.try_into().unwrap_or(u32::MAX),
        body: row
            .try_get::<Option<Vec<u8>>, _>(3)?
            .unwrap_or_default()
            .into(),
        first_claimed_at: timestamp(row.try_get(4)?),
        died_at: timestamp(row.try_get(5)?),
    })
}

pub(super) struct ReplayStep {
    pub(super) key: EventKey,
}

impl Step for ReplayStep {
    type Answer = bool;

    async fn run(&self, records: &mut Records) -> Result<bool, sqlx::Error> {
        let statement = of_event(REPLAY, &self.key).bind(records.now());
        Ok(records.change(statement).await? > 0)
    }
}

/// Removes a batch of records that were finished at least `age` ago. Returns whether there may be
/// more.
pub(super) struct PurgeStep {
    pub(super) age: Duration,
}

impl Step for PurgeStep {
    type Answer = (u64, bool);

    async fn run(&self, records: &mut Records) -> Result<(u64, bool), sqlx::Error> {
        let before = records.now().saturating_sub(millis(self.age));
        let removed = records
            .change(sqlx::query(PURGE).bind(before).bind(PORTION))
            .await?;
        Ok((removed, removed == PORTION.unsigned_abs()))
    }
}

/// Removes a batch of records past their retention.
pub(super) struct PruneStep;

impl Step for PruneStep {
    type Answer = ();

    async fn run(&self, records: &mut Records) -> Result<(), sqlx::Error> {
        let before = records.horizon(records.now());
        let pruned = records
            .change(sqlx::query(PRUNE).bind(before).bind(PORTION))
            .await;
        // It has no caller, so a failure is logged; the next one tries again.
        pruned
            .map(drop)
            .inspect_err(|error| tracing::warn!(%error, "pruning the ledger failed"))
    }
}

pub(super) fn of_event<'q>(text: &'static str, key: &EventKey) -> Statement<'q> {
    sqlx::query(text)
        .bind(key.shared_endpoint().clone())
        .bind(key.shared_event_id().clone())
}

fn of_holder<'q>(text: &'static str, key: &EventKey, token: Token) -> Statement<'q> {
    of_event(text, key)
        .bind(i64::from(token.attempt))
        .bind(token.nonce.cast_signed())
}

fn held(changed: u64) -> LeaseStatus {
    if changed == 0 {
        LeaseStatus::Lost
    } else {
        LeaseStatus::Held
    }
}

/// From the columns `attempt` and `nonce`, in this order.
fn token_at(row: &SqliteRow, column: usize) -> Result<Token, sqlx::Error> {
    Ok(Token {
        attempt: row
            .try_get::<i64, _>(column)?
            .try_into()
            .unwrap_or(u32::MAX),
        nonce: row.try_get::<i64, _>(column + 1)?.cast_unsigned(),
    })
}

pub(super) fn digest_at(row: &SqliteRow, column: usize) -> Result<Digest, sqlx::Error> {
    let bytes: &[u8] = row.try_get(column)?;
    let digest = bytes
        .try_into()
        .map_err(|_| sqlx::Error::Protocol("the ledger's file has an invalid digest".into()))?;
    Ok(Digest::from_bytes(digest))
}

/// The rest of a lease or pause that ends `at` and was given `since`: never more than the whole.
pub(super) fn left(at: i64, since: Option<i64>, now: i64) -> Duration {
    let whole = since.map_or(i64::MAX, |since| at.saturating_sub(since));
    Duration::from_millis(at.saturating_sub(now).min(whole).try_into().unwrap_or(0))
}

/// Rounded up, so that a short lease or pause is not zero.
fn millis(duration: Duration) -> i64 {
    duration
        .as_nanos()
        .div_ceil(1_000_000)
        .try_into()
        .unwrap_or(i64::MAX)
}
