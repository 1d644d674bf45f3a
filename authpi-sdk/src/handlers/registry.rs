use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc};

use super::{AttemptState, Context, HandlerError, HandlerResult, Outcome};
use crate::{
    crash,
    event::{Event, EventKind, EventType, KnownEvent},
    ledger::{
        LeaseStatus, Ledger, LedgerError, PoolTooSmall, Token, TransactionPermits, Transactional,
        Tx, step,
    },
};

type Running = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;
type Settling = Pin<Box<dyn Future<Output = HandlerResult<LeaseStatus>> + Send>>;

/// A handler. `Plain`: its caller completes the claim. `WithTx`: the handler completes it, in its
/// own transaction in a store `L`.
enum Handler<S, L> {
    Plain(Arc<dyn Fn(Event, Context<S>) -> Running + Send + Sync>),
    WithTx {
        run: Arc<dyn Fn(L, Event, Context<S>, Token) -> Settling + Send + Sync>,
        permits: Arc<PermitsOf<L>>,
    },
}

/// The queue for transactions of a store.
type PermitsOf<L> = dyn Fn(&L) -> Result<TransactionPermits, PoolTooSmall> + Send + Sync;

impl<S, L> Clone for Handler<S, L> {
    fn clone(&self) -> Self {
        match self {
            Self::Plain(handler) => Self::Plain(handler.clone()),
            Self::WithTx { run, permits } => Self::WithTx {
                run: run.clone(),
                permits: permits.clone(),
            },
        }
    }
}

/// Handlers, or what is made of them, by the type of event that each is for.
struct ByType<H> {
    exact: HashMap<EventType, H>,
    /// The longest first.
    prefixes: Vec<(String, H)>,
    fallback: Option<H>,
}

