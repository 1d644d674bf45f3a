//! A handler under its lease: what receivers and workers have in common.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, interval_at};

use super::{Outcome, Route, run};
use crate::{
    event::Event,
    ledger::{AnyLedger, EventKey, Held, Token},
};

/// An event that was claimed, and under what terms it is handled.
pub(crate) struct Claimed<'a> {
    pub(crate) key: &'a EventKey,
    pub(crate) token: Token,
    pub(crate) received_at: Timestamp,
    pub(crate) deadline: Duration,
    pub(crate) lease: Duration,
}

/// Runs the handler, and renews the lease at each third of it; when the lease is lost, the handler is dropped.
pub(crate) async fn run_leased(ledger: &AnyLedger, claimed: &Claimed<'_>, route: &dyn Route, event: &Event) -> Outcome {
    let Claimed { key, token, received_at, deadline, lease } = *claimed;
    tokio::select! {
        // First the handler: one that is done at once needs no timer.
        biased;
        outcome = run(route, event, key.clone(), Some(token), received_at, deadline) => outcome,
        () = async { Box::pin(lost(ledger, key, token, lease)).await } => Outcome::LeaseLost,
    }
}

/// Resolves when the lease is lost.
async fn lost(ledger: &AnyLedger, key: &EventKey, token: Token, lease: Duration) {
    let third = (lease / 3).max(Duration::from_millis(1));
    let mut ticks = interval_at(Instant::now() + third, third);
    loop {
        ticks.tick().await;
        match ledger.renew(key, token, lease).await {
            Ok(Held::Yes) => {}
            Ok(Held::Lost) => return,
            // The store may be back before the lease runs out; completing will tell.
            Err(error) => error.tell(key.shared_endpoint()),
        }
    }
}
