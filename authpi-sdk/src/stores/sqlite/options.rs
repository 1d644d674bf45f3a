//! The options, and opening a file.

use std::{path::Path, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions as _, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    Sqlite,
    file::{OpenFile, prepare},
    open_error::{OpenError, Unusable},
    queue::{Queue, ROOM},
    schema::{is_busy, migrate},
    steps::Records,
    transaction::nest,
    writer::Writer,
};
use crate::{
    Clock,
    ledger::{
        DEFAULT_RETENTION, LedgerError, TransactionPermits,
        open_check::{probe_inbox, probe_ledger},
    },
};

/// Options of a [`Sqlite`] ledger, set before it is opened.
#[derive(Clone, Debug)]
#[must_use = "does nothing until `open` or `in_memory`"]
pub struct SqliteOptions {
    retention: Duration,
    pub(super) clock: Clock,
    pub(super) busy_timeout: Duration,
}

impl SqliteOptions {
    pub(super) fn new() -> Self {
        Self {
            retention: DEFAULT_RETENTION,
            clock: Clock::system(),
            busy_timeout: Duration::from_secs(5),
        }
    }

    /// How long handled and dead records are kept (default 30 days). Processes that share a file
    /// should use the same value.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// The clock (default: the system's, which the processes of a host share). For tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// How long a step waits (default 5 s) while another process, or a handler's transaction in
    /// this process, is writing. If both are, the time applies to each.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Opens the file, or creates it (its folder must exist), with mode 0600 on Unix.
    ///
    /// # Errors
    /// As for [`Sqlite::open`].
    pub async fn open(self, path: impl AsRef<Path>) -> Result<Sqlite, LedgerError> {
        let path = path.as_ref();
        if let Err(cause) = prepare(path) {
            return Err(unusable(path, cause));
        }
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let ledger = self.start(connect, Some(path)).await?;
        let works = async { probe_ledger(&ledger).await.and(probe_inbox(&ledger).await) };
        if let Err(error) = works.await {
            // Nothing of a failed opening is left running.
            ledger.close().await;
            return Err(unusable(path, OpenError::Step(error)));
        }
        Ok(ledger)
    }

    /// Opens a separate ledger in memory.
    ///
    /// # Errors
    /// As for [`Sqlite::in_memory`].
    pub async fn in_memory(self) -> Result<Sqlite, LedgerError> {
        self.start(SqliteConnectOptions::new().in_memory(true), None)
            .await
    }

    async fn start(
        self,
        connect: SqliteConnectOptions,
        path: Option<&Path>,
    ) -> Result<Sqlite, LedgerError> {
        let connect = connect
            .busy_timeout(self.busy_timeout)
            .disable_statement_logging();
        let connected = self.connect(&connect, path.is_some()).await;
        let (connection, file) =
            connected.map_err(|cause| unusable(path.unwrap_or(Path::new("in memory")), cause))?;
        let (requests, asked) = mpsc::channel(ROOM);
        let retention = self.retention;
        let records = Records {
            connection,
            clock: self.clock,
            retention,
            changed: false,
            let_in: 0,
            latest: i64::MAX,
        };
        let (flushes, loan) = (Arc::default(), Arc::default());
        let writer = Writer::new(
            Queue::new(asked, self.busy_timeout),
            file,
            Arc::clone(&flushes),
            Arc::clone(&loan),
        );
        tokio::spawn(writer.run(records));
        Ok(Sqlite {
            requests,
            retention,
            appended: Arc::default(),
            flushes,
            loan,
            permits: TransactionPermits::at_most(1),
        })
    }

    /// SQLite does not apply its busy timeout to every step of opening, such as the change to WAL.
    /// So this function retries: several processes may start at once.
    async fn connect(
        &self,
        connect: &SqliteConnectOptions,
        on_disk: bool,
    ) -> Result<(SqliteConnection, Option<OpenFile>), OpenError> {
        let started = Instant::now();
        loop {
            match open(connect, on_disk).await {
                Err(OpenError::Sqlite(error))
                    if is_busy(&error) && started.elapsed() < self.busy_timeout =>
                {
                    sleep(Duration::from_millis(10)).await;
                }
                done => return done,
            }
        }
    }
}

async fn open(
    options: &SqliteConnectOptions,
    on_disk: bool,
) -> Result<(SqliteConnection, Option<OpenFile>), OpenError> {
    let mut connection = SqliteConnection::connect_with(options).await?;
    match prepare_connection(&mut connection, on_disk).await {
        Ok(file) => Ok((connection, file)),
        Err(error) => {
            // A connection that is only dropped is closed some time later, by its own thread.
            let _ = connection.close().await;
            Err(error)
        }
    }
}

async fn prepare_connection(
    connection: &mut SqliteConnection,
    on_disk: bool,
) -> Result<Option<OpenFile>, OpenError> {
    if on_disk {
        // Fails if the database would not be kept in a file. Checked before anything is created in
        // it.
        OpenFile::of(connection).await?;
    }
    migrate(connection).await?;
    let file = if on_disk {
        Some(OpenFile::of(connection).await?)
    } else {
        None
    };
    nest(connection).await?;
    Ok(file)
}

fn unusable(path: &Path, cause: OpenError) -> LedgerError {
    let kind = cause.kind();
    LedgerError::new(
        "open",
        Unusable {
            path: path.to_owned(),
            cause,
        },
    )
    .with_kind(kind)
}
