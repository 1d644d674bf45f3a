use std::fmt;

/// Why a call is retried; the label `reason` of the metric `authpi_call_retries_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryReason {
    /// There was no connection.
    Connect,
    /// The connection broke.
    Broken,
    /// No complete answer arrived in time.
    Timeout,
    /// The answer was cut off, although the connection seemed intact.
    CutOff,
    /// 429.
    RateLimited,
    /// 408, 502, 503, 504, or another 5xx that AuthPI calls retryable.
    Unavailable,
    /// 409: the same call, with the same idempotency key, is still in progress.
    InFlight,
    /// 401: the access token was not accepted, and the source has returned a new one.
    TokenRenewed,
    /// For a [`RetryClassifier`](super::retry::RetryClassifier) of your own.
    Other,
}

impl RetryReason {
    /// The reason as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::CutOff => "cut_off",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::InFlight => "in_flight",
            Self::TokenRenewed => "token_renewed",
            Self::Other => "other",
        }
    }
}

/// Why a failed call was not retried: see [`Error::retry_stop`](super::Error::retry_stop).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryStop {
    /// The failure is not transient: the same call would fail again.
    Permanent,
    /// The server may have acted, and the call is not safe to repeat: a `PATCH` or `DELETE` without
    /// an ETag.
    NotSafe,
    /// The policy's number of attempts is used up.
    Attempts,
    /// The deadline has passed, or would pass before the next attempt.
    Deadline,
    /// The client's retry budget is spent.
    Budget,
}

impl fmt::Display for RetryStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permanent => "a retry would fail again",
            Self::NotSafe => "not safe to retry without an ETag",
            Self::Attempts => "no attempts left",
            Self::Deadline => "no time left for another attempt",
            Self::Budget => "the retry budget is exhausted",
        })
    }
}
