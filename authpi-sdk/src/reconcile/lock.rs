//! One replica at a time: a reserved record of the ledger, claimed and renewed like an event's.

use std::time::Duration;

use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use crate::{
    ledger::{AnyLedger, Claim, Digest, EventKey, LeaseStatus, LedgerError, Token},
    receiver::Receiver,
};

/// The record's name, which no event's id is: AuthPI's begin with `evt_`. It is claimed and
/// released and never completed, and has no body, so that no worker takes it for an event.
const RECORD: &str = "reconcile:turn";

pub(super) enum Taken {
    Ours(Turn),
    /// Another replica is at it, and has to renew within this.
    Elsewhere {
        lease_left: Duration,
    },
}

/// Our turn. Dropped, it is given back, as long as the runtime lives; a process that dies leaves it
/// to expire.
pub(super) struct Turn {
    ledger: AnyLedger,
    key: EventKey,
    /// None when it was given back.
    token: Option<Token>,
    lease: Duration,
}

impl Turn {
    pub(super) async fn take(receiver: &Receiver, lease: Duration) -> Result<Taken, LedgerError> {
        let ledger = receiver.ledger().clone();
        let key = EventKey::new(receiver.endpoint(), RECORD);
        match ledger.claim(&key, Digest::UNCOMPARED, lease).await? {
            Claim::Granted { token, .. } => Ok(Taken::Ours(Self {
                ledger,
                key,
                token: Some(token),
                lease,
            })),
            Claim::InFlight { lease_left: wait } | Claim::NotYet { wait } => {
                Ok(Taken::Elsewhere { lease_left: wait })
            }
            Claim::Handled { .. } | Claim::Dead { .. } => Err(LedgerError::new(
                "claim",
                format!("the reserved record was completed: {RECORD}"),
            )),
        }
    }

    /// Resolves when the lock is no longer ours: another replica took it, or the ledger was not
    /// reached for as long as the lease lasts.
    pub(super) async fn lost(&self) {
        let Some(token) = self.token else { return };
        let third = (self.lease / 3).max(Duration::from_millis(1));
        let mut renewed = Instant::now();
        loop {
            sleep(third).await;
            let asked = Instant::now();
            match self.ledger.renew(&self.key, token, self.lease).await {
                Ok(LeaseStatus::Held) => renewed = asked,
                Ok(LeaseStatus::Lost) => return,
                Err(error) => {
                    tracing::warn!(endpoint = self.key.endpoint(), %error, "the turn to reconcile was not renewed");
                    if renewed.elapsed() >= self.lease {
                        return;
                    }
                }
            }
        }
    }

    pub(super) async fn give_back(mut self) {
        if let Some(token) = self.token.take() {
            release(&self.ledger, &self.key, token).await;
        }
    }
}

async fn release(ledger: &AnyLedger, key: &EventKey, token: Token) {
    // If it is lost, or the ledger cannot be told, there is nothing to give back but what expires
    // by itself.
    if let Err(error) = ledger.release(key, token, Duration::ZERO).await {
        tracing::warn!(endpoint = key.endpoint(), %error, "the turn to reconcile was not given back; it will expire");
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let (Some(token), Ok(runtime)) = (self.token.take(), Handle::try_current()) {
            let (ledger, key) = (self.ledger.clone(), self.key.clone());
            runtime.spawn(async move { release(&ledger, &key, token).await });
        }
    }
}
