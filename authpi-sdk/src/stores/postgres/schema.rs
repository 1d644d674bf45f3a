//! The tables and their migrations, run by the process that opens the ledger first.

use std::fmt;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use super::connection::sqlstate_among;
use crate::{ledger::LedgerError, stores::timeout::BadName};

pub(super) const DEFAULT_PREFIX: &str = "authpi_";
/// The advisory lock of migrations: an arbitrary number, the same in every version.
const MIGRATING: i64 = 0x6175_7468_7069_0001;

/// The version of the first tables. Tables of lower versions were never released.
pub(super) const FIRST: i64 = 7;
/// The tables of the first version, and the migration from each version to the next; `{…}` are
/// replaced. Entries are never changed, only added.
const MIGRATIONS: [&str; 1] = [r#"
    CREATE TABLE {schema}{prefix}ledger (
        endpoint TEXT COLLATE "C" NOT NULL,
        event_id TEXT COLLATE "C" NOT NULL,
        state SMALLINT NOT NULL,                -- 0 pending, 1 claimed, 2 handled, 3 dead
        attempt BIGINT NOT NULL,
        nonce BIGINT NOT NULL,
        at BIGINT NOT NULL,                     -- Unix ms: when the pause or lease ends, or the event was finished
        first_claimed_at BIGINT NOT NULL,       -- Unix ms
        first_digest BYTEA NOT NULL CHECK (octet_length(first_digest) = 16),
        reason TEXT,                            -- of dead records only
        body BYTEA,                             -- of dead records, and of the inbox until they are handled
        position BIGINT,                        -- in the inbox
        ordering_key TEXT COLLATE "C",          -- events with the same one are leased in the order of their positions
        blocked BOOLEAN NOT NULL DEFAULT false, -- an earlier event with this ordering key is unfinished
        PRIMARY KEY (endpoint, event_id)
    );
    CREATE SEQUENCE {schema}{prefix}positions;
    CREATE INDEX {prefix}ledger_dead ON {schema}{prefix}ledger (endpoint, at, event_id) WHERE state = 3;
    -- What can be pruned.
    CREATE INDEX {prefix}ledger_at ON {schema}{prefix}ledger (at) WHERE position IS NULL OR state >= 2;
    CREATE INDEX {prefix}inbox_ordering_key ON {schema}{prefix}ledger (endpoint, ordering_key, position)
        WHERE ordering_key IS NOT NULL AND state < 2;
    -- What can be leased now (at = 0 from the beginning, or again when the lease or pause has ended), and what can be later.
    CREATE INDEX {prefix}inbox_ready ON {schema}{prefix}ledger (endpoint, position)
        WHERE position IS NOT NULL AND state < 2 AND NOT blocked AND at <= 0;
    CREATE INDEX {prefix}inbox_waiting ON {schema}{prefix}ledger (endpoint, at)
        WHERE position IS NOT NULL AND state < 2 AND NOT blocked AND at > 0;
    -- When an event ends, the next one with its ordering key is unblocked. That one is locked even if it is not blocked: another
    -- transaction may be ending it, and then the one after it is next. If there is an earlier event, its end will unblock them.
    CREATE FUNCTION {schema}{prefix}unblock_next() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $move$
    BEGIN
        PERFORM FROM {schema}{prefix}ledger AS earlier
            WHERE earlier.endpoint = old.endpoint AND earlier.ordering_key = old.ordering_key AND earlier.state < 2
                AND earlier.position < old.position;
        IF NOT FOUND THEN
            UPDATE {schema}{prefix}ledger AS record SET blocked = false
            FROM (
                SELECT endpoint, event_id FROM {schema}{prefix}ledger
                WHERE endpoint = old.endpoint AND ordering_key = old.ordering_key AND state < 2
                ORDER BY position LIMIT 1 FOR NO KEY UPDATE
            ) AS first
            WHERE record.endpoint = first.endpoint AND record.event_id = first.event_id AND record.blocked;
        END IF;
        RETURN NULL;
    END $move$;
    CREATE TRIGGER {prefix}ordering_key_after_end AFTER UPDATE OF state ON {schema}{prefix}ledger FOR EACH ROW
        WHEN (old.ordering_key IS NOT NULL AND old.state < 2 AND new.state >= 2)
        EXECUTE FUNCTION {schema}{prefix}unblock_next();
    CREATE TRIGGER {prefix}ordering_key_after_forget AFTER DELETE ON {schema}{prefix}ledger FOR EACH ROW
        WHEN (old.ordering_key IS NOT NULL AND old.state < 2)
        EXECUTE FUNCTION {schema}{prefix}unblock_next();
"#];
#[expect(clippy::cast_possible_wrap, reason = "there will never be that many")]
pub(super) const VERSION: i64 = FIRST + MIGRATIONS.len() as i64 - 1;

/// Names that are safe in SQL.
pub(super) struct Tables {
    /// Quoted and followed by a dot, or empty.
    pub(super) schema: String,
    pub(super) prefix: String,
}

impl Tables {
    pub(super) fn new(prefix: &str, schema: Option<&str>) -> Result<Self, BadName> {
        let usable = |name: &str, most| {
            name.len() <= most
                && name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
                && name.chars().all(|other| {
                    other.is_ascii_lowercase() || other.is_ascii_digit() || other == '_'
                })
        };
        if !usable(prefix, 40) {
            let allowed =
                "lower-case letters, digits and _, at most 40, not beginning with a digit";
            return Err(BadName {
                what: "a prefix of tables",
                name: prefix.to_owned(),
                allowed,
            });
        }
        let schema = match schema {
            None => String::new(),
            Some(schema) if usable(schema, 63) => format!("\"{schema}\"."),
            Some(schema) => {
                let allowed =
                    "lower-case letters, digits and _, at most 63, not beginning with a digit";
                return Err(BadName {
                    what: "a schema",
                    name: schema.to_owned(),
                    allowed,
                });
            }
        };
        Ok(Self {
            schema,
            prefix: prefix.to_owned(),
        })
    }

    pub(super) fn fill_in(&self, sql: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(
            sql.replace("{schema}", &self.schema)
                .replace("{prefix}", &self.prefix),
        )
    }
}

pub(super) async fn migrate(
    connection: &mut PgConnection,
    tables: &Tables,
) -> Result<(), OpenError> {
    let encoding = sqlx::query("SELECT current_setting('server_encoding')")
        .fetch_one(&mut *connection)
        .await?;
    let encoding: String = encoding.try_get(0)?;
    if encoding != "UTF8" {
        return Err(OpenError::Encoding { encoding });
    }
    if version(connection, tables).await? == VERSION {
        return Ok(());
    }
    // Another replica may be migrating too: check again with the lock, which ends with the
    // transaction. With this isolation level, a statement sees what was committed while the one
    // before it waited.
    let mut migrating = connection
        .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
        .await?;
    // A limit for steps would cancel a long migration.
    sqlx::query("SET LOCAL statement_timeout = 0")
        .execute(&mut *migrating)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATING)
        .execute(&mut *migrating)
        .await?;
    let prefix = || tables.prefix.clone();
    let done = match version(&mut migrating, tables).await? {
        0 => 0,
        found if found < FIRST => {
            return Err(OpenError::Unreleased {
                prefix: prefix(),
                found,
            });
        }
        found if found > VERSION => {
            return Err(OpenError::TooNew {
                prefix: prefix(),
                found,
            });
        }
        found => usize::try_from(found - FIRST + 1).unwrap_or_default(),
    };
    for migration in &MIGRATIONS[done..] {
        sqlx::raw_sql(tables.fill_in(migration))
            .execute(&mut *migrating)
            .await?;
    }
    if done < MIGRATIONS.len() {
        let note = "
            CREATE TABLE IF NOT EXISTS {schema}{prefix}schema (version BIGINT NOT NULL);
            DELETE FROM {schema}{prefix}schema";
        sqlx::raw_sql(tables.fill_in(note))
            .execute(&mut *migrating)
            .await?;
        let note = tables.fill_in("INSERT INTO {schema}{prefix}schema (version) VALUES ($1)");
        sqlx::query(note)
            .bind(VERSION)
            .execute(&mut *migrating)
            .await?;
    }
    migrating.commit().await?;
    Ok(())
}

