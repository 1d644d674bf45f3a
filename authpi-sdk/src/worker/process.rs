//! Processes one event: checks its attempts and age, runs its handler, and records the outcome.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{Instrument as _, field::Empty, info_span};

use super::{Settings, Shared};
use crate::{
    backoff, crash,
    event::Event,
    handlers::{Claimed, Outcome, run_leased},
    ledger::{
        AnyLedger, Completion, LeaseStatus, LeasedEvent, LedgerError, LedgerErrorKind,
        TransactionPermit,
    },
    telemetry,
};

impl Shared {
    /// `asked` is when the store was asked for it; `permit` is for the handler's transaction, where
    /// it was taken before.
    pub(super) async fn handle(
        &self,
        leased: LeasedEvent,
        asked: Instant,
        permit: Option<TransactionPermit>,
    ) {
        // A root of its own: the worker's caller has nothing to do with this event.
        let span = telemetry::if_enabled(info_span!(
            parent: None,
            "authpi.process",
            endpoint = &*self.endpoint,
            event_id = leased.key.event_id(),
            attempt = leased.token.attempt,
            event_type = Empty,
            outcome = Empty,
        ));
        let outcome = self
            .work(&leased, asked, permit, &span)
            .instrument(span.clone())
            .await;
        span.record("outcome", outcome);
        telemetry::count_by(telemetry::EVENTS, &self.endpoint, "outcome", outcome);
    }

