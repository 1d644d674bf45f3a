//! Reads the file without changing it.
//!
//! A file that no process has open consists of the file alone: SQLite removes the `-wal` when the
//! last connection is closed. Then it is read as immutable, so that SQLite neither takes locks nor
//! creates files next to it. The result only counts if the file was not changed meanwhile. A file
//! that is in use is read as by any other process. Each question opens the file again, since either
//! may become the other.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sqlx::{
    ConnectOptions as _, Connection as _, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};

use super::{
    Sqlite, SqliteOptions,
    failure::{kind_of_io, kind_of_sqlite},
    file::{Identity, identity},
    open_error::{OpenError, Unusable},
    schema::{FIRST, VERSION, version},
    steps::{Statement, digest_at, left, letter_at, of_event},
};
use crate::{
    Clock,
    ledger::{
        DeadLetter, EventKey, LedgerError, LedgerErrorKind, RecordState,
        inspect::{
            Filter, InspectError, InspectErrorKind, Inspector, RecordPage, RecordView, Status,
        },
    },
    stores::inspect::{Columns, Numbers, page, position},
};

/// An [`Inspector`] of the file of a [`Sqlite`] store.
///
/// - **Writes nothing.** The file is opened with `mode=ro`. If no process has it open, no file is
///   created next to it, and its folder need not be writable. If a process has it open, or left a
///   `-wal` because it was killed, SQLite uses the files `-wal` and `-shm`, and creates the latter
///   again if it is missing.
/// - **Does not disturb.** Readers and the writer of the file do not wait for each other.
/// - **Cost.** [`get`](Inspector::get), [`dead_letter`](Inspector::dead_letter) and
///   [`endpoints`](Inspector::endpoints) use an index. [`list`](Inspector::list) and [`status`](Inspector::status) read every record of the endpoint,
///   without the bodies.
/// - **Clock.** Leases and pauses run on the host's clock, so inspect the file on its host.
///
/// ```no_run
/// # use authpi_sdk::{ledger::{EventKey, inspect::Inspector}, stores::Sqlite};
/// # async fn shown() -> Result<(), Box<dyn std::error::Error>> {
/// let inspector = Sqlite::inspect("hooks.db").await?;
/// let record = inspector.get(&EventKey::new("users", "evt_1")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SqliteInspector {
    /// Without links.
    path: PathBuf,
    clock: Clock,
    busy_timeout: Duration,
}

impl Sqlite {
    /// Opens the file to read it, without making or migrating anything.
    ///
    /// # Errors
    /// When there is no such file, it has no ledger's tables or those of another version of this
    /// crate, or it cannot be read. The message names the file.
    pub async fn inspect(path: impl AsRef<Path>) -> Result<SqliteInspector, InspectError> {
        Self::options().inspect(path).await
    }
}

impl SqliteOptions {
    /// Opens the file to read it, without making or migrating anything. The
    /// [`retention`](Self::retention) has no effect.
    ///
    /// # Errors
    /// As for [`Sqlite::inspect`].
    pub async fn inspect(self, path: impl AsRef<Path>) -> Result<SqliteInspector, InspectError> {
        let path = path.as_ref();
        let inspector = SqliteInspector {
            path: resolved(path).map_err(|error| unreadable(path, error))?,
            clock: self.clock,
            busy_timeout: self.busy_timeout,
        };
        inspector.rows("open", || sqlx::query("SELECT 1")).await?;
        Ok(inspector)
    }
}

/// The file at one moment.
#[derive(PartialEq, Eq)]
struct Snapshot {
    identity: Option<Identity>,
    length: u64,
    changed_at: Option<SystemTime>,
    /// Whether a process has it open, or has not finished a change.
    is_in_use: bool,
}

impl Snapshot {
    fn of(path: &Path) -> Result<Self, InspectError> {
        let file = fs::metadata(path)
            .and_then(|file| {
                if file.is_file() {
                    Ok(file)
                } else {
                    Err(io::Error::other("it is not a file"))
                }
            })
            .map_err(|error| unreadable(path, error))?;
        let beside = |suffix| {
            let mut beside = path.as_os_str().to_owned();
            beside.push(suffix);
            fs::symlink_metadata(beside).is_ok()
        };
        Ok(Self {
            identity: identity(path),
            length: file.len(),
            changed_at: file.modified().ok(),
            is_in_use: beside("-wal") || beside("-journal"),
        })
    }
}

