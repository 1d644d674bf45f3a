use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc};

use super::{Context, Result, Work};
use crate::event::{Event, EventKind, EventType, KnownEvent};

type Running = Pin<Box<dyn Future<Output = Result> + Send>>;
type Handler<S> = Arc<dyn Fn(Event, Context<S>) -> Running + Send + Sync>;

/// The registry: one handler per event. `S` is the state that every handler can reach.
#[must_use]
pub struct Handlers<S> {
    state: Arc<S>,
    exact: HashMap<EventType, Handler<S>>,
    /// The longest first.
    prefixes: Vec<(String, Handler<S>)>,
    fallback: Option<Handler<S>>,
    error: Option<HandlersError>,
}

impl<S: Send + Sync + 'static> Handlers<S> {
    /// An empty registry; every handler gets `state` in its [`Context`].
    pub fn new(state: S) -> Self {
        Self { state: Arc::new(state), exact: HashMap::new(), prefixes: Vec::new(), fallback: None, error: None }
    }

    /// Handles the type of event that the handler's argument names.
    ///
    /// Two handlers for one type are an error, told by [`check`](Self::check) and so when a receiver is built.
    pub fn on<K, F, Fut>(self, handler: F) -> Self
    where
        K: KnownEvent,
        F: Fn(Event<K>, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        self.insert(K::TYPE, boxed(handler))
    }

    /// Handles a type by name, such as one that this version of the SDK does not know.
    pub fn on_type<F, Fut>(self, event_type: impl Into<EventType>, handler: F) -> Self
    where
        F: Fn(Event, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        self.insert(event_type.into(), boxed(handler))
    }

    /// Handles each type that begins with `prefix` (`"organization."`) and has no handler of its own. Of several prefixes the
    /// longest wins.
    pub fn prefix<F, Fut>(mut self, prefix: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Event, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        let prefix = prefix.into();
        if self.prefixes.iter().any(|(other, _)| *other == prefix) {
            return self.refuse(HandlersError::PrefixTwice(prefix));
        }
        self.prefixes.push((prefix, boxed(handler)));
        self.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        self
    }

    /// Handles what nobody else does.
    pub fn otherwise<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Event, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        if self.fallback.is_some() {
            return self.refuse(HandlersError::FallbackTwice);
        }
        self.fallback = Some(boxed(handler));
        self
    }

    /// What was given to [`new`](Self::new).
    pub fn state(&self) -> Arc<S> {
        Arc::clone(&self.state)
    }

    /// Says what is wrong with the registry, if anything.
    ///
    /// # Errors
    /// The first handler whose place was taken.
    pub fn check(&self) -> std::result::Result<(), HandlersError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// The known types of event that nobody handles: what a service acknowledges unread. To print at start-up.
    pub fn unhandled(&self) -> Vec<EventType> {
        EventType::ALL.iter().filter(|event_type| self.find(event_type).is_none()).cloned().collect()
    }

    fn insert(mut self, event_type: EventType, handler: Handler<S>) -> Self {
        if self.exact.contains_key(&event_type) {
            return self.refuse(HandlersError::TypeTwice(event_type));
        }
        self.exact.insert(event_type, handler);
        self
    }

    fn refuse(mut self, error: HandlersError) -> Self {
        self.error.get_or_insert(error);
        self
    }

    fn find(&self, event_type: &EventType) -> Option<&Handler<S>> {
        let by_prefix = || {
            let name = event_type.as_str();
            self.prefixes.iter().find(|(prefix, _)| name.starts_with(prefix.as_str())).map(|(_, handler)| handler)
        };
        self.exact.get(event_type).or_else(by_prefix).or(self.fallback.as_ref())
    }
}

fn boxed<K, S, F, Fut>(handler: F) -> Handler<S>
where
    K: EventKind,
    F: Fn(Event<K>, Context<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result> + Send + 'static,
{
    Arc::new(move |event, context| Box::pin(handler(event.assume_kind(), context)))
}

impl<S> fmt::Debug for Handlers<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers")
            .field("types", &self.exact.keys())
            .field("prefixes", &self.prefixes.iter().map(|(prefix, _)| prefix).collect::<Vec<_>>())
            .field("fallback", &self.fallback.is_some())
            .finish_non_exhaustive()
    }
}

/// Handlers of whatever state, as the receiver holds them.
pub(crate) trait AnyHandlers: Send + Sync {
    /// Who handles this type, if anybody does.
    fn route(&self, event_type: &EventType) -> Option<Box<dyn Route>>;
}

/// A handler that was found, to be started once.
pub(crate) trait Route: Send + Sync {
    fn start(&self, event: Event, work: Arc<Work>) -> Running;
}

struct Found<S> {
    state: Arc<S>,
    handler: Handler<S>,
}

impl<S: Send + Sync + 'static> AnyHandlers for Handlers<S> {
    fn route(&self, event_type: &EventType) -> Option<Box<dyn Route>> {
        let handler = self.find(event_type)?.clone();
        Some(Box::new(Found { state: self.state.clone(), handler }))
    }
}

impl<S: Send + Sync + 'static> Route for Found<S> {
    fn start(&self, event: Event, work: Arc<Work>) -> Running {
        (self.handler)(event, Context::new(self.state.clone(), work))
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
            Self::TypeTwice(event_type) => write!(f, "two handlers for the event type {event_type}"),
            Self::PrefixTwice(prefix) => write!(f, "two handlers for the prefix {prefix:?}"),
            Self::FallbackTwice => f.write_str("two handlers for all other events"),
        }
    }
}

impl std::error::Error for HandlersError {}
