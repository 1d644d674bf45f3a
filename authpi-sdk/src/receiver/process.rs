//! The detached side: which handler, the claim, the handler under its lease, and what the ledger is
//! asked to record at the end.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::{Instant, error::Elapsed, sleep, timeout_at};
use tracing::Span;

use super::{
    Mode, OrderingKey, Shared, StoreFailure,
    disposition::Disposition,
    in_flight::{Draining, InFlightPermit},
};
use crate::{
    crash,
    event::{Event, ParseError},
    handlers::{AttemptState, Claimed, Outcome, Route, run, run_leased},
    ledger::{
        AnyInbox, Appended, Claim, Completion, Digest, EventKey, LeaseStatus, LedgerError,
        LedgerErrorKind, Token, TransactionPermit, TransactionPermits,
    },
    telemetry,
    time::agree,
};

/// How long ago the delivery was signed; zero for a time to come.
fn age(now: Timestamp, event: &Event) -> Duration {
    Duration::try_from(now.duration_since(event.delivered_at())).unwrap_or(Duration::ZERO)
}

/// The pause between two polls of an event that another worker is handling: the first, and the
/// longest.
const POLL_INITIAL: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(250);

/// A claim, and how it came about.
struct Granted {
    token: Token,
    /// From when on the store was asked for it.
    asked: Instant,
    /// For the handler's transaction, if it takes one.
    permit: Option<TransactionPermit>,
    /// How long it waited for the permit.
    waited: Duration,
}

/// A permit where they are needed, unless none is free by then.
async fn permit_of(
    permits: Option<&TransactionPermits>,
    until: Instant,
) -> Result<Option<TransactionPermit>, Elapsed> {
    let Some(permits) = permits else {
        return Ok(None);
    };
    // In a box, since handlers without a transaction need no room for it.
    Box::pin(timeout_at(until, permits.acquire()))
        .await
        .map(Some)
}

/// All of the store's transactions are taken, for as long as the handler would have.
fn no_permit(waited: Duration) -> LedgerError {
    let why =
        format!("no transaction became free within {waited:?}: other handlers are using them all");
    LedgerError::new("begin a transaction", why).with_kind(LedgerErrorKind::Busy)
}

impl Shared {
    /// Takes an authentic delivery as far as it goes.
    ///
    /// What is rarely gone through, and what takes long anyway, is boxed: that keeps small the
    /// future that each delivery needs.
    pub(super) async fn accept(
        &self,
        event: &Event,
        place: &mut InFlightPermit,
        span: &Span,
    ) -> Disposition {
        let received_at = self.settings.clock.now();
        if !span.is_disabled() {
            span.record("event_id", &*EventKey::bounded(event.id()))
                .record("event_type", event.event_type().as_str());
        }
        if age(received_at, event) > self.ledger.retention() {
            return Box::pin(self.expired(event, received_at, place)).await;
        }
        self.witness.saw_recent(received_at);
        self.handle_or_store(
            event,
            Digest::of(event.raw_bytes()),
            received_at,
            place,
            span,
        )
        .await
    }

    /// Handles or stores an authentic event, however it came.
    pub(super) async fn handle_or_store(
        &self,
        event: &Event,
        digest: Digest,
        received_at: Timestamp,
        place: &mut InFlightPermit,
        span: &Span,
    ) -> Disposition {
        let handlers = match &self.mode {
            Mode::Inline(handlers) => handlers,
            Mode::Inbox {
                inbox,
                ordering_key,
            } => {
                return Box::pin(self.store(inbox, *ordering_key, event, digest, place)).await;
            }
        };
        let Some(route) = handlers.route(event.event_type()) else {
            tracing::debug!(endpoint = %self.endpoint, event_type = %event.event_type(), "no handler is registered for this event type");
            return Disposition::Unhandled;
        };
        let key = self.key(event.shared_id());
        let Granted {
            token,
            asked,
            permit,
            waited,
        } = match self.claim(&key, digest, route.permits(), place).await {
            Ok(Ok(granted)) => granted,
            Ok(Err(answer)) => return answer,
            Err(error) if error.kind() == LedgerErrorKind::Content => {
                return Box::pin(self.dead_letter_refused(&key, digest, event, &error, place))
                    .await;
            }
            Err(error) => {
                return Box::pin(self.handle_unclaimed(route, event, &key, received_at, &error))
                    .await;
            }
        };
        crash::point("claimed");
        span.record("attempt", token.attempt);
        let (deadline, lease) = (
            self.settings.handler_timeout.saturating_sub(waited),
            self.settings.lease,
        );
        let claimed = Claimed {
            key: &key,
            token,
            asked,
            received_at,
            deadline,
            lease,
            log: &self.log,
        };
        let outcome = Box::pin(run_leased(&self.ledger, claimed, permit, route, event)).await;
        crash::point("handled");
        self.record_outcome(event, &key, token, &outcome).await
    }

