//! The digest that detects different content under the same event id.

use std::fmt;

use crate::hex;

/// A digest of the event's bytes as delivered. It detects a redelivery whose content differs from
/// the first delivery.
///
/// It is XXH3-128 with seed 0 in canonical form, the high 64 bits first: 16 bytes, with the same
/// value on every platform and in every version. `Display` writes the 32 digits that `xxhsum -H2`
/// prints. It is not a cryptographic hash and does not identify an event. It need not: only
/// authentic deliveries are compared, and a difference is only logged and counted.
///
/// A store keeps the [bytes](Digest::to_bytes) and returns them [unchanged](Digest::from_bytes).
/// All zeros marks an event that is not compared, because it did not come as a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// The digest of an event that did not come as a delivery. An event in AuthPI's event log has
    /// other JSON members, in another order, than in a delivery, so the bytes cannot be compared.
    pub(crate) const UNCOMPARED: Self = Self([0; 16]);

    /// Hashes `bytes`. Never all zeros.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_hash(xxhash_rust::xxh3::xxh3_128(bytes))
    }

    /// Zero is reserved. A content whose hash is zero, one in 2¹²⁸, gets the next value.
    fn of_hash(hash: u128) -> Self {
        Self(hash.max(1).to_be_bytes())
    }

    /// A digest from the bytes that a store kept.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes that a store keeps.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Reads what `Display` writes.
    #[cfg(any(feature = "redis", feature = "nats"))]
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text).map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are those of the reference implementation (libxxhash 0.8.4). Stores keep them, so
    /// they never change.
    #[test]
    fn a_digest_has_the_same_value_on_every_platform_and_in_every_version() {
        // XXH3 treats each of these ranges of lengths differently.
        let golden = [
            (0, "99aa06d3014798d86001c324468d497f"),
            (1, "a6cd5e9392000f6ac44bdff4074eecdb"),
            (3, "e3b55f57945a17cf5f4299fc161c9cbb"),
            (4, "eb70bf5fc779e9e6a6111d53e80a3db5"),
            (8, "e1e4432a62217fe4cfd50c61c8bb98c1"),
            (9, "16c769d83e4aebce907931979dca3746"),
            (16, "72950631827607e2842812cc870dcae2"),
            (17, "685bc458b37d057fc06e233df7729217"),
            (128, "14792fc3af88dc6c05321a0b64d67b41"),
            (129, "dd5e74ac6b45f54ebc30b63382b09a3b"),
            (240, "65b5be86da5540e7c92b68e16f83bbb6"),
            (241, "1da1cb61bcb8a2a102e8cd95421c6d02"),
            (1024, "d0ac1f7b93bf57b9e5d78bafa45b2aa5"),
            (1025, "2882ebca04ec915ce95c42288f28186e"),
            (65536, "f5e7bc5d3d8675bfaaae63800707a868"),
        ];
        for (length, digest) in golden {
            let bytes: Vec<u8> = (0..length)
                .map(|n| u8::try_from(n % 251).unwrap())
                .collect();
            assert_eq!(Digest::of(&bytes).to_string(), digest, "of {length} bytes");
        }
    }

    #[test]
    fn a_digest_is_kept_as_its_bytes_in_the_order_of_its_digits() {
        let digest = Digest::of(b"");
        let bytes = digest.to_bytes();
        assert_eq!(bytes[..4], [0x99, 0xaa, 0x06, 0xd3]);
        assert_eq!(Digest::from_bytes(bytes), digest);
        assert_eq!(
            format!("{digest:?}"),
            "Digest(99aa06d3014798d86001c324468d497f)"
        );
    }

    #[test]
    fn no_content_has_the_digest_that_is_not_compared() {
        assert_eq!(Digest::from_bytes([0; 16]), Digest::UNCOMPARED);
        assert_ne!(Digest::of_hash(0), Digest::UNCOMPARED);
        assert_eq!(Digest::of_hash(2).to_bytes(), 2_u128.to_be_bytes());
    }

    #[cfg(any(feature = "redis", feature = "nats"))]
    #[test]
    fn only_what_a_digest_writes_is_read_as_one() {
        let digest = Digest::of(b"event");
        let text = digest.to_string();
        assert_eq!(Digest::from_hex(&text), Some(digest));
        let (longer, wide) = (format!("{text}00"), format!("é{}", &text[2..]));
        for bad in [
            "",
            &text[1..],
            &longer,
            &wide,
            &text.replace(&text[..1], "g"),
            &text.replace(&text[..1], "+"),
        ] {
            assert_eq!(Digest::from_hex(bad), None, "{bad}");
        }
    }
}
