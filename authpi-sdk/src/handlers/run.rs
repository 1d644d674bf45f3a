//! One attempt: the handler under its deadline, with its panics caught.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use jiff::Timestamp;
use tracing::{Instrument as _, Span, field::Empty, info_span};

use super::{AnyStore, AttemptState, HandlerError, Handlers, Route};
use crate::{
    event::Event,
    ledger::{EventKey, Token},
    signature::Verified,
    telemetry,
    time::{TimedOut, before},
};

/// How an attempt at an event went.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler is done.
    Handled,
    /// The handler is done, and its transaction is committed, the ledger's record of the event in
    /// it.
    Committed,
    /// Another worker has taken over. The handler was dropped, or its transaction rolled back.
    LeaseLost,
    /// Nobody handles this type of event.
    Unhandled,
    /// The handler failed; the error says whether another try is worth it.
    Failed(HandlerError),
    /// The handler panicked, which counts as a retryable error.
    Panicked(String),
    /// The handler did not finish by its deadline, and was dropped.
    TimedOut,
}

/// The outcome's name in metrics and spans.
fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Handled | Outcome::Committed => "handled",
        Outcome::LeaseLost => LEASE_LOST,
        Outcome::Unhandled => "unhandled",
        Outcome::Failed(error) if error.is_terminal() => "terminal",
        Outcome::Failed(_) => "failed",
        Outcome::Panicked(_) => "panicked",
        Outcome::TimedOut => "timed_out",
    }
}

const LEASE_LOST: &str = "lease_lost";

/// How long a handler may take, unless set: 10 seconds.
pub(crate) const DEFAULT_HANDLER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the handler to its end, its panic or its deadline.
pub(crate) async fn run(route: &dyn Route, work: Arc<AttemptState>) -> Outcome {
    let AttemptState {
        key,
        token,
        event,
        deadline,
        ..
    } = &*work;
    let span = telemetry::if_enabled(info_span!(
        "authpi.handle",
        endpoint = key.endpoint(),
        event_id = key.event_id(),
        event_type = event.event_type().as_str(),
        attempt = token.map_or(0, |token| token.attempt),
        trace = event.trace(),
        outcome = Empty,
    ));
    // Whoever drops this future before its end has lost the lease.
    let mut attempt = AttemptGuard {
        work: &work,
        span: &span,
        outcome: LEASE_LOST,
    };
    let running = async { route.start(event.clone(), Arc::clone(&work)).finish().await };
    let running = pin!(running.instrument(span.clone()));
    let outcome = match before(|| *deadline, caught(running)).await {
        Err(TimedOut) => Outcome::TimedOut,
        Ok(Err(panic)) => Outcome::Panicked(panic),
        Ok(Ok(Err(error))) => Outcome::Failed(error),
        Ok(Ok(Ok(outcome))) => outcome,
    };
    attempt.outcome = name(&outcome);
    outcome
}

/// Tells everybody when the attempt has ended, in whatever way.
struct AttemptGuard<'a> {
    work: &'a AttemptState,
    span: &'a Span,
    outcome: &'static str,
}

impl Drop for AttemptGuard<'_> {
    fn drop(&mut self) {
        self.work.ended.end();
        self.span.record("outcome", self.outcome);
        telemetry::handler_took(
            self.work.key.shared_endpoint(),
            self.outcome,
            self.work.started_at.elapsed(),
        );
    }
}

/// The future's result, or what it panicked with.
fn caught<T>(
    mut future: Pin<&mut impl Future<Output = T>>,
) -> impl Future<Output = Result<T, String>> + Unpin {
    poll_fn(
        move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(Ok(result)),
            Err(panic) => Poll::Ready(Err(message(&*panic))),
        },
    )
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("the panic had no message").to_owned()
}

impl<S: Send + Sync + 'static> Handlers<S> {
    /// Handles one event here and now: no HTTP, no ledger, attempt 1, the default deadline of 10 s.
    /// For tests of handlers.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled. (A handler that panics is an
    /// [`Outcome`].)
    ///
    /// ```
    /// # #[cfg(feature = "testing")] {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use authpi_sdk::event::{Event, types::UserCreated};
    /// use authpi_sdk::handlers::{Handlers, Outcome};
    ///
    /// let handlers = Handlers::new(()).on(async |_event: Event<UserCreated>, _cx| Ok(()));
    /// let event = authpi_sdk::testing::fixture::<UserCreated>();
    /// assert!(matches!(handlers.dispatch(event).await, Outcome::Handled));
    /// # }) }
    /// ```
    pub async fn dispatch(&self, event: Verified<Event>) -> Outcome {
        let Some(route) = self.route(event.event_type(), &AnyStore) else {
            return Outcome::Unhandled;
        };
        let (key, token) = (
            EventKey::new("dispatch", event.shared_id()),
            Token {
                attempt: 1,
                nonce: 0,
            },
        );
        run(
            &route,
            AttemptState::new(
                &event,
                key,
                Some(token),
                Timestamp::now(),
                DEFAULT_HANDLER_TIMEOUT,
                None,
                &Arc::default(),
            ),
        )
        .await
    }
}
