//! Events that did not come as a delivery: from AuthPI's log, or from dead letters.

use std::{sync::Arc, time::Duration};

#[cfg(feature = "client")]
use bytes::Bytes;
use tracing::{Instrument as _, Span, field::Empty};

use super::{Receiver, Shared, disposition::Disposition};
use crate::{
    event::Event,
    ledger::{Digest, EventKey},
    signature::Verified,
    telemetry,
};
#[cfg(feature = "client")]
use crate::{event::ParseError, ledger::AnyLedger, telemetry::LogLimit};

/// The result of [`Receiver::ingest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ingested {
    /// The event was handled.
    Handled,
    /// The event is stored in the inbox; a worker will handle it.
    Stored,
    /// The event is known: it was handled or given up before, or is waiting in the inbox.
    Duplicate,
    /// No handler is registered for the event's type. Nothing was recorded, so the event can be
    /// handled later.
    Unhandled,
    /// The event was given up: kept as a dead letter, or dropped as configured.
    Dead,
    /// The event was not accepted. Ingest it again after `retry_after`, unless the outcome is
    /// `content_refused`: the store then refuses the event's content and has kept no dead letter,
    /// so another attempt does not help.
    NotAccepted {
        /// The outcome's name, as in logs and metrics: `failed`, `in_flight`, `store_down`, …
        outcome: &'static str,
        /// The time to wait before the next attempt; zero for `content_refused`.
        retry_after: Duration,
    },
}

impl Receiver {
    /// Ingests an authentic event that did not come as a delivery. It is processed like a delivery,
    /// by the same handlers and with the same ledger. Unlike a delivery, it may be older than the
    /// ledger's retention.
    ///
    /// If the event has an [envelope](Event::envelope), the event's bytes are compared with those
    /// of its first delivery, and a difference is counted. An event without an envelope, as in
    /// AuthPI's log, is not compared, since its bytes differ from those of a delivery.
    ///
    /// Counts towards [`max_in_flight`](super::ReceiverBuilder::max_in_flight). If the future is
    /// dropped after it was polled, handling continues.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn ingest(&self, event: Verified<Event>) -> Ingested {
        let shared = Arc::clone(&self.shared);
        let span = telemetry::span!(
            INFO,
            "authpi.ingest",
            endpoint = &*shared.endpoint,
            event_id = &*EventKey::bounded(event.id()),
            event_type = event.event_type().as_str(),
            attempt = Empty,
            outcome = Empty,
        );
        let within = span.clone();
        let event_type = shared.settings.type_labels.of(event.event_type().as_str());
        let work = |mut place| {
            let work = async move {
                let received_at = shared.settings.clock.now();
                // The bytes of an event without an envelope are not those of a delivery.
                let is_a_delivery = event.envelope().is_some();
                let digest = if is_a_delivery {
                    Digest::of(event.raw_bytes())
                } else {
                    Digest::UNCOMPARED
                };
                shared.count_ingested(
                    shared
                        .handle_or_store(&event, digest, received_at, &mut place, &within)
                        .await,
                    &within,
                    event_type,
                )
            };
            work.instrument(span.clone())
        };
        let settled = self.run_detached(work).await;
        settled
            .unwrap_or_else(|refused| self.shared.count_ingested(refused, &span, event_type))
            .ingested()
    }

    /// Keeps an unreadable entry of AuthPI's log as a dead letter, if the ledger keeps dead
    /// letters.
    #[cfg(feature = "client")]
    pub(crate) async fn ingest_unreadable(&self, raw: Bytes, error: ParseError) -> Ingested {
        let shared = Arc::clone(&self.shared);
        let settled = self.run_detached(|mut place| async move {
            shared.dead_letter_unreadable(raw, &error, &mut place).await
        });
        settled.await.unwrap_or_else(|refused| refused).ingested()
    }

    #[cfg(feature = "client")]
    pub(crate) fn shared_endpoint(&self) -> &Arc<str> {
        &self.shared.endpoint
    }

    #[cfg(feature = "client")]
    pub(crate) fn log(&self) -> &Arc<LogLimit> {
        &self.shared.log
    }

    /// The store that this receiver's replicas share.
    #[cfg(feature = "client")]
    pub(crate) fn ledger(&self) -> &AnyLedger {
        &self.shared.ledger
    }
}

impl Shared {
    /// Counts the outcome and returns it.
    fn count_ingested(
        &self,
        answer: Disposition,
        span: &Span,
        event_type: Option<&'static str>,
    ) -> Disposition {
        let outcome = answer.outcome();
        telemetry::count_outcome(telemetry::INGESTED, &self.endpoint, outcome, event_type);
        span.record("outcome", outcome);
        answer
    }
}

impl Disposition {
    fn ingested(self) -> Ingested {
        match self {
            Self::Handled => Ingested::Handled,
            Self::Stored => Ingested::Stored,
            Self::Duplicate => Ingested::Duplicate,
            Self::Unhandled => Ingested::Unhandled,
            Self::DeadLetter | Self::Dropped => Ingested::Dead,
            other => Ingested::NotAccepted {
                outcome: other.outcome(),
                retry_after: other.retry_after().unwrap_or_default(),
            },
        }
    }
}

impl crate::ledger::DeadLetter {
    /// The event, for [`Receiver::ingest`]. It counts as verified, since its delivery was verified
    /// when it was received.
    ///
    /// First call `replay` of the store, which makes the record pending again. An event whose
    /// record is still dead is a [`Duplicate`](Ingested::Duplicate). With an inbox, `replay` is
    /// enough: a worker then handles the event.
    ///
    /// # Errors
    /// When the delivery is not a readable event, which may be why it was given up.
    pub fn event(&self) -> Result<Verified<Event>, crate::event::ParseError> {
        Event::from_json(self.body.clone()).map(|event| Verified::new(event, None))
    }
}
