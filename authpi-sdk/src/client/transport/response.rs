//! An answer, and AuthPI's error information in it.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;

use super::etag::ETag;
use crate::{
    generated::api::types::{ErrorCode, FieldError},
    json::{FromRaw as _, Raw, members, pick},
};

/// The number of characters of a body that an error keeps.
pub(crate) const KEPT_CHARS: usize = 4096;

/// Status, headers and body as they arrived.
#[derive(Clone, Default)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl fmt::Debug for Response {
    /// Neither headers nor body: both may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Response {
    /// Whether AuthPI says that this is a stored answer.
    pub(crate) fn replayed(headers: &HeaderMap) -> bool {
        headers
            .get("idempotent-replayed")
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    }

    /// The first characters of the body, if it is text.
    pub(crate) fn text(&self) -> Option<&str> {
        let text = match std::str::from_utf8(&self.body) {
            Ok(text) => text,
            // The text before an incomplete character or before binary data.
            Err(error) => {
                std::str::from_utf8(&self.body[..error.valid_up_to()]).unwrap_or_default()
            }
        };
        let end = text
            .char_indices()
            .nth(KEPT_CHARS)
            .map_or(text.len(), |(at, _)| at);
        (end > 0).then(|| &text[..end])
    }

    /// Drops the rest of the body, since an error may be kept for a long time.
    pub(crate) fn shortened(mut self) -> Self {
        // A character of UTF-8 has at most four bytes.
        const MAX_KEPT_BYTES: usize = 4 * KEPT_CHARS;
        if self.body.len() > MAX_KEPT_BYTES {
            self.body = Bytes::copy_from_slice(&self.body[..MAX_KEPT_BYTES]);
        }
        self
    }

    /// The `Retry-After` header: seconds, or a date.
    pub(crate) fn retry_after_header(&self) -> Option<Duration> {
        let text = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        if let Some(wait) = seconds(text) {
            return Some(wait);
        }
        let at = http_date(text)?;
        Some(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO))
    }
}

/// A number of seconds. A fraction is rounded up, and a number that is too large becomes
/// `Duration::MAX`.
fn seconds(text: &str) -> Option<Duration> {
    let begins = text.starts_with(|c: char| c.is_ascii_digit());
    let seconds: f64 = text.parse().ok().filter(|_| begins)?;
    Some(Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX))
}

/// A date in the current form of HTTP, or in one of the two obsolete forms that recipients must
/// accept (RFC 9110, 5.6.7). The day of the week is ignored, so a wrong one does not matter. A date
/// that is out of jiff's range becomes the last one in it.
fn http_date(text: &str) -> Option<Timestamp> {
    let without_weekday = text
        .split_once([',', ' '])
        .map_or("", |(_, rest)| rest.trim_start());
    let date = |format| {
        let date = jiff::fmt::strtime::parse(format, without_weekday)
            .ok()?
            .to_datetime()
            .ok()?;
        Some(
            jiff::tz::TimeZone::UTC
                .to_timestamp(date)
                .unwrap_or(Timestamp::MAX),
        )
    };
    [
        "%e %b %Y %H:%M:%S GMT",
        "%e-%b-%y %H:%M:%S GMT",
        "%b %e %H:%M:%S %Y",
    ]
    .into_iter()
    .find_map(date)
    .or_else(|| {
        // Some servers send the format of e-mail, with another time zone.
        jiff::fmt::rfc2822::DateTimeParser::new()
            .relaxed_weekday(true)
            .parse_timestamp(text)
            .ok()
    })
}

/// The number of characters of a code, a reference or an ETag that an error keeps.
const KEPT_NAME: usize = 300;

/// The number of invalid members that an error lists.
const KEPT_FIELDS: usize = 100;

/// AuthPI's error envelope. Every member may be missing, and a member with an unexpected type is
/// ignored: a gateway's own JSON must not hide the status. Only a limited part of a long answer is
/// kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ApiErrorBody {
    pub(crate) code: Option<ErrorCode>,
    pub(crate) description: Option<String>,
    pub(crate) retryable: Option<bool>,
    pub(crate) reference: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    /// The first invalid members.
    pub(crate) fields: Vec<FieldError>,
    /// The number of further invalid members.
    pub(crate) more_fields: usize,
    pub(crate) current_etag: Option<ETag>,
}

