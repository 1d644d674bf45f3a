//! Retries of calls.
//!
//! Three parts decide. Each is a trait with a default, and can be replaced on its own:
//!
//! - **what**: [`RetryClassifier`] says whether a failure is transient; [`DefaultClassifier`] is
//!   the default. Whether the operation is *safe* to retry is a separate question: it follows from
//!   AuthPI's API (a `GET`; a `POST` with its idempotency key; a `PATCH` or `DELETE` with
//!   `If-Match`), and no policy can overrule it.
//! - **when**: [`Backoff`] gives the pause before each retry; [`ExponentialBackoff`] is the
//!   default. A `Retry-After` is added to it.
//! - **how many**: [`Budget`] is shared by the clones of a client; [`TokenBucket`] is the default.
//!
//! `attempts.rs` combines them: one decision per failed attempt, within the call's deadline.

pub(super) mod attempts;
mod backoff;
mod budget;
mod classify;

use std::{sync::Arc, time::Duration};

pub use super::retry_reason::{RetryReason, RetryStop};
pub use backoff::{Backoff, ExponentialBackoff};
pub use budget::{Budget, TokenBucket, Unlimited};
pub use classify::{DefaultClassifier, FailedAttempt, RetryClassifier};

/// The default number of attempts: the first and four retries. With the default pauses (1.5 s in
/// total on average, 3 s at most) they fit ten times into the default deadline. An outage that
/// lasts longer is not a glitch.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 5;

/// The default limit of `Retry-After`. With the default deadline of 30 s, a longer one ends the
/// call anyway.
pub const DEFAULT_MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// What is retried, and when. The budget belongs to the client:
/// [`ClientBuilder::retry_budget`](crate::client::transport::ClientBuilder::retry_budget).
///
/// Cheap to clone. For all calls of a client:
/// [`ClientBuilder::retry`](crate::client::transport::ClientBuilder::retry); for one call:
/// [`Call::retry`](crate::client::transport::Call::retry).
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

    /// The limit of `Retry-After`. Default: [`DEFAULT_MAX_RETRY_AFTER`] (1 min). A longer one is
    /// cut to this.
    pub fn max_retry_after(mut self, longest: Duration) -> Self {
        self.max_retry_after = longest;
        self
    }

    /// The pause before a retry: the requested time, up to the limit, plus the backoff, so that
    /// clients that were given the same time do not retry together.
    fn wait(&self, repeat: u32, retry_after: Option<Duration>) -> Duration {
        let asked = retry_after.unwrap_or_default().min(self.max_retry_after);
        asked.saturating_add(self.when.pause(repeat))
    }
}