    /// Handles an event that could not be claimed, if the receiver is set to do so.
    async fn handle_unclaimed(
        &self,
        route: &dyn Route,
        event: &Event,
        key: &EventKey,
        received_at: Timestamp,
        error: &LedgerError,
    ) -> Disposition {
        let store_down = self.store_down(error);
        // A handler that writes in a transaction needs the store, whatever the policy.
        if self.settings.store_failure != StoreFailure::HandleAnyway || route.commits() {
            return store_down;
        }
        self.log.write(
            "handled without a claim: the event may be handled twice",
            "store_failed",
            |left_out| {
                tracing::warn!(
                    endpoint = %self.endpoint,
                    event_id = key.event_id(),
                    left_out,
                    "handled without a claim: the event may be handled twice"
                );
            },
        );
        let work = AttemptState::new(
            event,
            key.clone(),
            None,
            received_at,
            self.settings.handler_timeout,
            None,
            &self.log,
        );
        let outcome = run(route, work).await;
        self.answer_unclaimed(key, outcome)
    }

    /// Stores the event for a worker.
    async fn store(
        &self,
        inbox: &AnyInbox,
        ordering_key: Option<OrderingKey>,
        event: &Event,
        digest: Digest,
        place: &mut InFlightPermit,
    ) -> Disposition {
        let key = self.key(event.shared_id());
        let ordering_key = ordering_key.and_then(|ordering_key| ordering_key(event.subject()));
        match inbox
            .append(&key, digest, ordering_key, event.body().clone())
            .await
        {
            Ok(Appended::Stored) => {
                crash::point("appended");
                Disposition::Stored
            }
            Ok(Appended::Duplicate { first_digest }) => {
                key.compare(digest, first_digest, &self.log);
                Disposition::Duplicate
            }
            Err(error) if error.kind() == LedgerErrorKind::Content => {
                self.dead_letter_refused(&key, digest, event, &error, place)
                    .await
            }
            Err(error) => self.store_down(&error),
        }
    }

    /// The store works, and refuses what this event contains: sent again, it would be refused
    /// again.
    async fn dead_letter_refused(
        &self,
        key: &EventKey,
        digest: Digest,
        event: &Event,
        error: &LedgerError,
        place: &mut InFlightPermit,
    ) -> Disposition {
        self.dead_letter(
            key,
            digest,
            error.chain(),
            event.body().clone(),
            Disposition::ContentRefused,
            place,
        )
        .await
    }

    /// The delivery was signed longer ago than records are kept, by this machine's clock: were it
    /// an old capture, nothing would tell. Were the clock wrong, every delivery would seem to be
    /// that old. So nothing is judged by the clock alone.
    async fn expired(
        &self,
        event: &Event,
        now: Timestamp,
        place: &mut InFlightPermit,
    ) -> Disposition {
        if !self.witness.vouches_for(now) {
            match self.ledger.server_time().await {
                Ok(Some(store_says)) if agree(now, store_says) => {}
                Ok(store_says) => return self.clock_unsure(event, now, store_says),
                Err(error) => return self.store_down(&error),
            }
        }
        self.dead_letter_expired(event, place).await
    }

    fn clock_unsure(
        &self,
        event: &Event,
        now: Timestamp,
        store_says: Option<Timestamp>,
    ) -> Disposition {
        self.witness.unsure();
        let reason = if store_says.is_some() {
            "store_differs"
        } else {
            "no_witness"
        };
        self.log.write("a delivery seems expired, and the clock is unconfirmed", reason, |left_out| {
            tracing::error!(
                endpoint = %self.endpoint,
                event_id = &*EventKey::bounded(event.id()),
                signed_at = %event.delivered_at(),
                clock = %now,
                store_clock = store_says.map(tracing::field::display),
                left_out,
                "a delivery seems expired, and the clock is unconfirmed: check this machine's clock"
            );
        });
        Disposition::ClockUnsure {
            retry_after: self.settings.retry_after,
        }
    }