impl SqliteInspector {
    /// How often a file is read again because it was changed while it was read.
    const TRIES: u32 = 10;

    /// The rows of a statement that changes nothing.
    async fn rows<'q>(
        &self,
        step: &'static str,
        statement: impl Fn() -> Statement<'q> + Send + Sync,
    ) -> Result<Vec<SqliteRow>, InspectError> {
        for _ in 0..Self::TRIES {
            let before = Snapshot::of(&self.path)?;
            let read = self.read(statement(), !before.is_in_use).await;
            if before.is_in_use || Snapshot::of(&self.path)? == before {
                return read.map_err(|error| self.failed(step, error));
            }
        }
        let changes = "the file was changed each time it was read; try again";
        Err(LedgerError::new(step, changes)
            .with_kind(LedgerErrorKind::Busy)
            .into())
    }

    async fn read(
        &self,
        statement: Statement<'_>,
        is_immutable: bool,
    ) -> Result<Vec<SqliteRow>, Unread> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .read_only(true)
            .immutable(is_immutable)
            .busy_timeout(self.busy_timeout)
            .disable_statement_logging();
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let found = version(&mut connection).await?;
        if found != VERSION {
            return Err(Unread::Version(found));
        }
        let rows = statement.fetch_all(&mut connection).await?;
        connection.close().await?;
        Ok(rows)
    }

    fn failed(&self, step: &'static str, error: Unread) -> InspectError {
        let path = self.path.display();
        let cause = match error {
            Unread::Sqlite(error) => {
                let kind = kind_of_sqlite(&error);
                let cause = OpenError::Sqlite(error);
                let path = self.path.clone();
                return LedgerError::new(step, Unusable { path, cause })
                    .with_kind(kind)
                    .into();
            }
            Unread::Version(0) => {
                return InspectError::new(
                    InspectErrorKind::Missing,
                    format!(
                        "{path} has no tables of a ledger: give the file that the service uses; \
                         the service makes them when it starts"
                    ),
                );
            }
            Unread::Version(found) if found < FIRST => OpenError::Unreleased { found },
            Unread::Version(found) if found > VERSION => OpenError::TooNew {
                found,
                newest: VERSION,
            },
            Unread::Version(found) => {
                return InspectError::new(
                    InspectErrorKind::Incompatible,
                    format!(
                        "{path} has version {found} of the ledger's tables, and this authpi-sdk \
                         reads version {VERSION}: start the service with this version, which \
                         migrates them, or use the authpi-sdk that made them"
                    ),
                );
            }
        };
        let path = self.path.clone();
        InspectError::new(
            InspectErrorKind::Incompatible,
            Unusable { path, cause }.to_string(),
        )
    }

    fn now(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    fn error(&self, step: &'static str, error: sqlx::Error) -> InspectError {
        self.failed(step, error.into())
    }
}

/// Why nothing was read.
enum Unread {
    Sqlite(sqlx::Error),
    /// The tables have this version; zero for none.
    Version(i64),
}

impl From<sqlx::Error> for Unread {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Without links: SQLite keeps its other files next to the target.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    if cfg!(unix) {
        fs::canonicalize(path)
    } else {
        fs::metadata(path)?;
        std::path::absolute(path)
    }
}

fn unreadable(path: &Path, error: io::Error) -> InspectError {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => InspectError::new(
            InspectErrorKind::Missing,
            format!("there is no file {path}: give the file that the service uses"),
        ),
        io::ErrorKind::PermissionDenied => InspectError::new(
            InspectErrorKind::Denied,
            format!("{path} cannot be read by this user: use the service's user"),
        ),
        _ => {
            let kind = kind_of_io(&error);
            InspectError::from(LedgerError::new("open", error).with_kind(kind))
        }
    }
}

const GET: &str = "
    SELECT event_id, state, attempt, at, since, first_claimed_at, first_digest, reason, body IS NOT NULL
    FROM authpi_ledger WHERE endpoint = ?1 AND event_id = ?2";
const DEAD_LETTER: &str = "
    SELECT event_id, reason, attempt, body, first_claimed_at, at FROM authpi_ledger
    WHERE endpoint = ?1 AND event_id = ?2 AND state = 3";
const LIST: &str = "
    SELECT event_id, state, attempt, at, since, first_claimed_at, first_digest, reason, body IS NOT NULL
    FROM authpi_ledger
    WHERE endpoint = ?1 AND (?2 IS NULL OR state = ?2)
        AND (?3 IS NULL OR (first_claimed_at, event_id) < (?3, ?4))
    ORDER BY first_claimed_at DESC, event_id DESC LIMIT ?5";