/// Zero for a database without our tables.
pub(super) async fn version(
    connection: &mut PgConnection,
    tables: &Tables,
) -> Result<i64, sqlx::Error> {
    let AssertSqlSafe(table) = tables.fill_in("{schema}{prefix}schema");
    // Reading a table makes the server learn of tables created meanwhile; otherwise it may answer
    // from its cache.
    let known = "SELECT to_regclass($1) IS NOT NULL FROM pg_catalog.pg_class LIMIT 1";
    let known = sqlx::query(known)
        .bind(table)
        .fetch_one(&mut *connection)
        .await?;
    if !known.try_get::<bool, _>(0)? {
        return Ok(0);
    }
    let rows = sqlx::query(tables.fill_in("SELECT version FROM {schema}{prefix}schema"))
        .fetch_all(connection)
        .await?;
    rows.first().map_or(Ok(0), |row| row.try_get(0))
}

#[derive(Debug)]
pub(super) enum OpenError {
    Postgres(sqlx::Error),
    TooNew {
        prefix: String,
        found: i64,
    },
    Unreleased {
        prefix: String,
        found: i64,
    },
    /// Ids and reasons may contain any text.
    Encoding {
        encoding: String,
    },
    /// The tables exist, but a step does not work.
    Step(LedgerError),
}

