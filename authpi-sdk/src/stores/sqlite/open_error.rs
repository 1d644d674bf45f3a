//! Why a file cannot be opened as a ledger.

use std::{fmt, io, path::PathBuf};

use super::failure::{kind_of_io, kind_of_sqlite};
use crate::ledger::{LedgerError, LedgerErrorKind};

#[derive(Debug)]
pub(super) enum OpenError {
    Sqlite(sqlx::Error),
    TooNew {
        found: i64,
        /// The newest version that this crate knows.
        newest: i64,
    },
    Unreleased {
        found: i64,
    },
    /// The database is in memory, or in a file that SQLite removes.
    KeepsNothing,
    NotWal {
        mode: String,
    },
    NoFolder {
        folder: PathBuf,
    },
    Io(io::Error),
    /// The file was opened, but a step of the ledger failed.
    Step(LedgerError),
}

impl OpenError {
    pub(super) fn kind(&self) -> LedgerErrorKind {
        match self {
            Self::Sqlite(error) => kind_of_sqlite(error),
            Self::Io(error) => kind_of_io(error),
            Self::Step(error) => error.kind(),
            _ => LedgerErrorKind::CannotWrite,
        }
    }
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(error)
    }
}

#[derive(Debug)]
pub(super) struct Unusable {
    pub(super) path: PathBuf,
    pub(super) cause: OpenError,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.cause {
            OpenError::KeepsNothing => write!(
                f,
                "\"{path}\" names a database that is not kept in a file: give the path of a file, or use Sqlite::in_memory()"
            ),
            OpenError::NotWal { mode } => {
                write!(
                    f,
                    "{path} is used with journal_mode={mode}, and the ledger needs WAL: keep the file on a local disk"
                )
            }
            OpenError::NoFolder { folder } => {
                write!(
                    f,
                    "could not create {path}: the folder {} does not exist",
                    folder.display()
                )
            }
            OpenError::Io(_) => write!(f, "could not create {path}"),
            OpenError::Step(error) if error.kind() == LedgerErrorKind::CannotWrite => write!(
                f,
                "{path} was opened and cannot be written: the file, its -wal and -shm, and their folder must be writable"
            ),
            OpenError::Step(_) => write!(
                f,
                "{path} was opened, but a first event could not be recorded in it"
            ),
            OpenError::Sqlite(_) => write!(f, "{path} cannot be used as a SQLite database"),
            OpenError::TooNew { found, newest } => write!(
                f,
                "{path} has version {found} of the ledger's tables, and this authpi-sdk knows them up to version \
                 {newest}: use the authpi-sdk that made them, or a later one"
            ),
            OpenError::Unreleased { found } => write!(
                f,
                "{path} has version {found} of the ledger's tables, made by an unreleased authpi-sdk: \
                 open another file, or drop the tables whose names begin with authpi_"
            ),
        }
    }
}

impl std::error::Error for Unusable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            OpenError::Sqlite(error) => Some(error),
            OpenError::Io(error) => Some(error),
            OpenError::Step(error) => Some(error),
            OpenError::TooNew { .. }
            | OpenError::Unreleased { .. }
            | OpenError::KeepsNothing
            | OpenError::NotWal { .. }
            | OpenError::NoFolder { .. } => None,
        }
    }
}
