//! A handler as the registry holds it, and as a receiver or worker runs it.
//!
//! A [`Handler`] is an async function with its argument types erased. It still has two type
//! parameters: `S`, the state in its [`Context`], and `L`, the store in which it begins a
//! transaction. [`Handler::bind`] supplies both. The result is a [`Route`]: a function of an event,
//! without type parameters. Receivers and workers hold [`Routes`].

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc};

use super::{AttemptState, Context, HandlerError, HandlerResult, Outcome, SupportsHandlers};
use crate::{
    crash,
    event::{Event, EventKind, EventType},
    ledger::{LeaseStatus, LedgerError, PoolTooSmall, TransactionPermits, Transactional, Tx, step},
};

/// A running handler.
pub(crate) type Running = Pin<Box<dyn Future<Output = HandlerResult<Outcome>> + Send>>;

pub(super) struct Handler<S, L> {
    run: Arc<RunOn<S, L>>,
    /// The store's permits for transactions; `None` for a handler without a transaction.
    permits: Option<Arc<PermitsOf<L>>>,
}

type RunOn<S, L> = dyn Fn(&L, Event, Context<S>) -> Running + Send + Sync;
type PermitsOf<L> = dyn Fn(&L) -> Result<TransactionPermits, PoolTooSmall> + Send + Sync;

impl<S: Send + Sync + 'static, L: Clone + Send + Sync + 'static> Handler<S, L> {
    /// A handler without a transaction. Its caller completes the claim.
    pub(super) fn plain<K, F, Fut>(handler: F) -> Self
    where
        K: EventKind,
        F: Fn(Event<K>, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        Self {
            run: Arc::new(move |_, event, context| {
                let running = handler(event.assume_kind(), context);
                Box::pin(async { running.await.map(|()| Outcome::Handled) })
            }),
            permits: None,
        }
    }

    /// A handler whose transaction completes the claim.
    pub(super) fn with_tx<K, F, Fut>(handler: F) -> Self
    where
        K: EventKind,
        L: Transactional,
        F: Fn(Event<K>, Context<S>, Tx<L>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let handler = Arc::new(handler);
        Self {
            run: Arc::new(move |store: &L, event, context| {
                Box::pin(commit_with_claim(
                    Arc::clone(&handler),
                    store.clone(),
                    event,
                    context,
                ))
            }),
            permits: Some(Arc::new(L::permits)),
        }
    }

    /// The same handler, for another type of store that can run it.
    pub(super) fn retarget<T: SupportsHandlers<L>>(self) -> Handler<S, T> {
        let Self { run, permits } = self;
        Handler {
            run: Arc::new(move |store: &T, event, context| {
                run(&store.handler_store(), event, context)
            }),
            permits: permits.map(|permits| -> Arc<PermitsOf<T>> {
                Arc::new(move |store: &T| permits(&store.handler_store()))
            }),
        }
    }

    /// The store's permits for transactions, if the handler needs one of them.
    pub(super) fn permits(&self, store: &L) -> Option<Result<TransactionPermits, PoolTooSmall>> {
        self.permits.as_ref().map(|permits| permits(store))
    }

    pub(super) fn bind(
        &self,
        state: &Arc<S>,
        store: &L,
        permits: Option<&TransactionPermits>,
        strict_payloads: bool,
    ) -> Route {
        let (run, state, store) = (Arc::clone(&self.run), Arc::clone(state), store.clone());
        let commits = self.permits.is_some();
        Route {
            start: Box::new(move |event, attempt| {
                run(&store, event, Context::new(Arc::clone(&state), attempt))
            }),
            strict_payloads,
            commits,
            permits: permits.filter(|_| commits).cloned(),
        }
    }
}