impl OpenError {
    pub(super) fn cause(&self) -> Option<&sqlx::Error> {
        if let Self::Postgres(error) = self {
            Some(error)
        } else {
            None
        }
    }
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error)
    }
}

/// Advice about the server's error.
fn advice(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let error = sqlstate_among(error)?;
    match error.code() {
        "25006" => Some(
            "the database is read-only: it is a standby, or the role or database is configured as read-only; connect to the primary",
        ),
        "42501" => Some(
            "the role lacks a right: it needs SELECT, INSERT, UPDATE and DELETE on the ledger's table",
        ),
        "08P01" if error.message().contains("startup parameter") => Some(
            "the pooler refuses statement_timeout: add `options` to PgBouncer's ignore_startup_parameters, and set it on the role",
        ),
        _ => None,
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(error) => {
                f.write_str(advice(error).unwrap_or("the database cannot be used"))
            }
            Self::Step(error) => {
                f.write_str(advice(error).unwrap_or("the database cannot be used as a ledger"))
            }
            Self::Encoding { encoding } => {
                write!(
                    f,
                    "the database's encoding is {encoding}; create one with ENCODING 'UTF8'"
                )
            }
            Self::TooNew { prefix, found } => write!(
                f,
                "the tables {prefix}… have version {found}, and this authpi-sdk knows them up to version {VERSION}: use \
                 the authpi-sdk that made them, or a later one"
            ),
            Self::Unreleased { prefix, found } => write!(
                f,
                "the tables {prefix}… have version {found}, made by an unreleased authpi-sdk: set \
                  another prefix or schema, or drop them"
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Postgres(error) => Some(error),
            Self::Step(error) => Some(error),
            Self::TooNew { .. } | Self::Unreleased { .. } | Self::Encoding { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_names_reach_a_statement() {
        for name in ["authpi_", "a", "_", "a1_", &"x".repeat(40)] {
            let tables = Tables::new(name, Some(name)).unwrap();
            assert_eq!(
                (tables.prefix, tables.schema),
                (name.to_owned(), format!("\"{name}\"."))
            );
        }
        let bad = [
            "",
            "1a",
            "A",
            "a-b",
            "a b",
            "a.b",
            "a\"b",
            "a'b",
            "a;--",
            "a\0",
            "é",
            "{schema}",
            "$1",
            "a\n",
            &"x".repeat(64),
        ];
        for name in bad {
            assert!(
                Tables::new(name, None).is_err(),
                "the prefix {name:?} was let through"
            );
            assert!(
                Tables::new(DEFAULT_PREFIX, Some(name)).is_err(),
                "the schema {name:?} was let through"
            );
        }
    }
}
