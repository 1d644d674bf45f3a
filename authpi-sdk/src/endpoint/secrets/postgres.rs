//! Secrets in a Postgres database.

use std::{fmt, time::Duration};

use sqlx::{Connection as _, PgConnection, PgPool, Row as _};

use super::{SecretStore, SecretStoreError, StoredSecret};
use crate::{
    UnixMillis,
    signature::Secret,
    stores::postgres::{Borrowed, rows},
};

/// The time limit of a step, including the wait for a connection.
const TIMEOUT: Duration = Duration::from_secs(5);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS authpi_secrets (
    endpoint text NOT NULL, account_id text NOT NULL, webhook_id text NOT NULL, created_at bigint NOT NULL,
    secret text, bearer_token text, valid_until bigint, PRIMARY KEY (endpoint, account_id, webhook_id))";

const LOAD: &str = "SELECT account_id, webhook_id, created_at, secret, bearer_token, valid_until
    FROM authpi_secrets WHERE endpoint = $1 ORDER BY created_at, webhook_id";

const SAVE: &str = "INSERT INTO authpi_secrets
    (endpoint, account_id, webhook_id, created_at, secret, bearer_token, valid_until) VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (endpoint, account_id, webhook_id) DO UPDATE SET created_at = excluded.created_at, secret = excluded.secret,
    bearer_token = excluded.bearer_token, valid_until = excluded.valid_until";

const FORGET: &str =
    "DELETE FROM authpi_secrets WHERE endpoint = $1 AND account_id = $2 AND webhook_id = $3";

/// Lets replicas create the table one after another. (`IF NOT EXISTS` is not atomic.)
const LOCK: &str = "SELECT pg_advisory_xact_lock(7236832715493)";

/// Secrets in the table `authpi_secrets` of a Postgres database (12 or later), shared by replicas
/// on any number of hosts.
///
/// The secrets are stored **in plain text**: a role that can read the table can forge deliveries.
/// Only the service's own role should have permission to read it. Each step is one statement and
/// takes at most 5 s.
#[derive(Clone)]
pub struct PostgresSecretStore {
    pool: PgPool,
}

impl PostgresSecretStore {
    /// Opens the store in the database of `pool`, and creates its table if it does not exist. Any
    /// number of replicas may do this at once.
    ///
    /// # Errors
    /// When the server cannot be reached within 5 s, or the table cannot be created.
    pub async fn open(pool: PgPool) -> Result<Self, SecretStoreError> {
        within("open", async {
            let exists = "SELECT to_regclass('authpi_secrets') IS NOT NULL";
            let exists = rows(&pool, || sqlx::query(exists)).await?;
            // A role that may not create tables can use an existing one.
            if !exists
                .first()
                .ok_or(sqlx::Error::RowNotFound)?
                .try_get::<bool, _>(0)?
            {
                let mut connection = Borrowed::from(&pool).await?;
                let made = make(&mut connection).await;
                connection.answered(made.as_ref().err());
                made?;
            }
            Ok(())
        })
        .await?;
        Ok(Self { pool })
    }
}

async fn make(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query(LOCK).execute(&mut *transaction).await?;
    sqlx::query(TABLE).execute(&mut *transaction).await?;
    transaction.commit().await
}

async fn within<T>(
    step: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, SecretStoreError> {
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(done) => done.map_err(|error| SecretStoreError::new(step, error)),
        Err(elapsed) => Err(SecretStoreError::new(step, elapsed)),
    }
}

impl SecretStore for PostgresSecretStore {
    async fn load(&self, endpoint: &str) -> Result<Vec<StoredSecret>, SecretStoreError> {
        within("load secrets", async {
            let rows = rows(&self.pool, || sqlx::query(LOAD).bind(endpoint)).await?;
            let kept = rows.iter().map(|row| {
                Ok(StoredSecret {
                    account_id: row.try_get(0)?,
                    webhook_id: row.try_get(1)?,
                    created_at: UnixMillis(row.try_get(2)?),
                    secret: row.try_get::<Option<String>, _>(3)?.map(Secret::new),
                    bearer_token: row.try_get::<Option<String>, _>(4)?.map(Secret::new),
                    valid_until: row.try_get::<Option<i64>, _>(5)?.map(UnixMillis),
                })
            });
            kept.collect()
        })
        .await
    }

    async fn save(&self, endpoint: &str, kept: &StoredSecret) -> Result<(), SecretStoreError> {
        let save = rows(&self.pool, || {
            let query = sqlx::query(SAVE)
                .bind(endpoint)
                .bind(&kept.account_id)
                .bind(&kept.webhook_id);
            let query = query
                .bind(kept.created_at.0)
                .bind(kept.secret.as_ref().map(Secret::expose));
            let query = query.bind(kept.bearer_token.as_ref().map(Secret::expose));
            query.bind(kept.valid_until.map(|until| until.0))
        });
        within("save a secret", save).await.map(drop)
    }

    async fn forget(
        &self,
        endpoint: &str,
        account_id: &str,
        webhook_id: &str,
    ) -> Result<(), SecretStoreError> {
        let forget = rows(&self.pool, || {
            sqlx::query(FORGET)
                .bind(endpoint)
                .bind(account_id)
                .bind(webhook_id)
        });
        within("forget a secret", forget).await.map(drop)
    }
}

impl fmt::Debug for PostgresSecretStore {
    /// Omits the connection settings, which contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSecretStore")
            .finish_non_exhaustive()
    }
}
