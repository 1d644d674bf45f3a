use std::{fmt, fmt::Write as _};

use hmac::Mac as _;
use http::{HeaderMap, HeaderName};
use subtle::ConstantTimeEq as _;

use super::{
    Encoding, HeaderFormat, KeyEncoding, Secret, SignatureScheme, SignedContent, TimeUnit,
    Verifier,
    scheme::{Signature, SignedTime, update_all},
};
use crate::json;

/// The maximum number of bytes that are hashed.
const HASHED_AT_MOST: usize = 256 << 20;

/// How a captured delivery was signed. `Display` writes it for people.
///
/// It contains no secret and nothing of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Diagnosis {
    /// The scheme that matches, if any.
    pub scheme: Option<SignatureScheme>,
    /// If only a changed body matches: how the body has to be changed to match.
    pub body_was: Option<&'static str>,
    /// The headers that contain something like a signature.
    pub candidates: Vec<HeaderName>,
    /// Further findings, one line each.
    pub remarks: Vec<String>,
}

/// Finds out how a real delivery was signed with `secret`. The delivery must be captured with all
/// its headers and the exact bytes of its body.
///
/// Tries every header that contains something like a signature, with the body alone and with each
/// timestamp and id in the headers before it, and with every encoding of the key. If nothing
/// matches, it also tries common changes that a proxy or framework makes to a body: rewritten JSON,
/// an added or removed line break.
///
/// This computes thousands of hashes, where a verification computes one. Use it in tools, and for
/// deliveries that you sent yourself. It stops after hashing 256 MiB, and reports that. Only
/// headers that are crafted for this purpose reach that limit.
pub fn diagnose(headers: &HeaderMap, body: &[u8], secret: &Secret) -> Diagnosis {
    diagnose_within(HASHED_AT_MOST, headers, body, secret)
}

fn diagnose_within(
    mut budget: usize,
    headers: &HeaderMap,
    body: &[u8],
    secret: &Secret,
) -> Diagnosis {
    let mut candidates: Vec<HeaderName> = Vec::new();
    let mut remarks = Vec::new();
    let mut found = None;
    'bodies: for (body_was, body) in bodies(body) {
        for (header, value) in headers {
            for (header_format, encoding, signature, paired) in signatures_in(value.as_bytes()) {
                if !candidates.contains(header) {
                    candidates.push(header.clone());
                }
                for (content, time_unit, prefix) in contents(headers, header, paired.as_ref()) {
                    for key in [
                        KeyEncoding::Whole,
                        KeyEncoding::AfterPrefix,
                        KeyEncoding::Base64AfterPrefix,
                        KeyEncoding::HexAfterPrefix,
                    ] {
                        let Some(mut mac) = key.hmac(secret) else {
                            continue;
                        };
                        // Hashing an empty input also takes some blocks.
                        let Some(left) = budget.checked_sub(prefix.len() + body.len() + 256) else {
                            remarks.push(
                                "gave up: there are too many combinations of headers to try"
                                    .to_owned(),
                            );
                            break 'bodies;
                        };
                        budget = left;
                        update_all(&mut mac, &[&prefix, &body]);
                        let ours: Signature = mac.finalize().into_bytes().into();
                        if bool::from(ours.ct_eq(&signature)) {
                            let scheme = SignatureScheme::authpi()
                                .header(header.clone())
                                .header_format(header_format)
                                .content(content)
                                .encoding(encoding)
                                .time_unit(time_unit)
                                .key(key);
                            found = Some((scheme, body_was));
                            break 'bodies;
                        }
                    }
                }
            }
        }
    }
    if candidates.is_empty() {
        remarks.push("no header contains 64 hexadecimal digits or 32 bytes of base64".to_owned());
    } else if found.is_none() {
        remarks.push(
            "no known scheme matches this secret; check that it is the secret of this webhook"
                .to_owned(),
        );
    }
    let secret = secret.expose();
    if secret.trim() != secret {
        remarks.push("the secret begins or ends with white space".to_owned());
    }
    let (scheme, body_was) = found.map_or((None, None), |(scheme, was)| (Some(scheme), was));
    Diagnosis {
        scheme,
        body_was,
        candidates,
        remarks,
    }
}

