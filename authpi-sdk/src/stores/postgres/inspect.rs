//! Reads the tables without changing them: each question is one `SELECT`.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};

use super::{
    Postgres, PostgresOptions,
    connection::{Attempts, Borrowed, PgQuery, kind_of, lost_a_race, rows_in, sqlstate_among},
    rows::{digest_of, letter_of, text, untext},
    schema::{FIRST, OpenError, Tables, VERSION, version},
    statements::NOW,
};
use crate::{
    ledger::{
        DeadLetter, EventKey, LedgerError, RecordState,
        inspect::{
            Filter, InspectError, InspectErrorKind, Inspector, RecordPage, RecordView, Status,
        },
    },
    stores::{
        inspect::{Columns, Numbers, page, position},
        timeout::within,
    },
};

/// An [`Inspector`] of the tables of a [`Postgres`] store.
///
/// - **Writes nothing.** Each question is one `SELECT`, so the role only needs `SELECT` on
///   `authpi_schema` and `authpi_ledger`, and the server may be a standby. A connection that
///   [`inspect`](Postgres::inspect) makes also has `default_transaction_read_only = on`.
/// - **A standby** shows what it has replayed.
/// - **Cost.** [`get`](Inspector::get), [`dead_letter`](Inspector::dead_letter) and
///   [`endpoints`](Inspector::endpoints) use an index. [`list`](Inspector::list) and [`status`](Inspector::status) read every record of the endpoint,
///   without the bodies.
/// - **Never hangs.** A question fails after the [`timeout`](PostgresOptions::timeout) (default
///   5 s), also if the table is too large for it: set a longer one.
/// - **Uses the server's clock.**
///
/// Clones share one pool.
///
/// ```no_run
/// # use authpi_sdk::{ledger::inspect::Inspector, stores::Postgres};
/// # async fn shown() -> Result<(), Box<dyn std::error::Error>> {
/// let inspector = Postgres::inspect("postgres://reader@replica.example/hooks").await?;
/// println!("{:?}", inspector.status("users").await?.counts);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresInspector {
    pool: PgPool,
    statements: Arc<Statements>,
    timeout: Duration,
}

struct Statements {
    get: Arc<str>,
    dead_letter: Arc<str>,
    list: Arc<str>,
    endpoints: Arc<str>,
    status: Arc<str>,
}

const COLUMNS: &str = "
    WITH clock AS MATERIALIZED (SELECT {now} AS now)
    SELECT event_id, state, attempt, at, at - now, first_claimed_at, first_digest, reason, body IS NOT NULL
    FROM {ledger}, clock";
const GET: &str = "{columns} WHERE endpoint = $1 AND event_id = $2";
const DEAD_LETTER: &str = "
    SELECT event_id, reason, attempt, body, first_claimed_at, at FROM {ledger}
    WHERE endpoint = $1 AND event_id = $2 AND state = 3";
const LIST: &str = "{columns}
    WHERE endpoint = $1 AND ($2::smallint IS NULL OR state = $2)
        AND ($3::bigint IS NULL OR (first_claimed_at, event_id) < ($3, $4::text))
    ORDER BY first_claimed_at DESC, event_id DESC LIMIT $5";
/// One look at the index for each endpoint. Probes have an empty name.
const ENDPOINTS: &str = "
    WITH RECURSIVE known (name) AS (
        (SELECT endpoint FROM {ledger} WHERE endpoint > '' ORDER BY endpoint LIMIT 1)
        UNION ALL
        SELECT (SELECT endpoint FROM {ledger} WHERE endpoint > known.name ORDER BY endpoint LIMIT 1)
        FROM known WHERE known.name IS NOT NULL
    )
    SELECT name FROM known WHERE name IS NOT NULL";
const STATUS: &str = "
    WITH clock AS MATERIALIZED (SELECT {now} AS now)
    SELECT
        count(*) FILTER (WHERE state = 0),
        count(*) FILTER (WHERE state = 1),
        count(*) FILTER (WHERE state = 2),
        count(*) FILTER (WHERE state = 3),
        count(*) FILTER (WHERE state = 1 AND at > now),
        min(first_claimed_at) FILTER (WHERE state = 0),
        count(*) FILTER (WHERE state < 2 AND position IS NOT NULL),
        min(first_claimed_at) FILTER (WHERE state < 2 AND position IS NOT NULL),
        (SELECT now FROM clock)
    FROM {ledger}, clock WHERE endpoint = $1";

impl Statements {
    fn on(tables: &Tables) -> Self {
        let statement = |sql: &str| {
            let sql = sql
                .replace("{columns}", COLUMNS)
                .replace("{ledger}", "{schema}{prefix}ledger");
            let AssertSqlSafe(sql) = tables.fill_in(&sql);
            sql.replace("{now}", NOW).into()
        };
        Self {
            get: statement(GET),
            dead_letter: statement(DEAD_LETTER),
            list: statement(LIST),
            endpoints: statement(ENDPOINTS),
            status: statement(STATUS),
        }
    }
}

