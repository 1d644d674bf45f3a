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

/// How many attempts a call gets by default: the first and four repeats. With the
/// default pauses (1.5 s together on average, 3 s at most) they fit ten times into the default
/// deadline; what takes AuthPI longer than that is an outage.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 5;

/// How much of a `Retry-After` is heeded by default. With the default deadline of 30 s
/// for a call, a longer one ends the call anyway.
pub const DEFAULT_MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// What is repeated, and when. Whether there is budget left belongs to the client:
/// [`ClientBuilder::retry_budget`](crate::client::transport::ClientBuilder::retry_budget).
///
/// Cheap to clone. For all calls of a client:
/// [`ClientBuilder::retry`](crate::client::transport::ClientBuilder::retry); for one:
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
    /// No call is repeated. (One whose access token is refused still gets a second attempt with a
    /// new one.)
    pub fn never() -> Self {
        Self::default().max_attempts(1)
    }

    /// How many attempts a call gets in all, the first included; [`DEFAULT_MAX_ATTEMPTS`] if not
    /// given, and 0 counts as 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Which failures are of the kind that passes; [`DefaultClassifier`] if not given.
    pub fn classifier(mut self, classifier: impl RetryClassifier) -> Self {
        self.classifier = Arc::new(classifier);
        self
    }

    /// How long to pause before each repeat; [`ExponentialBackoff`] if not given.
    pub fn backoff(mut self, when: impl Backoff) -> Self {
        self.when = Arc::new(when);
        self
    }

    /// How much of a `Retry-After` to heed; [`DEFAULT_MAX_RETRY_AFTER`] (1 min) if not given. A
    /// longer one is cut to this.
    pub fn max_retry_after(mut self, longest: Duration) -> Self {
        self.max_retry_after = longest;
        self
    }

    /// The wait before a repeat: what was asked for, up to the cap, and the pause on top, so that
    /// those who were all told to come back at one moment do not.
    fn wait(&self, repeat: u32, retry_after: Option<Duration>) -> Duration {
        let asked = retry_after.unwrap_or_default().min(self.max_retry_after);
        asked.saturating_add(self.when.pause(repeat))
    }
}
