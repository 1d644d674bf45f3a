//! Events that came another way than by a delivery: read from AuthPI's log, or brought back from the dead letters.

use std::{sync::Arc, time::Duration};

use tracing::{Instrument as _, Span, field::Empty, info_span};

use super::{Receiver, Shared, answer::Answer};
use crate::{event::Event, signature::Verified, telemetry};

/// What became of an event that was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fed {
    /// It was handled.
    Handled,
    /// It is in the inbox; a worker will handle it.
    Stored,
    /// It is known: it was handled or given up before, or it waits in the inbox.
    Duplicate,
    /// Nobody handles its type. Not recorded, so that it can be brought back when somebody does.
    Unhandled,
    /// It was given up: kept as a dead letter, or dropped where that was chosen by name.
    Dead,
    /// It was not taken, and can be fed again.
    NotTaken {
        /// The outcome's name, as in logs and metrics: `failed`, `in_flight`, `store_down`, …
        outcome: &'static str,
        /// No sooner than after this.
        retry_after: Duration,
    },
}

impl Receiver {
    /// Takes an authentic event that did not come as a delivery, and does with it what it does with a delivered one: the same handlers,
    /// the same ledger. It may be older than the ledger's retention.
    ///
    /// Counts as work in flight; dropping the future cancels nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn feed(&self, event: Verified<Event>) -> Fed {
        let shared = Arc::clone(&self.shared);
        let span = info_span!(
            "authpi.feed",
            endpoint = &*shared.endpoint,
            event_id = event.id(),
            event_type = event.event_type().as_str(),
            attempt = Empty,
            outcome = Empty,
        );
        let within = span.clone();
        let work = async move {
            let received_at = shared.settings.clock.now();
            shared.count_fed(shared.settle(&event, received_at, &within).await, &within)
        };
        let settled = self.work(work.instrument(span.clone())).await;
        settled.unwrap_or_else(|refused| self.shared.count_fed(refused, &span)).fed()
    }
}

impl Shared {
    /// Counts what became of the event, and hands it on.
    fn count_fed(&self, answer: Answer, span: &Span) -> Answer {
        telemetry::count_by(telemetry::FED, &self.endpoint, "outcome", answer.outcome());
        span.record("outcome", answer.outcome());
        answer
    }
}

impl Answer {
    fn fed(self) -> Fed {
        match self {
            Self::Handled => Fed::Handled,
            Self::Stored => Fed::Stored,
            Self::Duplicate => Fed::Duplicate,
            Self::Unhandled => Fed::Unhandled,
            Self::DeadLetter | Self::Dropped => Fed::Dead,
            other => Fed::NotTaken { outcome: other.outcome(), retry_after: other.retry_after().unwrap_or_default() },
        }
    }
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl crate::ledger::DeadLetter {
    /// The event, to be fed to its receiver again; its delivery was verified when it came.
    ///
    /// Its record still says that it is dead: `replay` of its store first makes it pending. In inbox mode that is all, since a worker
    /// takes it up then.
    ///
    /// # Errors
    /// When the delivery was no readable event, which may be why it was given up.
    pub fn event(&self) -> Result<Verified<Event>, crate::event::ParseError> {
        Event::from_json(self.body.clone()).map(|event| Verified::new(event, None))
    }
}
