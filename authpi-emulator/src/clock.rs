//! The emulator's time, which a test can control.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;

/// The emulator's clock: the system clock, or one that moves only when it is advanced.
///
/// Timestamps, signatures, retries and the age of idempotency keys follow this clock. Network
/// timeouts (of a delivery, of a shutdown) always follow the system clock.
#[derive(Clone)]
pub struct EmulatorClock(Kind);

#[derive(Clone)]
enum Kind {
    System,
    Manual(Arc<Manual>),
}

struct Manual {
    now: Mutex<Timestamp>,
    moved: watch::Sender<()>,
}

impl EmulatorClock {
    /// The system clock.
    pub fn system() -> Self {
        Self(Kind::System)
    }

    /// A clock that stays at `start` until it is [advanced](Self::advance).
    pub fn manual(start: Timestamp) -> Self {
        Self(Kind::Manual(Arc::new(Manual {
            now: Mutex::new(start),
            moved: watch::Sender::new(()),
        })))
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System => Timestamp::now(),
            Kind::Manual(clock) => *clock.now.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Advances a manual clock. Retries that have become due are sent.
    ///
    /// It does not wait for them:
    /// [`Emulator::deliveries_settled`](crate::Emulator::deliveries_settled) does. The clock stops
    /// at the end of jiff's calendar, in the year 9999.
    ///
    /// # Panics
    /// On the system clock, which cannot be changed.
    pub fn advance(&self, by: Duration) {
        let Kind::Manual(clock) = &self.0 else {
            panic!("only a manual clock can be advanced: EmulatorClock::manual(start)")
        };
        let mut now = clock.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.saturating_add(by).unwrap_or(Timestamp::MAX);
        drop(now);
        clock.moved.send_replace(());
    }

    /// Unix milliseconds, the unit of AuthPI's API.
    pub(crate) fn millis(&self) -> i64 {
        self.now().as_millisecond()
    }

    /// Waits until the clock shows `at`, in Unix milliseconds.
    pub(crate) async fn sleep_until(&self, at: i64) {
        match &self.0 {
            Kind::System => {
                let left = u64::try_from(at.saturating_sub(self.millis())).unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(left)).await;
            }
            Kind::Manual(clock) => {
                let mut moved = clock.moved.subscribe();
                while self.millis() < at {
                    // The sender lives in `clock`, so this cannot fail. If it did, nothing would
                    // ever be due.
                    if moved.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }
}

impl fmt::Debug for EmulatorClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            Kind::System => "system",
            Kind::Manual(_) => "manual",
        };
        write!(f, "EmulatorClock({kind}, {})", self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_its_sleepers_only_when_their_time_has_come() {
        let clock = EmulatorClock::manual(Timestamp::UNIX_EPOCH);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(1_500).await }
        });
        clock.advance(Duration::from_millis(1_499));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished(), "woke one millisecond early");
        clock.advance(Duration::from_millis(1));
        sleeper.await.unwrap();
        assert_eq!(clock.millis(), 1_500);
    }
}
