//! Decides whether this machine's clock can be trusted when something seems old.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Clocks that differ by at most this much agree.
const AGREES_WITHIN: SignedDuration = SignedDuration::from_hours(1);
/// How long one observation counts, in monotonic time.
const HOLDS_FOR: Duration = Duration::from_mins(10);
/// An observation is recorded again after this many milliseconds of the clock, so that most
/// deliveries neither write nor read monotonic time.
const NOTED_EVERY: i64 = 1_000;

/// Remembers when another machine's time last agreed with this machine's clock, which confirms the
/// clock. An age is only trusted if the clock is confirmed.
///
/// It vouches for the clock for ten minutes, as long as the clock and monotonic time have advanced
/// by the same amount. A clock that was set in between has to be confirmed again.
#[derive(Debug)]
pub(crate) struct ClockWitness {
    begun: Instant,
    /// Milliseconds of monotonic time since `begun`, from 1; zero if never.
    seen_at: AtomicU64,
    /// The clock's time then, in Unix milliseconds.
    seen: AtomicI64,
    /// As `seen_at`, for the last age that could not be judged.
    unsure_at: AtomicU64,
}

impl ClockWitness {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            seen_at: AtomicU64::new(0),
            seen: AtomicI64::new(0),
            unsure_at: AtomicU64::new(0),
        }
    }

    /// Records that the clock, at `now`, agrees with a recent time from another machine.
    pub(crate) fn saw_recent(&self, now: Timestamp) {
        let now = now.as_millisecond();
        let noted = self.seen_at.load(Ordering::Relaxed) != 0
            && (0..NOTED_EVERY).contains(&now.saturating_sub(self.seen.load(Ordering::Relaxed)))
            && self.unsure_at.load(Ordering::Relaxed) == 0;
        if noted {
            return;
        }
        self.seen.store(now, Ordering::Relaxed);
        self.seen_at.store(self.monotonic(), Ordering::Release);
        self.unsure_at.store(0, Ordering::Relaxed);
    }

    /// Whether the clock, at `now`, was confirmed within the last ten minutes.
    pub(crate) fn vouches_for(&self, now: Timestamp) -> bool {
        let seen_at = self.seen_at.load(Ordering::Acquire);
        let passed = self.monotonic().saturating_sub(seen_at);
        if seen_at == 0 || u128::from(passed) > HOLDS_FOR.as_millis() {
            return false;
        }
        let expected = self
            .seen
            .load(Ordering::Relaxed)
            .saturating_add_unsigned(passed);
        Timestamp::from_millisecond(expected).is_ok_and(|expected| agree(expected, now))
    }

    /// Records that an age could not be judged.
    pub(crate) fn unsure(&self) {
        self.unsure_at.store(self.monotonic(), Ordering::Relaxed);
    }

    /// Whether an age could not be judged within the last ten minutes, and the clock has not been
    /// confirmed since.
    pub(crate) fn is_unsure(&self) -> bool {
        let at = self.unsure_at.load(Ordering::Relaxed);
        at != 0 && u128::from(self.monotonic().saturating_sub(at)) <= HOLDS_FOR.as_millis()
    }

    fn monotonic(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }
}

/// Whether two clocks agree to within an hour.
pub(crate) fn agree(one: Timestamp, other: Timestamp) -> bool {
    one.duration_since(other).abs() <= AGREES_WITHIN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_sighting_vouches_for_ten_minutes_of_monotonic_time() {
        let witness = ClockWitness::new();
        assert!(!witness.vouches_for(at(0)), "nothing was seen");
        witness.saw_recent(at(0));
        tokio::time::advance(Duration::from_mins(10)).await;
        assert!(witness.vouches_for(at(600)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!witness.vouches_for(at(601)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_since_is_not_vouched_for() {
        let witness = ClockWitness::new();
        witness.saw_recent(at(0));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(witness.vouches_for(at(60 + 3600)) && witness.vouches_for(at(60 - 3600)));
        assert!(!witness.vouches_for(at(60 + 3601)) && !witness.vouches_for(at(40 * 86_400)));
    }

    #[tokio::test(start_paused = true)]
    async fn being_unsure_ends_with_something_recent_or_after_ten_minutes() {
        let witness = ClockWitness::new();
        witness.saw_recent(at(0));
        witness.unsure();
        assert!(witness.is_unsure());
        witness.saw_recent(at(0));
        assert!(!witness.is_unsure());
        witness.unsure();
        tokio::time::advance(Duration::from_mins(11)).await;
        assert!(!witness.is_unsure());
    }
}
