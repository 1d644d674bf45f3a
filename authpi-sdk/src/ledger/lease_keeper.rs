//! Renews a lease until its holder is done, and detects when it is lost.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout_at};

use super::{AnyLedger, EventKey, LeaseStatus, Token};
use crate::telemetry::LogLimit;

/// Keeps the lease of one claim.
pub(crate) struct LeaseKeeper<'a> {
    pub(crate) ledger: &'a AnyLedger,
    pub(crate) key: &'a EventKey,
    pub(crate) token: Token,
    /// When the claim was requested. The store's lease began no earlier.
    pub(crate) requested_at: Instant,
    pub(crate) lease: Duration,
    pub(crate) log: &'a LogLimit,
}

impl LeaseKeeper<'_> {
    /// Renews the lease every third of its duration. Resolves when the lease is lost: the store
    /// reports that another worker holds the record, or the lease expires before a renewal
    /// succeeds.
    ///
    /// Expiry is measured on this process's clock, from when the last successful renewal was
    /// requested. So a store that is unreachable, or slow to answer, cannot make two workers run
    /// at once.
    pub(crate) async fn keep_until_lost(self) {
        let Self {
            ledger,
            key,
            token,
            requested_at,
            lease,
            log,
        } = self;
        let third = (lease / 3).max(Duration::from_millis(1));
        let mut ticks = interval_at(Instant::now() + third, third);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut expires_at = requested_at + lease;
        loop {
            let renewal = timeout_at(expires_at, async {
                ticks.tick().await;
                let requested_at = Instant::now();
                (requested_at, ledger.renew(key, token, lease).await)
            });
            match renewal.await {
                Ok((requested_at, Ok(LeaseStatus::Held))) => expires_at = requested_at + lease,
                Ok((_, Ok(LeaseStatus::Lost))) => return,
                // The store may recover before the lease expires.
                Ok((_, Err(error))) => error.report(key.shared_endpoint(), log),
                Err(_) => {
                    log.write(
                        "the lease expired before it was renewed",
                        "lease_lost",
                        |left_out| {
                            tracing::warn!(
                                endpoint = key.endpoint(),
                                event_id = key.event_id(),
                                left_out,
                                "the lease expired before it was renewed"
                            );
                        },
                    );
                    return;
                }
            }
        }
    }
}
