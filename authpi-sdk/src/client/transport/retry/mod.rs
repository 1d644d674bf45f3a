//! Retries of calls.
//!
//! Three parts decide. Each is a trait with a default implementation, and can be replaced
//! separately:
//!
//! - **what**: [`RetryClassifier`] says whether a failure is transient; [`DefaultClassifier`] is
//!   the default. Whether the operation is *safe* to retry is a separate question. AuthPI's API
//!   answers it (yes for a `GET`; a `POST` with its idempotency key; a `PATCH` or `DELETE` with
//!   `If-Match`), and no policy can overrule the answer. Only
//!   [`Call::retry_without_etag`](crate::client::Call::retry_without_etag) can, for one call.
//! - **when**: [`Backoff`] gives the pause before each retry; [`ExponentialBackoff`] is the
//!   default. If AuthPI sends `Retry-After`, that time is added to the pause.
//! - **how many**: [`Budget`] is shared by the clones of a client; [`TokenBucket`] is the default.
//!
//! After each failed attempt, one decision combines them, within the call's deadline.

pub(super) mod attempts;
mod backoff;
mod budget;
mod classify;

use std::{sync::Arc, time::Duration};

pub use super::retry_reason::{RetryReason, RetryStop};
pub use backoff::{Backoff, ExponentialBackoff};
pub use budget::{Budget, TokenBucket, Unlimited};
pub use classify::{DefaultClassifier, FailedAttempt, RetryClassifier};

/// The default number of attempts: the first and four retries. The default pauses between them add
/// up to 1.5 s on average and 3 s at most, a tenth of the default deadline. A longer failure is an
/// outage, which the caller should see.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 5;

/// The default limit of `Retry-After`. A wait of this length exceeds the default deadline of 30 s,
/// so such a call fails at once.
pub const DEFAULT_MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// What is retried, and when. The budget belongs to the client:
/// [`ClientBuilder::retry_budget`](crate::client::transport::ClientBuilder::retry_budget).
///
/// Cheap to clone. [`ClientBuilder::retry`](crate::client::transport::ClientBuilder::retry) sets it
/// for all calls of a client, [`Call::retry`](crate::client::transport::Call::retry) for one call.
#[derive(Clone, Debug)]
#[must_use]
pub struct RetryPolicy {
    attempts: u32,
    classifier: Arc<dyn RetryClassifier>,
    when: Arc<dyn Backoff>,
    max_retry_after: Duration,
}

impl Default for RetryPolicy {
    /// [`DEFAULT_MAX_ATTEMPTS`], [`DefaultClassifier`], [`ExponentialBackoff`],
    /// [`DEFAULT_MAX_RETRY_AFTER`].
    fn default() -> Self {
        Self {
            attempts: DEFAULT_MAX_ATTEMPTS,
            classifier: Arc::new(DefaultClassifier),
            when: Arc::new(ExponentialBackoff::default()),
            max_retry_after: DEFAULT_MAX_RETRY_AFTER,
        }
    }
}

impl RetryPolicy {
    /// No call is retried. (A call whose access token is refused still gets a second attempt with a
    /// new one.)
    pub fn never() -> Self {
        Self::default().max_attempts(1)
    }

    /// The maximum number of attempts, including the first. Default: [`DEFAULT_MAX_ATTEMPTS`]; 0
    /// counts as 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Decides which failures are transient. Default: [`DefaultClassifier`].
    pub fn classifier(mut self, classifier: impl RetryClassifier) -> Self {
        self.classifier = Arc::new(classifier);
        self
    }

    /// The pause before each retry. Default: [`ExponentialBackoff`].
    pub fn backoff(mut self, when: impl Backoff) -> Self {
        self.when = Arc::new(when);
        self
    }

    /// The limit of `Retry-After`: a longer wait is shortened to this. Default:
    /// [`DEFAULT_MAX_RETRY_AFTER`] (1 min).
    pub fn max_retry_after(mut self, longest: Duration) -> Self {
        self.max_retry_after = longest;
        self
    }

    /// The pause before a retry: the time that the server requested, up to the limit, plus the
    /// backoff. Because of the backoff, clients with the same requested time do not retry together.
    fn wait(&self, repeat: u32, retry_after: Option<Duration>) -> Duration {
        let asked = retry_after.unwrap_or_default().min(self.max_retry_after);
        asked.saturating_add(self.when.pause(repeat))
    }
}
