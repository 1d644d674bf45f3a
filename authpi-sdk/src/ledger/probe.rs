//! The record that probes use.
//!
//! Receivers refuse an empty endpoint name, so records under it never collide with events. Each
//! probe uses a random event id, so concurrent probes do not collide either.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use super::{Digest, EventKey, Ledger, LedgerError, LedgerErrorKind};

/// How long a probe's record stays claimed if the process dies before it is forgotten.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// A key under the empty endpoint name, with a random id.
pub(crate) fn probe_key() -> EventKey {
    // Each `RandomState` is seeded differently.
    EventKey::new(
        "",
        format!("probe-{:016x}", RandomState::new().hash_one(())),
    )
}

/// Claims and forgets a record; for [`Ledger::check_write`].
pub(super) async fn check_write(ledger: &(impl Ledger + ?Sized)) -> Result<(), LedgerError> {
    let key = probe_key();
    let claimed = ledger.claim(&key, Digest::UNCOMPARED, LEASE).await;
    forgotten(ledger, &key, claimed.map(drop)).await
}

/// Forgets the record, even if the first step failed, since that step may have taken place. If the
/// store is unreachable, the record is not forgotten: forgetting would run into its timeout too.
pub(super) async fn forgotten(
    ledger: &(impl Ledger + ?Sized),
    key: &EventKey,
    first: Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    match first {
        Err(error) if error.kind() == LedgerErrorKind::Unreachable => Err(error),
        first => first.and(ledger.forget(key).await.map(drop)),
    }
}