impl Postgres {
    /// Opens the tables at `postgres://user:password@host/database` to read them, without creating
    /// or migrating anything, with a pool of at most two connections.
    ///
    /// # Errors
    /// When the URL is invalid, the server cannot be reached, the role lacks a privilege, or the
    /// tables do not exist or belong to another version of this crate.
    pub async fn inspect(url: &str) -> Result<PostgresInspector, InspectError> {
        Self::options().inspect(url).await
    }

    /// As [`inspect`](Self::inspect), with your own pool.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn inspect_pool(pool: PgPool) -> Result<PostgresInspector, InspectError> {
        Self::options().inspect_pool(pool).await
    }
}

const OPEN: &str = "open";

impl PostgresOptions {
    /// Opens the tables to read them, without creating or migrating anything. The
    /// [`retention`](Self::retention) has no effect.
    ///
    /// # Errors
    /// As for [`Postgres::inspect`]; and when the prefix or the schema's name is invalid.
    pub async fn inspect(self, url: &str) -> Result<PostgresInspector, InspectError> {
        let tables = self.tables()?;
        let server: PgConnectOptions = url
            .parse()
            .map_err(|error: sqlx::Error| LedgerError::new(OPEN, error))?;
        let (server, _) = self.limited(server.disable_statement_logging());
        let server = server.options([("default_transaction_read_only", "on")]);
        let checked = async {
            // Not through the pool, which retries until its time ends, and does not say why.
            let mut connection = PgConnection::connect_with(&server).await?;
            let found = version(&mut connection, &tables).await?;
            connection.close().await?;
            Ok(found)
        };
        self.check(&tables, Box::pin(checked)).await?;
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(self.timeout)
            .connect_lazy_with(server);
        Ok(self.inspector(pool, &tables))
    }

    /// As [`inspect`](Self::inspect), with your own pool.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn inspect_pool(self, pool: PgPool) -> Result<PostgresInspector, InspectError> {
        let tables = self.tables()?;
        let checked = async {
            let mut connection = Borrowed::from(&pool).await?;
            let found = version(&mut connection, &tables).await;
            connection.answered(found.as_ref().err());
            found
        };
        self.check(&tables, Box::pin(checked)).await?;
        Ok(self.inspector(pool, &tables))
    }

    fn tables(&self) -> Result<Tables, InspectError> {
        Tables::new(&self.prefix, self.schema.as_deref())
            .map_err(|error| LedgerError::new(OPEN, error).into())
    }

    fn inspector(&self, pool: PgPool, tables: &Tables) -> PostgresInspector {
        PostgresInspector {
            pool,
            statements: Arc::new(Statements::on(tables)),
            timeout: self.timeout,
        }
    }

    async fn check(
        &self,
        tables: &Tables,
        found: impl Future<Output = Result<i64, sqlx::Error>>,
    ) -> Result<(), InspectError> {
        let found = within(self.timeout, OPEN, async {
            Ok::<_, sqlx::Error>(found.await)
        });
        let found = found.await?.map_err(|error| failed(OPEN, error))?;
        let prefix = tables.prefix.clone();
        let (kind, text) = match found {
            VERSION => return Ok(()),
            0 => (
                InspectErrorKind::Missing,
                format!(
                    "the database has no tables {prefix}… of a ledger: check the database, schema \
                     and prefix; the service makes the tables when it starts"
                ),
            ),
            found if found < FIRST => (
                InspectErrorKind::Incompatible,
                OpenError::Unreleased { prefix, found }.to_string(),
            ),
            found if found > VERSION => (
                InspectErrorKind::Incompatible,
                OpenError::TooNew { prefix, found }.to_string(),
            ),
            found => (
                InspectErrorKind::Incompatible,
                format!(
                    "the tables {prefix}… have version {found}, and this authpi-sdk reads version \
                     {VERSION}: start the service with this version, which migrates them, or use \
                     the authpi-sdk that made them"
                ),
            ),
        };
        Err(InspectError::new(kind, text))
    }
}

fn failed(step: &'static str, error: sqlx::Error) -> InspectError {
    let kind = kind_of(&error);
    let error = LedgerError::new(step, error).with_kind(kind);
    let code = sqlstate_among(&error).map(|error| error.code().to_owned());
    match code.as_deref() {
        Some("42501") => InspectError::new(
            InspectErrorKind::Denied,
            "the role lacks a privilege: it needs SELECT on the tables authpi_schema and \
             authpi_ledger, and USAGE on their schema",
        )
        .with_source(error),
        Some("42P01") => InspectError::new(
            InspectErrorKind::Missing,
            "a table of the ledger does not exist: check the database, schema and prefix",
        )
        .with_source(error),
        Some("08P01") => InspectError::new(
            InspectErrorKind::Failed,
            "the server refuses the connection's settings: add `options` to PgBouncer's \
             ignore_startup_parameters, or give the inspector a pool of your own",
        )
        .with_source(error),
        _ => error.into(),
    }
}

