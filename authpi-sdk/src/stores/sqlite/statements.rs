//! The SQL statements. Each step writes with at most one of them, so that SQLite itself undoes a
//! step that fails.
//!
//! The index is named where SQLite, without statistics, would scan all records of the endpoint.

pub(super) const CLAIM: &str = "
    INSERT INTO authpi_ledger (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, since)
    VALUES (?1, ?2, 1, 1, random(), ?3, ?4, ?5, ?4)
    ON CONFLICT (endpoint, event_id) DO UPDATE SET
        state = 1,
        attempt = CASE WHEN state < 2 THEN min(attempt + 1, 4294967295) ELSE 1 END,
        nonce = excluded.nonce,
        at = excluded.at,
        since = excluded.since,
        first_claimed_at = CASE WHEN state < 2 THEN first_claimed_at ELSE excluded.first_claimed_at END,
        first_digest = CASE WHEN state < 2 THEN first_digest ELSE excluded.first_digest END,
        reason = NULL,
        body = CASE WHEN state < 2 THEN body END,
        position = CASE WHEN state < 2 THEN position END,
        ordering_key = CASE WHEN state < 2 THEN ordering_key END
    WHERE at <= CASE WHEN state < 2 THEN ?4 ELSE ?6 END
    RETURNING attempt, nonce, first_digest";
pub(super) const LOOK: &str = "SELECT state, at, first_digest, since FROM authpi_ledger WHERE endpoint = ?1 AND event_id = ?2";
pub(super) const RENEW: &str = "
    UPDATE authpi_ledger SET at = ?5, since = ?6
    WHERE endpoint = ?1 AND event_id = ?2 AND attempt = ?3 AND nonce = ?4 AND state = 1";
pub(super) const HANDLED: &str = "
    UPDATE authpi_ledger SET at = CASE WHEN state = 1 THEN ?5 ELSE at END, state = 2, body = NULL
    WHERE endpoint = ?1 AND event_id = ?2 AND attempt = ?3 AND nonce = ?4 AND state IN (1, 2)";
/// In the transaction of a handler, whose writes commit with this one or not at all. So a record
/// that is already handled does not match.
pub(super) const HANDLED_HERE: &str = "
    UPDATE authpi_ledger SET at = ?5, state = 2, body = NULL
    WHERE endpoint = ?1 AND event_id = ?2 AND attempt = ?3 AND nonce = ?4 AND state = 1";
pub(super) const DEAD: &str = "
    UPDATE authpi_ledger SET
        at = CASE WHEN state = 1 THEN ?5 ELSE at END,
        reason = CASE WHEN state = 1 THEN ?6 ELSE reason END,
        body = CASE WHEN state = 1 THEN ?7 ELSE body END,
        state = 3
    WHERE endpoint = ?1 AND event_id = ?2 AND attempt = ?3 AND nonce = ?4 AND state IN (1, 3)";
pub(super) const RELEASE: &str = "
    UPDATE authpi_ledger SET at = ?5, since = ?6, state = 0
    WHERE endpoint = ?1 AND event_id = ?2 AND attempt = ?3 AND nonce = ?4 AND state = 1";
/// As if it had just been appended, with its ordering key.
pub(super) const REPLAY: &str = "
    UPDATE authpi_ledger AS letter SET
        state = 0, attempt = 0, nonce = random(), at = 0, first_claimed_at = ?3, reason = NULL,
        position =
            (SELECT coalesce(max(position), 0) + 1 FROM authpi_ledger WHERE endpoint = ?1 AND position IS NOT NULL AND state < 2),
        blocked = EXISTS (
            SELECT 1 FROM authpi_ledger AS earlier INDEXED BY authpi_inbox_ordering_key
            WHERE earlier.endpoint = ?1 AND earlier.ordering_key = letter.ordering_key AND earlier.state < 2)
    WHERE endpoint = ?1 AND event_id = ?2 AND state = 3";
pub(super) const FORGET: &str = "DELETE FROM authpi_ledger WHERE endpoint = ?1 AND event_id = ?2";
/// The retention of an abandoned claim or attempt starts when it could be claimed again. Unfinished
/// events of the inbox stay.
pub(super) const PRUNE: &str = "
    DELETE FROM authpi_ledger WHERE (endpoint, event_id) IN
        (SELECT endpoint, event_id FROM authpi_ledger
         WHERE at <= ?1 AND (position IS NULL OR state >= 2) ORDER BY at LIMIT ?2)";
