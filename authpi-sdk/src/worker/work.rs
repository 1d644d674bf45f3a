//! One event: whether it is still worth a try, its handler, and what the store is told at the end.

use std::{error::Error as _, time::Duration};

use super::{Shared, backoff};
use crate::{
    crash,
    event::Event,
    handlers::{Claimed, Outcome, run_leased},
    ledger::{AnyLedger, Completion, Held, Leased, LedgerError},
};

impl Shared {
    pub(super) async fn handle(&self, leased: Leased) {
        crash::point("leased");
        let end = self.try_once(&leased).await;
        crash::point("handled");
        let result = match end {
            End::Handled => self.inbox.complete(&leased.key, leased.token, Completion::Handled).await,
            End::Committed => Ok(Held::Yes),
            End::Dead(reason) => {
                tracing::error!(
                    endpoint = %self.endpoint, event_id = leased.key.event_id(), attempt = leased.token.attempt,
                    error = %reason, "an event was given up"
                );
                let body = leased.body.clone();
                self.inbox.complete(&leased.key, leased.token, Completion::Dead { reason, body }).await
            }
            End::Retry(pause) => self.inbox.release(&leased.key, leased.token, pause).await,
            // Not recorded as handled, so that it can be brought back when somebody handles it.
            End::Unhandled => self.inbox.forget(&leased.key).await.map(|_| Held::Yes),
            End::LeaseLost => Ok(Held::Lost),
        };
        crash::point("completed");
        match result {
            Ok(Held::Yes) => {}
            Ok(Held::Lost) => {
                let event_id = leased.key.event_id();
                tracing::warn!(endpoint = %self.endpoint, event_id, "the lease was lost: another worker has taken over");
            }
            // The lease runs out by itself, and the event is handled again.
            Err(error) => self.store_down(&error),
        }
    }

    async fn try_once(&self, leased: &Leased) -> End {
        let settings = &self.settings;
        let attempt = leased.token.attempt;
        if attempt > settings.attempts {
            // Each attempt before ended without a word: the process died, or the store could not be told.
            return End::Dead(format!("{} attempts were begun and none was finished", settings.attempts));
        }
        let event = match Event::from_json(leased.body.clone()) {
            Ok(event) => event,
            Err(error) => return End::Dead(error.to_string()),
        };
        let Some(route) = self.handlers.route(event.event_type()) else {
            tracing::debug!(endpoint = %self.endpoint, event_type = %event.event_type(), "nobody handles this type");
            self.count("unhandled");
            return End::Unhandled;
        };
        let claimed = Claimed {
            key: &leased.key,
            token: leased.token,
            received_at: leased.received_at,
            deadline: settings.deadline,
            lease: settings.lease,
        };
        let ledger = AnyLedger::from(self.inbox.clone());
        let outcome = run_leased(&ledger, &claimed, &*route, &event).await;
        match &outcome {
            Outcome::Failed(error) if error.is_terminal() => {
                self.count("dead_letter");
                return End::Dead(error.chain());
            }
            Outcome::Committed => {
                self.count("handled");
                return End::Committed;
            }
            Outcome::LeaseLost => return End::LeaseLost,
            _ => {}
        }
        let Some((problem, pause)) = outcome.problem() else {
            self.count("handled");
            return End::Handled;
        };
        if attempt == settings.attempts || settings.clock.since(leased.received_at) >= settings.give_up_after {
            self.count("dead_letter");
            return End::Dead(format!("after {attempt} attempts: {problem}"));
        }
        self.count("failed");
        tracing::warn!(endpoint = %self.endpoint, event_id = leased.key.event_id(), attempt, error = %problem, "a handler failed");
        End::Retry(pause.unwrap_or_else(|| backoff::pause(settings.pauses, attempt)))
    }

    fn count(&self, outcome: &'static str) {
        metrics::counter!("authpi_events_total", "endpoint" => self.endpoint.clone(), "outcome" => outcome)
            .increment(1);
    }

    pub(super) fn store_down(&self, error: &LedgerError) {
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        tracing::error!(endpoint = %self.endpoint, %error, source, "the inbox failed");
    }
}

/// How an attempt ends.
enum End {
    Handled,
    /// Handled, and the store knows.
    Committed,
    LeaseLost,
    Dead(String),
    Retry(Duration),
    Unhandled,
}
