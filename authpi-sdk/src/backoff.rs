//! Exponential backoff with full jitter, for retries of the client and the worker.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// The longest pause before a retry: `initial` before the first, doubled before each further one, at
/// most `max`. 0 counts as 1.
pub(crate) fn ceiling(initial: Duration, max: Duration, retry: u32) -> Duration {
    let doublings = retry.saturating_sub(1).min(31);
    initial.saturating_mul(1 << doublings).min(max)
}

/// A random pause from zero to the [`ceiling`], so that clients that failed together do not retry
/// together.
pub(crate) fn full_jitter(initial: Duration, max: Duration, retry: u32) -> Duration {
    ceiling(initial, max, retry).mul_f64(fraction())
}

/// Sleeps before round `round` (from 0) of several.
#[cfg(feature = "client")]
pub(crate) async fn sleep_before_round(round: u32, initial: Duration, max: Duration) {
    tokio::time::sleep(full_jitter(initial, max, round.saturating_add(1))).await;
}

/// From 0 to 1. A hasher's random keys are random enough to spread load.
fn fraction() -> f64 {
    let random = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(0);
    f64::from(random) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_never_exceeds_its_ceiling_and_is_spread_below_it() {
        let (initial, max) = (Duration::from_secs(1), Duration::from_mins(5));
        for (retry, seconds) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (5, 16),
            (9, 256),
            (10, 300),
            (u32::MAX, 300),
        ] {
            let longest = Duration::from_secs(seconds);
            assert_eq!(ceiling(initial, max, retry), longest, "retry {retry}");
            let all: Vec<_> = (0..200).map(|_| full_jitter(initial, max, retry)).collect();
            assert!(all.iter().all(|pause| *pause <= longest), "retry {retry}");
            assert!(
                all.iter().any(|pause| *pause > longest / 2)
                    && all.iter().any(|pause| *pause < longest / 2)
            );
        }
    }
}
