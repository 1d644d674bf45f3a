//! Telemetry of a call: one span and two metrics.
//!
//! They contain no credential, header or body.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use tracing::{Span, field::Empty};

use super::{error::Error, retry::RetryReason};
use crate::telemetry::{CALL_RETRIES, CALLS};

/// The span of a call, from when it is awaited until it returns.
pub(crate) const SPAN: &str = "authpi.call";

/// The span of a call. `attempt` is the number of attempts so far, `status` is that of the last
/// answer, `reference` is for AuthPI's support, and `duration_ms` is the duration of the whole
/// call.
pub(crate) fn span(operation: &'static str) -> Span {
    tracing::info_span!(
        SPAN,
        operation,
        attempt = Empty,
        status = Empty,
        reference = Empty,
        duration_ms = Empty
    )
}

/// A call that is being observed. It is counted once, whatever its outcome, even if its future is
/// dropped.
pub(crate) struct Observed {
    operation: &'static str,
    outcome: &'static str,
    span: Span,
    begin: Instant,
}

impl Observed {
    pub(crate) fn begin(operation: &'static str, span: Span) -> Self {
        Self {
            operation,
            outcome: "dropped",
            span,
            begin: Instant::now(),
        }
    }

    pub(crate) fn attempt(&self, attempt: u32) {
        self.span.record("attempt", attempt);
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
        let millis = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.span.record("duration_ms", millis);
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
