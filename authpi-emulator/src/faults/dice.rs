//! Pseudo-random decisions, the same for the same seed.

use crate::ids::mixed;

/// Numbers that depend on a seed, the number of a draw and the rule only.
pub(super) struct Dice {
    seed: u64,
    number: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, number: 0 }
    }

    /// Begins the next draw.
    pub(super) fn next_number(&mut self) {
        self.number = self.number.wrapping_add(1);
    }

    /// Whether the rule at this position is drawn, at a rate from 0 to 1.
    pub(super) fn is_drawn(&self, rule: usize, rate: f64) -> bool {
        let of_draw = mixed(self.seed ^ mixed(self.number));
        let bits = mixed(of_draw ^ mixed(rule as u64)) >> 11;
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let share = bits as f64 / (1_u64 << 53) as f64;
        share < rate
    }
}
