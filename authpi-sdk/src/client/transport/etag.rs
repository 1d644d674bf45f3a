//! ETags: the state of a resource.

use std::{fmt, str::FromStr};

use http::{HeaderMap, header};

/// An identifier of a resource's state: a quoted string that is meant to change with each change of
/// the resource.
///
/// AuthPI documents strong ETags on single resources: the time of the last change in Unix
/// milliseconds, in quotes. But two changes within one millisecond have the same ETag. Operations
/// return an ETag, for example in [`WithETag`](crate::client::transport::WithETag), and
/// [`Call::if_match`](crate::client::transport::Call::if_match) takes one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ETag(String);

impl ETag {
    /// The ETag as in a header, with its quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get(header::ETAG)?.to_str().ok()?.parse().ok()
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ETag {
    type Err = InvalidETag;

    /// Parses an ETag that was kept as text. Quotes are added if there are none.
    ///
    /// # Errors
    /// When the text is empty, or contains a quote, white space or non-ASCII characters between the
    /// quotes.
    fn from_str(text: &str) -> Result<Self, InvalidETag> {
        let (weak, tag) = text
            .strip_prefix("W/")
            .map_or(("", text), |rest| ("W/", rest));
        let quoted = tag
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        let opaque = quoted.unwrap_or(tag);
        if opaque.is_empty() || opaque.bytes().any(|b| b == b'"' || !b.is_ascii_graphic()) {
            return Err(InvalidETag(()));
        }
        Ok(Self(if quoted.is_some() {
            text.to_owned()
        } else {
            format!("{weak}\"{opaque}\"")
        }))
    }
}

/// The text is not an ETag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidETag(());

impl fmt::Display for InvalidETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an ETag must be visible ASCII in quotes")
    }
}

impl std::error::Error for InvalidETag {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_keeps_its_quotes_and_gets_them_where_they_are_missing() {
        for (text, etag) in [
            ("\"17091\"", "\"17091\""),
            ("17091", "\"17091\""),
            ("W/\"a\"", "W/\"a\""),
        ] {
            assert_eq!(text.parse::<ETag>().unwrap().as_str(), etag);
        }
        for bad in ["", "\"\"", "a b", "a\"b", "é", "\"a\nb\"", "\""] {
            assert!(bad.parse::<ETag>().is_err(), "{bad:?} is an ETag");
        }
    }

    #[test]
    fn an_etag_header_that_is_not_ascii_is_no_etag_and_no_panic() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ETAG,
            http::HeaderValue::from_bytes(b"\"\xe9\xff\"").unwrap(),
        );
        assert_eq!(ETag::of(&headers), None);
    }
}
