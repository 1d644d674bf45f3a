use std::fmt;

use jiff::Timestamp;
use sqlx::{PgPool, Row as _};

use super::{Watermark, WatermarkError};
use crate::stores::postgres::rows;

/// Takes a lock, since replicas may run this at once and `IF NOT EXISTS` alone is not atomic.
const MAKE: &str = "
    DO $$ BEGIN
        PERFORM pg_advisory_xact_lock(hashtextextended('authpi_watermarks', 0));
        CREATE TABLE IF NOT EXISTS authpi_watermarks (endpoint text PRIMARY KEY, at bigint NOT NULL);
    END $$";
const LOAD: &str = "SELECT at FROM authpi_watermarks WHERE endpoint = $1";
const SAVE: &str = "
    INSERT INTO authpi_watermarks AS known (endpoint, at) VALUES ($1, $2)
    ON CONFLICT (endpoint) DO UPDATE SET at = greatest(known.at, excluded.at)";

/// Stores watermarks in Postgres, in a table `authpi_watermarks` in the first schema of the
/// connections' `search_path`: Unix milliseconds per endpoint. A watermark never moves back. To
/// start again, delete the endpoint's row.
#[derive(Clone)]
pub struct PostgresWatermark {
    pool: PgPool,
}

impl PostgresWatermark {
    /// Uses `pool`, and creates the table if it does not exist.
    ///
    /// # Errors
    /// When the server cannot be reached, or the table cannot be created.
    pub async fn open(pool: PgPool) -> Result<Self, WatermarkError> {
        rows(&pool, || sqlx::query(MAKE))
            .await
            .map_err(|error| WatermarkError::new("open", error))?;
        Ok(Self { pool })
    }
}

impl Watermark for PostgresWatermark {
    async fn load(&self, endpoint: &str) -> Result<Option<Timestamp>, WatermarkError> {
        let failed = |error| WatermarkError::new("load", error);
        let rows = rows(&self.pool, || sqlx::query(LOAD).bind(endpoint))
            .await
            .map_err(failed)?;
        let at = rows
            .first()
            .map(|row| row.try_get::<i64, _>(0))
            .transpose()
            .map_err(failed)?;
        at.map(Timestamp::from_millisecond)
            .transpose()
            .map_err(|error| WatermarkError::new("load", error))
    }

    async fn save(&self, endpoint: &str, at: Timestamp) -> Result<(), WatermarkError> {
        let saved = rows(&self.pool, || {
            sqlx::query(SAVE).bind(endpoint).bind(at.as_millisecond())
        })
        .await;
        saved
            .map(drop)
            .map_err(|error| WatermarkError::new("save", error))
    }
}

impl fmt::Debug for PostgresWatermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresWatermark").finish_non_exhaustive()
    }
}
