//! The end of an attempt: what the ledger records, and what is logged and counted. Receivers and
//! workers share this code, so both write the same log lines and metrics.
//!
//! ```text
//! Outcome -> resolve -> Resolution -> Claimed::finish -> Finished
//!               `-> Failure -> decided by the receiver or worker -^
//! ```

use std::time::Duration;

use bytes::Bytes;

use super::{Claimed, Outcome};
use crate::{
    crash,
    ledger::{Completion, EventKey, LeaseStatus, LedgerError, LedgerErrorKind},
    telemetry::{self, LogLimit},
};

/// What to record about an attempt, by [`Claimed::finish`].
pub(crate) enum Resolution {
    /// The handler succeeded, `lag` after the event happened.
    Handled { lag: Duration },
    /// As [`Handled`](Self::Handled), but the handler's transaction has already completed the
    /// claim.
    Committed { lag: Duration },
    /// The lease was lost during the attempt. Nothing is recorded.
    LeaseLost,
    /// No handler is registered. The record is forgotten, so that a later version can handle the
    /// event.
    Unhandled,
    /// The attempt failed. The event is retried after a pause.
    Retry(Failure),
    /// The event is given up and kept as a dead letter.
    DeadLetter {
        /// For the metric; see [`telemetry::DEAD_LETTERS`].
        reason: &'static str,
        error: String,
    },
    /// The event is given up and not kept.
    Drop { error: String },
}

/// A failed attempt.
pub(crate) struct Failure {
    /// For the metric: `terminal`, `error`, `panic` or `timeout`.
    pub(crate) reason: &'static str,
    /// For the log.
    pub(crate) error: String,
    /// The pause before the next attempt, if the handler requested one.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) const TERMINAL: &str = "terminal";

    pub(crate) fn is_terminal(&self) -> bool {
        self.reason == Self::TERMINAL
    }

    /// Logs and counts a failed attempt that will be retried.
    pub(crate) fn report_retry(&self, key: &EventKey, attempt: u32, log: &LogLimit) {
        let Self { reason, error, .. } = self;
        telemetry::count_by(telemetry::RETRIED, key.shared_endpoint(), "reason", reason);
        log_failure(key, attempt, reason, error, log);
    }
}

/// The result of recording a resolution.
pub(crate) enum Finished {
    /// The ledger has recorded it.
    Recorded,
    /// The ledger cannot hold the content of the resolution, such as its error text, and has
    /// recorded a dead letter instead.
    DeadLetter,
    /// The ledger works, but cannot hold the content of the resolution. It keeps no dead letters,
    /// or refused the dead letter too. Nothing was recorded.
    ContentRefused(LedgerError),
    /// The lease was lost. Nothing was recorded.
    LeaseLost,
    /// The ledger failed. The state of the record is unknown.
    StoreDown,
}

impl Outcome {
    /// The resolution of an attempt. If it failed, returns the failure, and the caller decides
    /// between a retry and giving up.
    pub(crate) fn resolve(self, lag: impl FnOnce() -> Duration) -> Result<Resolution, Failure> {
        let (reason, error, retry_after) = match self {
            Self::Handled => return Ok(Resolution::Handled { lag: lag() }),
            Self::Committed => return Ok(Resolution::Committed { lag: lag() }),
            Self::LeaseLost => return Ok(Resolution::LeaseLost),
            Self::Unhandled => return Ok(Resolution::Unhandled),
            Self::Failed(error) if error.is_terminal() => (Failure::TERMINAL, error.chain(), None),
            Self::Failed(error) => ("error", error.chain(), error.retry_after()),
            Self::Panicked(message) => ("panic", format!("the handler panicked: {message}"), None),
            Self::TimedOut => ("timeout", "the handler timed out".to_owned(), None),
        };
        Err(Failure {
            reason,
            error,
            retry_after,
        })
    }
}

