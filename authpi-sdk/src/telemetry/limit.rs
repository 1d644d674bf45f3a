//! Limits log lines that a peer or an outage can cause once per request: the first is written at
//! once, then one per interval with a count.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// A line of one kind and reason is written at most once in this time.
pub(crate) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Limits the log lines of one receiver or worker, separately for each kind of line and reason.
///
/// Suppressed lines are counted. The next line of the same kind has the count. If none follows,
/// [`tick`](Self::tick) writes the count after the interval, or [`flush`](Self::flush) does. There
/// is no timer: they are called on requests, health probes and shutdown.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    kinds: Mutex<Vec<Kind>>,
    /// Whether a count waits to be written. It keeps `tick` cheap.
    pending: AtomicBool,
}

#[derive(Debug)]
struct Kind {
    line: &'static str,
    reason: &'static str,
    written_at: Instant,
    left_out: u64,
}

impl LogLimit {
    #[cfg(any(test, feature = "client", feature = "nats"))]
    pub(crate) const fn new() -> Self {
        Self {
            kinds: Mutex::new(Vec::new()),
            pending: AtomicBool::new(false),
        }
    }

    /// Calls `write` unless a line of the same `line` and `reason` was written within the interval.
    /// `write` gets the number of suppressed lines, if any.
    pub(crate) fn write(
        &self,
        line: &'static str,
        reason: &'static str,
        write: impl FnOnce(Option<u64>),
    ) {
        if let Some(left_out) = self.admit(line, reason) {
            write((left_out > 0).then_some(left_out));
        }
    }

    /// The number of lines suppressed before, if this line may be written.
    fn admit(&self, line: &'static str, reason: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kind) = kinds
            .iter_mut()
            .find(|kind| kind.line == line && kind.reason == reason)
        else {
            kinds.push(Kind {
                line,
                reason,
                written_at: now,
                left_out: 0,
            });
            return Some(0);
        };
        if now.duration_since(kind.written_at) < LOG_INTERVAL {
            kind.left_out += 1;
            self.pending.store(true, Ordering::Relaxed);
            return None;
        }
        kind.written_at = now;
        Some(std::mem::take(&mut kind.left_out))
    }

    /// Writes the counts of intervals that have ended.
    pub(crate) fn tick(&self, endpoint: &str) {
        if self.pending.load(Ordering::Relaxed) {
            self.write_counts(endpoint, LOG_INTERVAL);
        }
    }

    /// Writes all counts, on shutdown.
    pub(crate) fn flush(&self, endpoint: &str) {
        self.write_counts(endpoint, Duration::ZERO);
    }

    fn write_counts(&self, endpoint: &str, after: Duration) {
        let now = Instant::now();
        let mut due = Vec::new();
        {
            let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            let mut waits = false;
            for kind in kinds.iter_mut().filter(|kind| kind.left_out > 0) {
                if now.duration_since(kind.written_at) >= after {
                    due.push((kind.line, kind.reason, std::mem::take(&mut kind.left_out)));
                    kind.written_at = now;
                } else {
                    waits = true;
                }
            }
            self.pending.store(waits, Ordering::Relaxed);
        }
        for (line, reason, left_out) in due {
            tracing::warn!(
                endpoint,
                line,
                reason,
                left_out,
                "log lines were suppressed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_line_is_immediate_then_one_per_interval_with_a_count() {
        let log = LogLimit::new();
        let mut written = Vec::new();
        let mut flood = |log: &LogLimit, lines: u32| {
            for _ in 0..lines {
                log.write("a delivery was refused", "mismatch", |left_out| {
                    written.push(left_out);
                });
            }
        };
        flood(&log, 1_000);
        tokio::time::advance(LOG_INTERVAL).await;
        flood(&log, 1);
        flood(&log, 5);
        log.flush("users");
        tokio::time::advance(LOG_INTERVAL).await;
        flood(&log, 1);
        assert_eq!(written, [None, Some(999), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_has_its_own_limit_and_counts_wait_for_the_interval() {
        let log = LogLimit::new();
        let mut written = 0;
        for reason in ["mismatch", "stale", "mismatch", "stale"] {
            log.write("a delivery was refused", reason, |_| written += 1);
        }
        assert_eq!(written, 2);
        log.tick("users");
        assert!(
            log.pending.load(Ordering::Relaxed),
            "the interval is not over"
        );
        tokio::time::advance(LOG_INTERVAL).await;
        log.tick("users");
        assert!(
            !log.pending.load(Ordering::Relaxed),
            "the counts were not written"
        );
    }
}
