//! Proves that the steps of a store work when it is opened.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use bytes::Bytes;

use super::{
    Claim, Completion, Digest, EventKey, Ledger, LedgerError, LedgerErrorKind,
    probe::{LEASE, probe_key},
};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use super::{Inbox, NextEvent};

/// Claims, completes and forgets a record, on a connection with the settings that later steps use.
/// For `open` and `connect`.
///
/// A busy store counts as working: another process may be writing to it the whole time.
///
/// # Errors
/// The error of the first failed step.
pub(crate) async fn probe_ledger(ledger: &impl Ledger) -> Result<(), LedgerError> {
    let key = probe_key();
    let worked = claim_and_complete(ledger, &key).await;
    let forgotten = ledger.forget(&key).await;
    busy_is_proof(worked.and(forgotten.map(drop)))
}

fn busy_is_proof(worked: Result<(), LedgerError>) -> Result<(), LedgerError> {
    match worked {
        Err(error) if error.kind() == LedgerErrorKind::Busy => {
            tracing::debug!(
                error = error.chain(),
                "the store is busy: not every step was checked"
            );
            Ok(())
        }
        worked => worked,
    }
}

async fn claim_and_complete(ledger: &impl Ledger, key: &EventKey) -> Result<(), LedgerError> {
    if let Claim::Granted { token, .. } = ledger.claim(key, Digest::UNCOMPARED, LEASE).await? {
        // A lost lease is fine: the store answered and wrote.
        let _held = ledger.complete(key, token, Completion::Handled).await?;
    }
    Ok(())
}

/// Appends, leases and forgets a record. A busy store counts as working.
///
/// # Errors
/// The error of the first failed step.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) async fn probe_inbox(inbox: &impl Inbox) -> Result<(), LedgerError> {
    let key = probe_key();
    let worked = append_and_lease(inbox, &key).await;
    let forgotten = inbox.forget(&key).await;
    busy_is_proof(worked.and(forgotten.map(drop)))
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
async fn append_and_lease(inbox: &impl Inbox, key: &EventKey) -> Result<(), LedgerError> {
    inbox
        .append(key, Digest::UNCOMPARED, None, Bytes::from_static(b"{}"))
        .await?;
    // This may be the record of another probe, for example one whose process died before it could
    // forget the record. That also proves that leasing works.
    if let NextEvent::Leased(leased) = inbox.lease_next("", LEASE).await? {
        inbox.forget(&leased.key).await?;
    }
    Ok(())
}