impl Verifier {
    /// Explains why a delivery failed to verify, for the log or a tool, never for the peer.
    ///
    /// It tries each secret of the ring separately, including those outside of their window.
    pub fn diagnose(&self, headers: &HeaderMap, body: &[u8]) -> Vec<String> {
        let mut lines = match self.verify(headers, bytes::Bytes::copy_from_slice(body)) {
            Ok(verified) => {
                return vec![format!(
                    "the delivery is authentic (secret {:?})",
                    verified.key_name()
                )];
            }
            Err(error) => vec![error.to_string()],
        };
        let Some((scheme, ring)) = self.scheme_and_ring() else {
            return lines;
        };
        for key in ring.keys().iter() {
            let diagnosis = diagnose(headers, body, &key.secret);
            let name = &key.name;
            match (&diagnosis.scheme, diagnosis.body_was) {
                (Some(_), Some(was)) => {
                    lines.push(format!(
                        "the secret {name:?} fits {was}: the body was changed on its way to the verifier"
                    ));
                }
                (Some(found), None) if found.signs_as(scheme) => {
                    lines.push(format!(
                        "the secret {name:?} fits; check its window, the bearer token and the clock"
                    ));
                }
                (Some(found), None) => {
                    lines.push(format!(
                        "the secret {name:?} fits another scheme: {}",
                        found.to_rust()
                    ));
                }
                (None, _) => lines.extend(
                    diagnosis
                        .remarks
                        .iter()
                        .map(|remark| format!("{name:?}: {remark}")),
                ),
            }
        }
        lines
    }
}

/// The body as delivered, then as it may have been before a proxy changed it, with a description of
/// the change.
fn bodies(body: &[u8]) -> Vec<(Option<&'static str>, Vec<u8>)> {
    let mut bodies = vec![(None, body.to_vec())];
    if let Some(rest) = body.strip_suffix(b"\n") {
        bodies.push((
            Some("the body without its last line break"),
            rest.strip_suffix(b"\r").unwrap_or(rest).to_vec(),
        ));
    } else {
        bodies.push((
            Some("the body with a line break after it"),
            [body, b"\n"].concat(),
        ));
    }
    if let Some(rest) = body.strip_prefix(b"\xef\xbb\xbf") {
        bodies.push((Some("the body without its byte order mark"), rest.to_vec()));
    }
    // Parsing it as a value also limits the nesting depth.
    if let Some((text, value)) = std::str::from_utf8(body)
        .ok()
        .and_then(|text| Some((text, json::read(text).ok()?)))
    {
        let value: serde_json::Value = value;
        let forms = [
            ("the same JSON written compactly", Spacing::None),
            ("the same JSON, indented", Spacing::Indented),
            (
                "the same JSON with spaces after commas and colons",
                Spacing::Spaces,
            ),
        ];
        bodies.extend(
            forms
                .iter()
                .map(|(was, spacing)| (Some(*was), respaced(text, *spacing))),
        );
        // The same with sorted keys, as some frameworks write them.
        let sorted = value.to_string();
        bodies.extend(
            forms
                .iter()
                .map(|(was, spacing)| (Some(*was), respaced(&sorted, *spacing))),
        );
    }
    bodies
}

#[derive(Clone, Copy, PartialEq)]
enum Spacing {
    None,
    /// As Python writes it.
    Spaces,
    /// Indented by two spaces, one member per line.
    Indented,
}