impl<H> ByType<H> {
    fn find(&self, event_type: &EventType) -> Option<&H> {
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

    fn all(&self) -> impl Iterator<Item = &H> {
        self.exact
            .values()
            .chain(self.prefixes.iter().map(|(_, handler)| handler))
            .chain(&self.fallback)
    }

    fn map<T>(self, mut change: impl FnMut(H) -> T) -> ByType<T> {
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

/// The registry: one handler per event. `S` is the state that every handler can reach; `L` is the
/// store that they write to in a [`Tx`], if any does.
#[must_use]
pub struct Handlers<S, L = AnyStore> {
    state: Arc<S>,
    by_type: ByType<Handler<S, L>>,
    error: Option<HandlersError>,
}

/// [`Handlers`] none of which takes a [`Tx`]: any ledger will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnyStore;

/// A ledger under which [`Handlers`] of the kind `H` can run: every ledger runs those of
/// [`AnyStore`]; those that take a [`Tx`] of a store run under this store alone. Others do not
/// compile.
pub trait SupportsHandlers<H>: Ledger {
    /// What the handlers begin their transactions in.
    #[doc(hidden)]
    fn handler_store(&self) -> H;
}

impl<L: Ledger> SupportsHandlers<AnyStore> for L {
    fn handler_store(&self) -> AnyStore {
        AnyStore
    }
}

impl<L: Transactional> SupportsHandlers<L> for L {
    fn handler_store(&self) -> L {
        self.clone()
    }
}

impl<S: Send + Sync + 'static> Handlers<S> {
    /// An empty registry; every handler gets `state` in its [`Context`].
    pub fn new(state: S) -> Self {
        let by_type = ByType {
            exact: HashMap::new(),
            prefixes: Vec::new(),
            fallback: None,
        };
        Self {
            state: Arc::new(state),
            by_type,
            error: None,
        }
    }
}

impl<S: Send + Sync + 'static, L: Clone + Send + Sync + 'static> Handlers<S, L> {
    /// Handles the type of event that the handler's argument names.
    ///
    /// More than one handler for a type is an error, reported by [`check`](Self::check) and when a
    /// receiver is built.
    pub fn on<K, F, Fut>(self, handler: F) -> Self
    where
        K: KnownEvent,
        F: Fn(Event<K>, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.insert(K::TYPE, boxed(handler))
    }

    /// Handles a type by name, such as one that this version of the SDK does not know.
    pub fn on_type<F, Fut>(self, event_type: impl Into<EventType>, handler: F) -> Self
    where
        F: Fn(Event, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.insert(event_type.into(), boxed(handler))
    }

    /// Handles each type that begins with `prefix` (`"organization."`) and has no handler of its
    /// own. Of several prefixes the longest wins.
    pub fn on_prefix<F, Fut>(self, prefix: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Event, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.insert_prefix(prefix.into(), boxed(handler))
    }

    /// Handles events that no other handler is registered for.
    pub fn fallback<F, Fut>(self, handler: F) -> Self
    where
        F: Fn(Event, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.insert_fallback(boxed(handler))
    }

    /// As [`on`](Self::on), with a transaction that commits the handler's writes together with the
    /// ledger's record of the event: its effect takes place exactly once, whatever crashes when
    /// ([`Transactional`]).
    ///
    /// The transaction begins before the handler does; to wait for that is part of the attempt and
    /// of its deadline. So is the wait for a permit, of which there are as many as the store has
    /// room for transactions at once ([`Transactional::permits`]): handlers with a transaction wait
    /// in a fair queue, and an inline receiver claims the event when it has its permit. A worker
    /// that also has handlers without a transaction takes the permit after it has leased the event,
    /// and the handler's time begins with the permit.
    ///
    /// Only in a transactional store, which the handler's argument names, and then a receiver or
    /// worker over any other store does not compile.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # fn example() -> authpi_sdk::handlers::Handlers<(), authpi_sdk::stores::Sqlite> {
    /// use authpi_sdk::event::{Event, types::UserUpdated};
    /// use authpi_sdk::handlers::Handlers;
    /// use authpi_sdk::{ledger::Tx, stores::Sqlite};
    ///
    /// // Deliveries come in any order: an older event changes nothing, nor does any after a deletion.
    /// const UPDATE: &str = "INSERT INTO users (data, as_of, id) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE
    ///     SET data = ?1, as_of = ?2 WHERE as_of <= ?2 AND NOT deleted";
    ///
    /// let handlers = Handlers::new(()).on_tx(async |event: Event<UserUpdated>, _cx, mut tx: Tx<Sqlite>| {
    ///     sqlx::query(UPDATE)
    ///         .bind(event.raw_data().map(str::to_owned))
    ///         .bind(event.time().as_millisecond())
    ///         .bind(event.subject().user_id())
    ///         .execute(&mut *tx)
    ///         .await?;
    ///     Ok(())
    /// });
    /// # handlers }
    /// ```
    ///
    /// A handler that does not touch the database in its transaction still holds a connection until
    /// it is done.
    pub fn on_tx<K, F, Fut, T>(self, handler: F) -> Handlers<S, T>
    where
        K: KnownEvent,
        T: Transactional + SupportsHandlers<L>,
        F: Fn(Event<K>, Context<S>, Tx<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.retarget().insert(K::TYPE, with_tx(handler))
    }

    /// As [`prefix`](Self::on_prefix), with a transaction as in [`on_tx`](Self::on_tx).
    pub fn on_prefix_tx<F, Fut, T>(self, prefix: impl Into<String>, handler: F) -> Handlers<S, T>
    where
        T: Transactional + SupportsHandlers<L>,
        F: Fn(Event, Context<S>, Tx<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.retarget()
            .insert_prefix(prefix.into(), with_tx(handler))
    }

    /// As [`fallback`](Self::fallback), with a transaction as in [`on_tx`](Self::on_tx).
    pub fn fallback_tx<F, Fut, T>(self, handler: F) -> Handlers<S, T>
    where
        T: Transactional + SupportsHandlers<L>,
        F: Fn(Event, Context<S>, Tx<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.retarget().insert_fallback(with_tx(handler))
    }

    /// What was given to [`new`](Self::new).
    pub fn state(&self) -> Arc<S> {
        Arc::clone(&self.state)
    }

    /// Says what is wrong with the registry, if anything.
    ///
    /// # Errors
    /// The first handler whose place was taken.
    pub fn check(&self) -> Result<(), HandlersError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// The known event types without a handler, which the service acknowledges unread. To print
    /// at start-up.
    pub fn unhandled_types(&self) -> Vec<EventType> {
        EventType::ALL
            .iter()
            .filter(|event_type| self.by_type.find(event_type).is_none())
            .cloned()
            .collect()
    }

    fn insert(mut self, event_type: EventType, handler: Handler<S, L>) -> Self {
        if self.by_type.exact.contains_key(&event_type) {
            return self.refuse(HandlersError::TypeTwice(event_type));
        }
        self.by_type.exact.insert(event_type, handler);
        self
    }

    fn insert_prefix(mut self, prefix: String, handler: Handler<S, L>) -> Self {
        if self
            .by_type
            .prefixes
            .iter()
            .any(|(other, _)| *other == prefix)
        {
            return self.refuse(HandlersError::PrefixTwice(prefix));
        }
        self.by_type.prefixes.push((prefix, handler));
        self.by_type
            .prefixes
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        self
    }

    fn insert_fallback(mut self, handler: Handler<S, L>) -> Self {
        if self.by_type.fallback.is_some() {
            return self.refuse(HandlersError::FallbackTwice);
        }
        self.by_type.fallback = Some(handler);
        self
    }

    /// The same handlers under a store that some of them, or the next one, need.
    fn retarget<T: SupportsHandlers<L>>(self) -> Handlers<S, T> {
        let over = |handler| match handler {
            Handler::Plain(handler) => Handler::Plain(handler),
            Handler::WithTx { run, permits } => Handler::WithTx {
                run: Arc::new(move |store: T, event, context, token| {
                    run(store.handler_store(), event, context, token)
                }),
                permits: Arc::new(move |store: &T| permits(&store.handler_store())),
            },
        };
        Handlers {
            state: self.state,
            by_type: self.by_type.map(over),
            error: self.error,
        }
    }

    /// The handler of this type, if there is one, for one event and under no store.
    pub(super) fn route(
        &self,
        event_type: &EventType,
        store: &L,
    ) -> Option<impl Route + use<S, L>> {
        let handler = self.by_type.find(event_type)?.clone();
        Some(Bound {
            state: self.state.clone(),
            handler,
            store: store.clone(),
            permits: None,
        })
    }

    /// The registry as a receiver or worker holds it. An error says that the store has no room for
    /// the transactions of its handlers.
    pub(crate) fn bind(self, store: L) -> Result<Box<dyn AnyHandlers>, PoolTooSmall> {
        let permits = self.by_type.all().find_map(|handler| match handler {
            Handler::Plain(_) => None,
            Handler::WithTx { permits, .. } => Some(permits(&store)),
        });
        let permits = permits.transpose()?;
        let state = self.state;
        Ok(Box::new(self.by_type.map(|handler| {
            let permits = permits.clone().filter(|_| handler.commits());
            Bound {
                state: state.clone(),
                handler,
                store: store.clone(),
                permits,
            }
        })))
    }

    fn refuse(mut self, error: HandlersError) -> Self {
        self.error.get_or_insert(error);
        self
    }
}

fn boxed<K, S, L, F, Fut>(handler: F) -> Handler<S, L>
where
    K: EventKind,
    F: Fn(Event<K>, Context<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    Handler::Plain(Arc::new(move |event, context| {
        Box::pin(handler(event.assume_kind(), context))
    }))
}

fn with_tx<K, S, L, F, Fut>(handler: F) -> Handler<S, L>
where
    K: EventKind,
    S: Send + Sync + 'static,
    L: Transactional,
    F: Fn(Event<K>, Context<S>, Tx<L>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    let handler = Arc::new(handler);
    let run = Arc::new(
        move |store: L, event: Event, context: Context<S>, token| -> Settling {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let work = Arc::clone(context.work());
                let key = &work.key;
                let tell = |error: &LedgerError| error.report(key.shared_endpoint(), &work.log);
                let (tx, loan) = Tx::loan(
                    step("begin", store.begin_with(work.permit()))
                        .await
                        .inspect_err(tell)?,
                );
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
                work.commits();
                let held = step("commit", store.commit(transaction, key, token))
                    .await
                    .inspect_err(tell)?;
                crash::point("committed");
                Ok(held)
            })
        },
    );
    Handler::WithTx {
        run,
        permits: Arc::new(L::permits),
    }
}

