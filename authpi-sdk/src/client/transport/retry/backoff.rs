//! The pauses between attempts.

use std::{fmt, time::Duration};

use crate::backoff;

/// The pause before each retry of a call.
pub trait Backoff: fmt::Debug + Send + Sync + 'static {
    /// The pause before the given retry; 1 is the first retry.
    fn pause(&self, repeat: u32) -> Duration;
}

/// Exponential backoff with full jitter: the maximum pause doubles each time, and the pause is a
/// random part of it, so that clients that failed together do not retry together.
///
/// By default, the maximum begins at 200 ms, about the duration of a call, and grows up to 10 s. So
/// the pauses of a call with a long deadline and many attempts allow at least six retries per
/// minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExponentialBackoff {
    first: Duration,
    longest: Duration,
}

impl Default for ExponentialBackoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(10),
        }
    }
}

impl ExponentialBackoff {
    /// The first pause is at most `first`, and no pause is longer than `longest`. If both are zero,
    /// there is no pause.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The maximum pause before this retry.
    pub fn ceiling(&self, repeat: u32) -> Duration {
        backoff::ceiling(self.first, self.longest, repeat)
    }
}

impl Backoff for ExponentialBackoff {
    fn pause(&self, repeat: u32) -> Duration {
        backoff::full_jitter(self.first, self.longest, repeat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_never_exceeds_its_ceiling_and_is_spread_below_it() {
        let backoff = ExponentialBackoff::default();
        for (repeat, ceiling) in [
            (0, 200),
            (1, 200),
            (2, 400),
            (4, 1_600),
            (7, 10_000),
            (u32::MAX, 10_000),
        ] {
            let ceiling = Duration::from_millis(ceiling);
            assert_eq!(backoff.ceiling(repeat), ceiling, "repeat {repeat}");
            let all: Vec<_> = (0..200).map(|_| backoff.pause(repeat)).collect();
            assert!(all.iter().all(|pause| *pause <= ceiling), "repeat {repeat}");
            assert!(
                all.iter().any(|pause| *pause > ceiling / 2)
                    && all.iter().any(|pause| *pause < ceiling / 2)
            );
        }
    }

    #[test]
    fn pauses_without_end_are_no_panic() {
        let backoff = ExponentialBackoff::new(Duration::MAX, Duration::MAX);
        assert_eq!(backoff.ceiling(9), Duration::MAX);
        assert_eq!(
            ExponentialBackoff::new(Duration::ZERO, Duration::ZERO).pause(9),
            Duration::ZERO
        );
    }
}