/// Runs the handler in a transaction, completes the claim in it, and commits both.
async fn commit_with_claim<K, S, L, F, Fut>(
    handler: Arc<F>,
    store: L,
    event: Event,
    context: Context<S>,
) -> HandlerResult<Outcome>
where
    K: EventKind,
    L: Transactional,
    F: Fn(Event<K>, Context<S>, Tx<L>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    let attempt = Arc::clone(context.work());
    let Some(token) = attempt.token else {
        return Err(HandlerError::retryable(
            "a handler with a transaction was run without a claim",
        ));
    };
    let report = |error: &LedgerError| error.report(attempt.key.shared_endpoint(), &attempt.log);
    let transaction = step("begin", store.begin_with(attempt.permit()))
        .await
        .inspect_err(report)?;
    let (tx, loan) = Tx::loan(transaction);
    let done = handler(event.assume_kind(), context, tx).await;
    let transaction = match (done, loan.returned()) {
        (Ok(()), returned) => returned?,
        (Err(error), Ok(transaction)) => {
            let advice = store.abandon(transaction, error.cause());
            return Err(error.with_advice(advice));
        }
        (Err(error), Err(_)) => return Err(error),
    };
    crash::point("in_transaction");
    attempt.commits();
    let status = step("commit", store.commit(transaction, &attempt.key, token))
        .await
        .inspect_err(report)?;
    crash::point("committed");
    Ok(match status {
        LeaseStatus::Held => Outcome::Committed,
        LeaseStatus::Lost => Outcome::LeaseLost,
    })
}

/// A handler bound to its state and store.
pub(crate) struct Route {
    start: Box<dyn Fn(Event, Arc<AttemptState>) -> Running + Send + Sync>,
    strict_payloads: bool,
    commits: bool,
    permits: Option<TransactionPermits>,
}

impl Route {
    pub(crate) fn start(&self, event: Event, attempt: Arc<AttemptState>) -> Running {
        let event = if self.strict_payloads {
            event.strict_payload()
        } else {
            event
        };
        (self.start)(event, attempt)
    }

    /// Whether the handler completes its claim in its own transaction. Such a handler cannot run
    /// without a claim.
    pub(crate) fn commits(&self) -> bool {
        self.commits
    }

    /// The permits for transactions, if the handler needs one of them before it starts.
    pub(crate) fn permits(&self) -> Option<&TransactionPermits> {
        self.permits.as_ref()
    }
}

/// The handlers of a receiver or worker.
pub(crate) type Routes = ByType<Route>;

impl Routes {
    /// The permits for transactions, if every handler needs one of them.
    pub(crate) fn permits_of_all(&self) -> Option<TransactionPermits> {
        let permits = self.all().map(|route| route.permits.as_ref());
        permits.reduce(Option::and)?.cloned()
    }
}

/// Handlers by event type.
pub(crate) struct ByType<H> {
    pub(super) exact: HashMap<EventType, H>,
    /// The longest first.
    pub(super) prefixes: Vec<(String, H)>,
    pub(super) fallback: Option<H>,
}

impl<H> Default for ByType<H> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            prefixes: Vec::new(),
            fallback: None,
        }
    }
}

impl<H> ByType<H> {
    pub(crate) fn find(&self, event_type: &EventType) -> Option<&H> {
        let by_prefix = || {
            let name = event_type.as_str();
            self.prefixes
                .iter()
                .find(|(prefix, _)| name.starts_with(prefix.as_str()))
                .map(|(_, handler)| handler)
        };
        self.exact
            .get(event_type)
            .or_else(by_prefix)
            .or(self.fallback.as_ref())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &H> {
        self.exact
            .values()
            .chain(self.prefixes.iter().map(|(_, handler)| handler))
            .chain(&self.fallback)
    }

    pub(super) fn map<T>(self, mut change: impl FnMut(H) -> T) -> ByType<T> {
        ByType {
            exact: self
                .exact
                .into_iter()
                .map(|(event_type, handler)| (event_type, change(handler)))
                .collect(),
            prefixes: self
                .prefixes
                .into_iter()
                .map(|(prefix, handler)| (prefix, change(handler)))
                .collect(),
            fallback: self.fallback.map(change),
        }
    }
}