impl PostgresInspector {
    async fn rows<'q>(
        &self,
        step: &'static str,
        statement: &Arc<str>,
        bind: impl Fn(PgQuery<'q>) -> PgQuery<'q>,
    ) -> Result<Vec<PgRow>, InspectError> {
        let asked = AtomicBool::new(false);
        let work = async {
            loop {
                let attempts = Attempts::on(&self.pool, &asked);
                let query = || bind(sqlx::query(AssertSqlSafe(statement.clone())));
                match rows_in(attempts, query).await {
                    // A standby cancels a query that holds up its replay.
                    Err(error) if lost_a_race(&error) => {}
                    done => return done,
                }
            }
        };
        within(self.timeout, step, async {
            Ok::<_, sqlx::Error>(work.await)
        })
        .await?
        .map_err(|error| failed(step, error))
    }
}

impl fmt::Debug for PostgresInspector {
    /// Omits the connection settings, which contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresInspector")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

fn view(row: &PgRow, endpoint: &str) -> Result<RecordView, sqlx::Error> {
    let state: i16 = row.try_get(1)?;
    let left: i64 = row.try_get(4)?;
    let columns = Columns {
        state: RecordState::from_number(state.into())?,
        attempts: row.try_get(2)?,
        left: Duration::from_millis(left.try_into().unwrap_or(0)),
        at: row.try_get(3)?,
        first_claimed_at: row.try_get(5)?,
        first_digest: digest_of(row.try_get(6)?)?,
        reason: row.try_get::<Option<_>, _>(7)?.map(untext),
        body_kept: row.try_get(8)?,
    };
    let event_id = untext(row.try_get(0)?);
    Ok(columns.view(EventKey::from_stored(endpoint, event_id)))
}

fn numbers(row: &PgRow) -> Result<Numbers, sqlx::Error> {
    Ok(Numbers {
        counts: [
            row.try_get(0)?,
            row.try_get(1)?,
            row.try_get(2)?,
            row.try_get(3)?,
        ],
        in_flight: row.try_get(4)?,
        oldest_pending: row.try_get(5)?,
        depth: row.try_get(6)?,
        oldest_waiting: row.try_get(7)?,
        now: row.try_get(8)?,
    })
}

impl Inspector for PostgresInspector {
    async fn endpoints(&self) -> Result<Vec<String>, InspectError> {
        const STEP: &str = "list endpoints";
        let rows = self.rows(STEP, &self.statements.endpoints, |query| query);
        rows.await?
            .iter()
            .map(|row| row.try_get(0).map(untext))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(STEP, error))
    }

    async fn get(&self, key: &EventKey) -> Result<Option<RecordView>, InspectError> {
        const STEP: &str = "get a record";
        let rows = self.rows(STEP, &self.statements.get, |query| {
            query.bind(text(key.endpoint())).bind(text(key.event_id()))
        });
        rows.await?
            .first()
            .map(|row| view(row, key.endpoint()))
            .transpose()
            .map_err(|error| failed(STEP, error))
    }

    async fn dead_letter(&self, key: &EventKey) -> Result<Option<DeadLetter>, InspectError> {
        const STEP: &str = "get a dead letter";
        let rows = self.rows(STEP, &self.statements.dead_letter, |query| {
            query.bind(text(key.endpoint())).bind(text(key.event_id()))
        });
        rows.await?
            .first()
            .map(|row| letter_of(row, key.endpoint()))
            .transpose()
            .map_err(|error| failed(STEP, error))
    }

    async fn list(&self, filter: &Filter) -> Result<RecordPage, InspectError> {
        const STEP: &str = "list records";
        let position = position(filter)?;
        let limit = filter.bounded_limit();
        let rows = self.rows(STEP, &self.statements.list, |query| {
            query
                .bind(text(&filter.endpoint))
                .bind(filter.state.map(RecordState::number))
                .bind(position.map(|(at, _)| at))
                .bind(position.map(|(_, event_id)| text(event_id)))
                .bind(i64::from(limit) + 1)
        });
        let rows = rows.await?;
        let records = rows.iter().map(|row| view(row, &filter.endpoint));
        let records = records
            .collect::<Result<_, _>>()
            .map_err(|error| failed(STEP, error))?;
        Ok(page(records, limit))
    }

    async fn status(&self, endpoint: &str) -> Result<Status, InspectError> {
        const STEP: &str = "count records";
        let rows = self.rows(STEP, &self.statements.status, |query| {
            query.bind(text(endpoint))
        });
        rows.await?
            .first()
            .ok_or(sqlx::Error::RowNotFound)
            .and_then(numbers)
            .map(|numbers| numbers.status(endpoint))
            .map_err(|error| failed(STEP, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::postgres::schema::DEFAULT_PREFIX;

    #[test]
    fn each_question_is_a_select_with_every_place_filled_in() {
        let tables = Tables::new(DEFAULT_PREFIX, Some("hooks")).unwrap();
        let Statements {
            get,
            dead_letter,
            list,
            endpoints,
            status,
        } = Statements::on(&tables);
        for statement in [get, dead_letter, list, endpoints, status] {
            let first = statement.split_whitespace().next();
            assert!(matches!(first, Some("WITH" | "SELECT")), "{statement}");
            assert!(!statement.contains(['{', '}']), "{statement}");
            assert!(statement.contains("\"hooks\".authpi_ledger"), "{statement}");
        }
    }
}
