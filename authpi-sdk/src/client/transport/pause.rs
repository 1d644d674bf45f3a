//! Waiting before one looks again.

use std::time::Duration;

/// Waits before round `round` (from 0) of several: a random time, evenly spread up to `first`
/// doubled with each round, at most `longest`. So those who met once do not meet again and again.
pub(crate) async fn before_round(round: u32, first: Duration, longest: Duration) {
    let most = first
        .saturating_mul(1_u32.checked_shl(round.min(31)).unwrap_or(u32::MAX))
        .min(longest);
    let mut bits = [0; 4];
    // Without random numbers the waits are longer, and all the same right.
    let share = match getrandom::fill(&mut bits) {
        Ok(()) => f64::from(u32::from_le_bytes(bits)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    };
    tokio::time::sleep(most.mul_f64(share)).await;
}