/// One look at the index for each endpoint. Probes have an empty name.
const ENDPOINTS: &str = "
    WITH RECURSIVE known (name) AS (
        SELECT min(endpoint) FROM authpi_ledger WHERE endpoint > ''
        UNION ALL
        SELECT (SELECT min(endpoint) FROM authpi_ledger WHERE endpoint > known.name)
        FROM known WHERE known.name IS NOT NULL
    )
    SELECT name FROM known WHERE name IS NOT NULL";
const STATUS: &str = "
    SELECT
        count(*) FILTER (WHERE state = 0),
        count(*) FILTER (WHERE state = 1),
        count(*) FILTER (WHERE state = 2),
        count(*) FILTER (WHERE state = 3),
        count(*) FILTER (WHERE state = 1 AND at > ?2),
        min(first_claimed_at) FILTER (WHERE state = 0),
        count(*) FILTER (WHERE state < 2 AND position IS NOT NULL),
        min(first_claimed_at) FILTER (WHERE state < 2 AND position IS NOT NULL)
    FROM authpi_ledger WHERE endpoint = ?1";

fn view(row: &SqliteRow, endpoint: &str, now: i64) -> Result<RecordView, sqlx::Error> {
    let event_id: String = row.try_get(0)?;
    let at = row.try_get(3)?;
    let columns = Columns {
        state: RecordState::from_number(row.try_get(1)?)?,
        attempts: row.try_get(2)?,
        left: left(at, row.try_get(4)?, now),
        at,
        first_claimed_at: row.try_get(5)?,
        first_digest: digest_at(row, 6)?,
        reason: row.try_get(7)?,
        body_kept: row.try_get(8)?,
    };
    Ok(columns.view(EventKey::from_stored(endpoint, event_id)))
}

fn numbers(row: &SqliteRow, now: i64) -> Result<Numbers, sqlx::Error> {
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
        now,
    })
}

impl Inspector for SqliteInspector {
    async fn endpoints(&self) -> Result<Vec<String>, InspectError> {
        const STEP: &str = "list endpoints";
        let rows = self.rows(STEP, || sqlx::query(ENDPOINTS)).await?;
        rows.iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(STEP, error))
    }

    async fn get(&self, key: &EventKey) -> Result<Option<RecordView>, InspectError> {
        const STEP: &str = "get a record";
        let rows = self.rows(STEP, || of_event(GET, key)).await?;
        let now = self.now();
        rows.first()
            .map(|row| view(row, key.endpoint(), now))
            .transpose()
            .map_err(|error| self.error(STEP, error))
    }

    async fn dead_letter(&self, key: &EventKey) -> Result<Option<DeadLetter>, InspectError> {
        const STEP: &str = "get a dead letter";
        let rows = self.rows(STEP, || of_event(DEAD_LETTER, key)).await?;
        rows.first()
            .map(|row| letter_at(row, key.endpoint()))
            .transpose()
            .map_err(|error| self.error(STEP, error))
    }

    async fn list(&self, filter: &Filter) -> Result<RecordPage, InspectError> {
        const STEP: &str = "list records";
        let position = position(filter)?;
        let limit = filter.bounded_limit();
        let rows = self.rows(STEP, || {
            sqlx::query(LIST)
                .bind(&filter.endpoint)
                .bind(filter.state.map(RecordState::number))
                .bind(position.map(|(at, _)| at))
                .bind(position.map(|(_, event_id)| event_id))
                .bind(i64::from(limit) + 1)
        });
        let rows = rows.await?;
        let now = self.now();
        let records = rows.iter().map(|row| view(row, &filter.endpoint, now));
        let records = records
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(STEP, error))?;
        Ok(page(records, limit))
    }

    async fn status(&self, endpoint: &str) -> Result<Status, InspectError> {
        const STEP: &str = "count records";
        let now = self.now();
        let rows = self.rows(STEP, || sqlx::query(STATUS).bind(endpoint).bind(now));
        let rows = rows.await?;
        rows.first()
            .ok_or(sqlx::Error::RowNotFound)
            .and_then(|row| numbers(row, now))
            .map(|numbers| numbers.status(endpoint))
            .map_err(|error| self.error(STEP, error))
    }
}
