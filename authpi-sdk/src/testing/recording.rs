use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The value of `format`.
const FORMAT: &str = "authpi-delivery/1";
/// The value of a header that must not be kept.
const REDACTED: HeaderValue = HeaderValue::from_static("REDACTED");

/// A delivery as it arrived: its headers, the exact bytes of its body, and how it was answered.
///
/// `authpi record` and `authpi listen --record` write one per file. `authpi replay`, `verify` and
/// `diagnose` read it, and so does [`Fixture::from_file`](super::Fixture::from_file).
///
/// **A recording contains personal data**: the event itself. On Unix, the file is created with mode
/// 0600. The values of `Authorization`, `Proxy-Authorization`, `Cookie`, `Set-Cookie`, and of each
/// header whose name contains `token`, `secret` or `api-key`, are replaced by `REDACTED`, and so are
/// the values in the query whose names contain `token`, `secret`, `key` or `password`. Signature
/// headers are kept, since they are needed to verify it.
///
/// # Format
///
/// A JSON object, in a file of its own:
///
/// ```json
/// {
///   "format": "authpi-delivery/1",
///   "received_at": "2026-11-25T08:00:00Z",
///   "method": "POST",
///   "path": "/hooks/authpi",
///   "headers": [["content-type", "application/cloudevents+json"], ["x-webhook-signature", "…"]],
///   "body": "{\"specversion\":\"1.0\",…}",
///   "answer": { "status": 200, "millis": 12, "body": "handled" }
/// }
/// ```
///
/// A body that is not UTF-8 is in `body_base64` instead of `body`. `answer` is absent if there was
/// none; its `body` is cut after 4 KiB.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recording {
    /// When it arrived.
    pub received_at: Timestamp,
    /// The request's method.
    pub method: String,
    /// The request's path, with its query if any.
    pub path: String,
    /// The request's headers, in order, without secrets.
    pub headers: HeaderMap,
    /// The exact body.
    pub body: Bytes,
    /// How it was answered, if it was.
    pub answer: Option<RecordedAnswer>,
}

/// How a recorded delivery was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecordedAnswer {
    /// The status.
    pub status: u16,
    /// The time from the request to the answer, in milliseconds.
    pub millis: u64,
    /// The beginning of the body, as text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
}

impl RecordedAnswer {
    const MAX_BODY: usize = 4096;

    /// An answer. Of the body, at most 4 KiB are kept.
    pub fn new(status: u16, millis: u64, body: &[u8]) -> Self {
        let body = &body[..body.len().min(Self::MAX_BODY)];
        Self {
            status,
            millis,
            body: String::from_utf8_lossy(body).into_owned(),
        }
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: String,
    received_at: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<RecordedAnswer>,
}

impl Recording {
    /// A POST of `/` that arrives now. Headers with secrets are redacted.
    pub fn new(headers: &HeaderMap, body: impl Into<Bytes>) -> Self {
        let headers = headers.iter().map(|(name, value)| {
            let value = if is_secret(name) {
                REDACTED
            } else {
                value.clone()
            };
            (name.clone(), value)
        });
        Self {
            received_at: Timestamp::now(),
            method: "POST".to_owned(),
            path: "/".to_owned(),
            headers: headers.collect(),
            body: body.into(),
            answer: None,
        }
    }

    /// Sets the method and the path. In a query, the values of names that contain `token`,
    /// `secret`, `key` or `password` are replaced by `REDACTED`.
    #[must_use]
    pub fn request(self, method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: without_secrets(path),
            ..self
        }
    }

    /// Sets the answer.
    #[must_use]
    pub fn answered(self, answer: RecordedAnswer) -> Self {
        Self {
            answer: Some(answer),
            ..self
        }
    }

    /// Whether a file's bytes are a recording, readable or not.
    pub fn is_recording(bytes: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Head {
            format: String,
        }
        serde_json::from_slice(bytes)
            .is_ok_and(|Head { format }| format.starts_with("authpi-delivery/"))
    }

    /// Reads a recording.
    ///
    /// # Errors
    /// When the bytes are not a recording of this format and version.
    pub fn from_json(bytes: &[u8]) -> Result<Self, RecordingError> {
        let wire: Wire = serde_json::from_slice(bytes).map_err(RecordingError::not_one)?;
        if wire.format != FORMAT {
            return Err(RecordingError::new(format!(
                "its format is {:?}; this version reads {FORMAT}",
                wire.format
            )));
        }
        let body = match (wire.body, wire.body_base64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(base64)) => STANDARD
                .decode(base64)
                .map(Bytes::from)
                .map_err(|_| RecordingError::new("body_base64 is not base64"))?,
            _ => {
                return Err(RecordingError::new(
                    "it needs body or body_base64, not both",
                ));
            }
        };
        let mut headers = HeaderMap::new();
        for (name, value) in wire.headers {
            let (Ok(name), Ok(value)) = (
                HeaderName::try_from(&name),
                HeaderValue::from_bytes(value.as_bytes()),
            ) else {
                return Err(RecordingError::new(format!(
                    "{name:?} is not a valid header"
                )));
            };
            headers.append(name, value);
        }
        Ok(Self {
            received_at: wire
                .received_at
                .parse()
                .map_err(|_| RecordingError::new("received_at is not an RFC 3339 time"))?,
            method: wire.method,
            path: wire.path,
            headers,
            body,
            answer: wire.answer,
        })
    }

    /// The content of the file.
    pub fn to_json(&self) -> String {
        let text = String::from_utf8(self.body.to_vec()).ok();
        let headers = self.headers.iter().map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        });
        let wire = Wire {
            format: FORMAT.to_owned(),
            received_at: self.received_at.to_string(),
            method: self.method.clone(),
            path: self.path.clone(),
            headers: headers.collect(),
            body_base64: text.is_none().then(|| STANDARD.encode(&self.body)),
            body: text,
            answer: self.answer.clone(),
        };
        // Writing fails only for a map whose keys are not strings, and this value has no such map.
        let mut json = serde_json::to_string_pretty(&wire).unwrap_or_default();
        json.push('\n');
        json
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a recording. The error does not name the file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let bytes = fs::read(path).map_err(RecordingError::io)?;
        Self::from_json(&bytes)
    }

    /// Writes a new file, with mode 0600 on Unix.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn write_new(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)?.write_all(self.to_json().as_bytes())
    }
}

