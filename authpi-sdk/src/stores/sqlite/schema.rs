//! The tables, and their migration when a file is opened.

use sqlx::{Row as _, SqliteConnection};

use super::{failure::kind_of_sqlite, open_error::OpenError};
use crate::ledger::LedgerErrorKind;

/// The version of the first tables. Tables of lower versions were never released.
pub(super) const FIRST: i64 = 8;
/// The tables of the first version, and the migration from each version to the next. Entries are
/// never changed, only added.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE authpi_ledger (
        endpoint TEXT NOT NULL,
        event_id TEXT NOT NULL,
        state INTEGER NOT NULL,               -- 0 pending, 1 claimed, 2 handled, 3 dead
        attempt INTEGER NOT NULL,
        nonce INTEGER NOT NULL,
        at INTEGER NOT NULL,                  -- Unix ms: when the pause or lease ends, or the event was finished
        first_claimed_at INTEGER NOT NULL,    -- Unix ms
        first_digest BLOB NOT NULL CHECK (length(first_digest) = 16),
        reason TEXT,                          -- of dead records only
        body BLOB,                            -- of dead records, and of the inbox until they are handled
        position INTEGER,                     -- in the inbox
        ordering_key TEXT,                    -- events with the same one are leased in the order of their positions
        blocked INTEGER NOT NULL DEFAULT 0,   -- 1: an earlier event with this ordering key is unfinished
        since INTEGER,                        -- Unix ms: when the pause or lease began, in case the clock is set back
        PRIMARY KEY (endpoint, event_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX authpi_ledger_dead ON authpi_ledger (endpoint, at, event_id) WHERE state = 3;
    -- What can be pruned.
    CREATE INDEX authpi_ledger_at ON authpi_ledger (at) WHERE position IS NULL OR state >= 2;
    CREATE INDEX authpi_inbox ON authpi_ledger (endpoint, position) WHERE position IS NOT NULL AND state < 2;
    CREATE INDEX authpi_inbox_ordering_key ON authpi_ledger (endpoint, ordering_key, position)
        WHERE ordering_key IS NOT NULL AND state < 2;
    -- What can be leased now (at = 0 from the beginning, or again when the lease or pause has ended), and what can be later.
    CREATE INDEX authpi_inbox_ready ON authpi_ledger (endpoint, position)
        WHERE position IS NOT NULL AND state < 2 AND blocked = 0 AND at <= 0;
    CREATE INDEX authpi_inbox_waiting ON authpi_ledger (endpoint, at)
        WHERE position IS NOT NULL AND state < 2 AND blocked = 0 AND at > 0;
    -- When an event ends, the next one with its ordering key is unblocked.
    CREATE TRIGGER authpi_ordering_key_after_end AFTER UPDATE OF state ON authpi_ledger
    WHEN old.ordering_key IS NOT NULL AND old.state < 2 AND new.state >= 2
    BEGIN
        UPDATE authpi_ledger SET blocked = 0 WHERE blocked = 1 AND (endpoint, event_id) = (
            SELECT endpoint, event_id FROM authpi_ledger INDEXED BY authpi_inbox_ordering_key
            WHERE endpoint = old.endpoint AND ordering_key = old.ordering_key AND state < 2 ORDER BY position LIMIT 1);
    END;
    CREATE TRIGGER authpi_ordering_key_after_forget AFTER DELETE ON authpi_ledger
    WHEN old.ordering_key IS NOT NULL AND old.state < 2
    BEGIN
        UPDATE authpi_ledger SET blocked = 0 WHERE blocked = 1 AND (endpoint, event_id) = (
            SELECT endpoint, event_id FROM authpi_ledger INDEXED BY authpi_inbox_ordering_key
            WHERE endpoint = old.endpoint AND ordering_key = old.ordering_key AND state < 2 ORDER BY position LIMIT 1);
    END;
"];
#[expect(clippy::cast_possible_wrap, reason = "there will never be that many")]
pub(super) const VERSION: i64 = FIRST + MIGRATIONS.len() as i64 - 1;

/// Creates the tables, or updates them to this version. An error has to close the connection, which
/// rolls back.
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    if version(connection).await? == VERSION {
        return Ok(());
    }
    // Another process may be migrating too: check again with the write lock.
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut *connection)
        .await?;
    let done = match version(connection).await? {
        0 => 0,
        found if found < FIRST => return Err(OpenError::Unreleased { found }),
        found if found > VERSION => {
            return Err(OpenError::TooNew {
                found,
                newest: VERSION,
            });
        }
        found => found - FIRST + 1,
    };
    for migration in MIGRATIONS
        .iter()
        .skip(usize::try_from(done).unwrap_or_default())
    {
        sqlx::raw_sql(*migration).execute(&mut *connection).await?;
    }
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS authpi_schema (version INTEGER NOT NULL) STRICT; DELETE FROM authpi_schema",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query("INSERT INTO authpi_schema (version) VALUES (?1)")
        .bind(VERSION)
        .execute(&mut *connection)
        .await?;
    sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
    Ok(())
}

/// Zero for a file without our tables.
pub(super) async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let known =
        sqlx::query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'authpi_schema'");
    if known.fetch_all(&mut *connection).await?.is_empty() {
        return Ok(0);
    }
    let rows = sqlx::query("SELECT version FROM authpi_schema")
        .fetch_all(connection)
        .await?;
    rows.first().map_or(Ok(0), |row| row.try_get(0))
}

pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    kind_of_sqlite(error) == LedgerErrorKind::Busy
}
