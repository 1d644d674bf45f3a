//! Processes one authentic event: finds the event's handler, claims the event, runs the handler
//! under the lease, and records the outcome.

use std::time::Duration;

use jiff::Timestamp;
use tracing::Span;

use super::{
    Mode, OrderingKey, Shared, StoreFailure,
    claim::{Claiming, Grant},
    dead_letter::age,
    disposition::Disposition,
    in_flight::InFlightPermit,
};
use crate::{
    crash,
    event::Event,
    handlers::{AttemptState, Claimed, Failure, Finished, Outcome, Resolution, Route, run},
    ledger::{AnyInbox, Appended, Digest, EventKey, LedgerError, LedgerErrorKind},
};

impl Shared {
    /// Processes an authentic delivery.
    ///
    /// Rare and slow paths are boxed. This keeps the future of each delivery small.
    pub(super) async fn accept(
        &self,
        event: &Event,
        received_at: Timestamp,
        place: &mut InFlightPermit,
        span: &Span,
    ) -> Disposition {
        if !span.is_disabled() {
            span.record("event_id", &*EventKey::bounded(event.id()))
                .record("event_type", event.event_type().as_str());
        }
        if age(received_at, event) > self.ledger.retention() {
            return Box::pin(self.expired(event, received_at, place)).await;
        }
        self.witness.saw_recent(received_at);
        let digest = Digest::of(event.raw_bytes());
        self.handle_or_store(event, digest, received_at, place, span)
            .await
    }

    /// Handles or stores an authentic event, from a delivery or from another source.
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
        let Some(route) = handlers.find(event.event_type()) else {
            tracing::debug!(
                endpoint = %self.endpoint,
                event_type = %event.event_type(),
                "no handler is registered for this event type"
            );
            return Disposition::Unhandled;
        };
        let key = EventKey::new(self.endpoint.clone(), event.shared_id());
        let Grant {
            token,
            requested_at,
            permit,
            waited,
        } = match self.claim(&key, digest, route.permits(), place).await {
            Ok(Claiming::Granted(grant)) => grant,
            Ok(Claiming::Answered(answer)) => return answer,
            Err(error) if error.kind() == LedgerErrorKind::Content => {
                return Box::pin(self.dead_letter_refused(key, digest, event, &error, place)).await;
            }
            Err(error) => {
                return Box::pin(self.handle_unclaimed(route, event, key, received_at, &error))
                    .await;
            }
        };
        crash::point("claimed");
        span.record("attempt", token.attempt);
        let claimed = Claimed {
            ledger: &self.ledger,
            key: &key,
            token,
            requested_at,
            lease: self.settings.lease,
            log: &self.log,
            type_labels: &self.settings.type_labels,
        };
        let timeout = self.settings.handler_timeout.saturating_sub(waited);
        let outcome = Box::pin(claimed.run(route, event, received_at, timeout, permit)).await;
        crash::point("handled");
        self.finish(&claimed, outcome, event).await
    }

    /// Records the outcome of the attempt, and answers the delivery.
    async fn finish(&self, claimed: &Claimed<'_>, outcome: Outcome, event: &Event) -> Disposition {
        let resolution = outcome
            .resolve(|| self.settings.clock.since(event.time()))
            .unwrap_or_else(|failure| self.resolve_failure(failure));
        let finished = claimed.finish(&resolution, event.body()).await;
        let retry_after = self.settings.retry_after;
        match finished {
            Finished::Recorded => self.answer(&resolution),
            Finished::DeadLetter => Disposition::DeadLetter,
            Finished::ContentRefused(error) => {
                self.refuse(claimed.key, &error.chain(), Disposition::ContentRefused)
            }
            Finished::LeaseLost => Disposition::LeaseLost { retry_after },
            // The event is handled, or has failed terminally and is dropped. Only the record is
            // missing, and a retry would certainly run the handler again.
            Finished::StoreDown
                if self.settings.store_failure == StoreFailure::HandleAnyway
                    && matches!(
                        resolution,
                        Resolution::Handled { .. } | Resolution::Drop { .. }
                    ) =>
            {
                self.answer(&resolution)
            }
            Finished::StoreDown => Disposition::StoreDown { retry_after },
        }
    }

    /// Decides what happens to the event of a failed attempt.
    fn resolve_failure(&self, failure: Failure) -> Resolution {
        if !failure.is_terminal() {
            return Resolution::Retry(failure);
        }
        if self.ledger.keeps_dead_letters() {
            return Resolution::DeadLetter {
                reason: failure.reason,
                error: failure.error,
            };
        }
        if self.settings.drop_terminal {
            return Resolution::Drop {
                error: failure.error,
            };
        }
        // The event stays with AuthPI, which retries it.
        Resolution::Retry(failure)
    }

    fn answer(&self, resolution: &Resolution) -> Disposition {
        let retry_after = self.settings.retry_after;
        match resolution {
            Resolution::Handled { .. } | Resolution::Committed { .. } => Disposition::Handled,
            Resolution::Unhandled => Disposition::Unhandled,
            Resolution::DeadLetter { .. } => Disposition::DeadLetter,
            Resolution::Drop { .. } => Disposition::Dropped,
            Resolution::LeaseLost => Disposition::LeaseLost { retry_after },
            Resolution::Retry(failure) if failure.is_terminal() => {
                Disposition::CannotKeep { retry_after }
            }
            Resolution::Retry(failure) => Disposition::Failed {
                retry_after: failure.retry_after.unwrap_or(retry_after),
            },
        }
    }

    /// Handles an event that could not be claimed, if [`StoreFailure::HandleAnyway`] is set.
    async fn handle_unclaimed(
        &self,
        route: &Route,
        event: &Event,
        key: EventKey,
        received_at: Timestamp,
        error: &LedgerError,
    ) -> Disposition {
        let store_down = self.store_down(error);
        // A handler with a transaction cannot run without the store.
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
        let attempt = AttemptState::new(
            event,
            key.clone(),
            None,
            received_at,
            self.settings.handler_timeout,
            None,
            &self.log,
        );
        let event_type = self.settings.type_labels.of(event.event_type().as_str());
        let outcome = run(route, attempt, event_type).await;
        let resolution = match outcome.resolve(|| Duration::ZERO) {
            Ok(resolution) => resolution,
            Err(failure) if failure.is_terminal() && self.settings.drop_terminal => {
                Resolution::Drop {
                    error: failure.error,
                }
            }
            Err(failure) => {
                failure.report_retry(&key, 0, &self.log);
                Resolution::Retry(failure)
            }
        };
        self.answer(&resolution)
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
        let key = EventKey::new(self.endpoint.clone(), event.shared_id());
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
                self.dead_letter_refused(key, digest, event, &error, place)
                    .await
            }
            Err(error) => self.store_down(&error),
        }
    }

    pub(super) fn store_down(&self, error: &LedgerError) -> Disposition {
        error.report(&self.endpoint, &self.log);
        Disposition::StoreDown {
            retry_after: self.settings.retry_after,
        }
    }
}
