use std::fmt;

/// Why retrying a call; the label `reason` of the metric `authpi_call_retries_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryReason {
    /// No connection came about.
    Connect,
    /// The connection broke.
    Broken,
    /// No whole answer came in time.
    Timeout,
    /// The answer was cut off, although the connection looked whole.
    CutOff,
    /// 429.
    RateLimited,
    /// 408, 502, 503, 504, or another 5xx of which AuthPI says that it passes.
    Unavailable,
    /// 409: the same call, under the same idempotency key, is still under way.
    InFlight,
    /// 401: the access token was not accepted, and there is a new one.
    TokenRenewed,
    /// Given by a [`RetryClassifier`](super::retry::RetryClassifier) of your own.
    Other,
}

impl RetryReason {
    /// The reason in one word.
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

/// Why a call that failed was not made again: see
/// [`Error::retry_stop`](super::Error::retry_stop).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryStop {
    /// The failure is not of the kind that passes: the same call would fail again.
    Permanent,
    /// The server may have acted, and nothing makes it safe to do it again: a `PATCH` or `DELETE`
    /// without an ETag.
    NotSafe,
    /// The call has had all the attempts that its policy gives it.
    Attempts,
    /// The deadline has passed, or would have before the next attempt.
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
