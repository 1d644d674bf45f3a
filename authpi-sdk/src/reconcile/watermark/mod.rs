//! The watermark: the time up to which all events of an endpoint are ingested, stored for the next
//! run.

mod file;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;

use std::{error::Error as StdError, fmt, future::Future, pin::Pin};

use jiff::Timestamp;

pub use file::FileWatermark;
pub use memory::MemoryWatermark;
#[cfg(feature = "postgres")]
pub use postgres::PostgresWatermark;

/// Stores the watermark of each endpoint.
///
/// A watermark is an event's `timestamp` in AuthPI's log, or this machine's time if that is
/// earlier. Replicas must share the store. If a watermark is lost, the log is read from the
/// webhook's creation. But it is not read before the time from which the ledger still has records:
/// see [`Report::not_read_before`](super::Report::not_read_before).
pub trait Watermark: Send + Sync + 'static {
    /// The watermark that was saved last, if any.
    ///
    /// # Errors
    /// When the store cannot be reached, or its content is not a watermark.
    fn load(
        &self,
        endpoint: &str,
    ) -> impl Future<Output = Result<Option<Timestamp>, WatermarkError>> + Send;

    /// Saves the watermark, completely or not at all. The watermark is durable when this returns
    /// `Ok`.
    ///
    /// Only the replica that holds the lock saves. But a replica that has lost the lock without
    /// noticing may still save an older watermark, late. An implementation may save it or ignore
    /// it. If it is saved, some events are read again.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses.
    fn save(
        &self,
        endpoint: &str,
        at: Timestamp,
    ) -> impl Future<Output = Result<(), WatermarkError>> + Send;
}

type Step<'a, T> = Pin<Box<dyn Future<Output = Result<T, WatermarkError>> + Send + 'a>>;

/// [`Watermark`] with boxed futures.
pub(super) trait Erased: Send + Sync {
    fn load<'a>(&'a self, endpoint: &'a str) -> Step<'a, Option<Timestamp>>;
    fn save<'a>(&'a self, endpoint: &'a str, at: Timestamp) -> Step<'a, ()>;
}

pub(super) type AnyWatermark = Box<dyn Erased>;

impl<W: Watermark> Erased for W {
    fn load<'a>(&'a self, endpoint: &'a str) -> Step<'a, Option<Timestamp>> {
        Box::pin(Watermark::load(self, endpoint))
    }

    fn save<'a>(&'a self, endpoint: &'a str, at: Timestamp) -> Step<'a, ()> {
        Box::pin(Watermark::save(self, endpoint, at))
    }
}

/// The watermark's store failed. Its own error is the [`source`](std::error::Error::source).
#[derive(Debug)]
pub struct WatermarkError {
    step: &'static str,
    source: Box<dyn StdError + Send + Sync>,
}

impl WatermarkError {
    /// `step` names the failed step: `load` or `save`.
    pub fn new(step: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            step,
            source: source.into(),
        }
    }
}

impl fmt::Display for WatermarkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the watermark's store failed to {}", self.step)
    }
}

impl StdError for WatermarkError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.source.as_ref())
    }
}
