//! The SQL statements. All times in them are the server's, and only the server compares them.

use std::sync::Arc;

use sqlx::AssertSqlSafe;

use super::schema::Tables;

/// The maximum number of rows that a statement removes.
pub(super) const PORTION: i64 = 256;
/// The maximum number of rows that a statement wakes.
pub(super) const WOKEN: i64 = 4096;
/// The number of granted claims between two prunings. Less than `PORTION`, so that pruning catches
/// up.
pub(super) const CLAIMS_PER_PRUNING: u32 = 64;

pub(super) struct Statements {
    pub(super) claim: Arc<str>,
    pub(super) renew: Arc<str>,
    pub(super) handled: Arc<str>,
    pub(super) dead: Arc<str>,
    pub(super) release: Arc<str>,
    pub(super) forget: Arc<str>,
    pub(super) prune: Arc<str>,
    pub(super) purge: Arc<str>,
    pub(super) dead_letters: Arc<str>,
    pub(super) append: Arc<str>,
    pub(super) lease_next: Arc<str>,
    pub(super) wake: Arc<str>,
    pub(super) backlog: Arc<str>,
    pub(super) replay: Arc<str>,
    pub(super) committed: Arc<str>,
    pub(super) ring: Arc<str>,
    pub(super) channel: Arc<str>,
    /// The only statement without a table.
    pub(super) clock: Arc<str>,
}

/// `found` is the record that prevents a claim, as the statement saw it at its start; only without
/// one is anything written. The last WHERE leaves a row alone that was written since, and returns
/// nothing: the next try sees it.
const CLAIM: &str = "
    WITH clock AS MATERIALIZED (SELECT {now} AS now),
    found AS (
        SELECT state, at - now AS remaining, first_digest FROM {ledger}, clock
        WHERE endpoint = $1 AND event_id = $2 AND at > CASE WHEN state < 2 THEN now ELSE now - $6 END
    ),
    granted AS (
        INSERT INTO {ledger} AS known
            (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest)
        SELECT $1, $2, 1, 1, $3, now + $4, now, $5 FROM clock WHERE NOT EXISTS (SELECT FROM found)
        ON CONFLICT (endpoint, event_id) DO UPDATE SET
            state = 1,
            attempt = CASE WHEN known.state < 2 THEN least(known.attempt + 1, 4294967295) ELSE 1 END,
            nonce = excluded.nonce,
            at = excluded.at,
            first_claimed_at =
                CASE WHEN known.state < 2 THEN known.first_claimed_at ELSE excluded.first_claimed_at END,
            first_digest = CASE WHEN known.state < 2 THEN known.first_digest ELSE excluded.first_digest END,
            reason = NULL,
            body = CASE WHEN known.state < 2 THEN known.body END,
            position = CASE WHEN known.state < 2 THEN known.position END,
            ordering_key = CASE WHEN known.state < 2 THEN known.ordering_key END
        WHERE known.at <= excluded.first_claimed_at - CASE WHEN known.state < 2 THEN 0 ELSE $6 END
        RETURNING attempt, first_digest
    )
    SELECT attempt, NULL::smallint, NULL::bigint, first_digest FROM granted
    UNION ALL
    SELECT NULL::bigint, state, remaining, first_digest FROM found";
const RENEW: &str = "
    UPDATE {ledger} SET at = {now} + $5
    WHERE endpoint = $1 AND event_id = $2 AND attempt = $3 AND nonce = $4 AND state = 1 RETURNING 1";
const HANDLED: &str = "
    UPDATE {ledger} SET at = CASE WHEN state = 1 THEN {now} ELSE at END, state = 2, body = NULL
    WHERE endpoint = $1 AND event_id = $2 AND attempt = $3 AND nonce = $4 AND state IN (1, 2) RETURNING 1";
/// In the transaction of a handler's writes. A token commits once, so one that has completed
/// already is stale here.
const COMMITTED: &str = "
    UPDATE {ledger} SET at = {now}, state = 2, body = NULL
    WHERE endpoint = $1 AND event_id = $2 AND attempt = $3 AND nonce = $4 AND state = 1 RETURNING 1";
