use super::HandlerError;

/// The outcome of an attempt to handle an event.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler succeeded.
    Handled,
    /// The handler succeeded, and its transaction is committed together with the ledger's record of
    /// the event.
    Committed,
    /// The lease was lost: it expired, or another worker has taken over. The handler was dropped, or
    /// its transaction rolled back.
    LeaseLost,
    /// No handler is registered for this event type.
    Unhandled,
    /// The handler failed. The error says whether a retry can help.
    Failed(HandlerError),
    /// The handler panicked, with this message. Counts as a retryable error.
    Panicked(String),
    /// The handler did not finish before its timeout, and was dropped.
    TimedOut,
}