/// The JSON with different white space between its tokens. Order, numbers and escapes do not
/// change.
fn respaced(json: &str, spacing: Spacing) -> Vec<u8> {
    let (mut rewritten, mut depth, mut in_string, mut escaped) =
        (Vec::with_capacity(json.len()), 0, false, false);
    let line = |rewritten: &mut Vec<u8>, depth: usize| {
        rewritten.push(b'\n');
        rewritten.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    for &byte in json.as_bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            rewritten.push(byte);
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(byte, b'}' | b']');
        let empty = matches!(rewritten.last(), Some(b'{' | b'['));
        depth -= usize::from(closes);
        // An empty object or list has nothing between its brackets.
        if spacing == Spacing::Indented && (empty != closes || rewritten.last() == Some(&b',')) {
            line(&mut rewritten, depth);
        }
        rewritten.push(byte);
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b':' if spacing != Spacing::None => rewritten.push(b' '),
            b',' if spacing == Spacing::Spaces => rewritten.push(b' '),
            _ => {}
        }
    }
    rewritten
}

type Found = (
    HeaderFormat,
    Encoding,
    Signature,
    Option<(TimeUnit, SignedTime)>,
);

/// Everything in a header's value that could be a signature.
fn signatures_in(value: &[u8]) -> Vec<Found> {
    let readings = [
        (HeaderFormat::Pairs, Encoding::Hex, TimeUnit::Seconds),
        (HeaderFormat::Pairs, Encoding::Base64, TimeUnit::Seconds),
        (HeaderFormat::Pairs, Encoding::Hex, TimeUnit::Milliseconds),
        (
            HeaderFormat::Pairs,
            Encoding::Base64,
            TimeUnit::Milliseconds,
        ),
        (HeaderFormat::List, Encoding::Hex, TimeUnit::Seconds),
        (HeaderFormat::List, Encoding::Base64, TimeUnit::Seconds),
    ];
    let mut found = Vec::new();
    let Ok(header_value) = http::HeaderValue::from_bytes(value) else {
        return found;
    };
    let name = HeaderName::from_static("x");
    let headers = HeaderMap::from_iter([(name.clone(), header_value)]);
    for (header_format, encoding, unit) in readings {
        let scheme = SignatureScheme::authpi()
            .header(name.clone())
            .header_format(header_format)
            .encoding(encoding)
            .time_unit(unit);
        let Ok(presented) = scheme.read_header(&headers) else {
            continue;
        };
        // Pairs without a timestamp would be a list.
        if (header_format == HeaderFormat::Pairs) != presented.timestamp.is_some() {
            continue;
        }
        // A number that can be seconds is read as seconds. As milliseconds, it would be a time
        // before 1974.
        let digits = presented
            .timestamp
            .as_ref()
            .map_or(0, |at| at.written.len());
        if unit == TimeUnit::Milliseconds && digits <= TimeUnit::Seconds.digits() {
            continue;
        }
        let paired = presented.timestamp.map(|at| (unit, at));
        found.extend(
            presented
                .signatures
                .into_iter()
                .map(|it| (header_format, encoding, it, paired.clone())),
        );
    }
    found
}

/// What may have been signed before the body, with the matching content setting.
fn contents(
    headers: &HeaderMap,
    signature: &HeaderName,
    paired: Option<&(TimeUnit, SignedTime)>,
) -> Vec<(SignedContent, TimeUnit, Vec<u8>)> {
    let mut contents = vec![(SignedContent::Body, TimeUnit::Seconds, Vec::new())];
    if let Some((unit, at)) = paired {
        contents.push((
            SignedContent::PairedTimestampAndBody,
            *unit,
            [&at.written[..], b"."].concat(),
        ));
    }
    for (timestamp, at) in headers {
        // Between the years 2001 and 2286, seconds have ten digits and milliseconds thirteen.
        let unit = match at.len() {
            10 => TimeUnit::Seconds,
            13 => TimeUnit::Milliseconds,
            _ => continue,
        };
        if SignedTime::read(at.as_bytes(), unit).is_none() {
            continue;
        }
        let prefix = [at.as_bytes(), b"."].concat();
        contents.push((
            SignedContent::TimestampAndBody {
                timestamp: timestamp.clone(),
            },
            unit,
            prefix.clone(),
        ));
        for (id, value) in headers
            .iter()
            .filter(|(name, value)| *name != signature && value.len() <= 256)
        {
            let content = SignedContent::IdTimestampAndBody {
                id: id.clone(),
                timestamp: timestamp.clone(),
            };
            contents.push((content, unit, [value.as_bytes(), b".", &prefix].concat()));
        }
    }
    contents
}

