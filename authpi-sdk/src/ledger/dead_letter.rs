//! Dead letters: what a durable ledger keeps of an event that was given up.

use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;

use super::EventKey;

/// An event that was given up, as listed by a ledger that keeps dead letters.
///
/// The [guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/dead_letters/) explains how to
/// list, replay and purge them.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The record's key. After [`forget`](super::Ledger::forget), a redelivery is handled like a
    /// new event.
    pub key: EventKey,
    /// Why it was given up.
    pub reason: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// The delivery's body, byte for byte.
    pub body: Bytes,
    /// When the event was first claimed, or stored in the inbox.
    pub first_claimed_at: Timestamp,
    /// When it was given up.
    pub died_at: Timestamp,
}

impl fmt::Debug for DeadLetter {
    /// Omits the body: payloads do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("key", &self.key)
            .field("reason", &self.reason)
            .field("attempts", &self.attempts)
            .field("bytes", &self.body.len())
            .field("first_claimed_at", &self.first_claimed_at)
            .field("died_at", &self.died_at)
            .finish()
    }
}

/// Logs that a replayed event waits, since an endpoint without a worker does not handle it on its
/// own.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "nats"))]
pub(crate) fn log_replayed(key: &EventKey) {
    tracing::info!(
        endpoint = key.endpoint(),
        event_id = key.event_id(),
        "a dead letter was replayed; it waits for a worker of its endpoint or a redelivery"
    );
}

/// The timestamp of `millis`; the first or last one that jiff supports if it is out of range.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}
