//! Hooks for this repository's benchmarks and tests.
//!
//! **Unstable.** Any release may change or remove them: semantic versioning does not apply.

#[cfg(feature = "postgres")]
use std::sync::Arc;

pub use crate::crash::{CRASH_POINTS, on_crash_point};
#[cfg(feature = "postgres")]
use crate::stores::Postgres;
#[cfg(feature = "sqlite")]
use crate::stores::Sqlite;

/// The SQL of some operations of a Postgres ledger, with the names of its tables.
#[cfg(feature = "postgres")]
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PostgresStatements {
    /// Claims an event.
    pub claim: Arc<str>,
    /// Completes a claim.
    pub handled: Arc<str>,
    /// Appends an event.
    pub append: Arc<str>,
    /// Leases the next event.
    pub lease_next: Arc<str>,
    /// Makes events available that have become due.
    pub wake: Arc<str>,
    /// Removes expired records.
    pub prune: Arc<str>,
}

/// The statements of this ledger.
#[cfg(feature = "postgres")]
pub fn postgres_statements(ledger: &Postgres) -> PostgresStatements {
    let [claim, handled, append, lease_next, wake, prune] = ledger.statements();
    PostgresStatements {
        claim,
        handled,
        append,
        lease_next,
        wake,
        prune,
    }
}

/// The SQL of some operations of a SQLite ledger.
#[cfg(feature = "sqlite")]
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct SqliteStatements {
    /// Claims an event.
    pub claim: &'static str,
    /// Completes a claim.
    pub handled: &'static str,
    /// Appends an event.
    pub append: &'static str,
}

/// The statements of every SQLite ledger.
#[cfg(feature = "sqlite")]
pub fn sqlite_statements() -> SqliteStatements {
    let [claim, handled, append] = Sqlite::statements();
    SqliteStatements {
        claim,
        handled,
        append,
    }
}

/// The number of disk flushes since the file was opened.
#[cfg(feature = "sqlite")]
pub fn sqlite_flushes(ledger: &Sqlite) -> u64 {
    ledger.flushes()
}
