//! When a call is repeated.

use std::{fmt, time::Duration};

use crate::backoff;

/// The pause before each repeat of a call.
pub trait Backoff: fmt::Debug + Send + Sync + 'static {
    /// How long to pause before the given repeat; 1 is the one after the first attempt.
    fn pause(&self, repeat: u32) -> Duration;
}

/// Pauses that may be twice as long each time, with full jitter: anything from nothing to the
/// ceiling, so that what failed together does not come back together.
///
/// The first ceiling is 200 ms and the last 10 s, if not given. The first is about what a call
/// takes, so that a hiccup costs one more of those; the last keeps a patient caller (a long
/// deadline, many attempts) at six repeats a minute or more.
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
    /// Pauses of at most `first` at first, and never more than `longest`. Two zeros: no pause at
    /// all.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The longest that the pause before this repeat can be.
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
