//! Runs a handler until it ends, panics or times out.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tracing::{Instrument as _, Span, field::Empty};

use super::{AttemptState, Outcome, Route};
#[cfg(feature = "client")]
use crate::telemetry::trace::{self, TraceId};
use crate::{
    telemetry,
    time::{TimedOut, before},
};

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

/// The default timeout of a handler: 10 seconds.
pub(crate) const DEFAULT_HANDLER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the handler until it ends, panics or times out. `event_type` is the label of its metric.
pub(crate) async fn run(
    route: &Route,
    attempt: Arc<AttemptState>,
    event_type: Option<&'static str>,
) -> Outcome {
    let AttemptState {
        key,
        token,
        event,
        deadline,
        ..
    } = &*attempt;
    let span = telemetry::span!(
        INFO,
        "authpi.handle",
        endpoint = key.endpoint(),
        event_id = key.event_id(),
        event_type = event.event_type().as_str(),
        attempt = token.map_or(0, |token| token.attempt),
        trace = event.trace(),
        outcome = Empty,
    );
    // If this future is dropped before it ends, the lease was lost.
    let mut guard = AttemptGuard {
        attempt: &attempt,
        span: &span,
        outcome: LEASE_LOST,
        event_type,
    };
    let running = async { route.start(event.clone(), Arc::clone(&attempt)).await };
    #[cfg(feature = "client")]
    let running = trace::within(event.trace().and_then(TraceId::parse), running);
    let running = pin!(running.instrument(span.clone()));
    let outcome = match before(|| *deadline, caught(running)).await {
        Err(TimedOut) => Outcome::TimedOut,
        Ok(Err(panic)) => Outcome::Panicked(panic),
        Ok(Ok(Err(error))) => Outcome::Failed(error),
        Ok(Ok(Ok(outcome))) => outcome,
    };
    guard.outcome = name(&outcome);
    outcome
}

/// Records the end of an attempt when it is dropped.
struct AttemptGuard<'a> {
    attempt: &'a AttemptState,
    span: &'a Span,
    outcome: &'static str,
    event_type: Option<&'static str>,
}

impl Drop for AttemptGuard<'_> {
    fn drop(&mut self) {
        self.attempt.ended.end();
        self.span.record("outcome", self.outcome);
        telemetry::handler_took(
            self.attempt.key.shared_endpoint(),
            self.outcome,
            self.event_type,
            self.attempt.started_at.elapsed(),
        );
    }
}

/// The future's result, or the message of its panic.
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
