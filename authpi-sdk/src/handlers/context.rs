use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};

use crate::ledger::EventKey;

/// What a handler is given beside the event. Cheap to clone.
pub struct Context<S> {
    /// What was given to [`Handlers::new`](super::Handlers::new).
    pub state: Arc<S>,
    work: Arc<Work>,
}

/// One attempt at one event.
pub(crate) struct Work {
    pub(crate) key: EventKey,
    pub(crate) attempt: u32,
    pub(crate) received_at: Timestamp,
    pub(crate) deadline: Instant,
    pub(crate) trace: Option<String>,
    /// Dropped when the attempt ends, for whatever reason.
    pub(crate) ended: watch::Receiver<()>,
}

impl<S> Context<S> {
    pub(crate) fn new(state: Arc<S>, work: Arc<Work>) -> Self {
        Self { state, work }
    }

    /// Which attempt at this event this is, from 1. (0 where the store was down and the receiver was told to handle anyway.)
    pub fn attempt(&self) -> u32 {
        self.work.attempt
    }

    /// When this delivery came in, by the receiver's clock.
    pub fn received_at(&self) -> Timestamp {
        self.work.received_at
    }

    /// How long the handler may still take before it is dropped.
    pub fn time_left(&self) -> Duration {
        self.work.deadline.saturating_duration_since(Instant::now())
    }

    /// Resolves when the attempt has ended: the handler is done, or was dropped at its deadline or because its lease was
    /// lost. For work that the handler has spawned.
    pub async fn cancelled(&self) {
        let mut ended = self.work.ended.clone();
        // The sender sends nothing; it is dropped at the end.
        while ended.changed().await.is_ok() {}
    }

    /// AuthPI's trace id of the event, if it sent one.
    pub fn trace(&self) -> Option<&str> {
        self.work.trace.as_deref()
    }

    /// The endpoint's name, as given to the receiver.
    pub fn endpoint(&self) -> &str {
        self.work.key.endpoint()
    }

    /// A key for calls that the handler makes to others: the same on every attempt at this event, and unlike that of any other.
    pub fn idempotency_key(&self) -> String {
        format!("{}:{}", self.work.key.endpoint(), self.work.key.event_id())
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), work: self.work.clone() }
    }
}

impl<S> fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("key", &self.work.key)
            .field("attempt", &self.work.attempt)
            .finish_non_exhaustive()
    }
}
