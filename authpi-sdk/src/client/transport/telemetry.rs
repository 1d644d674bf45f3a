//! Telemetry of a call: one span, three metrics, and the trace that AuthPI gets.
//!
//! They contain no credential, header or body.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;
use tracing::{Span, field::Empty};

use super::{error::Error, retry::RetryReason};
use crate::telemetry::{CALL_RETRIES, CALL_SECONDS, CALLS, trace::TraceId};

/// The span of a call, from when it is awaited until it returns.
pub(crate) const SPAN: &str = "authpi.call";

/// The span of a call. `trace` is the id in its `traceparent`, `attempt` is the number of attempts
/// so far, `status` is that of the last answer, `reference` is for AuthPI's support, and
/// `duration_ms` is the duration of the whole call.
pub(crate) fn span(operation: &'static str, trace: Option<&CallTrace>) -> Span {
    tracing::info_span!(
        SPAN,
        operation,
        trace = trace.map(|trace| tracing::field::display(trace.id)),
        attempt = Empty,
        status = Empty,
        reference = Empty,
        duration_ms = Empty
    )
}

/// The W3C trace of a call: the caller's own, that of the event whose handler makes it, or a new
/// one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallTrace {
    pub(crate) id: TraceId,
    /// The random part of the ids of its attempts.
    parent: u64,
}

impl CallTrace {
    pub(crate) const HEADER: HeaderName = HeaderName::from_static("traceparent");

    /// `own` is a `traceparent` that the caller set, which is sent in place of the client's.
    /// Returns `None` if `own` is not a W3C trace, or if the system has no random numbers. A call
    /// also works without a trace.
    pub(crate) fn begin(own: Option<&HeaderValue>) -> Option<Self> {
        let mut bits = [0; 24];
        getrandom::fill(&mut bits).ok()?;
        let (id, parent) = bits.split_first_chunk::<16>()?;
        let (parent, _) = parent.split_first_chunk::<8>()?;
        let id = match own {
            Some(own) => TraceId::parse(own.to_str().ok()?),
            None => TraceId::current().or_else(|| TraceId::new(u128::from_be_bytes(*id))),
        };
        Some(Self {
            id: id?,
            parent: u64::from_be_bytes(*parent),
        })
    }

    /// The header of the call's `n`th attempt: each attempt is a request of its own. `recorded` is
    /// whether a subscriber wants the call's span.
    pub(crate) fn header(&self, n: u32, recorded: bool) -> Option<HeaderValue> {
        let Self { id, parent } = self;
        // An id must not be zero.
        let parent = parent.wrapping_add(u64::from(n)).max(1);
        let flags = u8::from(recorded);
        HeaderValue::try_from(format!("00-{id}-{parent:016x}-{flags:02x}")).ok()
    }
}

/// A call that is being observed. It is counted once, whatever its outcome, even if its future is
/// dropped.
pub(crate) struct Observed {
    operation: &'static str,
    outcome: &'static str,
    span: Span,
    trace: Option<CallTrace>,
    begin: Instant,
}

impl Observed {
    pub(crate) fn begin(operation: &'static str, span: Span, trace: Option<CallTrace>) -> Self {
        Self {
            operation,
            outcome: "dropped",
            span,
            trace,
            begin: Instant::now(),
        }
    }

    /// Records the number of an attempt. Returns its `traceparent`.
    pub(crate) fn attempt(&self, attempt: u32) -> Option<HeaderValue> {
        self.span.record("attempt", attempt);
        self.trace?.header(attempt, !self.span.is_disabled())
    }

    pub(crate) fn succeeded(&mut self, status: StatusCode) {
        self.outcome = "ok";
        self.status(status);
    }

    /// The answer was lost, and the current state shows that the call has succeeded.
    pub(crate) fn inferred(&mut self) {
        self.outcome = "inferred";
    }

    pub(crate) fn failed(&mut self, error: &Error) {
        self.outcome = error.outcome();
        self.refused(error);
    }

    /// Records a failed attempt.
    pub(crate) fn refused(&self, error: &Error) {
        if let Some(status) = error.status() {
            self.status(status);
        }
        if let Some(reference) = error.reference() {
            self.span.record("reference", reference);
        }
    }

    fn status(&self, status: StatusCode) {
        self.span.record("status", status.as_u16());
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let took = self.begin.elapsed();
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.span.record("duration_ms", millis);
        metrics::histogram!(CALL_SECONDS, "operation" => self.operation).record(took);
        metrics::counter!(CALLS, "operation" => self.operation, "outcome" => self.outcome)
            .increment(1);
    }
}

/// Records a retry.
pub(crate) fn repeated(
    operation: &'static str,
    attempt: u32,
    reason: RetryReason,
    error: &Error,
    wait: Duration,
) {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(operation, attempt, reason = reason.as_str(), %error, wait_ms, "retrying a call");
    metrics::counter!(CALL_RETRIES, "operation" => operation, "reason" => reason.as_str())
        .increment(1);
}