const DEAD: &str = "
    UPDATE {ledger} SET
        at = CASE WHEN state = 1 THEN {now} ELSE at END,
        reason = CASE WHEN state = 1 THEN $5 ELSE reason END,
        body = CASE WHEN state = 1 THEN $6 ELSE body END,
        state = 3
    WHERE endpoint = $1 AND event_id = $2 AND attempt = $3 AND nonce = $4 AND state IN (1, 3) RETURNING 1";
const RELEASE: &str = "
    UPDATE {ledger} SET at = {now} + $5, state = 0
    WHERE endpoint = $1 AND event_id = $2 AND attempt = $3 AND nonce = $4 AND state = 1 RETURNING 1";
const FORGET: &str = "DELETE FROM {ledger} WHERE endpoint = $1 AND event_id = $2 RETURNING 1";
/// The retention of an abandoned claim or attempt starts when it could be claimed again. Unfinished
/// events of the inbox stay. Rows that another replica has locked are skipped.
const PRUNE: &str = "
    DELETE FROM {ledger} WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {ledger} WHERE at <= (SELECT {now} - $1) AND (position IS NULL OR state >= 2)
        ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
    )) RETURNING 1";
const PURGE: &str = "
    DELETE FROM {ledger} WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {ledger} WHERE at <= (SELECT {now} - $1) AND state >= 2
        ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
    )) RETURNING 1";
const DEAD_LETTERS: &str = "
    SELECT event_id, reason, attempt, body, first_claimed_at, at FROM {ledger}
    WHERE state = 3 AND endpoint = $1 AND (at, event_id) > ($2, $3)
    ORDER BY at, event_id LIMIT $4";
/// Replaces a record past its retention, and gives a position to an event that was claimed inline
/// and is not finished. Appends to one ordering key run one after another (the lock ends with the
/// statement), so that positions have the order of commits.
///
/// `tail` is the event that blocks a new one. It is rewritten unchanged, so that a transaction that
/// ends it waits for this commit, then sees the new event and unblocks it; or, if its snapshot is
/// older (`REPEATABLE READ`), fails and is repeated. A lock alone would leave no trace for that. A
/// row that is locked by others is skipped: the event is then marked as blocked by the one before
/// that, or not at all, and each lease finds out. The same applies if this statement itself runs
/// under `REPEATABLE READ`. It is locked in its turn, so that its holder waits for nothing.
const APPEND: &str = "
    WITH turn AS MATERIALIZED (
        SELECT CASE WHEN $5::text IS NOT NULL
            THEN pg_advisory_xact_lock(hashtextextended($1::text || chr(10) || $5::text, 0)) END
    ),
    clock AS MATERIALIZED (SELECT {now} AS now FROM turn),
    tail AS MATERIALIZED (
        SELECT endpoint, event_id FROM {ledger}
        WHERE endpoint = $1 AND ordering_key = $5 AND state < 2 AND current_setting('transaction_isolation') <> 'repeatable read'
            AND EXISTS (SELECT FROM clock) AND NOT EXISTS (SELECT FROM {ledger} WHERE endpoint = $1 AND event_id = $2)
        ORDER BY position DESC LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    ),
    held AS (
        UPDATE {ledger} AS last SET blocked = last.blocked FROM tail
        WHERE last.endpoint = tail.endpoint AND last.event_id = tail.event_id RETURNING 1
    ),
    stored AS (
        INSERT INTO {ledger} AS known
            (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, ordering_key, position, blocked)
        SELECT $1, $2, 0, 0, 0, 0, now, $3, $4, $5, nextval('{schema}{prefix}positions'), EXISTS (SELECT FROM held)
        FROM clock
        ON CONFLICT (endpoint, event_id) DO UPDATE SET
            state = CASE WHEN known.state < 2 THEN known.state ELSE 0 END,
            attempt = CASE WHEN known.state < 2 THEN known.attempt ELSE 0 END,
            at = CASE WHEN known.state < 2 THEN known.at ELSE excluded.at END,
            first_claimed_at =
                CASE WHEN known.state < 2 THEN known.first_claimed_at ELSE excluded.first_claimed_at END,
            first_digest = CASE WHEN known.state < 2 THEN known.first_digest ELSE excluded.first_digest END,
            reason = NULL,
            body = excluded.body,
            ordering_key = excluded.ordering_key,
            position = excluded.position,
            blocked = excluded.blocked
        WHERE (known.state < 2 AND known.position IS NULL)
            OR (known.state >= 2 AND known.at <= excluded.first_claimed_at - $6)
        RETURNING 1
    )
    SELECT NULL::bytea FROM stored
    UNION ALL
    SELECT first_digest FROM {ledger} WHERE endpoint = $1 AND event_id = $2 AND NOT EXISTS (SELECT FROM stored)";