    /// Keyed by what it is, since it has no id.
    pub(super) async fn dead_letter_unreadable(
        &self,
        body: Bytes,
        error: &ParseError,
        place: &mut InFlightPermit,
    ) -> Disposition {
        let digest = Digest::of(&body);
        let key = EventKey::unreadable(self.endpoint.clone(), &body);
        self.dead_letter(
            &key,
            digest,
            error.to_string(),
            body,
            Disposition::Unreadable,
            place,
        )
        .await
    }

    /// Under a key of its own: an old capture must not bury the event itself, which may still be
    /// waiting in the inbox, or be ingested from AuthPI's log.
    async fn dead_letter_expired(&self, event: &Event, place: &mut InFlightPermit) -> Disposition {
        let key = EventKey::expired(self.endpoint.clone(), event.id());
        let digest = Digest::of(event.raw_bytes());
        let reason = "the delivery was signed longer ago than the ledger's retention".to_owned();
        self.dead_letter(
            &key,
            digest,
            reason,
            event.body().clone(),
            Disposition::Expired,
            place,
        )
        .await
    }

    fn key(&self, event_id: std::sync::Arc<str>) -> EventKey {
        EventKey::new(self.endpoint.clone(), event_id)
    }

    /// The token, or the answer given by the worker that has the claim; waits for that worker for
    /// `in_flight_wait` lasts.
    ///
    /// Where `permits` are given, it takes one before it claims.
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        permits: Option<&TransactionPermits>,
        place: &mut InFlightPermit,
    ) -> Result<Result<Granted, Disposition>, LedgerError> {
        let since = Instant::now();
        let deadline = self.settings.handler_timeout;
        let Ok(permit) = permit_of(permits, since + deadline).await else {
            return Err(no_permit(deadline));
        };
        let looked = self.try_claim(key, digest, permit, since).await?;
        match looked {
            Look::Granted(granted) => Ok(Ok(granted)),
            Look::Duplicate => Ok(Err(Disposition::Duplicate)),
            Look::InFlight {
                asked,
                pause,
                retry_after,
            } => {
                let in_flight = (asked + self.settings.in_flight_wait, pause, retry_after);
                Box::pin(self.wait_for_outcome(key, digest, permits, place, in_flight)).await
            }
        }
    }

    /// Asks for the claim, once.
    async fn try_claim(
        &self,
        key: &EventKey,
        digest: Digest,
        permit: Option<TransactionPermit>,
        since: Instant,
    ) -> Result<Look, LedgerError> {
        let asked = if permit.is_some() {
            Instant::now()
        } else {
            since
        };
        Ok(
            match self.ledger.claim(key, digest, self.settings.lease).await? {
                Claim::Granted {
                    token,
                    first_digest,
                } => {
                    key.compare(digest, first_digest, &self.log);
                    Look::Granted(Granted {
                        token,
                        asked,
                        permit,
                        waited: asked - since,
                    })
                }
                Claim::Handled { first_digest } | Claim::Dead { first_digest } => {
                    key.compare(digest, first_digest, &self.log);
                    Look::Duplicate
                }
                Claim::InFlight { .. } => Look::InFlight {
                    asked,
                    pause: Duration::ZERO,
                    retry_after: self.settings.retry_after,
                },
                // The store said for how long, so polling earlier is of no use.
                Claim::NotYet { wait } => Look::InFlight {
                    asked,
                    pause: wait,
                    retry_after: wait,
                },
            },
        )
    }

    /// Looks again and again until `give_up`. Keeps neither a place nor a permit between two looks:
    /// copies of one event must not keep others out.
    async fn wait_for_outcome(
        &self,
        key: &EventKey,
        digest: Digest,
        permits: Option<&TransactionPermits>,
        place: &mut InFlightPermit,
        (give_up, mut at_least, mut retry_after): (Instant, Duration, Duration),
    ) -> Result<Result<Granted, Disposition>, LedgerError> {
        let draining = Disposition::Draining {
            retry_after: self.settings.retry_after,
        };
        let mut waiter = None;
        let mut pause = POLL_INITIAL;
        loop {
            pause = pause.max(at_least);
            if pause > give_up.saturating_duration_since(Instant::now()) {
                return Ok(Err(Disposition::InFlight { retry_after }));
            }
            if waiter.is_none() {
                waiter = self.places.waiter(key);
            }
            let Some(waiter) = &waiter else {
                return Ok(Err(Disposition::InFlight { retry_after }));
            };
            place.give_back();
            if let Err(Draining) = waiter.until_drain(sleep(pause)).await {
                return Ok(Err(draining));
            }
            pause = (pause * 2).min(POLL_MAX);
            at_least = Duration::ZERO;
            // Before the look, since a claim that is granted has to be worked on.
            if !place.take_again() {
                continue;
            }
            let since = Instant::now();
            let permit = match waiter.until_drain(permit_of(permits, give_up)).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) => return Ok(Err(Disposition::InFlight { retry_after })),
                Err(Draining) => return Ok(Err(draining)),
            };
            match self.try_claim(key, digest, permit, since).await? {
                Look::Granted(granted) => return Ok(Ok(granted)),
                Look::Duplicate => return Ok(Err(Disposition::Duplicate)),
                Look::InFlight {
                    pause,
                    retry_after: next,
                    ..
                } => (at_least, retry_after) = (pause, next),
            }
        }
    }

    /// Tells the ledger how the attempt went.
    async fn record_outcome(
        &self,
        event: &Event,
        key: &EventKey,
        token: Token,
        outcome: &Outcome,
    ) -> Disposition {
        let retry_after = self.settings.retry_after;
        let mut gave_up = None;
        let (answer, settled) = match outcome {
            Outcome::Committed => (Disposition::Handled, Ok(LeaseStatus::Held)),
            Outcome::LeaseLost => return self.lease_lost(key),
            Outcome::Handled => (
                Disposition::Handled,
                self.ledger.complete(key, token, Completion::Handled).await,
            ),
            Outcome::Failed(error) if error.is_terminal() => {
                let reason = error.chain();
                gave_up = Some(reason.clone());
                let answer = if self.ledger.keeps_dead_letters() {
                    Disposition::DeadLetter
                } else if self.settings.drop_terminal {
                    Disposition::Dropped
                } else {
                    Disposition::CannotKeep { retry_after }
                };
                let settled = if let Disposition::CannotKeep { .. } = answer {
                    self.ledger.release(key, token, Duration::ZERO).await
                } else {
                    let body = event.body().clone();
                    self.ledger
                        .complete(key, token, Completion::Dead { reason, body })
                        .await
                };
                (answer, settled)
            }
            retryable => {
                let pause = self.log_failure(key, token.attempt, retryable);
                let answer = Disposition::Failed {
                    retry_after: pause.unwrap_or(retry_after),
                };
                (
                    answer,
                    self.ledger
                        .release(key, token, pause.unwrap_or_default())
                        .await,
                )
            }
        };
        crash::point("completed");
        if let Some(reason) = gave_up {
            self.log_given_up(key, token.attempt, &reason, answer, settled.is_ok());
        }
        match settled {
            Ok(LeaseStatus::Held) => {
                match answer {
                    Disposition::Handled => {
                        telemetry::handled_after(
                            &self.endpoint,
                            self.settings.clock.since(event.time()),
                        );
                    }
                    Disposition::DeadLetter => self.count_dead("terminal"),
                    _ => {}
                }
                answer
            }
            Ok(LeaseStatus::Lost) => self.lease_lost(key),
            Err(error)
                if error.kind() == LedgerErrorKind::Content
                    && answer == Disposition::DeadLetter =>
            {
                self.cannot_dead_letter(key, &error.chain(), Disposition::ContentRefused)
            }
            Err(error) => {
                let down = self.store_down(&error);
                // What is done is done: sent again, it would be done twice for certain.
                let done = matches!(answer, Disposition::Handled | Disposition::Dropped);
                if done && self.settings.store_failure == StoreFailure::HandleAnyway {
                    answer
                } else {
                    down
                }
            }
        }
    }

    /// Once for each event that is kept or dropped finally; for one that is retried, as often as
    /// other lines.
    fn log_given_up(
        &self,
        key: &EventKey,
        attempt: u32,
        error: &str,
        answer: Disposition,
        settled: bool,
    ) {
        let (endpoint, event_id) = (&self.endpoint, key.event_id());
        match answer {
            Disposition::DeadLetter if settled => {
                tracing::error!(%endpoint, event_id, attempt, error, "a handler failed terminally; the event is kept as a dead letter");
            }
            Disposition::Dropped if settled => {
                tracing::error!(%endpoint, event_id, attempt, error, "a handler failed terminally; the event is dropped");
            }
            _ => self.log.write(
                "a handler failed terminally; AuthPI keeps the event",
                "terminal",
                |left_out| {
                    tracing::error!(
                        %endpoint,
                        event_id,
                        attempt,
                        error,
                        left_out,
                        "a handler failed terminally; AuthPI keeps the event"
                    );
                },
            ),
        }
    }

    /// Tells of a failure that another try may cure, and says what pause was asked for.
    fn log_failure(&self, key: &EventKey, attempt: u32, outcome: &Outcome) -> Option<Duration> {
        let (problem, pause) = outcome.problem()?;
        if let Some(reason) = outcome.retry_reason() {
            telemetry::count_by(telemetry::RETRIED, &self.endpoint, "reason", reason);
        }
        self.log.write("a handler failed", outcome.retry_reason().unwrap_or("terminal"), |left_out| {
            tracing::warn!(endpoint = %self.endpoint, event_id = key.event_id(), attempt, error = %problem, left_out, "a handler failed");
        });
        pause
    }

    /// Without a claim nothing can be kept, and nothing is settled.
    fn answer_unclaimed(&self, key: &EventKey, outcome: Outcome) -> Disposition {
        let retry_after = self.settings.retry_after;
        match outcome {
            Outcome::Handled => Disposition::Handled,
            Outcome::Failed(error) if error.is_terminal() && self.settings.drop_terminal => {
                Disposition::Dropped
            }
            retryable => {
                let pause = self.log_failure(key, 0, &retryable);
                Disposition::Failed {
                    retry_after: pause.unwrap_or(retry_after),
                }
            }
        }
    }

    /// Puts a delivery that will not be handled among the dead letters, once; `otherwise` where
    /// there is no place for them.
    async fn dead_letter(
        &self,
        key: &EventKey,
        digest: Digest,
        reason: String,
        body: Bytes,
        otherwise: Disposition,
        place: &mut InFlightPermit,
    ) -> Disposition {
        if !self.ledger.keeps_dead_letters() {
            return self.cannot_dead_letter(key, &reason, otherwise);
        }
        let token = match self.claim(key, digest, None, place).await {
            Ok(Ok(granted)) => granted.token,
            Ok(Err(answer)) => return answer,
            Err(error) if error.kind() == LedgerErrorKind::Content => {
                return self.cannot_dead_letter(key, &error.chain(), otherwise);
            }
            Err(error) => return self.store_down(&error),
        };
        match self
            .ledger
            .complete(
                key,
                token,
                Completion::Dead {
                    reason: reason.clone(),
                    body,
                },
            )
            .await
        {
            Ok(LeaseStatus::Held) => {
                // Never left out: there is one for each dead letter.
                let (endpoint, event_id, outcome) =
                    (&self.endpoint, key.event_id(), otherwise.outcome());
                tracing::warn!(%endpoint, event_id, outcome, error = reason, "a delivery cannot be handled; it is kept as a dead letter");
                self.count_dead(otherwise.outcome());
                Disposition::DeadLetter
            }
            Ok(LeaseStatus::Lost) => self.lease_lost(key),
            Err(error) if error.kind() == LedgerErrorKind::Content => {
                self.cannot_dead_letter(key, &error.chain(), otherwise)
            }
            Err(error) => self.store_down(&error),
        }
    }

    /// There is no place for it, so it is refused.
    fn cannot_dead_letter(&self, key: &EventKey, error: &str, answer: Disposition) -> Disposition {
        self.log.write(
            "a delivery cannot be handled, nor kept as a dead letter",
            answer.outcome(),
            |left_out| {
                tracing::warn!(
                    endpoint = %self.endpoint,
                    event_id = key.event_id(),
                    outcome = answer.outcome(),
                    error,
                    left_out,
                    "a delivery cannot be handled, nor kept as a dead letter: refused"
                );
            },
        );
        answer
    }

    fn count_dead(&self, reason: &'static str) {
        telemetry::count_by(telemetry::DEAD_LETTERS, &self.endpoint, "reason", reason);
    }

    fn lease_lost(&self, key: &EventKey) -> Disposition {
        telemetry::count(telemetry::LEASES_LOST, &self.endpoint);
        self.log.write(
            "the lease was lost: another worker has taken over",
            "lease_lost",
            |left_out| {
                tracing::warn!(
                    endpoint = %self.endpoint,
                    event_id = key.event_id(),
                    left_out,
                    "the lease was lost: another worker has taken over"
                );
            },
        );
        Disposition::LeaseLost {
            retry_after: self.settings.retry_after,
        }
    }

    fn store_down(&self, error: &LedgerError) -> Disposition {
        error.report(&self.endpoint, &self.log);
        Disposition::StoreDown {
            retry_after: self.settings.retry_after,
        }
    }
}

/// What a look at the ledger's record shows.
enum Look {
    Granted(Granted),
    Duplicate,
    InFlight {
        asked: Instant,
        /// No sooner than after this is there another look.
        pause: Duration,
        retry_after: Duration,
    },
}
