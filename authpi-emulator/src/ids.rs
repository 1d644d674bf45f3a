//! Ids and secrets in AuthPI's format: a prefix and random characters.

use std::sync::Mutex;
use std::sync::PoisonError;

/// Creates ids that sort in the order of their creation, so that lists in the order of ids are in
/// the order of time.
#[derive(Default)]
pub(crate) struct Ids {
    last: Mutex<u128>,
}

impl Ids {
    /// Continues after [`last`](Self::last) of another run.
    pub(crate) fn after(last: &str) -> Option<Self> {
        let last = u128::from_str_radix(last, 36).ok()?;
        Some(Self {
            last: Mutex::new(last),
        })
    }

    /// The characters after the prefix of the latest id.
    pub(crate) fn last(&self) -> String {
        base36::<25>(*self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new id such as `wh_0…`: the prefix and 25 characters of 0-9a-z.
    pub(crate) fn fresh(&self, prefix: &str, now_millis: i64) -> String {
        let noise = u128::from_be_bytes(random::<16>()) >> 56;
        let by_time = (u128::from(now_millis.max(0).unsigned_abs()) << 72) | noise;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Each id is greater than the last one, also within a millisecond and after the clock was
        // set back.
        *last = if by_time > *last {
            by_time
        } else {
            *last + 1 + (noise >> 48)
        };
        format!("{prefix}{}", base36::<25>(*last))
    }
}

/// Random bytes: the operating system's, or those of a seed.
pub(crate) struct Random(Option<u64>);

impl Random {
    pub(crate) fn of(seed: Option<u64>) -> Self {
        Self(seed)
    }

    pub(crate) fn is_seeded(&self) -> bool {
        self.0.is_some()
    }

    /// The next `N` bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let Some(state) = &mut self.0 else {
            return random();
        };
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(8) {
            *state = mixed(*state);
            chunk.copy_from_slice(&state.to_be_bytes()[..chunk.len()]);
        }
        bytes
    }

    /// A prefix and 25 characters of 0-9a-z.
    pub(crate) fn id(&mut self, prefix: &str) -> String {
        format!(
            "{prefix}{}",
            base36::<25>(u128::from_be_bytes(self.bytes()))
        )
    }

    /// A prefix and 40 characters of 0-9a-z.
    pub(crate) fn secret(&mut self, prefix: &str) -> String {
        let [a, b] = [self.bytes(), self.bytes()].map(u128::from_be_bytes);
        format!("{prefix}{}{}", base36::<20>(a), base36::<20>(b))
    }

    /// A prefix and `N` bytes in hexadecimal.
    pub(crate) fn hex<const N: usize>(&mut self, prefix: &str) -> String {
        use std::fmt::Write as _;
        let mut text = prefix.to_owned();
        for byte in self.bytes::<N>() {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// `N` random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // std's HashMap uses the same source and also panics without it.
    getrandom::fill(&mut bytes).expect("the operating system has random bytes");
    bytes
}

/// A prefix and 40 random characters of 0-9a-z.
pub(crate) fn secret(prefix: &str) -> String {
    Random(None).secret(prefix)
}

/// A prefix and `N` random bytes in hexadecimal.
pub(crate) fn hex<const N: usize>(prefix: &str) -> String {
    Random(None).hex::<N>(prefix)
}

/// A random UUID, version 4.
pub(crate) fn uuid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let n = u128::from_be_bytes(bytes);
    let part = |shift: u32, digits: u32| (n >> shift) & ((1 << (4 * digits)) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(96, 8),
        part(80, 4),
        part(64, 4),
        part(48, 4),
        part(0, 12)
    )
}

fn base36<const N: usize>(mut n: u128) -> String {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[usize::try_from(n % 36).unwrap_or(0)];
        n /= 36;
    }
    digits.iter().copied().map(char::from).collect()
}

/// `SplitMix64`.
pub(crate) fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_in_the_order_in_which_they_were_made() {
        let ids = Ids::default();
        let times = [
            1_700_000_000_000,
            1_700_000_000_000,
            1_700_000_000_001,
            1_600_000_000_000,
            1_900_000_000_000,
        ];
        let made: Vec<_> = times.iter().map(|at| ids.fresh("evt_", *at)).collect();
        assert!(made.is_sorted_by(|a, b| a < b), "{made:?}");
        assert!(made.iter().all(|id| id.len() == 29));
    }

    #[test]
    fn ids_continue_after_those_of_another_run() {
        let ids = Ids::default();
        let before = ids.fresh("evt_", 1_700_000_000_000);
        let ids = Ids::after(&ids.last()).unwrap();
        assert!(before < ids.fresh("evt_", 1_600_000_000_000));
        assert!(Ids::after("!").is_none());
    }

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        let id = uuid();
        assert_eq!(id.len(), 36, "{id}");
        assert_eq!(&id[14..15], "4", "{id}");
        assert!("89ab".contains(&id[19..20]), "{id}");
    }
}