impl<S, L> Handler<S, L> {
    fn commits(&self) -> bool {
        matches!(self, Self::WithTx { .. })
    }
}

impl<S, L> fmt::Debug for Handlers<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers")
            .field("types", &self.by_type.exact.keys())
            .field(
                "prefixes",
                &self
                    .by_type
                    .prefixes
                    .iter()
                    .map(|(prefix, _)| prefix)
                    .collect::<Vec<_>>(),
            )
            .field("fallback", &self.by_type.fallback.is_some())
            .finish_non_exhaustive()
    }
}

/// Handlers of whatever state, as the receiver holds them.
pub(crate) trait AnyHandlers: Send + Sync {
    /// The handler for this type, if there is one.
    fn route(&self, event_type: &EventType) -> Option<&dyn Route>;

    /// What each handler needs a permit of, where each takes a transaction; nothing where some do
    /// not.
    fn permits_of_all(&self) -> Option<TransactionPermits>;
}

/// A handler, to be started for each event of its type.
pub(crate) trait Route: Send + Sync {
    fn start(&self, event: Event, work: Arc<AttemptState>) -> Started;

    /// Whether the handler completes its claim itself, and so cannot do without one.
    fn commits(&self) -> bool;

    /// What a permit has to be taken of before a handler that takes a transaction is started.
    fn permits(&self) -> Option<&TransactionPermits>;
}

