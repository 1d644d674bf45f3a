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

/// What a handler gets in addition to the event. Cheap to clone.
pub struct Context<S> {
    state: Arc<S>,
    work: Arc<AttemptState>,
}

/// The state of one attempt at one event.
pub(crate) struct AttemptState {
    pub(crate) key: EventKey,
    /// `None` if the claim failed and the receiver handles events without one.
    pub(crate) token: Option<Token>,
    pub(crate) received_at: Timestamp,
    pub(crate) started_at: Instant,
    pub(crate) deadline: Instant,
    pub(crate) event: Event,
    pub(crate) log: Arc<LogLimit>,
    pub(crate) ended: Ended,
    /// Whether the handler has returned and its transaction is being committed.
    committing: AtomicBool,
    /// The permit for the handler's transaction. `None` if the handler needs none, or once the
    /// transaction has begun.
    permit: Mutex<Option<TransactionPermit>>,
}

impl AttemptState {
    /// An attempt that begins now, with this timeout.
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

    /// Takes the permit, to begin the handler's transaction.
    pub(super) fn permit(&self) -> TransactionPermit {
        self.permit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .unwrap_or_default()
    }

    /// Marks the transaction as being committed. From now on, the commit checks whether the lease
    /// is still held.
    pub(super) fn commits(&self) {
        self.committing.store(true, Ordering::Release);
    }

    pub(super) fn is_committing(&self) -> bool {
        self.committing.load(Ordering::Acquire)
    }
}

/// Whether the attempt has ended, for any reason.
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
        // Created before the check, so that an end in between is not missed.
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

    /// The state given to [`Handlers::new`](super::Handlers::new).
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The number of this attempt, from 1. It is 0 if the event could not be claimed and the
    /// receiver handles it anyway
    /// ([`HandleAnyway`](crate::receiver::StoreFailure::HandleAnyway)).
    pub fn attempt(&self) -> u32 {
        self.work.token.map_or(0, |token| token.attempt)
    }

    /// When this delivery began to arrive, by the receiver's clock. In a worker: when the event was
    /// stored, by the store's clock.
    pub fn received_at(&self) -> Timestamp {
        self.work.received_at
    }

    /// The time until the handler times out and is dropped.
    pub fn time_left(&self) -> Duration {
        self.work.deadline.saturating_duration_since(Instant::now())
    }

    /// Resolves when the attempt has ended, for any reason: the handler returned or timed out, or
    /// its lease was lost. Tasks that the handler has spawned can await it to know when to stop.
    pub async fn closed(&self) {
        self.work.ended.wait().await;
    }

    /// AuthPI's trace id of the event, if any.
    pub fn trace(&self) -> Option<&str> {
        self.work.event.trace()
    }

    /// The endpoint's name, as given to the receiver.
    pub fn endpoint(&self) -> &str {
        self.work.key.endpoint()
    }

    /// An idempotency key for calls that the handler makes: the same in every attempt at this
    /// event, and different for any other event.
    ///
    /// It has at most 255 bytes and no control characters. It is derived from the endpoint's name
    /// and the event's id; if the result would not fit, it is hashed as by [`EventKey::bounded`].
    pub fn idempotency_key(&self) -> String {
        let (endpoint, event_id) = (self.work.key.endpoint(), self.work.key.event_id());
        // Begins with the length of the endpoint's name, so that two pairs of endpoint and event id
        // never have the same key.
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