/// A path and query without the values that may be credentials.
fn without_secrets(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else {
        return path.to_owned();
    };
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_secret_name(&name.to_ascii_lowercase()) => format!("{name}=REDACTED"),
        _ => pair.to_owned(),
    });
    format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"))
}

fn is_secret_name(name: &str) -> bool {
    ["token", "secret", "key", "password"]
        .iter()
        .any(|word| name.contains(word))
}

/// Whether a header may hold a credential. A signature does not give access to anything.
fn is_secret(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.ends_with("authorization")
        || name.ends_with("cookie")
        || ["token", "secret", "api-key"]
            .iter()
            .any(|word| name.contains(word))
}

impl fmt::Debug for Recording {
    /// Without the body, which is personal, and without the values of headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("received_at", &self.received_at)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("bytes", &self.body.len())
            .field("answer", &self.answer.as_ref().map(|answer| answer.status))
            .finish()
    }
}

/// Why a file could not be read as a recording.
#[derive(Debug)]
pub struct RecordingError {
    what: String,
    source: Option<io::Error>,
}

impl RecordingError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            source: None,
        }
    }

    fn io(source: io::Error) -> Self {
        Self {
            what: "the file cannot be read".to_owned(),
            source: Some(source),
        }
    }

    /// The parser's message may quote content.
    #[expect(clippy::needless_pass_by_value, reason = "as map_err wants it")]
    fn not_one(error: serde_json::Error) -> Self {
        Self::new(format!(
            "it is not a recorded delivery: see line {}, column {}",
            error.line(),
            error.column()
        ))
    }
}

impl fmt::Display for RecordingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for RecordingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::types::UserCreated,
        signature::{KeyRing, SignatureScheme, Verifier},
        testing::Fixture,
    };

    fn recorded() -> Recording {
        let fixture = Fixture::of::<UserCreated>().subject("user_id", "usr_7");
        let request = fixture
            .request(&SignatureScheme::authpi(), &"whs_test".into())
            .unwrap();
        let mut headers = request.headers().clone();
        for (name, value) in [
            ("authorization", "Bearer sesame"),
            ("cookie", "session=sesame"),
            ("x-access-token", "sesame"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let recording = Recording::new(&headers, fixture.body());
        let recording = recording.request("POST", "/hooks?tenant=7&access_token=sesame");
        recording.answered(RecordedAnswer::new(200, 12, b"handled"))
    }

    #[test]
    fn a_recording_still_verifies_and_holds_no_credential() {
        let folder = std::env::temp_dir().join(format!("authpi-recording-{}", std::process::id()));
        let _ = fs::remove_file(&folder);
        recorded().write_new(&folder).unwrap();
        let text = fs::read_to_string(&folder).unwrap();
        assert!(!text.contains("sesame"), "{text}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert!(recorded().write_new(&folder).is_err(), "it was overwritten");
        let read = Recording::read(&folder).unwrap();
        let verifier = Verifier::authpi(KeyRing::new().with("test", "whs_test"));
        verifier.verify(&read.headers, read.body.clone()).unwrap();
        assert_eq!(read.path, "/hooks?tenant=7&access_token=REDACTED");
        assert_eq!(read.answer.as_ref().map(|answer| answer.status), Some(200));

        let fixture = Fixture::from_file(&folder).unwrap();
        assert_eq!(fixture.body(), read.body, "the bytes differ");
        assert_eq!(fixture.verified().subject().user_id(), Some("usr_7"));
        let changed = fixture.id("evt_other").verified();
        assert_eq!(changed.id(), "evt_other");
        assert_eq!(changed.subject().user_id(), Some("usr_7"));
        fs::remove_file(&folder).unwrap();
    }

    #[test]
    fn any_bytes_survive_and_what_is_no_recording_is_refused() {
        let mut binary = recorded();
        binary.body = Bytes::from_static(b"\xff\x00{");
        let read = Recording::from_json(binary.to_json().as_bytes()).unwrap();
        assert_eq!(read.body, binary.body);
        assert!(Recording::is_recording(binary.to_json().as_bytes()));
        let other = binary.to_json().replace("delivery/1", "delivery/2");
        assert!(Recording::is_recording(other.as_bytes()));
        for (wrong, why) in [
            (other.as_str(), "authpi-delivery/2"),
            ("{}", "line 1"),
            ("secret", "line 1"),
        ] {
            let error = Recording::from_json(wrong.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        }
    }
}