    /// Makes the attempt and tells the store; the outcome's name.
    async fn work(
        &self,
        leased: &LeasedEvent,
        asked: Instant,
        permit: Option<TransactionPermit>,
        span: &tracing::Span,
    ) -> &'static str {
        crash::point("leased");
        let end = self.attempt_once(leased, asked, permit, span).await;
        crash::point("handled");
        let (key, token) = (&leased.key, leased.token);
        let result = match &end {
            End::Handled { .. } => self.inbox.complete(key, token, Completion::Handled).await,
            End::Committed { .. } => Ok(LeaseStatus::Held),
            End::Dead { text, .. } => {
                let dead = Completion::Dead {
                    reason: text.clone(),
                    body: leased.body.clone(),
                };
                self.inbox.complete(key, token, dead).await
            }
            End::Retry { pause, .. } => self.inbox.release(key, token, *pause).await,
            // Not recorded as handled, so that it can be handled later. By
            // its holder only: another worker, of a later version, may have taken it over
            // and know what to do with it.
            End::Unhandled => match self.inbox.renew(key, token, self.settings.lease).await {
                Ok(LeaseStatus::Held) => self.inbox.forget(key).await.map(|_| LeaseStatus::Held),
                lost_or_failed => lost_or_failed,
            },
            End::LeaseLost => Ok(LeaseStatus::Lost),
        };
        crash::point("completed");
        match result {
            Ok(LeaseStatus::Held) => {
                if let End::Dead { text, .. } = &end {
                    // Never left out: there is one for each dead letter.
                    let (endpoint, event_id, attempt) =
                        (&self.endpoint, key.event_id(), token.attempt);
                    tracing::error!(%endpoint, event_id, attempt, error = %text, "an event became a dead letter");
                }
                self.count(&end)
            }
            Ok(LeaseStatus::Lost) => {
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
                telemetry::count(telemetry::LEASES_LOST, &self.endpoint);
                "lease_lost"
            }
            Err(error) if error.kind() == LedgerErrorKind::Content => {
                self.dead_letter_refused(leased, &error).await
            }
            // The lease runs out by itself, and the event is handled again.
            Err(error) => {
                error.report(&self.endpoint, &self.log);
                "store_down"
            }
        }
    }

    /// The store works, and refuses what this event's end contains: tried again, it would be
    /// refused again.
    async fn dead_letter_refused(&self, leased: &LeasedEvent, error: &LedgerError) -> &'static str {
        let LeasedEvent {
            key, token, body, ..
        } = leased;
        let reason = error.chain();
        self.log.write("the store rejects the content of an event", "content_refused", |left_out| {
            let (endpoint, event_id) = (&self.endpoint, key.event_id());
            tracing::error!(%endpoint, event_id, error = %reason, left_out, "the store rejects the content of an event");
        });
        match self
            .inbox
            .complete(
                key,
                *token,
                Completion::Dead {
                    reason,
                    body: body.clone(),
                },
            )
            .await
        {
            Ok(LeaseStatus::Held) => {
                telemetry::count_by(
                    telemetry::DEAD_LETTERS,
                    &self.endpoint,
                    "reason",
                    "content_refused",
                );
                "dead_letter"
            }
            Ok(LeaseStatus::Lost) => "lease_lost",
            Err(error) => {
                error.report(&self.endpoint, &self.log);
                "store_down"
            }
        }
    }

    /// What the store knows is counted; the outcome's name.
    fn count(&self, end: &End) -> &'static str {
        match end {
            End::Handled { lag } | End::Committed { lag } => {
                telemetry::handled_after(&self.endpoint, *lag);
                "handled"
            }
            End::Dead { reason, .. } => {
                telemetry::count_by(telemetry::DEAD_LETTERS, &self.endpoint, "reason", reason);
                "dead_letter"
            }
            End::Retry { reason, .. } => {
                telemetry::count_by(telemetry::RETRIED, &self.endpoint, "reason", reason);
                "failed"
            }
            End::Unhandled => "unhandled",
            End::LeaseLost => "lease_lost",
        }
    }

    async fn attempt_once(
        &self,
        leased: &LeasedEvent,
        asked: Instant,
        permit: Option<TransactionPermit>,
        span: &tracing::Span,
    ) -> End {
        let settings = &self.settings;
        let attempt = leased.token.attempt;
        if attempt > settings.max_attempts {
            // Each attempt before ended without a word: the process died, or the store could not be
            // told.
            let text = format!(
                "{} attempts were started and none finished",
                settings.max_attempts
            );
            return End::Dead {
                reason: "crashes",
                text,
            };
        }
        let event = match Event::from_json(leased.body.clone()) {
            Ok(event) => event,
            Err(error) => {
                return End::Dead {
                    reason: "unreadable",
                    text: error.to_string(),
                };
            }
        };
        span.record("event_type", event.event_type().as_str());
        let Some(route) = self.handlers.route(event.event_type()) else {
            tracing::debug!(endpoint = %self.endpoint, event_type = %event.event_type(), "no handler is registered for this event type");
            return End::Unhandled;
        };
        let claimed = Claimed {
            key: &leased.key,
            token: leased.token,
            asked,
            received_at: leased.received_at,
            deadline: settings.handler_timeout,
            lease: settings.lease,
            log: &self.log,
        };
        let ledger: AnyLedger = self.inbox.clone();
        let outcome = run_leased(&ledger, claimed, permit, route, &event).await;
        let lag = || settings.clock.since(event.time());
        match &outcome {
            Outcome::Handled => return End::Handled { lag: lag() },
            Outcome::Committed => return End::Committed { lag: lag() },
            Outcome::LeaseLost => return End::LeaseLost,
            Outcome::Failed(error) if error.is_terminal() => {
                return End::Dead {
                    reason: "terminal",
                    text: error.chain(),
                };
            }
            _ => {}
        }
        let (Some((problem, pause)), Some(reason)) = (outcome.problem(), outcome.retry_reason())
        else {
            return End::Unhandled;
        };
        let given_up = |reason| End::Dead {
            reason,
            text: format!("after {attempt} attempts: {problem}"),
        };
        if attempt == settings.max_attempts {
            return given_up("attempts");
        }
        if self.is_too_old(leased.received_at).await {
            return given_up("age");
        }
        self.log.write("a handler failed", reason, |left_out| {
            let event_id = leased.key.event_id();
            tracing::warn!(endpoint = %self.endpoint, event_id, attempt, error = %problem, left_out, "a handler failed");
        });
        End::Retry {
            reason,
            pause: pause.unwrap_or_else(|| {
                backoff::full_jitter(settings.backoff.0, settings.backoff.1, attempt)
            }),
        }
    }
}

impl Shared {
    /// Whether the event was stored so long ago that it is given up. By the store's clock where it
    /// has one, since that is what `received_at` was read from; else by this machine's, if
    /// something recent was seen by it: a clock that was set ahead would give up everything at its
    /// first failure.
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
            // It is tried again, and given up after the last attempt at the latest.
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
                            "an event seems too old, and the clock is unconfirmed: it is tried again"
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

/// As long as clocks may differ, an event is recent.
const RECENT: Duration = Duration::from_hours(1);

/// How an attempt ends.
enum End {
    Handled {
        lag: Duration,
    },
    /// Handled, and the store knows.
    Committed {
        lag: Duration,
    },
    LeaseLost,
    Dead {
        /// In a word, for the metrics.
        reason: &'static str,
        text: String,
    },
    Retry {
        reason: &'static str,
        pause: Duration,
    },
    Unhandled,
}
