use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// How long to wait after the given attempt: anything from nothing to the first pause doubled with
/// each attempt ("full jitter", so that what failed together does not come back together), at most
/// the longest pause.
pub(super) fn pause((first, longest): (Duration, Duration), attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let ceiling = first.saturating_mul(1 << doublings).min(longest);
    ceiling.mul_f64(fraction())
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
    fn a_pause_never_exceeds_its_ceiling_and_is_spread() {
        let pauses = (Duration::from_secs(1), Duration::from_mins(5));
        for (attempt, ceiling) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (5, 16),
            (9, 256),
            (10, 300),
            (u32::MAX, 300),
        ] {
            let all: Vec<_> = (0..200).map(|_| pause(pauses, attempt)).collect();
            let ceiling = Duration::from_secs(ceiling);
            assert!(
                all.iter().all(|pause| *pause <= ceiling),
                "attempt {attempt}"
            );
            assert!(
                all.iter().any(|pause| *pause > ceiling / 2)
                    && all.iter().any(|pause| *pause < ceiling / 2)
            );
        }
    }
}
