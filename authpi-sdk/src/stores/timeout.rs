//! Shared by stores that are servers: time limits, tokens made by the client, names.

use std::{fmt, time::Duration};
#[cfg(any(feature = "postgres", feature = "redis"))]
use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

#[cfg(any(feature = "postgres", feature = "nats"))]
use crate::ledger::LedgerError;

/// The default time limit of a step.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a step for at most `limit`.
#[cfg(any(feature = "postgres", feature = "nats"))]
pub(super) async fn within<T, E>(
    limit: Duration,
    step: &'static str,
    work: impl std::future::Future<Output = Result<T, E>>,
) -> Result<T, LedgerError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(|error| LedgerError::new(step, error)),
        Err(_) => Err(LedgerError::new(step, TooSlow { limit })),
    }
}

#[cfg(any(feature = "postgres", feature = "nats"))]
#[derive(Debug)]
struct TooSlow {
    limit: Duration,
}

#[cfg(any(feature = "postgres", feature = "nats"))]
impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store did not answer within {:?}", self.limit)
    }
}

#[cfg(any(feature = "postgres", feature = "nats"))]
impl std::error::Error for TooSlow {}

/// A prefix or schema name that is not allowed.
#[derive(Debug)]
pub(super) struct BadName {
    pub(super) what: &'static str,
    pub(super) name: String,
    pub(super) allowed: &'static str,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} cannot be used as {}: {}",
            self.name, self.what, self.allowed
        )
    }
}

impl std::error::Error for BadName {}

/// A source of 64 random bits, seeded by the operating system.
#[cfg(any(feature = "postgres", feature = "redis"))]
#[derive(Default)]
pub(super) struct Nonces {
    key: RandomState,
    minted: AtomicU64,
}

#[cfg(any(feature = "postgres", feature = "redis"))]
impl Nonces {
    pub(super) fn mint(&self) -> u64 {
        self.key
            .hash_one(self.minted.fetch_add(1, Ordering::Relaxed))
    }
}

/// Rounded up, so that a short lease or pause is not zero. At most 2⁵¹ ms, so that sums of two stay
/// below 2⁵³, which databases and scripts represent exactly.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(super) fn millis(duration: Duration) -> i64 {
    const MOST: i64 = 1 << 51;
    duration
        .as_nanos()
        .div_ceil(1_000_000)
        .try_into()
        .map_or(MOST, |millis: i64| millis.min(MOST))
}

#[cfg(all(test, any(feature = "postgres", feature = "redis")))]
mod tests {
    use super::*;

    #[test]
    fn any_duration_is_at_least_a_millisecond_and_sums_do_not_overflow() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_secs(30)), 30_000);
        assert!(millis(Duration::MAX) * 2 <= 1 << 53);
    }

    #[test]
    fn two_ledgers_never_mint_the_same_nonce() {
        let (a, b) = (Nonces::default(), Nonces::default());
        let mut minted: Vec<u64> = (0..1000).flat_map(|_| [a.mint(), b.mint()]).collect();
        minted.sort_unstable();
        minted.dedup();
        assert_eq!(minted.len(), 2000);
    }
}
