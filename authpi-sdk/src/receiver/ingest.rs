//! Events that came another way than by a delivery: read from AuthPI's log, or brought back from
//! the dead letters.

use std::{sync::Arc, time::Duration};

#[cfg(feature = "client")]
use bytes::Bytes;
use tracing::{Instrument as _, Span, field::Empty, info_span};

use super::{Receiver, Shared, disposition::Disposition};
use crate::{
    event::Event,
    ledger::{Digest, EventKey},
    signature::Verified,
    telemetry,
};
#[cfg(feature = "client")]
use crate::{event::ParseError, ledger::AnyLedger, telemetry::LogLimit};

/// What became of an event that was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ingested {
    /// It was handled.
    Handled,
    /// It is in the inbox; a worker will handle it.
    Stored,
    /// It is known: it was handled or given up before, or it waits in the inbox.
    Duplicate,
    /// No handler is registered for its type. Not recorded, so that it can be handled later.
    Unhandled,
    /// It was given up: kept as a dead letter, or dropped where that was chosen by name.
    Dead,
    /// It was not taken, and can be fed again.
    NotAccepted {
        /// The outcome's name, as in logs and metrics: `failed`, `in_flight`, `store_down`, …
        outcome: &'static str,
        /// No sooner than after this.
        retry_after: Duration,
    },
}

impl Receiver {
    /// Takes an authentic event that did not come as a delivery, and does with it what it does with
    /// a delivered one: the same handlers, the same ledger. It may be older than the ledger's
    /// retention.
    ///
    /// Deliveries of one event are compared, and another content is counted. An event without an
    /// envelope, as AuthPI's log has it, is compared with nothing: a delivery writes the same event
    /// otherwise.
    ///
    /// Counts as work in flight; dropping the future cancels nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn ingest(&self, event: Verified<Event>) -> Ingested {
        let shared = Arc::clone(&self.shared);
        let span = telemetry::if_enabled(info_span!(
            "authpi.ingest",
            endpoint = &*shared.endpoint,
            event_id = &*EventKey::bounded(event.id()),
            event_type = event.event_type().as_str(),
            attempt = Empty,
            outcome = Empty,
        ));
        let within = span.clone();
        let work = |mut place| {
            let work = async move {
                let received_at = shared.settings.clock.now();
                // Without an envelope it is not as a delivery wrote it, and says nothing about one.
                let is_a_delivery = event.envelope().is_some();
                let digest = if is_a_delivery {
                    Digest::of(event.raw_bytes())
                } else {
                    Digest::UNCOMPARED
                };
                shared.count_fed(
                    shared
                        .handle_or_store(&event, digest, received_at, &mut place, &within)
                        .await,
                    &within,
                )
            };
            work.instrument(span.clone())
        };
        let settled = self.run_detached(work).await;
        settled
            .unwrap_or_else(|refused| self.shared.count_fed(refused, &span))
            .ingested()
    }

    /// Keeps an unreadable entry of AuthPI's log as a dead letter, where the
    /// ledger keeps them.
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
    /// Counts what became of the event, and hands it on.
    fn count_fed(&self, answer: Disposition, span: &Span) -> Disposition {
        telemetry::count_by(telemetry::FED, &self.endpoint, "outcome", answer.outcome());
        span.record("outcome", answer.outcome());
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

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "nats"))]
impl crate::ledger::DeadLetter {
    /// The event, to be fed to its receiver again; its delivery was verified when it came.
    ///
    /// Its record still says that it is dead: `replay` of its store first makes it pending. In
    /// inbox mode that is all, since a worker takes it up then.
    ///
    /// # Errors
    /// When the delivery was no readable event, which may be why it was given up.
    pub fn event(&self) -> Result<Verified<Event>, crate::event::ParseError> {
        Event::from_json(self.body.clone()).map(|event| Verified::new(event, None))
    }
}
