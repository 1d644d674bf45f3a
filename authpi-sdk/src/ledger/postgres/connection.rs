//! Connections of the pool, and what may become of them.

use std::ops::{Deref, DerefMut};

use sqlx::{PgConnection, PgPool, pool::PoolConnection};
use tokio::runtime::Handle;

/// A connection that is closed, not given back to the pool, if it is dropped with an answer outstanding: that answer may be
/// long in coming, and the pool would wait for it.
pub(super) struct Borrowed {
    /// Until it is taken away.
    connection: Option<PoolConnection<sqlx::Postgres>>,
    outstanding: bool,
}

impl Borrowed {
    /// Waits for the pool. It counts as one with an answer outstanding until it is said to be [`answered`](Self::answered).
    pub(super) async fn from(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: Some(pool.acquire().await?), outstanding: true })
    }

    /// What was asked has been answered: the pool may have it back.
    pub(super) fn answered(&mut self) {
        self.outstanding = false;
    }

    /// The connection, for another one to drop; what is left behind cannot be used any more.
    pub(super) fn take(&mut self) -> Self {
        Self { connection: self.connection.take(), outstanding: self.outstanding }
    }
}

const TAKEN: &str = "a connection that was taken away is not asked for";

impl Deref for Borrowed {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect(TAKEN)
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(TAKEN)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if Handle::try_current().is_err() {
            // The pool would need a runtime to take it back. The server sees that the connection is gone.
            drop(connection.detach());
        } else if self.outstanding {
            connection.close_on_drop();
        }
    }
}

/// A serialization failure or a deadlock: the server undid the statement, and asks for it once more.
pub(super) fn lost_a_race(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "40001" || code == "40P01")
}
