//! Decides which part of AuthPI's log is read next. Does no I/O, so that it can be tested with any
//! log.

/// The length of the first window: an hour, in milliseconds.
const FIRST: i64 = 3_600_000;
/// After a window with at least a quarter of the limit, the next one is not longer.
const FULL_ENOUGH: usize = 4;

/// A part of the log, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Inclusive.
    pub(super) from: i64,
    /// Exclusive; `None` for no end.
    pub(super) until: Option<i64>,
    /// Whether it can be split.
    pub(super) splits: bool,
}

impl Window {
    pub(super) fn holds(&self, at: i64) -> bool {
        at >= self.from && self.until.is_none_or(|until| at < until)
    }
}

/// The windows from a time to the present, without gaps: each begins where the one before ended,
/// and the last one has no end.
///
/// They grow while they contain few events, and are split when they contain too many.
#[derive(Debug)]
pub(super) struct Windows {
    from: i64,
    span: i64,
    /// A window that would reach this time is the last one, and has no end.
    horizon: i64,
}

impl Windows {
    pub(super) fn new(from: i64, now: i64) -> Self {
        Self {
            from,
            span: FIRST,
            horizon: now,
        }
    }

    pub(super) fn next(&self) -> Window {
        let until = Some(self.from.saturating_add(self.span)).filter(|until| *until < self.horizon);
        Window {
            from: self.from,
            until,
            splits: until.is_none_or(|_| self.span > 1),
        }
    }

    /// The window had too many events; the newest one seen was at `newest`.
    pub(super) fn split(&mut self, window: Window, newest: i64) {
        // This machine's clock may be behind AuthPI's.
        self.horizon = self.horizon.max(newest.saturating_add(2));
        let length = window
            .until
            .unwrap_or(self.horizon)
            .saturating_sub(window.from);
        self.span = (length / 2).max(1);
    }

    /// The window was read, with this many events. Returns whether there is another one.
    pub(super) fn done(&mut self, window: Window, events: usize, limit: usize) -> bool {
        let Some(until) = window.until else {
            return false;
        };
        self.from = until;
        if events < limit.div_ceil(FULL_ENOUGH) {
            self.span = self.span.saturating_mul(2);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the log like a run. Returns the ingested events, and the maximum held at once.
    fn handled(log: &[i64], from: i64, now: i64, limit: usize) -> (Vec<i64>, usize, usize) {
        let mut windows = Windows::new(from, now);
        let (mut handled, mut at_once, mut steps) = (Vec::new(), 0, 0);
        loop {
            steps += 1;
            assert!(steps < 100_000, "it does not end");
            let window = windows.next();
            let held: Vec<_> = log.iter().copied().filter(|at| window.holds(*at)).collect();
            if held.len() > limit && window.splits {
                // The events that were read before the limit was exceeded, whose order is not
                // defined.
                windows.split(window, held[..=limit].iter().copied().max().unwrap());
                continue;
            }
            at_once = at_once.max(held.len());
            let mut held = held;
            held.sort_unstable();
            let more = windows.done(window, held.len(), limit);
            handled.extend(held);
            if !more {
                return (handled, at_once, steps);
            }
        }
    }

    /// Pseudo-random numbers, the same each time.
    fn random(seed: u64) -> impl FnMut(i64) -> i64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 1).cast_signed().rem_euclid(below)
        }
    }

    #[test]
    fn every_event_is_in_one_window_and_they_come_in_order() {
        for seed in 0..2_000 {
            let mut random = random(seed + 1);
            let from = random(1 << 41);
            let length = 1 << random(36);
            let now = from + length / 2 - random(length + 1) / 4 + random(5) - 2;
            let burst = from + random(length);
            let log: Vec<i64> = (0..random(400))
                // Events on the first edge, in bursts, at the same time, and ahead of our clock.
                .map(|_| match random(4) {
                    0 => from,
                    1 => burst,
                    2 => burst + random(20),
                    _ => from + random(length),
                })
                .collect();
            let limit = 1 + usize::try_from(random(50)).unwrap();
            let (got, at_once, _) = handled(&log, from, now, limit);
            let mut wanted = log.clone();
            wanted.sort_unstable();
            assert_eq!(got, wanted, "seed {seed}");
            let fullest = log
                .iter()
                .map(|at| log.iter().filter(|other| *other == at).count())
                .max()
                .unwrap_or(0);
            assert!(
                at_once <= limit.max(fullest),
                "seed {seed}: {at_once} events at once, limit {limit}"
            );
        }
    }

    #[test]
    fn a_log_that_has_been_quiet_for_a_year_takes_few_reads() {
        let year = 365 * 24 * FIRST;
        let (handled, _, steps) = handled(&[0, year], 0, year, 100);
        assert_eq!(handled, [0, year]);
        assert!(steps < 20, "{steps} reads");
    }

    #[test]
    fn a_clock_far_behind_or_ahead_changes_nothing_that_is_fed() {
        let log: Vec<i64> = (0..1_000).map(|n| 50 * FIRST + n * 1_000).collect();
        for now in [
            i64::MIN,
            0,
            50 * FIRST,
            50 * FIRST + 500_000,
            60_000 * FIRST,
            i64::MAX,
        ] {
            assert_eq!(
                handled(&log, 49 * FIRST, now, 10).0,
                log,
                "our clock shows {now}"
            );
        }
    }

    #[test]
    fn a_millisecond_that_holds_more_than_the_limit_is_read_in_full() {
        let log = [vec![7; 50], vec![8; 50], vec![9]].concat();
        for now in [0, 7, 8, 9, 1_000_000] {
            let (handled, at_once, _) = handled(&log, 7, now, 10);
            assert_eq!((handled, at_once), (log.clone(), 50));
        }
    }
}
