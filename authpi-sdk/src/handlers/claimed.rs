//! Runs a handler under a lease, for receivers and workers.

use std::{pin::pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{AttemptState, Outcome, Route, run};
use crate::{
    event::Event,
    ledger::{AnyLedger, EventKey, LeaseKeeper, Token, TransactionPermit},
    telemetry::{LogLimit, TypeLabels},
};

/// A claimed event.
pub(crate) struct Claimed<'a> {
    pub(crate) ledger: &'a AnyLedger,
    pub(crate) key: &'a EventKey,
    pub(crate) token: Token,
    /// When the claim was requested.
    pub(crate) requested_at: Instant,
    pub(crate) lease: Duration,
    pub(crate) log: &'a Arc<LogLimit>,
    pub(crate) type_labels: &'a TypeLabels,
}

impl Claimed<'_> {
    /// Runs the handler, and renews its lease meanwhile. If the lease is lost, the handler is
    /// dropped.
    ///
    /// The exception is a handler whose transaction is being committed. The commit checks the token
    /// itself. And a renewal can find the record already completed by this commit, which looks like
    /// a lost lease.
    ///
    /// `permit` is for the handler's transaction. If the handler needs a permit and `permit` is
    /// `None`, this waits for one while it renews the lease. The handler's timeout then starts
    /// after the wait.
    pub(crate) async fn run(
        &self,
        route: &Route,
        event: &Event,
        received_at: Timestamp,
        timeout: Duration,
        mut permit: Option<TransactionPermit>,
    ) -> Outcome {
        let keeper = LeaseKeeper {
            ledger: self.ledger,
            key: self.key,
            token: self.token,
            requested_at: self.requested_at,
            lease: self.lease,
            log: self.log,
        };
        // The future is boxed when it is first polled: most handlers finish before that.
        let mut lost = pin!(async { Box::pin(keeper.keep_until_lost()).await });
        if let (None, Some(permits)) = (&permit, route.permits()) {
            tokio::select! {
                biased;
                acquired = Box::pin(permits.acquire()) => permit = Some(acquired),
                () = &mut lost => return Outcome::LeaseLost,
            }
        }
        let attempt = AttemptState::new(
            event,
            self.key.clone(),
            Some(self.token),
            received_at,
            timeout,
            permit,
            self.log,
        );
        let event_type = self.type_labels.of(event.event_type().as_str());
        let mut running = pin!(run(route, Arc::clone(&attempt), event_type));
        tokio::select! {
            // The handler first: one that finishes on its first poll needs no timer.
            biased;
            outcome = &mut running => return outcome,
            () = &mut lost => {}
        }
        if attempt.is_committing() {
            running.await
        } else {
            Outcome::LeaseLost
        }
    }
}
