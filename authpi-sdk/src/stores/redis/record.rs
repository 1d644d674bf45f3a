//! A record as text.

use std::fmt::Write as _;

use super::failure::Foreign;
use crate::{
    hex,
    ledger::{Digest, RecordState, Token},
};

/// The first letter of a record.
pub(super) const fn letter(state: RecordState) -> &'static str {
    match state {
        RecordState::Pending => "p",
        RecordState::Claimed => "c",
        RecordState::Handled => "h",
        RecordState::Dead => "d",
    }
}

fn state_of(written: &str) -> Option<RecordState> {
    use RecordState::{Claimed, Dead, Handled, Pending};
    [Pending, Claimed, Handled, Dead]
        .into_iter()
        .find(|state| letter(*state) == written)
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) state: RecordState,
    pub(super) token: Token,
    /// In milliseconds.
    pub(super) retention: i64,
    pub(super) first_digest: Digest,
}

/// The first 27 bytes of a record with this state and token.
pub(super) fn mark(state: RecordState, Token { attempt, nonce }: Token) -> String {
    let mut text = String::with_capacity(MAX_RECORD_BYTES);
    text.push_str(letter(state));
    text.push(':');
    hex::push(&mut text, &attempt.to_be_bytes());
    text.push(':');
    hex::push(&mut text, &nonce.to_be_bytes());
    text
}

/// The maximum length of a record, with any retention.
const MAX_RECORD_BYTES: usize = 96;

impl Record {
    pub(super) fn write(&self) -> String {
        let mut text = mark(self.state, self.token);
        // Writing to a string does not fail.
        let _ = write!(text, ":{}:", self.retention);
        hex::push(&mut text, &self.first_digest.to_bytes());
        text
    }

    pub(super) fn read(value: &[u8]) -> Result<Self, Foreign> {
        let (record, digest) = Self::split(value).ok_or(Foreign::Unknown)?;
        let first_digest = match Digest::from_hex(digest) {
            Some(first_digest) => first_digest,
            None if hex::decode::<32>(digest).is_some() => return Err(Foreign::Unreleased),
            None => return Err(Foreign::Unknown),
        };
        Ok(Self {
            first_digest,
            ..record
        })
    }

    /// Everything but the digest, and the digest's text.
    fn split(value: &[u8]) -> Option<(Self, &str)> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let state = state_of(parts.next()?)?;
        let attempt = u32::from_str_radix(parts.next().filter(|hex| hex.len() == 8)?, 16).ok()?;
        let nonce = u64::from_str_radix(parts.next().filter(|hex| hex.len() == 16)?, 16).ok()?;
        let retention = parts.next()?.parse().ok()?;
        let digest = parts.next()?;
        let token = Token { attempt, nonce };
        let record = Self {
            state,
            token,
            retention,
            first_digest: Digest::UNCOMPARED,
        };
        parts.next().is_none().then_some((record, digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: RecordState) -> Record {
        let token = Token {
            attempt: u32::MAX,
            nonce: 0x0123_4567_89ab_cdef,
        };
        Record {
            state,
            token,
            retention: 2_592_000_000,
            first_digest: Digest::from_bytes([0xa5; 16]),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        for state in [
            RecordState::Pending,
            RecordState::Claimed,
            RecordState::Handled,
            RecordState::Dead,
        ] {
            assert_eq!(
                Record::read(record(state).write().as_bytes()),
                Ok(record(state))
            );
        }
        let small = Record {
            token: Token {
                attempt: 1,
                nonce: 0,
            },
            retention: 0,
            ..record(RecordState::Claimed)
        };
        assert_eq!(
            small.write(),
            format!("c:00000001:0000000000000000:0:{}", "a5".repeat(16))
        );
        for token in [small.token, record(RecordState::Claimed).token] {
            assert_eq!(
                mark(RecordState::Claimed, token).len(),
                27,
                "what the scripts compare"
            );
        }
        assert_eq!(Record::read(small.write().as_bytes()), Ok(small));
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        let good = record(RecordState::Claimed).write();
        let longer = format!("{good}:");
        let wide = good.replace("a5a5a5", "é5a5");
        for bad in [
            "",
            "c",
            "c:1",
            &good[1..],
            &good[..good.len() - 1],
            &longer,
            &wide,
            &good.replacen('c', "x", 1),
        ] {
            assert_eq!(Record::read(bad.as_bytes()), Err(Foreign::Unknown), "{bad}");
        }
        assert_eq!(Record::read(b"\xff"), Err(Foreign::Unknown));
        let unreleased = good.replace(&"a5".repeat(16), &"a5".repeat(32));
        assert_eq!(
            Record::read(unreleased.as_bytes()),
            Err(Foreign::Unreleased)
        );
    }
}
