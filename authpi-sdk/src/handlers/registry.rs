use std::{fmt, future::Future, sync::Arc};

use super::{
    AnyStore, Context, HandlerResult, SupportsHandlers,
    handler::{ByType, Handler, Route, Routes},
};
use crate::{
    event::{Event, EventType, KnownEvent},
    ledger::{PoolTooSmall, Transactional, Tx},
};

/// The registry of handlers. It selects one handler for each event.
///
/// `S` is the state that every handler can access. `L` is the store in which handlers begin a
/// [`Tx`]; [`AnyStore`] if no handler takes one.
#[must_use]
pub struct Handlers<S, L = AnyStore> {
    state: Arc<S>,
    by_type: ByType<Handler<S, L>>,
    strict_payloads: bool,
    error: Option<HandlersError>,
}

impl<S: Send + Sync + 'static> Handlers<S> {
    /// An empty registry; every handler gets `state` in its [`Context`].
    pub fn new(state: S) -> Self {
        Self {
            state: Arc::new(state),
            by_type: ByType::default(),
            strict_payloads: false,
            error: None,
        }
    }
}

impl<S: Send + Sync + 'static, L: Clone + Send + Sync + 'static> Handlers<S, L> {
    /// Registers a handler for the event type of its first argument, such as `Event<UserCreated>`.
    ///
    /// Two handlers for one type are an error, reported by [`check`](Self::check) and when a
    /// receiver or worker is built.
    pub fn on<K, F, Fut>(self, handler: F) -> Self
    where
        K: KnownEvent,
        F: Fn(Event<K>, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.insert(K::TYPE, Handler::plain(handler))
    }

    /// Registers a handler for an event type by name, such as one that this version of the SDK does
    /// not know.
    pub fn on_type<F, Fut>(self, event_type: impl Into<EventType>, handler: F) -> Self
    where
        F: Fn(Event, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.insert(event_type.into(), Handler::plain(handler))
    }

    /// Registers a handler for each event type that begins with `prefix` (`"organization."`) and
    /// has no handler of its own. If several prefixes match, the longest one wins.
    pub fn on_prefix<F, Fut>(self, prefix: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Event, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.insert_prefix(prefix.into(), Handler::plain(handler))
    }

    /// Registers a handler for all events that no other handler is registered for.
    pub fn fallback<F, Fut>(self, handler: F) -> Self
    where
        F: Fn(Event, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.insert_fallback(Handler::plain(handler))
    }

    /// As [`on`](Self::on), with a transaction that commits the handler's writes together with the
    /// ledger's record of the event. The effect takes place exactly once, even if the process
    /// crashes ([`Transactional`]).
    ///
    /// The transaction begins before the handler runs. The time that this takes counts towards the
    /// handler's timeout.
    ///
    /// Each transaction needs a permit. A store has as many permits as transactions that may run at
    /// the same time ([`Transactional::permits`]). Handlers wait for a permit in a fair queue:
    ///
    /// - An inline receiver first waits for a permit, then claims the event. The wait counts
    ///   towards the handler's timeout.
    /// - A worker whose handlers all take a transaction first waits for a permit, then leases an
    ///   event. The wait does not count.
    /// - A worker that also has other handlers first leases the event, then waits for a permit
    ///   while it renews the lease. The wait does not count.
    ///
    /// Requires the store that the handler's `Tx` names. A receiver or worker with any other store
    /// does not compile.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # fn example() -> authpi_sdk::handlers::Handlers<(), authpi_sdk::stores::Sqlite> {
    /// use authpi_sdk::event::{Event, types::UserUpdated};
    /// use authpi_sdk::handlers::Handlers;
    /// use authpi_sdk::{ledger::Tx, stores::Sqlite};
    ///
    /// // Deliveries come in any order: an older event changes nothing, nor does an event of a deleted
    /// // user.
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
    /// The handler holds a connection until it returns, even if it does not use the transaction.
    pub fn on_tx<K, F, Fut, T>(self, handler: F) -> Handlers<S, T>
    where
        K: KnownEvent,
        T: Transactional + SupportsHandlers<L>,
        F: Fn(Event<K>, Context<S>, Tx<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.retarget().insert(K::TYPE, Handler::with_tx(handler))
    }

    /// As [`on_prefix`](Self::on_prefix), with a transaction as in [`on_tx`](Self::on_tx).
    pub fn on_prefix_tx<F, Fut, T>(self, prefix: impl Into<String>, handler: F) -> Handlers<S, T>
    where
        T: Transactional + SupportsHandlers<L>,
        F: Fn(Event, Context<S>, Tx<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.retarget()
            .insert_prefix(prefix.into(), Handler::with_tx(handler))
    }

    /// As [`fallback`](Self::fallback), with a transaction as in [`on_tx`](Self::on_tx).
    pub fn fallback_tx<F, Fut, T>(self, handler: F) -> Handlers<S, T>
    where
        T: Transactional + SupportsHandlers<L>,
        F: Fn(Event, Context<S>, Tx<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.retarget().insert_fallback(Handler::with_tx(handler))
    }

    /// Makes [`Event::data`] and [`Event::decode`] return an error, in every handler, if a member
    /// of the payload does not have the type of its field.
    ///
    /// If a handler returns this error, the event is retried, as after any error: by AuthPI, or by a
    /// worker. A worker finally keeps the event as a dead letter, which can be replayed once the SDK
    /// or the handler is corrected. Default: the member's field is `None`, and the member is logged
    /// and counted.
    pub fn strict_payloads(mut self) -> Self {
        self.strict_payloads = true;
        self
    }

    /// The state given to [`new`](Self::new).
    pub fn state(&self) -> Arc<S> {
        Arc::clone(&self.state)
    }

    /// Checks the registry.
    ///
    /// # Errors
    /// When two handlers are registered for the same event type or prefix, or as the fallback. The
    /// first conflict is returned.
    pub fn check(&self) -> Result<(), HandlersError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// The event types that this version of the SDK knows, but that have no handler. Their events
    /// are acknowledged without being handled. Useful to print at start-up.
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

    /// The same handlers for another store that supports all of them.
    fn retarget<T: SupportsHandlers<L>>(self) -> Handlers<S, T> {
        Handlers {
            state: self.state,
            by_type: self.by_type.map(Handler::retarget),
            strict_payloads: self.strict_payloads,
            error: self.error,
        }
    }

    /// The handler of one event type, bound to a store. Its transactions need no permit.
    pub(super) fn route(&self, event_type: &EventType, store: &L) -> Option<Route> {
        let handler = self.by_type.find(event_type)?;
        Some(handler.bind(&self.state, store, None, self.strict_payloads))
    }

    /// Binds the handlers to the store of a receiver or worker.
    ///
    /// # Errors
    /// When the store's pool has no room for the transactions of its handlers.
    pub(crate) fn bind(self, store: &L) -> Result<Routes, PoolTooSmall> {
        let permits = self
            .by_type
            .all()
            .find_map(|handler| handler.permits(store))
            .transpose()?;
        let (state, strict) = (self.state, self.strict_payloads);
        Ok(self
            .by_type
            .map(|handler| handler.bind(&state, store, permits.as_ref(), strict)))
    }

    fn refuse(mut self, error: HandlersError) -> Self {
        self.error.get_or_insert(error);
        self
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

/// Why a registry is invalid.
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