/// Skips a row that another worker is leasing. An event whose pause or lease has ended has to be
/// woken first ([`WAKE`]), since it may be the oldest. While there is such an event, nothing is
/// leased, unless $4 is true, and the remaining time is zero. The remaining time may also be zero
/// because another worker is leasing the event that is due.
const LEASE_NEXT: &str = "
    WITH clock AS MATERIALIZED (SELECT {now} AS now),
    due AS (
        SELECT endpoint, event_id FROM {ledger} AS candidate
        WHERE endpoint = $1 AND position IS NOT NULL AND state < 2 AND NOT blocked AND at <= 0
            AND (ordering_key IS NULL OR NOT EXISTS (
                SELECT FROM {ledger} AS earlier
                WHERE earlier.endpoint = candidate.endpoint AND earlier.ordering_key = candidate.ordering_key AND earlier.state < 2
                    AND earlier.position < candidate.position))
            AND ($4 OR NOT EXISTS (
                SELECT FROM {ledger} WHERE endpoint = $1 AND position IS NOT NULL AND state < 2 AND NOT blocked
                    AND at > 0 AND at <= (SELECT now FROM clock)))
        ORDER BY position LIMIT 1 FOR UPDATE SKIP LOCKED
    ),
    leased AS (
        UPDATE {ledger} AS record SET
            state = 1, attempt = least(record.attempt + 1, 4294967295), nonce = $3, at = clock.now + $2
        FROM due, clock WHERE record.endpoint = due.endpoint AND record.event_id = due.event_id
        RETURNING record.event_id, record.attempt, record.body, record.first_claimed_at
    )
    SELECT event_id, attempt, body, first_claimed_at FROM leased
    UNION ALL
    SELECT NULL, (
            SELECT min(at) - clock.now FROM {ledger} WHERE endpoint = $1 AND position IS NOT NULL AND state < 2 AND NOT blocked
                AND at > 0),
        NULL, NULL
    FROM clock WHERE NOT EXISTS (SELECT FROM leased)";
/// Makes events leasable whose lease or pause has ended. Rows that another worker has locked are
/// skipped.
const WAKE: &str = "
    UPDATE {ledger} SET at = 0 WHERE (endpoint, event_id) IN (
        SELECT endpoint, event_id FROM {ledger}
        WHERE endpoint = $1 AND position IS NOT NULL AND state < 2 AND NOT blocked AND at > 0 AND at <= (SELECT {now})
        ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
    ) RETURNING 1";
/// Each event is in one of three indexes.
const BACKLOG: &str = "
    SELECT count(*), {now} - min(first_claimed_at) FROM (
        SELECT first_claimed_at FROM {ledger}
        WHERE endpoint = $1 AND position IS NOT NULL AND state < 2 AND NOT blocked AND at <= 0
        UNION ALL
        SELECT first_claimed_at FROM {ledger}
        WHERE endpoint = $1 AND position IS NOT NULL AND state < 2 AND NOT blocked AND at > 0
        UNION ALL
        SELECT first_claimed_at FROM {ledger} WHERE endpoint = $1 AND ordering_key IS NOT NULL AND state < 2 AND blocked
    ) AS waiting";