impl ApiErrorBody {
    pub(crate) fn read(body: &[u8]) -> Self {
        let mut complaint = Self::default();
        let body = String::from_utf8_lossy(body);
        let Ok(raw) = serde_json::from_str::<Raw<'_>>(&body) else {
            return complaint;
        };
        // This cannot fail half-way: `Raw` is valid JSON.
        let _ = members(raw, &mut |name, value| {
            match name {
                "error" => complaint.code = short_text(value, KEPT_NAME).map(ErrorCode::from),
                "error_description" => complaint.description = short_text(value, KEPT_CHARS),
                "retryable" => complaint.retryable = bool::from_raw(value).ok(),
                "reference" => complaint.reference = short_text(value, KEPT_NAME),
                // The number may be in quotes.
                "retry_after" => complaint.retry_after = seconds(value.get().trim_matches('"')),
                "fields" => {
                    let all: Vec<Raw<'_>> = serde_json::from_str(value.get()).unwrap_or_default();
                    let mut fields = all.into_iter().filter_map(field);
                    complaint.fields = fields.by_ref().take(KEPT_FIELDS).collect();
                    complaint.more_fields = fields.count();
                }
                // AuthPI's SDK and its page on conditional requests spell this member differently.
                "current_etag" | "currentETag" => {
                    complaint.current_etag =
                        short_text(value, KEPT_NAME).and_then(|etag| etag.parse().ok());
                }
                _ => {}
            }
            Ok(())
        });
        complaint
    }
}

/// The first characters of a text.
fn short_text(raw: Raw<'_>, kept: usize) -> Option<String> {
    let mut text = String::from_raw(raw).ok()?;
    if let Some((end, _)) = text.char_indices().nth(kept) {
        text.truncate(end);
        text.shrink_to_fit();
    }
    Some(text)
}

