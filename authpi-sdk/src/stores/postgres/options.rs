use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{
    Postgres, Shared,
    connection::{Borrowed, Presence, is_without_right, kind_of},
    notify::Wake,
    schema::{DEFAULT_PREFIX, OpenError, Tables, migrate},
    statements::Statements,
};
use crate::{
    ledger::{
        DEFAULT_RETENTION, LedgerError, TransactionPermits,
        open_check::{probe_inbox, probe_ledger},
    },
    stores::timeout::{Nonces, TIMEOUT, millis, within},
};

/// The minimum time limit of opening.
const OPENING: Duration = Duration::from_mins(1);
/// The idle time after which the pool of [`PostgresOptions::connect`] checks whether a connection
/// is alive.
const IDLE: Duration = Duration::from_secs(1);

/// Proves that the steps work, on the connections that they will use.
async fn proven(ledger: Postgres) -> Result<Postgres, LedgerError> {
    let unproven = |error: LedgerError| {
        let kind = error.kind();
        LedgerError::new("open", OpenError::Step(error)).with_kind(kind)
    };
    probe_ledger(&ledger).await.map_err(unproven)?;
    match probe_inbox(&ledger).await {
        // The role passed the ledger's probe, so it lacks only the privilege for the sequence
        // `authpi_positions`. That is enough for an inline receiver; appends and health probes of
        // an inbox report it.
        Err(error) if is_without_right(&error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the database cannot be used as an inbox"
            );
            Ok(ledger)
        }
        proven => proven.map(|()| ledger).map_err(unproven),
    }
}

/// Options of a [`Postgres`] ledger, set before it is opened.
#[derive(Clone, Debug)]
#[must_use = "does nothing until `open` or `connect`"]
pub struct PostgresOptions {
    pub(super) schema: Option<String>,
    pub(super) prefix: String,
    retention: Duration,
    pub(super) timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            schema: None,
            prefix: DEFAULT_PREFIX.into(),
            retention: DEFAULT_RETENTION,
            timeout: TIMEOUT,
        }
    }
}

impl PostgresOptions {
    /// The schema of the tables, which must exist (default: the first of the connection's
    /// `search_path`). Lower-case letters, digits and `_`, at most 63, not beginning with a digit.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// The prefix of the names of tables and indexes (default `authpi_`). Ledgers with different
    /// prefixes are independent. Lower-case letters, digits and `_`, at most 40, not beginning with
    /// a digit.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long handled and dead records are kept (default 30 days). Replicas that share the tables
    /// should use the same value.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// The time limit of a step, including the wait for a connection (default 5 s). Opening, which
    /// may wait for other replicas that create the tables, has at least a minute.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens the ledger in the database of `pool`, creates its tables if they do not exist, and
    /// proves that its steps work: it claims, completes and forgets a record under the empty
    /// endpoint name, which no receiver can have, and appends, leases and forgets one. A role
    /// without `USAGE` on the sequence `authpi_positions` may open it, for inline receivers only.
    ///
    /// # Errors
    /// As for [`Postgres::open`]; and when the prefix or the schema's name is invalid.
    pub async fn open(self, pool: PgPool) -> Result<Postgres, LedgerError> {
        let tables = Tables::new(&self.prefix, self.schema.as_deref())
            .map_err(|error| LedgerError::new("open", error))?;
        let migrated = async {
            let mut connection = Borrowed::from(&pool).await?;
            let done = migrate(&mut connection, &tables).await;
            connection.answered(done.as_ref().err().and_then(OpenError::cause));
            done
        };
        self.in_time(Box::pin(migrated)).await?;
        Box::pin(proven(self.over(pool, &tables, None))).await
    }

    /// Limits the time of opening, and classifies its error.
    async fn in_time(
        &self,
        opening: impl Future<Output = Result<(), OpenError>>,
    ) -> Result<(), LedgerError> {
        let done = within(self.timeout.max(OPENING), "open", async {
            Ok::<_, OpenError>(opening.await)
        })
        .await?;
        done.map_err(|error| {
            let kind = error.cause().map(kind_of).unwrap_or_default();
            LedgerError::new("open", error).with_kind(kind)
        })
    }

    /// Opens the ledger with its own pool of at most 10 connections, whose `statement_timeout` is
    /// the [`timeout`](Self::timeout), unless the URL's `options` set another one. [`Postgres`]
    /// explains why.
    ///
    /// # Errors
    /// As for [`Postgres::connect`]; and when the prefix or the schema's name is invalid.
    pub async fn connect(self, url: &str) -> Result<Postgres, LedgerError> {
        let tables = Tables::new(&self.prefix, self.schema.as_deref())
            .map_err(|error| LedgerError::new("open", error))?;
        let server: PgConnectOptions = url
            .parse()
            .map_err(|error: sqlx::Error| LedgerError::new("open", error))?;
        let (server, statement_timeout) = self.limited(server.disable_statement_logging());
        let migrated = async {
            // Not through the pool, which retries until its time ends, and does not say why. But
            // with the pool's settings.
            let mut connection = PgConnection::connect_with(&server).await?;
            migrate(&mut connection, &tables).await?;
            Ok(connection.close().await?)
        };
        self.in_time(Box::pin(migrated)).await?;
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .acquire_timeout(self.timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, metadata| {
                Box::pin(async move {
                    if metadata.idle_for > IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(server);
        Box::pin(proven(self.over(pool, &tables, statement_timeout))).await
    }

    /// Sets the limit after which the server ends a statement whose step has given up. Returns the
    /// limit if this crate has set it.
    pub(super) fn limited(&self, server: PgConnectOptions) -> (PgConnectOptions, Option<Duration>) {
        const LIMIT: &str = "statement_timeout";
        if server
            .get_options()
            .is_some_and(|options| options.contains(LIMIT))
        {
            return (server, None);
        }
        // A value beyond the server's 32 bits means no limit.
        let limit = u32::try_from(millis(self.timeout))
            .ok()
            .filter(|&limit| limit <= i32::MAX.cast_unsigned())
            .unwrap_or(0);
        let ours = (limit > 0).then(|| Duration::from_millis(limit.into()));
        (server.options([(LIMIT, format!("{limit}ms"))]), ours)
    }

    fn over(self, pool: PgPool, tables: &Tables, statement_timeout: Option<Duration>) -> Postgres {
        let nonces = Nonces::default();
        let permits = TransactionPermits::in_pool_of(pool.options().get_max_connections());
        let shared = Shared {
            pool,
            statements: Statements::on(tables),
            retention: self.retention,
            timeout: self.timeout,
            wake: Wake::new(nonces.mint()),
            nonces,
            until_prune: AtomicU32::new(0),
            permits,
            presence: Presence::new(),
            statement_timeout,
        };
        Postgres {
            shared: Arc::new(shared),
        }
    }
}
