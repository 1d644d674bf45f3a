//! Proves that a store's steps work, with a record that no receiver can own.
//!
//! Receivers refuse an empty endpoint name, so records under it collide with nothing. Each probe uses a random event id, so
//! that concurrent probes do not meet.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use bytes::Bytes;

use super::{Claim, Completion, Digest, EventKey, Inbox, Ledger, LedgerError, LedgerErrorKind};

/// How long a probe's record stays claimed if the process dies before it is forgotten.
const LEASE: Duration = Duration::from_secs(10);

/// A record of the empty endpoint name, with a random id.
pub(crate) fn probe_key() -> EventKey {
    // Each `RandomState` has a key of its own.
    EventKey::new("", format!("probe-{:016x}", RandomState::new().hash_one(())))
}

/// Claims, completes and forgets a record. For `open` and `connect`, with the connection settings of later steps.
///
/// # Errors
/// With the error of the first step that failed.
pub(crate) async fn probe_ledger(ledger: &impl Ledger) -> Result<(), LedgerError> {
    let key = probe_key();
    let worked = claim_and_complete(ledger, &key).await;
    let forgotten = ledger.forget(&key).await;
    worked.and(forgotten.map(|_| ()))
}

async fn claim_and_complete(ledger: &impl Ledger, key: &EventKey) -> Result<(), LedgerError> {
    if let Claim::Granted { token, .. } = ledger.claim(key, Digest::UNCOMPARED, LEASE).await? {
        // A lease that was lost meanwhile proves as much: the store answered and wrote.
        let _held = ledger.complete(key, token, Completion::Handled).await?;
    }
    Ok(())
}

/// Claims and forgets a record; for [`Ledger::check_write`].
pub(super) async fn check_write(ledger: &(impl Ledger + ?Sized)) -> Result<(), LedgerError> {
    let key = probe_key();
    let claimed = ledger.claim(&key, Digest::UNCOMPARED, LEASE).await;
    forgotten(ledger, &key, claimed.map(drop)).await
}

/// Appends and forgets a record; for [`Inbox::check_append`].
pub(super) async fn check_append(inbox: &(impl Inbox + ?Sized)) -> Result<(), LedgerError> {
    let key = probe_key();
    let appended = inbox.append(&key, Digest::UNCOMPARED, None, Bytes::from_static(b"{}")).await;
    forgotten(inbox, &key, appended.map(drop)).await
}

/// Also where the first step failed, since it may have taken place; unless the store is away, which would take as long again.
async fn forgotten(
    ledger: &(impl Ledger + ?Sized),
    key: &EventKey,
    first: Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    match first {
        Err(error) if error.kind() == LedgerErrorKind::Unreachable => Err(error),
        first => first.and(ledger.forget(key).await.map(drop)),
    }
}

/// Appends, leases and forgets a record.
///
/// # Errors
/// With the error of the first step that failed.
pub(crate) async fn probe_inbox(inbox: &impl Inbox) -> Result<(), LedgerError> {
    let key = probe_key();
    let worked = append_and_lease(inbox, &key).await;
    let forgotten = inbox.forget(&key).await;
    worked.and(forgotten.map(|_| ()))
}

async fn append_and_lease(inbox: &impl Inbox, key: &EventKey) -> Result<(), LedgerError> {
    inbox.append(key, Digest::UNCOMPARED, None, Bytes::from_static(b"{}")).await?;
    // Another process's probe may have leased it: what matters is that leasing works.
    inbox.lease_next("", LEASE).await.map(|_| ())
}