impl Claimed<'_> {
    /// Records the resolution in the ledger, then logs and counts it. `body` is kept with a dead
    /// letter.
    pub(crate) async fn finish(&self, resolution: &Resolution, body: &Bytes) -> Finished {
        let recorded = self.record(resolution, body).await;
        crash::point("completed");
        match recorded {
            Ok(LeaseStatus::Held) => {
                self.report(resolution);
                Finished::Recorded
            }
            Ok(LeaseStatus::Lost) => {
                self.report_lost_lease();
                Finished::LeaseLost
            }
            Err(error) if error.kind() == LedgerErrorKind::Content => {
                // Boxed because it is rare: it should not make every future larger.
                Box::pin(self.keep_refused(resolution, error, body)).await
            }
            // The lease expires by itself, and the event is handled again.
            Err(error) => {
                self.report_unrecorded(resolution);
                error.report(self.key.shared_endpoint(), self.log);
                Finished::StoreDown
            }
        }
    }

    async fn record(
        &self,
        resolution: &Resolution,
        body: &Bytes,
    ) -> Result<LeaseStatus, LedgerError> {
        let Self {
            ledger, key, token, ..
        } = *self;
        match resolution {
            Resolution::Handled { .. } => ledger.complete(key, token, Completion::Handled).await,
            Resolution::Committed { .. } => Ok(LeaseStatus::Held),
            Resolution::LeaseLost => Ok(LeaseStatus::Lost),
            Resolution::DeadLetter { error, .. } | Resolution::Drop { error } => {
                let completion = Completion::Dead {
                    reason: error.clone(),
                    body: body.clone(),
                };
                ledger.complete(key, token, completion).await
            }
            Resolution::Retry(Failure { retry_after, .. }) => {
                let pause = retry_after.unwrap_or_default();
                ledger.release(key, token, pause).await
            }
            // Only the holder of the lease may forget the record: another worker, of a later
            // version with a handler, may have taken over.
            Resolution::Unhandled => match ledger.renew(key, token, self.lease).await {
                Ok(LeaseStatus::Held) => ledger.forget(key).await.map(|_| LeaseStatus::Held),
                lost_or_failed => lost_or_failed,
            },
        }
    }

    /// The store works but refuses this content, so a retry would fail too. Keeps the event as a
    /// dead letter with the store's reason.
    async fn keep_refused(
        &self,
        resolution: &Resolution,
        error: LedgerError,
        body: &Bytes,
    ) -> Finished {
        self.report_unrecorded(resolution);
        let kept = Resolution::DeadLetter {
            reason: "content_refused",
            error: error.chain(),
        };
        let recorded = if self.ledger.keeps_dead_letters() {
            self.record(&kept, body).await
        } else {
            return Finished::ContentRefused(error);
        };
        match recorded {
            Ok(LeaseStatus::Held) => {
                self.report(&kept);
                Finished::DeadLetter
            }
            Ok(LeaseStatus::Lost) => {
                self.report_lost_lease();
                Finished::LeaseLost
            }
            Err(error) if error.kind() == LedgerErrorKind::Content => {
                Finished::ContentRefused(error)
            }
            Err(error) => {
                error.report(self.key.shared_endpoint(), self.log);
                Finished::StoreDown
            }
        }
    }

    /// Logs and counts a resolution that the ledger has recorded.
    fn report(&self, resolution: &Resolution) {
        let endpoint = self.key.shared_endpoint();
        let (event_id, attempt) = (self.key.event_id(), self.token.attempt);
        match resolution {
            Resolution::Handled { lag } | Resolution::Committed { lag } => {
                telemetry::handled_after(endpoint, *lag);
            }
            Resolution::Retry(failure) => failure.report_retry(self.key, attempt, self.log),
            // Dead letters and dropped events are logged one by one, without a limit.
            Resolution::DeadLetter { reason, error } => {
                tracing::error!(%endpoint, event_id, attempt, reason, error, "an event became a dead letter");
                telemetry::count_by(telemetry::DEAD_LETTERS, endpoint, "reason", reason);
            }
            Resolution::Drop { error } => {
                tracing::error!(%endpoint, event_id, attempt, error, "an event failed terminally and was dropped");
            }
            Resolution::Unhandled | Resolution::LeaseLost => {}
        }
    }

    /// Logs the error of an attempt that the ledger could not record. The error is kept nowhere
    /// else.
    fn report_unrecorded(&self, resolution: &Resolution) {
        let attempt = self.token.attempt;
        match resolution {
            Resolution::Retry(failure) => failure.report_retry(self.key, attempt, self.log),
            Resolution::DeadLetter { reason, error } => {
                log_failure(self.key, attempt, reason, error, self.log);
            }
            Resolution::Drop { error } => {
                log_failure(self.key, attempt, Failure::TERMINAL, error, self.log);
            }
            _ => {}
        }
    }

    fn report_lost_lease(&self) {
        telemetry::count(telemetry::LEASES_LOST, self.key.shared_endpoint());
        self.log.write(
            "the lease was lost: it expired, or another worker has taken over",
            "lease_lost",
            |left_out| {
                tracing::warn!(
                    endpoint = self.key.endpoint(),
                    event_id = self.key.event_id(),
                    left_out,
                    "the lease was lost: it expired, or another worker has taken over"
                );
            },
        );
    }
}

/// Logs a failed attempt, without counting it.
fn log_failure(key: &EventKey, attempt: u32, reason: &'static str, error: &str, log: &LogLimit) {
    log.write("a handler failed", reason, |left_out| {
        tracing::warn!(
            endpoint = key.endpoint(),
            event_id = key.event_id(),
            attempt,
            reason,
            error,
            left_out,
            "a handler failed"
        );
    });
}
