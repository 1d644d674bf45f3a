//! The lock that lets one replica reconcile at a time: a reserved record in the ledger, claimed and
//! renewed like the record of an event.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, time::Instant};

use crate::{
    ledger::{AnyLedger, Claim, Digest, EventKey, LeaseKeeper, LedgerError, Token},
    receiver::Receiver,
    telemetry::LogLimit,
};

/// The id of the record. No event has this id, since AuthPI's ids begin with `evt_`. The record is
/// claimed and released, but never completed. It has no body, so no worker leases it.
const RECORD: &str = "reconcile:lock";

pub(super) enum Acquired {
    Ours(Lock),
    /// Another replica holds the lock.
    HeldElsewhere {
        /// What is left of the other replica's lease. That replica may renew the lease.
        lease_left: Duration,
    },
}

/// The lock, held by this replica. It is released when dropped, if the runtime still runs.
/// Otherwise, it expires.
pub(super) struct Lock {
    ledger: AnyLedger,
    log: Arc<LogLimit>,
    key: EventKey,
    /// `None` once released.
    token: Option<Token>,
    requested_at: Instant,
    lease: Duration,
}

impl Lock {
    pub(super) async fn acquire(
        receiver: &Receiver,
        lease: Duration,
    ) -> Result<Acquired, LedgerError> {
        let ledger = receiver.ledger().clone();
        let key = EventKey::new(receiver.endpoint(), RECORD);
        let requested_at = Instant::now();
        match ledger.claim(&key, Digest::UNCOMPARED, lease).await? {
            Claim::Granted { token, .. } => Ok(Acquired::Ours(Self {
                ledger,
                log: Arc::clone(receiver.log()),
                key,
                token: Some(token),
                requested_at,
                lease,
            })),
            Claim::InFlight { lease_left: wait } | Claim::NotYet { wait } => {
                Ok(Acquired::HeldElsewhere { lease_left: wait })
            }
            Claim::Handled { .. } | Claim::Dead { .. } => Err(LedgerError::new(
                "claim",
                format!("the reserved record {RECORD} was completed; forget it"),
            )),
        }
    }

    /// Renews the lock. Resolves when it is lost: another replica took it, or the ledger could not
    /// renew it before the lease expired.
    pub(super) async fn keep_until_lost(&self) {
        let Some(token) = self.token else { return };
        let keeper = LeaseKeeper {
            ledger: &self.ledger,
            key: &self.key,
            token,
            requested_at: self.requested_at,
            lease: self.lease,
            log: &self.log,
        };
        keeper.keep_until_lost().await;
    }

    pub(super) async fn release(mut self) {
        if let Some(token) = self.token.take() {
            release(&self.ledger, &self.key, token).await;
        }
    }
}

/// Releases the record. If that fails, the lease expires.
async fn release(ledger: &AnyLedger, key: &EventKey, token: Token) {
    if let Err(error) = ledger.release(key, token, Duration::ZERO).await {
        tracing::warn!(
            endpoint = key.endpoint(),
            %error,
            "the reconcile lock was not released; it will expire"
        );
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let (Some(token), Ok(runtime)) = (self.token.take(), Handle::try_current()) {
            let (ledger, key) = (self.ledger.clone(), self.key.clone());
            runtime.spawn(async move { release(&ledger, &key, token).await });
        }
    }
}
