//! Why a step failed, and what that says about the file.

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::ledger::LedgerErrorKind;

/// Why a step did not take place.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// Where the result of a step goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// The writer has stopped.
#[derive(Debug)]
pub(super) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ledger is closed, or the runtime in which it was opened has ended")
    }
}

impl Error for Closed {}

/// The file was locked for longer than the busy timeout.
#[derive(Debug)]
pub(super) struct Occupied {
    pub(super) busy_timeout: Duration,
}

impl fmt::Display for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { busy_timeout } = self;
        write!(
            f,
            "the ledger's file was locked for {busy_timeout:?}, by handlers in their transactions or by another process"
        )
    }
}

impl Error for Occupied {}

/// The kind of a step's failure. A failure of a whole group says nothing about the content of one
/// step.
pub(super) fn kind_of(failure: &Failure) -> LedgerErrorKind {
    let failure: &(dyn Error + 'static) = &**failure;
    if let Some(error) = failure.downcast_ref() {
        return kind_of_sqlite(error);
    }
    if failure.is::<Occupied>() {
        return LedgerErrorKind::Busy;
    }
    match failure
        .source()
        .and_then(|cause| cause.downcast_ref())
        .map(kind_of_sqlite)
    {
        None | Some(LedgerErrorKind::Content) => LedgerErrorKind::Unreachable,
        Some(kind) => kind,
    }
}

/// The kind of an error, by SQLite's primary result codes.
pub(super) fn kind_of_sqlite(error: &sqlx::Error) -> LedgerErrorKind {
    const PERM: u32 = 3;
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const READONLY: u32 = 8;
    const FULL: u32 = 13;
    const CANTOPEN: u32 = 14;
    const TOOBIG: u32 = 18;
    const MISMATCH: u32 = 20;
    const AUTH: u32 = 23;

    let code = error
        .as_database_error()
        .and_then(|error| error.code()?.parse::<u32>().ok());
    match code.map(|code| code & 0xff) {
        Some(BUSY | LOCKED) => LedgerErrorKind::Busy,
        Some(PERM | READONLY | FULL | CANTOPEN | AUTH) => LedgerErrorKind::CannotWrite,
        Some(TOOBIG | MISMATCH) => LedgerErrorKind::Content,
        _ => LedgerErrorKind::Unreachable,
    }
}

/// The kind of an error of the file system.
pub(super) fn kind_of_io(error: &io::Error) -> LedgerErrorKind {
    match error.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded => LedgerErrorKind::CannotWrite,
        _ => LedgerErrorKind::Unreachable,
    }
}
