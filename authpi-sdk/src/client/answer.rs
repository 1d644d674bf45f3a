//! An answer that is not the one hoped for, and what can be read from it.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{ErrorCode, FieldError, etag::ETag};
use crate::json::members;

/// How much of a body an error keeps, in characters.
pub(super) const KEPT_CHARS: usize = 4096;

/// Status, headers and body as they came.
#[derive(Clone, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl fmt::Debug for Answer {
    /// Neither headers nor body: both may hold what belongs in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// Whether AuthPI says that it has stored this answer before.
    pub(super) fn replayed(headers: &HeaderMap) -> bool {
        headers.get("idempotent-replayed").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    }

    /// The first characters of the body, if it is text.
    pub(super) fn text(&self) -> Option<&str> {
        let text = match std::str::from_utf8(&self.body) {
            Ok(text) => text,
            // Cut in the middle of a character, or garbage after some text: what is text is kept.
            Err(error) => std::str::from_utf8(&self.body[..error.valid_up_to()]).unwrap_or_default(),
        };
        let end = text.char_indices().nth(KEPT_CHARS).map_or(text.len(), |(at, _)| at);
        (end > 0).then(|| &text[..end])
    }

    /// How long the `Retry-After` header asks to wait: seconds, or a date.
    pub(super) fn retry_after_header(&self) -> Option<Duration> {
        let text = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = http_date(text)?;
        Some(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO))
    }
}

/// A date in the form that HTTP has now, or in one of the two that it had and recipients must read (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    let old = |format| {
        let parts = jiff::fmt::strtime::parse(format, text).ok()?;
        jiff::tz::TimeZone::UTC.to_timestamp(parts.to_datetime().ok()?).ok()
    };
    let now = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
    now.or_else(|| old("%A, %d-%b-%y %H:%M:%S GMT")).or_else(|| old("%a %b %e %H:%M:%S %Y"))
}

/// AuthPI's error envelope, as far as it is there. Every member may be missing, and one of another shape is passed over:
/// a gateway's own JSON must not hide the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Complaint {
    pub(super) code: Option<ErrorCode>,
    pub(super) description: Option<String>,
    pub(super) retryable: Option<bool>,
    pub(super) reference: Option<String>,
    pub(super) retry_after: Option<Duration>,
    pub(super) fields: Vec<FieldError>,
    pub(super) current_etag: Option<ETag>,
}

impl Complaint {
    pub(super) fn read(body: &[u8]) -> Self {
        let mut complaint = Self::default();
        let Ok(raw) = serde_json::from_slice::<&RawValue>(body) else { return complaint };
        // An object that turns out broken half-way is impossible here: `RawValue` has been through the parser.
        let _ = members(raw, &mut |name, value| {
            match name {
                "error" => complaint.code = lenient::<String>(value).map(ErrorCode::from),
                "error_description" => complaint.description = lenient(value),
                "retryable" => complaint.retryable = lenient(value),
                "reference" => complaint.reference = lenient(value),
                "retry_after" => {
                    complaint.retry_after = lenient(value).and_then(|s| Duration::try_from_secs_f64(s).ok());
                }
                "fields" => {
                    complaint.fields =
                        lenient::<Vec<&RawValue>>(value).unwrap_or_default().into_iter().filter_map(field).collect();
                }
                // AuthPI's SDK and its page on conditional requests spell this one differently.
                "current_etag" | "currentETag" => {
                    complaint.current_etag = lenient::<String>(value).and_then(|etag| etag.parse().ok());
                }
                _ => {}
            }
            Ok(())
        });
        complaint
    }
}

fn lenient<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn field(raw: &RawValue) -> Option<FieldError> {
    #[derive(Deserialize)]
    struct Lenient {
        field: String,
        #[serde(default, deserialize_with = "text_or_empty")]
        code: String,
        #[serde(default, deserialize_with = "text_or_empty")]
        message: String,
    }
    let Lenient { field, code, message } = lenient(raw)?;
    Some(FieldError { field, code, message })
}

fn text_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_current_etag_are_read() {
        for body in [r#"{"current_etag":"\"17\""}"#, r#"{"currentETag":"17"}"#] {
            assert_eq!(Complaint::read(body.as_bytes()).current_etag.unwrap().as_str(), "\"17\"");
        }
    }

    #[test]
    fn a_member_of_another_shape_hides_none_of_the_others() {
        let complaint = Complaint::read(
            br#"{"error":7,"error_description":"no","fields":[1,{"field":"url","code":null},{"code":"x"}],"retry_after":-3,"retryable":"yes"}"#,
        );
        assert_eq!(complaint.code, None);
        assert_eq!(complaint.description.as_deref(), Some("no"));
        assert_eq!(complaint.fields.len(), 1);
        assert_eq!(complaint.fields[0].field, "url");
        assert_eq!((complaint.retry_after, complaint.retryable), (None, None));
    }

    #[test]
    fn a_body_that_is_no_json_object_leaves_the_complaint_empty() {
        for body in ["", "<html>502</html>", "[1]", "null", "\"x\"", "{\"error\":\"x\"", "{\"error\""] {
            assert_eq!(Complaint::read(body.as_bytes()), Complaint::default(), "{body}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let after = |value: &'static [u8]| {
            let mut answer = Answer::default();
            answer.headers.insert(header::RETRY_AFTER, http::HeaderValue::from_bytes(value).unwrap());
            answer.retry_after_header()
        };
        assert_eq!(after(b"7"), Some(Duration::from_secs(7)));
        assert_eq!(after(b"Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(after(b"Fri, 06 Nov 2893 08:49:37 GMT").unwrap() > Duration::from_hours(1));
        for same in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(http_date(same).map(Timestamp::as_second), Some(784_111_777), "{same}");
        }
        assert_eq!(after(b"soon"), None);
        assert_eq!(after(b"-1"), None);
        assert_eq!(after(b"\xff\xfe"), None);
    }

    #[test]
    fn a_kept_body_is_cut_at_4096_characters_and_never_inside_one() {
        let answer = |body: Vec<u8>| Answer { body: body.into(), ..Answer::default() };
        assert_eq!(answer("é".repeat(5000).into_bytes()).text().unwrap().chars().count(), KEPT_CHARS);
        assert_eq!(answer(b"ab\xff\xfe".to_vec()).text(), Some("ab"));
        assert_eq!(answer(b"\xff".to_vec()).text(), None);
    }
}
