//! Reads rows, and writes texts as Postgres can store them.

use std::{borrow::Cow, sync::Arc, time::Duration};

use sqlx::{Row as _, postgres::PgRow};

use crate::ledger::{
    Claim, DeadLetter, Digest, EventKey, LeasedEvent, NextEvent, RecordState, Token,
    dead_letter::timestamp,
};

pub(super) fn digest_of(bytes: &[u8]) -> Result<Digest, sqlx::Error> {
    let digest = bytes
        .try_into()
        .map_err(|_| sqlx::Error::Protocol("the ledger's table has an invalid digest".into()))?;
    Ok(Digest::from_bytes(digest))
}

pub(super) fn next_of(row: &PgRow, endpoint: &str, nonce: u64) -> Result<NextEvent, sqlx::Error> {
    let number: Option<i64> = row.try_get(1)?;
    let Some(event_id) = row.try_get::<Option<String>, _>(0)? else {
        let due_in = number.map(|ms| Duration::from_millis(ms.try_into().unwrap_or(0)));
        return Ok(NextEvent::Empty { due_in });
    };
    let token = Token {
        attempt: number.unwrap_or(1).try_into().unwrap_or(u32::MAX),
        nonce,
    };
    let body = row.try_get::<Option<Vec<u8>>, _>(2)?.unwrap_or_default();
    let key = EventKey::from_stored(endpoint, untext(event_id));
    Ok(NextEvent::Leased(LeasedEvent::new(
        key,
        token,
        body.into(),
        timestamp(row.try_get(3)?),
    )))
}

/// The dead letter of a row: its event, reason, attempts, body and times.
pub(super) fn letter_of(
    row: &PgRow,
    endpoint: impl Into<Arc<str>>,
) -> Result<DeadLetter, sqlx::Error> {
    Ok(DeadLetter {
        key: EventKey::from_stored(endpoint, untext(row.try_get(0)?)),
        reason: untext(row.try_get::<Option<_>, _>(1)?.unwrap_or_default()),
        attempts: row.try_get::<i64, _>(2)?.try_into().unwrap_or(u32::MAX),
        body: row
            .try_get::<Option<Vec<u8>>, _>(3)?
            .unwrap_or_default()
            .into(),
        first_claimed_at: timestamp(row.try_get(4)?),
        died_at: timestamp(row.try_get(5)?),
    })
}

pub(super) fn claim_of(row: &PgRow, nonce: u64) -> Result<Claim, sqlx::Error> {
    let first_digest = digest_of(row.try_get(3)?)?;
    if let Some(attempt) = row.try_get::<Option<i64>, _>(0)? {
        let token = Token {
            attempt: attempt.try_into().unwrap_or(u32::MAX),
            nonce,
        };
        return Ok(Claim::Granted {
            token,
            first_digest,
        });
    }
    let remaining = Duration::from_millis(row.try_get::<i64, _>(2)?.try_into().unwrap_or(0));
    let state: i16 = row.try_get(1)?;
    Ok(match RecordState::from_number(state.into())? {
        RecordState::Pending => Claim::NotYet { wait: remaining },
        RecordState::Claimed => Claim::InFlight {
            lease_left: remaining,
        },
        RecordState::Handled => Claim::Handled { first_digest },
        RecordState::Dead => Claim::Dead { first_digest },
    })
}

/// A string as Postgres can store it: `\0` for the character NUL, which it does not allow, and so
/// `\\` for `\`.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains(['\0', '\\']) {
        text.replace('\\', "\\\\").replace('\0', "\\0").into()
    } else {
        text.into()
    }
}

/// Reverses [`text`].
pub(super) fn untext(text: String) -> String {
    if !text.contains('\\') {
        return text;
    }
    let mut original = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        original.push(match c {
            '\\' if rest.next() == Some('0') => '\0',
            c => c,
        });
    }
    original
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_held_without_nul_and_comes_back() {
        for original in [
            "",
            "evt_1",
            "\0",
            "\\",
            "\\0",
            "\0\\",
            "\\\0\\0\\\\0",
            "a\0b\\c",
            "事件\0",
        ] {
            let held = text(original);
            assert!(!held.contains('\0'), "{held:?}");
            assert_eq!(untext(held.into_owned()), original);
        }
        assert_ne!(text("\0"), text("\\0"));
    }
}
