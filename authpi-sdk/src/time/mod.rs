//! Time as AuthPI writes it, and clocks as parameters.

mod witness;

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, de};
use tokio::{
    task::unconstrained,
    time::{Instant, sleep_until},
};

pub(crate) use witness::{ClockWitness, agree};

/// A point in time in Unix milliseconds, the unit of AuthPI's API (`created_at`, `after`, …).
///
/// AuthPI documents integers for resources and a `number` for events, so a number with a fraction
/// is read too; the fraction is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The same point in time as a [`jiff::Timestamp`].
    ///
    /// # Errors
    /// When the number is outside of the years −9999 to 9999, the range of jiff.
    pub fn timestamp(self) -> Result<Timestamp, jiff::Error> {
        Timestamp::from_millisecond(self.0)
    }
}

impl From<Timestamp> for UnixMillis {
    fn from(at: Timestamp) -> Self {
        Self(at.as_millisecond())
    }
}

impl fmt::Display for UnixMillis {
    /// RFC 3339, or the plain number if it is outside of jiff's range.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timestamp() {
            Ok(at) => at.fmt(f),
            Err(_) => self.0.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for UnixMillis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl de::Visitor<'_> for Number {
            type Value = UnixMillis;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of milliseconds since 1970")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<UnixMillis, E> {
                Ok(UnixMillis(n))
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<UnixMillis, E> {
                i64::try_from(n)
                    .map(UnixMillis)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(n), &self))
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the range is checked, the fraction is dropped on purpose"
            )]
            fn visit_f64<E: de::Error>(self, n: f64) -> Result<UnixMillis, E> {
                if n.is_finite() && n.abs() < 9.0e18 {
                    Ok(UnixMillis(n as i64))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(n), &self))
                }
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// Parses an RFC 3339 time. Digits beyond nanoseconds are dropped; a leap second is read as the
/// second before.
pub(crate) fn rfc3339(text: &str) -> Result<Timestamp, jiff::Error> {
    text.parse().or_else(|error| {
        let Some(at) = text.find(['.', ',']) else {
            return Err(error);
        };
        let (whole, fraction) = text.split_at(at + 1);
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits <= 9 {
            return Err(error);
        }
        format!("{whole}{}{}", &fraction[..9], &fraction[digits..])
            .parse()
            .map_err(|_| error)
    })
}

/// A source of the time: the system's clock by default, or a test's.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Arc::new(Timestamp::now))
    }

    /// A clock that calls `now` each time.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// How long ago `then` was; zero if it is in the future.
    pub fn since(&self, then: Timestamp) -> Duration {
        Duration::try_from(self.now().duration_since(then)).unwrap_or(Duration::ZERO)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// The deadline has passed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TimedOut;

/// As `tokio::time::timeout_at`, but a future that is ready on its first poll needs no timer and no
/// reading of the clock.
///
/// The caller pins the future, since a future that is passed from function to function occupies
/// space in each of them.
pub(crate) fn before<T>(
    deadline: impl FnOnce() -> Instant,
    mut future: impl Future<Output = T> + Unpin,
) -> impl Future<Output = Result<T, TimedOut>> {
    let (mut deadline, mut timer) = (Some(deadline), None);
    poll_fn(move |cx| {
        if let Poll::Ready(done) = Pin::new(&mut future).poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if let Some(deadline) = deadline.take() {
            // The timer is polled even if the future has used up the task's budget.
            timer = Some(Box::pin(unconstrained(sleep_until(deadline()))));
        }
        match timer.as_mut().map(|timer| timer.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(TimedOut)),
            _ => Poll::Pending,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn unix_millis_are_read_from_integers_and_from_fractions() {
        assert_eq!(
            serde_json::from_str::<UnixMillis>("1709139600000").unwrap(),
            UnixMillis(1_709_139_600_000)
        );
        assert_eq!(
            serde_json::from_str::<UnixMillis>("1709139600000.75").unwrap(),
            UnixMillis(1_709_139_600_000)
        );
        for bad in ["1e300", "18446744073709551615", "\"1709139600000\"", "null"] {
            assert!(
                serde_json::from_str::<UnixMillis>(bad).is_err(),
                "{bad} was read as a time"
            );
        }
    }

    #[test]
    fn a_time_finer_than_nanoseconds_is_cut_and_other_odd_forms_are_read() {
        let read = |text: &str| rfc3339(text).map(|at| at.to_string());
        for fraction in ["1234567890", "1234567899", "123456789012345678901234567890"] {
            let text = format!("2026-11-25T00:00:00.{fraction}Z");
            assert_eq!(
                read(&text).unwrap(),
                "2026-11-25T00:00:00.123456789Z",
                "{text}"
            );
        }
        assert_eq!(
            read("2026-11-25T02:00:00.1234567890+02:00").unwrap(),
            "2026-11-25T00:00:00.123456789Z"
        );
        assert_eq!(
            read("2026-11-25t00:00:00z").unwrap(),
            "2026-11-25T00:00:00Z"
        );
        assert_eq!(
            read("2026-11-25 00:00:00.5Z").unwrap(),
            "2026-11-25T00:00:00.5Z"
        );
        assert_eq!(
            read("2016-12-31T23:59:60Z").unwrap(),
            "2016-12-31T23:59:59Z"
        );
        assert_eq!(
            read("2016-12-31T23:59:60.1234567890Z").unwrap(),
            "2016-12-31T23:59:59.123456789Z"
        );
        for bad in [
            "",
            ".",
            "2026-11-25T00:00:00",
            "2026-11-25T00:00:00.12345678901",
            "2026-11-25T00:00:00.1234567890Zé",
        ] {
            assert!(read(bad).is_err(), "{bad:?} was read as a time");
        }
    }

    #[test]
    fn what_is_done_at_once_needs_no_timer() {
        // Outside of a runtime, where creating a timer would panic.
        let at_once = pin!(async { 7 });
        let mut done = pin!(before(|| panic!("the clock was read"), at_once));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert_eq!(done.as_mut().poll(&mut context), Poll::Ready(Ok(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_is_dropped_at_its_deadline_and_no_sooner() {
        let (limit, started) = (Duration::from_secs(3), Instant::now());
        let after = |wait| before(move || started + limit, Box::pin(tokio::time::sleep(wait)));
        assert_eq!(after(Duration::from_secs(2)).await, Ok(()));
        assert_eq!(started.elapsed().as_secs(), 2);
        assert_eq!(after(Duration::from_secs(9)).await, Err(TimedOut));
        assert_eq!(started.elapsed().as_secs(), 3);
        // A future that never ends. Each iteration uses budget, moves the clock and yields.
        let busy = async {
            loop {
                tokio::task::consume_budget().await;
                tokio::time::advance(Duration::from_millis(1)).await;
            }
        };
        assert_eq!(
            before(|| Instant::now() + limit, pin!(busy)).await,
            Err::<(), _>(TimedOut)
        );
    }

    #[test]
    fn a_time_past_the_calendar_prints_as_a_number() {
        assert_eq!(UnixMillis(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixMillis(i64::MAX).to_string(), i64::MAX.to_string());
    }
}
