//! What a step that failed says about the file.

use std::error::Error;

use super::queue::{Failure, Occupied};
use crate::ledger::LedgerErrorKind;

/// Of a step. What failed for all of a group says nothing about the content of one.
pub(super) fn of_failure(failure: &Failure) -> LedgerErrorKind {
    let failure: &(dyn Error + 'static) = &**failure;
    if let Some(error) = failure.downcast_ref() {
        return of_sqlite(error);
    }
    if failure.is::<Occupied>() {
        return LedgerErrorKind::Busy;
    }
    match failure
        .source()
        .and_then(|cause| cause.downcast_ref())
        .map(of_sqlite)
    {
        None | Some(LedgerErrorKind::Content) => LedgerErrorKind::Unreachable,
        Some(kind) => kind,
    }
}

/// By SQLite's primary result codes.
pub(super) fn of_sqlite(error: &sqlx::Error) -> LedgerErrorKind {
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