fn field(raw: Raw<'_>) -> Option<FieldError> {
    let [field, code, message] = pick(raw, ["field", "code", "message"]).ok()?;
    let text = |raw: Option<Raw<'_>>| raw.and_then(|raw| short_text(raw, KEPT_CHARS));
    Some(FieldError {
        field: text(field)?,
        code: text(code).unwrap_or_default(),
        message: text(message).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_current_etag_are_read() {
        for body in [r#"{"current_etag":"\"17\""}"#, r#"{"currentETag":"17"}"#] {
            assert_eq!(
                ApiErrorBody::read(body.as_bytes())
                    .current_etag
                    .unwrap()
                    .as_str(),
                "\"17\""
            );
        }
    }

    #[test]
    fn a_member_of_another_shape_hides_none_of_the_others() {
        let complaint = ApiErrorBody::read(
            br#"{"error":7,"error_description":"no","fields":[1,{"field":"url","code":null},{"code":"x"}],"retry_after":-3,"retryable":"yes"}"#,
        );
        assert_eq!(complaint.code, None);
        assert_eq!(complaint.description.as_deref(), Some("no"));
        assert_eq!(complaint.fields.len(), 1);
        assert_eq!(complaint.fields[0].field, "url");
        assert_eq!((complaint.retry_after, complaint.retryable), (None, None));
    }

    #[test]
    fn a_wait_in_the_body_is_rounded_up_and_capped() {
        let after = |value: &str| {
            ApiErrorBody::read(format!(r#"{{"retry_after":{value}}}"#).as_bytes()).retry_after
        };
        for (value, wait) in [
            ("1.5", Duration::from_secs(2)),
            ("3.0", Duration::from_secs(3)),
            ("\"4\"", Duration::from_secs(4)),
        ] {
            assert_eq!(after(value), Some(wait), "{value}");
        }
        assert_eq!(
            (after("1e400"), after("99999999999999999999")),
            (Some(Duration::MAX), Some(Duration::MAX))
        );
        for odd in ["null", "-1", "true", "[1]", "\"soon\""] {
            assert_eq!(after(odd), None, "{odd}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_in_a_complaint_hides_nothing_of_it() {
        let complaint = ApiErrorBody::read(
            br#"{"\udc00":1,"error_description":"cut \ud83d","fields":[{"field":"name","message":"\ud83d!"}],"reference":"r"}"#,
        );
        assert_eq!(complaint.description.as_deref(), Some("cut \u{fffd}"));
        assert_eq!(
            (
                complaint.fields[0].message.as_str(),
                complaint.reference.as_deref()
            ),
            ("\u{fffd}!", Some("r"))
        );
        let latin = ApiErrorBody::read(b"{\"error_description\":\"caf\xe9\"}");
        assert_eq!(latin.description.as_deref(), Some("caf\u{fffd}"));
    }

    #[test]
    fn however_long_a_complaint_is_little_of_it_is_kept() {
        let field = r#"{"field":"f","code":"c","message":"m"}"#;
        let (fields, long) = (vec![field; 160_000].join(","), "é".repeat(100_000));
        let body = format!(
            r#"{{"error":"{long}","error_description":"{long}","reference":"{long}","fields":[{fields}]}}"#
        );
        let complaint = ApiErrorBody::read(body.as_bytes());
        assert_eq!(
            (complaint.fields.len(), complaint.more_fields),
            (KEPT_FIELDS, 160_000 - KEPT_FIELDS)
        );
        assert_eq!(
            complaint.description.as_ref().unwrap().chars().count(),
            KEPT_CHARS
        );
        for text in [
            complaint.code.as_ref().map(ErrorCode::as_str),
            complaint.reference.as_deref(),
        ] {
            assert_eq!(text.unwrap().chars().count(), KEPT_NAME);
        }
        let answer = Response {
            body: body.into(),
            ..Response::default()
        };
        assert_eq!(answer.clone().shortened().text(), answer.text());
        assert!(answer.shortened().body.len() <= 4 * KEPT_CHARS);
    }

    #[test]
    fn a_body_that_is_no_json_object_leaves_the_complaint_empty() {
        for body in [
            "",
            "<html>502</html>",
            "[1]",
            "null",
            "\"x\"",
            "{\"error\":\"x\"",
            "{\"error\"",
        ] {
            assert_eq!(
                ApiErrorBody::read(body.as_bytes()),
                ApiErrorBody::default(),
                "{body}"
            );
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let after = |value: &[u8]| {
            let mut answer = Response::default();
            answer.headers.insert(
                header::RETRY_AFTER,
                http::HeaderValue::from_bytes(value).unwrap(),
            );
            answer.retry_after_header()
        };
        assert_eq!(after(b"7"), Some(Duration::from_secs(7)));
        assert_eq!(
            after(b"Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::ZERO)
        );
        assert!(after(b"Fri, 06 Nov 2893 08:49:37 GMT").unwrap() > Duration::from_hours(1));
        for same in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(
                http_date(same).map(Timestamp::as_second),
                Some(784_111_777),
                "{same}"
            );
        }
        assert_eq!(after(b"1.5"), Some(Duration::from_secs(2)));
        assert_eq!(after(b"0.0"), Some(Duration::ZERO));
        for beyond in [
            "18446744073709551616",
            "99999999999999999999999999",
            "1e400",
        ] {
            assert_eq!(after(beyond.as_bytes()), Some(Duration::MAX), "{beyond}");
        }
        let end = after(b"Fri, 31 Dec 9999 23:59:59 GMT").unwrap();
        assert!(end > Duration::from_hours(24 * 365 * 7000), "{end:?}");
        for odd in [
            "Fri, 06 Nov 1994 08:49:37 GMT",
            "Xyz, 06 Nov 1994 08:49:37 GMT",
            "Sun,  6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Fri, 06 Nov 1994 09:49:37 +0100",
            "Friday, 06-Nov-94 08:49:37 GMT",
            "Fri Nov 06 08:49:37 1994",
        ] {
            assert_eq!(
                http_date(odd).map(Timestamp::as_second),
                Some(784_111_777),
                "{odd}"
            );
        }
        for bad in ["soon", "-1", "inf", "NaN", "", "1.5 s", "06 Nov"] {
            assert_eq!(after(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(after(b"\xff\xfe"), None);
    }

    #[test]
    fn a_kept_body_is_cut_at_4096_characters_and_never_inside_one() {
        let answer = |body: Vec<u8>| Response {
            body: body.into(),
            ..Response::default()
        };
        assert_eq!(
            answer("é".repeat(5000).into_bytes())
                .text()
                .unwrap()
                .chars()
                .count(),
            KEPT_CHARS
        );
        assert_eq!(answer(b"ab\xff\xfe".to_vec()).text(), Some("ab"));
        assert_eq!(answer(b"\xff".to_vec()).text(), None);
    }
}