/// As if it were appended now; it takes its turn with appends to the ordering key.
const REPLAY: &str = "
    WITH letter AS MATERIALIZED (SELECT ordering_key FROM {ledger} WHERE endpoint = $1 AND event_id = $2 AND state = 3),
    turn AS MATERIALIZED (
        SELECT CASE WHEN ordering_key IS NOT NULL
            THEN pg_advisory_xact_lock(hashtextextended($1::text || chr(10) || ordering_key, 0)) END FROM letter
    ),
    clock AS MATERIALIZED (SELECT {now} AS now FROM turn),
    tail AS MATERIALIZED (
        SELECT endpoint, event_id FROM {ledger}
        WHERE endpoint = $1 AND ordering_key = (SELECT ordering_key FROM letter) AND state < 2
            AND current_setting('transaction_isolation') <> 'repeatable read'
        ORDER BY position DESC LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    ),
    held AS (
        UPDATE {ledger} AS last SET blocked = last.blocked FROM tail
        WHERE last.endpoint = tail.endpoint AND last.event_id = tail.event_id RETURNING 1
    )
    UPDATE {ledger} SET
        state = 0, attempt = 0, nonce = 0, at = 0, first_claimed_at = now, reason = NULL,
        position = nextval('{schema}{prefix}positions'), blocked = EXISTS (SELECT FROM held)
    FROM clock WHERE endpoint = $1 AND event_id = $2 AND state = 3 RETURNING 1";
/// The table's own number, so that two ledgers of a database never share a channel, however they
/// were opened.
const CHANNEL: &str = "SELECT 'authpi_appended_' || '{ledger}'::regclass::oid";
const RING: &str = "SELECT pg_notify('authpi_appended_' || '{ledger}'::regclass::oid, $1)";
/// Unix ms by the server's clock, which also advances within a transaction. It differs each time it
/// is evaluated, so it cannot be used in an index condition; there it is a subquery, which is
/// evaluated once.
pub(super) const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

impl Statements {
    pub(super) fn on(tables: &Tables) -> Self {
        let statement = |sql: &str| {
            let AssertSqlSafe(sql) =
                tables.fill_in(&sql.replace("{ledger}", "{schema}{prefix}ledger"));
            sql.replace("{now}", NOW).into()
        };
        Self {
            claim: statement(CLAIM),
            renew: statement(RENEW),
            handled: statement(HANDLED),
            dead: statement(DEAD),
            release: statement(RELEASE),
            forget: statement(FORGET),
            prune: statement(PRUNE),
            purge: statement(PURGE),
            dead_letters: statement(DEAD_LETTERS),
            append: statement(APPEND),
            lease_next: statement(LEASE_NEXT),
            wake: statement(WAKE),
            backlog: statement(BACKLOG),
            replay: statement(REPLAY),
            committed: statement(COMMITTED),
            ring: statement(RING),
            channel: statement(CHANNEL),
            clock: statement("SELECT {now}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::postgres::schema::DEFAULT_PREFIX;

    #[test]
    fn every_place_in_a_statement_is_filled_in() {
        let tables = Tables::new(DEFAULT_PREFIX, Some("hooks")).unwrap();
        let Statements {
            claim,
            renew,
            handled,
            dead,
            release,
            forget,
            prune,
            purge,
            dead_letters,
            append,
            lease_next,
            wake,
            backlog,
            replay,
            committed,
            ring,
            channel,
            clock,
        } = Statements::on(&tables);
        assert!(!clock.contains(['{', '}']), "{clock}");
        let ledger = [
            claim,
            renew,
            handled,
            dead,
            release,
            forget,
            prune,
            purge,
            dead_letters,
        ];
        for statement in ledger.into_iter().chain([
            append, lease_next, wake, backlog, replay, committed, ring, channel,
        ]) {
            assert!(
                !statement.contains(['{', '}']) && statement.contains("\"hooks\".authpi_ledger"),
                "{statement}"
            );
        }
    }
}
