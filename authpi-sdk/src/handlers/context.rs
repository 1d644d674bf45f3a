use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};

use crate::{
    event::Event,
    ledger::{EventKey, Token, TransactionPermit},
    telemetry::LogLimit,
};

/// What a handler is given beside the event. Cheap to clone.
pub struct Context<S> {
    state: Arc<S>,
    work: Arc<AttemptState>,
}

/// One attempt at one event.
pub(crate) struct AttemptState {
    pub(crate) key: EventKey,
    /// None if the store was down and the receiver is set to handle anyway.
    pub(crate) token: Option<Token>,
    pub(crate) received_at: Timestamp,
    pub(crate) started_at: Instant,
    pub(crate) deadline: Instant,
    pub(crate) event: Event,
    pub(crate) log: Arc<LogLimit>,
    pub(crate) ended: Ended,
    /// Whether the handler is done, and its transaction is being committed.
    committing: AtomicBool,
    /// For the handler's transaction, if it takes one, until that begins.
    permit: Mutex<Option<TransactionPermit>>,
}

impl AttemptState {
    /// An attempt that begins now, and has so long.
    pub(crate) fn new(
        event: &Event,
        key: EventKey,
        token: Option<Token>,
        received_at: Timestamp,
        deadline: Duration,
        permit: Option<TransactionPermit>,
        log: &Arc<LogLimit>,
    ) -> Arc<Self> {
        let started_at = Instant::now();
        Arc::new(Self {
            key,
            token,
            received_at,
            started_at,
            deadline: started_at + deadline,
            event: event.clone(),
            log: Arc::clone(log),
            ended: Ended::default(),
            committing: AtomicBool::new(false),
            permit: Mutex::new(permit),
        })
    }

    /// What the handler's transaction begins with.
    pub(super) fn permit(&self) -> TransactionPermit {
        self.permit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .unwrap_or_default()
    }

    /// From here on it is the commit that finds out whether the claim is still held.
    pub(super) fn commits(&self) {
        self.committing.store(true, Ordering::Release);
    }

    pub(super) fn is_committing(&self) -> bool {
        self.committing.load(Ordering::Acquire)
    }
}

/// Whether the attempt has ended, for whatever reason.
#[derive(Default)]
pub(crate) struct Ended {
    yes: AtomicBool,
    waiting: Notify,
}

impl Ended {
    pub(crate) fn end(&self) {
        self.yes.store(true, Ordering::Release);
        self.waiting.notify_waiters();
    }

    async fn wait(&self) {
        // Made before looking, so that an end in between is not missed.
        let notified = self.waiting.notified();
        if !self.yes.load(Ordering::Acquire) {
            notified.await;
        }
    }
}

impl<S> Context<S> {
    pub(crate) fn new(state: Arc<S>, work: Arc<AttemptState>) -> Self {
        Self { state, work }
    }

    pub(crate) fn work(&self) -> &Arc<AttemptState> {
        &self.work
    }

    /// The state that was given to [`Handlers::new`](super::Handlers::new).
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Which attempt at this event this is, from 1. (0 where the store was down and the receiver
    /// was told to handle anyway.)
    pub fn attempt(&self) -> u32 {
        self.work.token.map_or(0, |token| token.attempt)
    }

    /// When this delivery came in, by the receiver's clock.
    pub fn received_at(&self) -> Timestamp {
        self.work.received_at
    }

    /// How long the handler may still take before it is dropped.
    pub fn time_left(&self) -> Duration {
        self.work.deadline.saturating_duration_since(Instant::now())
    }

    /// Resolves when the attempt has ended, for whatever reason: the handler returned, it was
    /// dropped at its timeout, or its lease was lost. For tasks that the handler has spawned.
    pub async fn closed(&self) {
        self.work.ended.wait().await;
    }

    /// AuthPI's trace id of the event, if it sent one.
    pub fn trace(&self) -> Option<&str> {
        self.work.event.trace()
    }

    /// The endpoint's name, as given to the receiver.
    pub fn endpoint(&self) -> &str {
        self.work.key.endpoint()
    }

    /// A key for calls that the handler makes to others: the same on every attempt at this event,
    /// and unlike that of any other. At most 255 bytes without control characters; longer ones are
    /// hashed, as [`EventKey`] does it.
    pub fn idempotency_key(&self) -> String {
        let (endpoint, event_id) = (self.work.key.endpoint(), self.work.key.event_id());
        // The length keeps pairs of names apart.
        let key = format!("{}:{endpoint}:{event_id}", endpoint.len());
        match EventKey::bounded(&key) {
            Cow::Borrowed(_) => key,
            Cow::Owned(hashed) => hashed,
        }
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            work: self.work.clone(),
        }
    }
}

impl<S> fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("key", &self.work.key)
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}
