//! Claims an event, and waits while another worker handles it.

use std::time::Duration;

use tokio::time::{Instant, error::Elapsed, sleep, timeout_at};

use super::{
    Shared,
    disposition::Disposition,
    in_flight::{Draining, InFlightPermit},
};
use crate::ledger::{
    Claim, Digest, EventKey, LedgerError, LedgerErrorKind, Token, TransactionPermit,
    TransactionPermits,
};

/// The first pause between two claims of an event that another worker is handling.
const POLL_INITIAL: Duration = Duration::from_millis(10);
/// The longest pause.
const POLL_MAX: Duration = Duration::from_millis(250);

/// The result of claiming an event.
pub(super) enum Claiming {
    /// The event is claimed: handle it.
    Granted(Grant),
    /// The delivery is answered without handling it here.
    Answered(Disposition),
}

/// A granted claim.
pub(super) struct Grant {
    pub(super) token: Token,
    /// When the claim was requested.
    pub(super) requested_at: Instant,
    /// For the handler's transaction, if it needs one.
    pub(super) permit: Option<TransactionPermit>,
    /// How long the delivery waited for the permit.
    pub(super) waited: Duration,
}

/// One attempt to claim an event.
enum ClaimAttempt {
    Granted(Grant),
    Duplicate,
    InFlight(InFlightElsewhere),
}

/// Another worker is handling the event, or has released it with a pause.
struct InFlightElsewhere {
    requested_at: Instant,
    /// What is left of the pause after an earlier attempt; zero if another worker is handling the
    /// event.
    pause: Duration,
    /// The `Retry-After` of the answer.
    retry_after: Duration,
}

/// Takes a transaction permit, if the handler needs a transaction. Fails if there is none before
/// `until`.
async fn acquire_permit(
    permits: Option<&TransactionPermits>,
    until: Instant,
) -> Result<Option<TransactionPermit>, Elapsed> {
    let Some(permits) = permits else {
        return Ok(None);
    };
    // Boxed, to keep the future of deliveries without a transaction small.
    Box::pin(timeout_at(until, permits.acquire()))
        .await
        .map(Some)
}

fn no_permit(waited: Duration) -> LedgerError {
    let why =
        format!("no transaction became free within {waited:?}: other handlers are using them all");
    LedgerError::new("begin a transaction", why).with_kind(LedgerErrorKind::Busy)
}

impl Shared {
    /// Claims the event. If another worker is handling it, waits up to `in_flight_wait` for that
    /// worker's outcome.
    ///
    /// With `permits`, takes a transaction permit before it claims.
    pub(super) async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        permits: Option<&TransactionPermits>,
        place: &mut InFlightPermit,
    ) -> Result<Claiming, LedgerError> {
        let began = Instant::now();
        let timeout = self.settings.handler_timeout;
        let Ok(permit) = acquire_permit(permits, began + timeout).await else {
            return Err(no_permit(timeout));
        };
        match self.try_claim(key, digest, permit, began).await? {
            ClaimAttempt::Granted(grant) => Ok(Claiming::Granted(grant)),
            ClaimAttempt::Duplicate => Ok(Claiming::Answered(Disposition::Duplicate)),
            ClaimAttempt::InFlight(elsewhere) => {
                Box::pin(self.wait_for_outcome(key, digest, permits, place, elsewhere)).await
            }
        }
    }

    /// Claims once. `began` is when the delivery began to wait for its transaction permit.
    async fn try_claim(
        &self,
        key: &EventKey,
        digest: Digest,
        permit: Option<TransactionPermit>,
        began: Instant,
    ) -> Result<ClaimAttempt, LedgerError> {
        let requested_at = if permit.is_some() {
            Instant::now()
        } else {
            began
        };
        Ok(
            match self.ledger.claim(key, digest, self.settings.lease).await? {
                Claim::Granted {
                    token,
                    first_digest,
                } => {
                    key.compare(digest, first_digest, &self.log);
                    ClaimAttempt::Granted(Grant {
                        token,
                        requested_at,
                        permit,
                        waited: requested_at - began,
                    })
                }
                Claim::Handled { first_digest } | Claim::Dead { first_digest } => {
                    key.compare(digest, first_digest, &self.log);
                    ClaimAttempt::Duplicate
                }
                Claim::InFlight { .. } => ClaimAttempt::InFlight(InFlightElsewhere {
                    requested_at,
                    pause: Duration::ZERO,
                    retry_after: self.settings.retry_after,
                }),
                Claim::NotYet { wait } => ClaimAttempt::InFlight(InFlightElsewhere {
                    requested_at,
                    pause: wait,
                    retry_after: wait,
                }),
            },
        )
    }

    /// Claims again and again, with growing pauses. During a pause, it holds neither an in-flight
    /// permit nor a transaction permit, so that copies of one event cannot block other events.
    async fn wait_for_outcome(
        &self,
        key: &EventKey,
        digest: Digest,
        permits: Option<&TransactionPermits>,
        place: &mut InFlightPermit,
        mut elsewhere: InFlightElsewhere,
    ) -> Result<Claiming, LedgerError> {
        let give_up_at = elsewhere.requested_at + self.settings.in_flight_wait;
        let mut waiter = None;
        let mut poll_pause = POLL_INITIAL;
        loop {
            let in_flight = Claiming::Answered(Disposition::InFlight {
                retry_after: elsewhere.retry_after,
            });
            let draining = Claiming::Answered(Disposition::Draining {
                retry_after: self.settings.retry_after,
            });
            let pause = poll_pause.max(elsewhere.pause);
            if pause > give_up_at.saturating_duration_since(Instant::now()) {
                return Ok(in_flight);
            }
            if waiter.is_none() {
                waiter = self.places.waiter(key);
            }
            let Some(waiter) = &waiter else {
                return Ok(in_flight);
            };
            place.give_back();
            if let Err(Draining) = waiter.until_drain(sleep(pause)).await {
                return Ok(draining);
            }
            poll_pause = (pause * 2).min(POLL_MAX);
            elsewhere.pause = Duration::ZERO;
            // Takes the in-flight permit before it claims: a granted claim has to be handled.
            if !place.take_again() {
                continue;
            }
            let began = Instant::now();
            let permit = match waiter
                .until_drain(acquire_permit(permits, give_up_at))
                .await
            {
                Ok(Ok(permit)) => permit,
                Ok(Err(Elapsed { .. })) => return Ok(in_flight),
                Err(Draining) => return Ok(draining),
            };
            match self.try_claim(key, digest, permit, began).await? {
                ClaimAttempt::Granted(grant) => return Ok(Claiming::Granted(grant)),
                ClaimAttempt::Duplicate => {
                    return Ok(Claiming::Answered(Disposition::Duplicate));
                }
                ClaimAttempt::InFlight(still) => elsewhere = still,
            }
        }
    }
}
