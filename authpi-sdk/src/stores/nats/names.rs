//! The names of endpoints and events in NATS, as a token of a subject, a file name or a header.

use crate::{hex, ledger::EventKey};

/// The stream and subjects of one inbox.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) stream: String,
    pub(super) prefix: String,
}

impl Names {
    pub(super) fn dead_stream(&self) -> String {
        format!("{}_dead", self.stream)
    }

    /// The subject of an endpoint's events; of all endpoints with `*` for the endpoint.
    pub(super) fn events(&self, endpoint: &str) -> String {
        format!("{}.event.{endpoint}", self.prefix)
    }

    /// The subject of dead letters, with tokens or `*`.
    pub(super) fn letters(&self, endpoint: &str, event: &str) -> String {
        format!("{}.dead.{endpoint}.{event}", self.prefix)
    }

    pub(super) fn letter(&self, key: &EventKey) -> String {
        self.letters(&token(key.endpoint()), &token(key.event_id()))
    }

    /// The subject of notifications of appends, which is in no stream.
    pub(super) fn appended(&self) -> String {
        format!("{}.appended", self.prefix)
    }
}

/// A name as one token of a subject. Different names have different tokens: characters other than
/// letters, digits, `-` and `_` are escaped, and a name that becomes too long for a file is
/// replaced by its hash.
pub(super) fn token(name: &str) -> String {
    const MAX_BYTES: usize = 100;
    if name.is_empty() {
        return "=".to_owned();
    }
    let token = escaped(name, |byte| {
        byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
    });
    if token.len() > MAX_BYTES {
        format!("~{}", hex::sha256(name.as_bytes()))
    } else {
        token
    }
}

/// All messages of an event have the same id.
pub(super) fn message_id(key: &EventKey) -> String {
    format!("{}.{}", token(key.endpoint()), token(key.event_id()))
}

/// Any text as a header's value.
pub(super) fn line(text: &str) -> String {
    escaped(text, |byte| {
        (byte.is_ascii_graphic() || byte == b' ') && byte != b'='
    })
}

/// Any name as a header's value, whose ends may be trimmed.
pub(super) fn word(text: &str) -> String {
    escaped(text, |byte| byte.is_ascii_graphic() && byte != b'=')
}

fn escaped(text: &str, keeps: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if keeps(byte) {
            out.push(byte.into());
        } else {
            out.push('=');
            for half in [byte >> 4, byte & 15] {
                out.push(char::from_digit(half.into(), 16).unwrap_or_default());
            }
        }
    }
    out
}

/// Reverses [`line`] and [`word`]; `None` for a text that they did not write.
pub(super) fn read(escaped: &str) -> Option<String> {
    let mut bytes = escaped.bytes();
    let mut out = Vec::with_capacity(escaped.len());
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'=' {
            let mut decoded = [0];
            hex::decode_into(&mut decoded, &[bytes.next()?, bytes.next()?])?;
            decoded[0]
        } else {
            byte
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_is_one_token_of_its_own() {
        let long = "x".repeat(10_000);
        let longer = "x".repeat(10_001);
        let names = [
            "",
            " ",
            "=",
            "==",
            "~",
            "a",
            "A",
            "a.b",
            "a*",
            ">",
            "*",
            "a b",
            "a\0",
            "\n",
            "é",
            "事件",
            "=20",
            "/",
            "../..",
            "$JS",
            &long,
            &longer,
            &long[..100],
            &long[..101],
        ];
        let tokens: HashSet<_> = names.iter().map(|name| token(name)).collect();
        assert_eq!(tokens.len(), names.len());
        for token in tokens {
            let usable = |c: char| c.is_ascii_alphanumeric() || "-_=~".contains(c);
            assert!(
                (1..=100).contains(&token.len()) && token.chars().all(usable),
                "{token}"
            );
        }
    }

    #[test]
    fn what_is_in_a_header_is_read_as_it_was() {
        for text in ["", "evt_1", " a b ", "a=b", "line\r\nline", "é事件🦀", "\0"] {
            assert_eq!(read(&line(text)).as_deref(), Some(text));
            assert_eq!(read(&word(text)).as_deref(), Some(text));
            assert!(line(text).chars().all(|c| c.is_ascii_graphic() || c == ' '));
            assert!(word(text).chars().all(|c| c.is_ascii_graphic()));
        }
        for foreign in ["=", "=2", "=zz", "a=g0", "=ff", "=é"] {
            assert_eq!(read(foreign), None, "{foreign}");
        }
    }
}
