//! Processes one leased event: runs its handler, decides about a failure, and records the outcome.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{Instrument as _, field::Empty};

use super::{Settings, Shared};
use crate::{
    backoff, crash,
    event::Event,
    handlers::{Claimed, Failure, Finished, Resolution},
    ledger::{AnyLedger, LeasedEvent, TransactionPermit},
    telemetry,
};

impl Shared {
    /// `requested_at` is when the lease was requested. `permit` is for the handler's transaction, if
    /// it was taken before the lease.
    pub(super) async fn handle(
        &self,
        leased: LeasedEvent,
        requested_at: Instant,
        permit: Option<TransactionPermit>,
    ) {
        // A root span: the event is not part of what the worker's caller does.
        let span = telemetry::span!(
            INFO,
            root,
            "authpi.process",
            endpoint = &*self.endpoint,
            event_id = leased.key.event_id(),
            attempt = leased.token.attempt,
            event_type = Empty,
            outcome = Empty,
        );
        let mut event_type = self.settings.type_labels.unread();
        let outcome = self
            .attempt(&leased, requested_at, permit, &span, &mut event_type)
            .instrument(span.clone())
            .await;
        span.record("outcome", outcome);
        telemetry::count_outcome(telemetry::EVENTS, &self.endpoint, outcome, event_type);
    }

    /// Makes one attempt and records it. Returns the outcome's name for metrics, and sets the label
    /// of the event's type.
    async fn attempt(
        &self,
        leased: &LeasedEvent,
        requested_at: Instant,
        permit: Option<TransactionPermit>,
        span: &tracing::Span,
        event_type: &mut Option<&'static str>,
    ) -> &'static str {
        crash::point("leased");
        let ledger: AnyLedger = self.inbox.clone();
        let claimed = Claimed {
            ledger: &ledger,
            key: &leased.key,
            token: leased.token,
            requested_at,
            lease: self.settings.lease,
            log: &self.log,
            type_labels: &self.settings.type_labels,
        };
        let resolution = self
            .run_handler(&claimed, leased, permit, span, event_type)
            .await;
        crash::point("handled");
        match claimed.finish(&resolution, &leased.body).await {
            Finished::Recorded => match resolution {
                Resolution::Handled { .. } | Resolution::Committed { .. } => "handled",
                Resolution::Unhandled => "unhandled",
                Resolution::DeadLetter { .. } => "dead_letter",
                Resolution::Drop { .. } => "dropped",
                Resolution::Retry(_) => "failed",
                Resolution::LeaseLost => "lease_lost",
            },
            Finished::DeadLetter => "dead_letter",
            // Not even a dead letter is accepted. The lease expires, and the event is tried again.
            Finished::ContentRefused(error) => {
                error.report(&self.endpoint, &self.log);
                "store_down"
            }
            Finished::LeaseLost => "lease_lost",
            Finished::StoreDown => "store_down",
        }
    }

    async fn run_handler(
        &self,
        claimed: &Claimed<'_>,
        leased: &LeasedEvent,
        permit: Option<TransactionPermit>,
        span: &tracing::Span,
        event_type: &mut Option<&'static str>,
    ) -> Resolution {
        let settings = &self.settings;
        if leased.token.attempt > settings.max_attempts {
            // The last permitted attempt left no record: the process died, the store failed, or the
            // lease was lost. Earlier attempts may have failed in the usual way.
            return Resolution::DeadLetter {
                reason: "crashes",
                error: format!(
                    "the last of {} attempts left no record of its end",
                    settings.max_attempts
                ),
            };
        }
        let event = match Event::from_json(leased.body.clone()) {
            Ok(event) => event,
            Err(error) => {
                return Resolution::DeadLetter {
                    reason: "unreadable",
                    error: error.to_string(),
                };
            }
        };
        span.record("event_type", event.event_type().as_str());
        *event_type = settings.type_labels.of(event.event_type().as_str());
        let Some(route) = self.handlers.find(event.event_type()) else {
            tracing::debug!(
                endpoint = %self.endpoint,
                event_type = %event.event_type(),
                "no handler is registered for this event type"
            );
            return Resolution::Unhandled;
        };
        let outcome = claimed
            .run(
                route,
                &event,
                leased.received_at,
                settings.handler_timeout,
                permit,
            )
            .await;
        match outcome.resolve(|| settings.clock.since(event.time())) {
            Ok(resolution) => resolution,
            Err(failure) => self.resolve_failure(failure, leased).await,
        }
    }

    /// Decides about a failed attempt: retry, or give up.
    async fn resolve_failure(&self, mut failure: Failure, leased: &LeasedEvent) -> Resolution {
        let attempt = leased.token.attempt;
        let (reason, error) = if failure.is_terminal() {
            (failure.reason, failure.error)
        } else {
            let reason = if attempt == self.settings.max_attempts {
                "attempts"
            } else if self.is_too_old(leased.received_at).await {
                "age"
            } else {
                let (first, longest) = self.settings.backoff;
                failure.retry_after = failure
                    .retry_after
                    .or_else(|| Some(backoff::full_jitter(first, longest, attempt)));
                return Resolution::Retry(failure);
            };
            (
                reason,
                format!("after {attempt} attempts: {}", failure.error),
            )
        };
        Resolution::DeadLetter { reason, error }
    }

    /// Whether the event was stored so long ago that it is given up.
    ///
    /// `received_at` was read from the store's clock, so that clock decides, if the store has one.
    /// Otherwise this machine's clock decides, if a recent event confirms it. A clock set ahead
    /// would otherwise give up every event at its first failure.
    async fn is_too_old(&self, received_at: Timestamp) -> bool {
        let Settings { clock, max_age, .. } = &self.settings;
        let now = clock.now();
        let age = |now: Timestamp| {
            Duration::try_from(now.duration_since(received_at)).unwrap_or(Duration::ZERO)
        };
        if age(now) <= RECENT {
            self.witness.saw_recent(now);
        }
        if age(now) < *max_age {
            return false;
        }
        if age(now) <= RECENT || self.witness.vouches_for(now) {
            return true;
        }
        match self.inbox.server_time().await {
            Ok(Some(now)) => age(now) >= *max_age,
            // The event is retried. The limit of attempts still ends it.
            Ok(None) => {
                self.log.write(
                    "an event seems too old, and the clock is unconfirmed",
                    "no_witness",
                    |left_out| {
                        tracing::warn!(
                            endpoint = %self.endpoint,
                            stored_at = %received_at,
                            clock = %now,
                            left_out,
                            "an event seems too old, and the clock is unconfirmed: the event is retried"
                        );
                    },
                );
                false
            }
            Err(error) => {
                error.report(&self.endpoint, &self.log);
                false
            }
        }
    }
}

/// Events younger than this are recent. Clocks may differ by this much.
const RECENT: Duration = Duration::from_hours(1);