/// Replaces a record past its retention, and gives a position to an event that was claimed inline
/// and is not finished.
pub(super) const APPEND: &str = "
    INSERT INTO authpi_ledger
        (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, ordering_key, position, blocked)
    VALUES (?1, ?2, 0, 0, random(), 0, ?3, ?4, ?5, ?6,
        (SELECT coalesce(max(position), 0) + 1 FROM authpi_ledger WHERE endpoint = ?1 AND position IS NOT NULL AND state < 2),
        EXISTS (
            SELECT 1 FROM authpi_ledger INDEXED BY authpi_inbox_ordering_key
            WHERE endpoint = ?1 AND ordering_key = ?6 AND ordering_key IS NOT NULL AND state < 2))
    ON CONFLICT (endpoint, event_id) DO UPDATE SET
        state = CASE WHEN state < 2 THEN state ELSE 0 END,
        attempt = CASE WHEN state < 2 THEN attempt ELSE 0 END,
        nonce = CASE WHEN state < 2 THEN nonce ELSE excluded.nonce END,
        at = CASE WHEN state < 2 THEN at ELSE excluded.at END,
        first_claimed_at = CASE WHEN state < 2 THEN first_claimed_at ELSE excluded.first_claimed_at END,
        first_digest = CASE WHEN state < 2 THEN first_digest ELSE excluded.first_digest END,
        reason = NULL,
        body = excluded.body,
        ordering_key = excluded.ordering_key,
        position = excluded.position,
        blocked = excluded.blocked
    WHERE (state < 2 AND position IS NULL) OR (state >= 2 AND at <= ?7)
    RETURNING 1";
/// Nothing is leased, unless ?4 is true, while an event has to be woken first: it may be the
/// oldest.
pub(super) const LEASE_NEXT: &str = "
    UPDATE authpi_ledger SET state = 1, attempt = min(attempt + 1, 4294967295), nonce = random(), at = ?3, since = ?2
    WHERE (endpoint, event_id) = (
        SELECT endpoint, event_id FROM authpi_ledger AS due
        WHERE endpoint = ?1 AND position IS NOT NULL AND state < 2 AND blocked = 0 AND at <= 0
            AND (ordering_key IS NULL OR NOT EXISTS (
                SELECT 1 FROM authpi_ledger AS earlier
                WHERE earlier.endpoint = due.endpoint AND earlier.ordering_key = due.ordering_key AND earlier.state < 2
                    AND earlier.position < due.position))
            AND (?4 OR NOT EXISTS (
                SELECT 1 FROM authpi_ledger
                WHERE endpoint = ?1 AND position IS NOT NULL AND state < 2 AND blocked = 0 AND at > 0 AND at <= ?2))
        ORDER BY position LIMIT 1)
    RETURNING event_id, attempt, nonce, body, first_claimed_at";
/// Makes events leasable whose lease or pause has ended.
pub(super) const WAKE: &str = "
    UPDATE authpi_ledger SET at = 0 WHERE (endpoint, event_id) IN
        (SELECT endpoint, event_id FROM authpi_ledger
         WHERE endpoint = ?1 AND position IS NOT NULL AND state < 2 AND blocked = 0 AND at > 0 AND at <= ?2
         ORDER BY at LIMIT ?3)";
/// When the next lease or pause ends, which may be in the past.
pub(super) const NEXT_DUE: &str = "
    SELECT at, since FROM authpi_ledger
    WHERE endpoint = ?1 AND position IS NOT NULL AND state < 2 AND blocked = 0 AND at > 0
    ORDER BY at LIMIT 1";
/// Whether a lease or pause was given at a time in the future, which means that the clock was set
/// back.
pub(super) const IS_AHEAD: &str = "
    SELECT EXISTS (
            SELECT 1 FROM authpi_ledger INDEXED BY authpi_ledger_at
            WHERE at > ?1 AND (position IS NULL OR state >= 2) AND state < 2 AND since > ?1)
        OR EXISTS (
            SELECT 1 FROM authpi_ledger INDEXED BY authpi_inbox_waiting
            WHERE position IS NOT NULL AND state < 2 AND blocked = 0 AND at > 0 AND since > ?1)";
/// Restarts leases and pauses that were given at a time in the future.
pub(super) const SET_BACK: &str = "
    UPDATE authpi_ledger SET at = ?2 + (at - since), since = ?2 WHERE state < 2 AND at > 0 AND since > ?1";
pub(super) const BACKLOG: &str = "
    SELECT count(*), min(first_claimed_at) FROM authpi_ledger INDEXED BY authpi_inbox
    WHERE endpoint = ?1 AND position IS NOT NULL AND state < 2";
pub(super) const PURGE: &str = "
    DELETE FROM authpi_ledger WHERE (endpoint, event_id) IN
        (SELECT endpoint, event_id FROM authpi_ledger WHERE at <= ?1 AND state >= 2 ORDER BY at LIMIT ?2)";
pub(super) const DEAD_LETTERS: &str = "
    SELECT event_id, reason, attempt, body, first_claimed_at, at FROM authpi_ledger
    WHERE state = 3 AND endpoint = ?1 AND (at, event_id) > (?2, ?3)
    ORDER BY at, event_id LIMIT ?4";