impl SignatureScheme {
    /// Whether a signature of this scheme is also one of `other`.
    fn signs_as(&self, other: &Self) -> bool {
        let encoding = self.encoding == other.encoding || other.encoding == Encoding::HexOrBase64;
        encoding
            && (
                &self.header,
                self.written_as(),
                &self.content,
                self.signed_unit(),
                self.key,
            ) == (
                &other.header,
                other.written_as(),
                &other.content,
                other.signed_unit(),
                other.key,
            )
    }

    /// The scheme as a line of Rust that creates it.
    pub fn to_rust(&self) -> String {
        let presets = [
            ("authpi", Self::authpi()),
            ("timestamped", Self::timestamped()),
            ("standard_webhooks", Self::standard_webhooks()),
        ];
        if let Some((name, _)) = presets.iter().find(|(_, preset)| self.signs_as(preset)) {
            return format!("SignatureScheme::{name}()");
        }
        let name = |header: &HeaderName| format!("HeaderName::from_static({:?})", header.as_str());
        let mut line = "SignatureScheme::authpi()".to_owned();
        let base = Self::authpi();
        // Writing to a string cannot fail.
        if self.header != base.header {
            let _ = write!(line, ".header({})", name(&self.header));
        }
        if self.header_format != base.header_format {
            let _ = write!(
                line,
                ".header_format(HeaderFormat::{:?})",
                self.header_format
            );
        }
        let _ = match &self.content {
            SignedContent::Body => Ok(()),
            SignedContent::PairedTimestampAndBody => {
                write!(line, ".content(SignedContent::PairedTimestampAndBody)")
            }
            SignedContent::TimestampAndBody { timestamp } => {
                write!(
                    line,
                    ".content(SignedContent::TimestampAndBody {{ timestamp: {} }})",
                    name(timestamp)
                )
            }
            SignedContent::IdTimestampAndBody { id, timestamp } => write!(
                line,
                ".content(SignedContent::IdTimestampAndBody {{ id: {}, timestamp: {} }})",
                name(id),
                name(timestamp)
            ),
        };
        if let Some(unit @ TimeUnit::Milliseconds) = self.signed_unit() {
            let _ = write!(line, ".time_unit(TimeUnit::{unit:?})");
        }
        let _ = write!(line, ".encoding(Encoding::{:?})", self.encoding);
        if self.key != base.key {
            let _ = write!(line, ".key(KeyEncoding::{:?})", self.key);
        }
        line
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scheme {
            Some(scheme) => writeln!(f, "it fits: {}", scheme.to_rust())?,
            None => writeln!(f, "no scheme fits")?,
        }
        if let Some(was) = self.body_was {
            writeln!(
                f,
                "but only {was} fits: the body was changed after it was signed"
            )?;
        }
        let names: Vec<_> = self.candidates.iter().map(HeaderName::as_str).collect();
        if !names.is_empty() {
            writeln!(
                f,
                "headers that look like a signature: {}",
                names.join(", ")
            )?;
        }
        self.remarks
            .iter()
            .try_for_each(|remark| writeln!(f, "{remark}"))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{super::KeyRing, *};

    const BODY: &[u8] = br#"{"b":1,"a":2}"#;

    fn signed(scheme: &SignatureScheme, secret: &Secret, body: &[u8]) -> HeaderMap {
        scheme
            .sign(secret, "msg_1", Timestamp::now(), body)
            .unwrap()
    }

    #[test]
    fn every_combination_that_can_be_signed_is_found_and_verifies() {
        let secret = Secret::new("whs_abcdef012345");
        let stamp = HeaderName::from_static("x-webhook-timestamp");
        let id = HeaderName::from_static("x-webhook-id");
        let contents = [
            (HeaderFormat::List, SignedContent::Body),
            (HeaderFormat::Pairs, SignedContent::PairedTimestampAndBody),
            (
                HeaderFormat::List,
                SignedContent::TimestampAndBody {
                    timestamp: stamp.clone(),
                },
            ),
            (
                HeaderFormat::List,
                SignedContent::IdTimestampAndBody {
                    id,
                    timestamp: stamp,
                },
            ),
        ];
        for (header_format, content) in contents {
            for encoding in [Encoding::Hex, Encoding::Base64] {
                for key in [
                    KeyEncoding::Whole,
                    KeyEncoding::AfterPrefix,
                    KeyEncoding::Base64AfterPrefix,
                    KeyEncoding::HexAfterPrefix,
                ] {
                    for unit in [TimeUnit::Seconds, TimeUnit::Milliseconds] {
                        let scheme = SignatureScheme::authpi()
                            .header_format(header_format)
                            .content(content.clone());
                        let scheme = scheme.encoding(encoding).key(key).time_unit(unit);
                        let headers = signed(&scheme, &secret, BODY);
                        let diagnosis = diagnose(&headers, BODY, &secret);
                        let found = diagnosis
                            .scheme
                            .unwrap_or_else(|| panic!("not found: {scheme:?}"));
                        let verifier =
                            Verifier::new(found, KeyRing::new().with("k", secret.clone()));
                        assert!(
                            verifier.verify(&headers, BODY).is_ok(),
                            "found another scheme than {scheme:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_line_of_rust_is_short_for_a_preset_and_whole_for_others() {
        let secret = Secret::new("whs_c2VjcmV0");
        for (scheme, line) in [
            (SignatureScheme::authpi(), "SignatureScheme::authpi()"),
            (
                SignatureScheme::timestamped(),
                "SignatureScheme::timestamped()",
            ),
            (
                SignatureScheme::standard_webhooks(),
                "SignatureScheme::standard_webhooks()",
            ),
            (
                SignatureScheme::authpi()
                    .header(HeaderName::from_static("x-sig"))
                    .key(KeyEncoding::AfterPrefix),
                r#"SignatureScheme::authpi().header(HeaderName::from_static("x-sig")).encoding(Encoding::Hex).key(KeyEncoding::AfterPrefix)"#,
            ),
            (
                SignatureScheme::timestamped().time_unit(TimeUnit::Milliseconds),
                "SignatureScheme::authpi().header_format(HeaderFormat::Pairs).content(SignedContent::PairedTimestampAndBody).time_unit(TimeUnit::Milliseconds).encoding(Encoding::Hex)",
            ),
            (
                SignatureScheme::authpi().time_unit(TimeUnit::Milliseconds),
                "SignatureScheme::authpi()",
            ),
        ] {
            let diagnosis = diagnose(&signed(&scheme, &secret, BODY), BODY, &secret);
            assert_eq!(
                diagnosis.to_string().lines().next().unwrap(),
                format!("it fits: {line}")
            );
        }
    }

    #[test]
    fn a_body_that_was_written_anew_is_recognised() {
        let secret = Secret::new("whs_s");
        let scheme = SignatureScheme::authpi();
        let compact = br#"{"a":2,"b":1}"#;
        let headers = signed(&scheme, &secret, compact);
        let delivered = b"{ \"a\": 2, \"b\": 1 }";
        assert_eq!(
            diagnose(&headers, delivered, &secret).body_was,
            Some("the same JSON written compactly")
        );
        let lines =
            Verifier::authpi(KeyRing::new().with("k", secret)).diagnose(&headers, delivered);
        assert!(
            lines
                .iter()
                .any(|line| line.contains("the body was changed")),
            "{lines:?}"
        );
    }

    #[test]
    fn a_body_that_was_written_anew_is_recognised_in_the_order_of_its_keys() {
        let secret = Secret::new("whs_s");
        let compact = r#"{"id":"1","b":{"z":[1,2.50,{}],"a":"x: \", y"},"e":[]}"#;
        let pretty = "{\n  \"id\": \"1\",\n  \"b\": {\n    \"z\": [\n      1,\n      2.50,\n      {}\n    ],\n    \
            \"a\": \"x: \\\", y\"\n  },\n  \"e\": []\n}";
        let spaced = r#"{"id": "1", "b": {"z": [1, 2.50, {}], "a": "x: \", y"}, "e": []}"#;
        let forms = [
            (compact, "the same JSON written compactly"),
            (pretty, "the same JSON, indented"),
            (spaced, "the same JSON with spaces after commas and colons"),
        ];
        for (sent, was) in forms {
            let headers = signed(&SignatureScheme::authpi(), &secret, sent.as_bytes());
            for (delivered, _) in forms.iter().filter(|(delivered, _)| *delivered != sent) {
                assert_eq!(
                    diagnose(&headers, delivered.as_bytes(), &secret).body_was,
                    Some(was),
                    "from {delivered}"
                );
            }
        }
    }

    #[test]
    fn headers_made_to_keep_it_busy_are_given_up_on() {
        let mut headers = HeaderMap::new();
        for n in 0..100 {
            let name = |what: &str| HeaderName::try_from(format!("x-{what}-{n}")).unwrap();
            headers.insert(name("time"), (1_700_000_000 + n).into());
            headers.insert(
                name("signature"),
                vec!["0".repeat(64); 16].join(",").parse().unwrap(),
            );
        }
        let diagnosis = diagnose_within(1 << 20, &headers, &[b' '; 4096], &Secret::new("whs_s"));
        assert!(diagnosis.scheme.is_none());
        assert!(diagnosis.to_string().contains("gave up"), "{diagnosis}");
    }

    #[test]
    fn a_failure_is_explained_by_the_secret_the_scheme_or_the_clock() {
        let secret = Secret::new("whs_s");
        let explain =
            |verifier: Verifier, headers: &HeaderMap| verifier.diagnose(headers, BODY).join("\n");
        let ring = KeyRing::new().with("k", secret.clone());
        let timestamped = signed(&SignatureScheme::timestamped(), &secret, BODY);
        let another = explain(Verifier::authpi(ring.clone()), &timestamped);
        assert!(
            another.contains("another scheme: SignatureScheme::timestamped()"),
            "{another}"
        );
        let wrong = explain(
            Verifier::authpi(KeyRing::new().with("k", "whs_t")),
            &signed(&SignatureScheme::authpi(), &secret, BODY),
        );
        assert!(
            wrong.contains("no known scheme matches this secret"),
            "{wrong}"
        );
        let late = crate::Clock::from_fn(|| Timestamp::now() + jiff::SignedDuration::from_hours(1));
        let stale = explain(
            Verifier::new(SignatureScheme::timestamped(), ring).clock(late),
            &timestamped,
        );
        assert!(
            stale.contains("s ago") && stale.contains("clock"),
            "{stale}"
        );
    }

    #[test]
    fn nothing_secret_is_shown() {
        let secret = Secret::new("whs_topsecret ");
        let shown = format!(
            "{}",
            diagnose(
                &signed(&SignatureScheme::authpi(), &"x".into(), BODY),
                BODY,
                &secret
            )
        );
        assert!(
            shown.contains("white space") && !shown.contains("topsecret"),
            "{shown}"
        );
    }
}