/// A handler that runs.
pub(crate) enum Started {
    /// Whoever runs it tells the ledger.
    Plain(Running),
    /// It tells the ledger.
    WithTx(Settling),
}

impl Started {
    /// How it ended, unless it failed.
    pub(crate) async fn finish(self) -> HandlerResult<Outcome> {
        match self {
            Self::Plain(running) => running.await.map(|()| Outcome::Handled),
            Self::WithTx(settling) => settling.await.map(|held| match held {
                LeaseStatus::Held => Outcome::Committed,
                LeaseStatus::Lost => Outcome::LeaseLost,
            }),
        }
    }
}

/// A handler, with all that it is started with.
struct Bound<S, L> {
    state: Arc<S>,
    handler: Handler<S, L>,
    store: L,
    /// Where it takes a transaction.
    permits: Option<TransactionPermits>,
}

impl<S: Send + Sync + 'static, L: Clone + Send + Sync + 'static> AnyHandlers
    for ByType<Bound<S, L>>
{
    fn route(&self, event_type: &EventType) -> Option<&dyn Route> {
        self.find(event_type).map(|handler| handler as &dyn Route)
    }

    fn permits_of_all(&self) -> Option<TransactionPermits> {
        let permits = self.all().map(|handler| handler.permits.as_ref());
        permits.reduce(Option::and)?.cloned()
    }
}

impl<S: Send + Sync + 'static, L: Clone + Send + Sync + 'static> Route for Bound<S, L> {
    fn start(&self, event: Event, work: Arc<AttemptState>) -> Started {
        let token = work.token;
        let context = Context::new(self.state.clone(), work);
        match (&self.handler, token) {
            (Handler::Plain(handler), _) => Started::Plain(handler(event, context)),
            (Handler::WithTx { run, .. }, Some(token)) => {
                Started::WithTx(run(self.store.clone(), event, context, token))
            }
            (Handler::WithTx { .. }, None) => {
                let refused = HandlerError::retryable(
                    "a handler that commits its own claim was run without one",
                );
                Started::Plain(Box::pin(std::future::ready(Err(refused))))
            }
        }
    }

    fn commits(&self) -> bool {
        self.handler.commits()
    }

    fn permits(&self) -> Option<&TransactionPermits> {
        self.permits.as_ref()
    }
}

/// Two handlers want the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandlersError {
    /// Two handlers for one type.
    TypeTwice(EventType),
    /// Two handlers for one prefix.
    PrefixTwice(String),
    /// Two fallbacks.
    FallbackTwice,
}

impl fmt::Display for HandlersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TypeTwice(event_type) => {
                write!(f, "more than one handler for the event type {event_type}")
            }
            Self::PrefixTwice(prefix) => {
                write!(f, "more than one handler for the prefix {prefix:?}")
            }
            Self::FallbackTwice => f.write_str("more than one fallback handler"),
        }
    }
}

impl std::error::Error for HandlersError {}
