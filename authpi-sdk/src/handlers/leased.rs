//! A handler under its lease: what receivers and workers have in common.

use std::{pin::pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, interval_at, timeout_at};

use super::{AttemptState, Outcome, Route, run};
use crate::{
    event::Event,
    ledger::{AnyLedger, EventKey, LeaseStatus, Token, TransactionPermit},
    telemetry::LogLimit,
};

/// An event that was claimed, and under what terms it is handled.
pub(crate) struct Claimed<'a> {
    pub(crate) key: &'a EventKey,
    pub(crate) token: Token,
    /// From when on the store was asked for it.
    pub(crate) asked: Instant,
    pub(crate) received_at: Timestamp,
    pub(crate) deadline: Duration,
    pub(crate) lease: Duration,
    pub(crate) log: &'a Arc<LogLimit>,
}

/// Runs the handler, and renews the lease at each third of it; when the lease is lost, the handler
/// is dropped.
///
/// But not while it commits. The commit checks the token itself, and a renewal that waited for it
/// may be told, before the commit is answered, that the record is no longer claimed.
///
/// `permit` is for the handler's transaction. Where it takes one and has none yet, it waits for it
/// here, under its lease; its time begins afterwards.
pub(crate) async fn run_leased(
    ledger: &AnyLedger,
    claimed: Claimed<'_>,
    mut permit: Option<TransactionPermit>,
    route: &dyn Route,
    event: &Event,
) -> Outcome {
    let Claimed {
        key,
        token,
        asked,
        received_at,
        deadline,
        lease,
        log,
    } = claimed;
    let mut lost = pin!(async { Box::pin(lost(ledger, key, token, (asked, lease), log)).await });
    if let (None, Some(permits)) = (&permit, route.permits()) {
        tokio::select! {
            biased;
            acquired = Box::pin(permits.acquire()) => permit = Some(acquired),
            () = &mut lost => return Outcome::LeaseLost,
        }
    }
    let work = AttemptState::new(
        event,
        key.clone(),
        Some(token),
        received_at,
        deadline,
        permit,
        log,
    );
    let mut running = pin!(run(route, Arc::clone(&work)));
    tokio::select! {
        // First the handler: one that is done at once needs no timer.
        biased;
        outcome = &mut running => return outcome,
        () = &mut lost => {}
    }
    if work.is_committing() {
        running.await
    } else {
        Outcome::LeaseLost
    }
}

/// Resolves when the lease is lost: when the store says so, or when it could not be renewed until
/// it ran out. Somebody else may be at work then, and the store may not be there to say so.
async fn lost(
    ledger: &AnyLedger,
    key: &EventKey,
    token: Token,
    (asked, lease): (Instant, Duration),
    log: &LogLimit,
) {
    let third = (lease / 3).max(Duration::from_millis(1));
    let mut ticks = interval_at(Instant::now() + third, third);
    // By this process' clock, from when it asked: the store's lease began no earlier.
    let mut ends = asked + lease;
    loop {
        let renewed = timeout_at(ends, async {
            ticks.tick().await;
            let asked = Instant::now();
            (asked, ledger.renew(key, token, lease).await)
        });
        match renewed.await {
            Ok((asked, Ok(LeaseStatus::Held))) => ends = asked + lease,
            Ok((_, Ok(LeaseStatus::Lost))) => return,
            // The store may be back before the lease runs out.
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
