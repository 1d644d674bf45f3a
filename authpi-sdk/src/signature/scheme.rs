use std::{fmt, str::FromStr, time::Duration};

use base64::{
    Engine as _,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
    },
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Secret;
use crate::hex;

pub(super) type HmacSha256 = Hmac<Sha256>;
pub(super) type Signature = [u8; 32];

/// The maximum number of signatures in one delivery. During a rotation, a sender sends two.
pub(super) const MAX_SIGNATURES: usize = 16;
/// The maximum length of the signature header, in bytes. A longer one is refused unread.
const MAX_HEADER: usize = 4096;

/// How a delivery is signed. This is configuration; a request never chooses it.
///
/// There are three presets: [`authpi`](Self::authpi), [`timestamped`](Self::timestamped),
/// [`standard_webhooks`](Self::standard_webhooks); `FromStr` also accepts `"authpi"`,
/// `"timestamped"`, `"standard-webhooks"`. Each part can be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureScheme {
    pub(super) header: HeaderName,
    pub(super) header_format: HeaderFormat,
    pub(super) content: SignedContent,
    pub(super) encoding: Encoding,
    pub(super) key: KeyEncoding,
    pub(super) tolerance: Duration,
    pub(super) time_unit: TimeUnit,
}

/// How the signature header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderFormat {
    /// One or several signatures, separated by commas or spaces, each bare or after `sha256=`,
    /// `v1=` or `v1,`.
    List,
    /// `t=<timestamp>,v1=<signature>`, with one `v1` per key.
    Pairs,
}

/// Which bytes are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignedContent {
    /// The raw body.
    Body,
    /// `<t>.<body>`, where `t` (Unix time, in the scheme's [`TimeUnit`]) is in the signature
    /// header. The header then has [`HeaderFormat::Pairs`], whatever format is set.
    PairedTimestampAndBody,
    /// `<timestamp>.<body>`, with the timestamp (Unix time) in a separate header.
    TimestampAndBody {
        /// The timestamp's header.
        timestamp: HeaderName,
    },
    /// `<id>.<timestamp>.<body>`, both in separate headers.
    IdTimestampAndBody {
        /// The message id's header.
        id: HeaderName,
        /// The timestamp's header (Unix time).
        timestamp: HeaderName,
    },
}

/// The unit of a signed timestamp, counted from 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeUnit {
    /// Seconds, of one to eleven digits.
    #[default]
    Seconds,
    /// Milliseconds, of one to fourteen digits.
    Milliseconds,
}

impl TimeUnit {
    /// The maximum number of digits: enough for the year 5000, and without overflow.
    pub(super) fn digits(self) -> usize {
        match self {
            Self::Seconds => 11,
            Self::Milliseconds => 14,
        }
    }

    pub(super) fn of(self, at: Timestamp) -> i64 {
        match self {
            Self::Seconds => at.as_second(),
            Self::Milliseconds => at.as_millisecond(),
        }
    }

    fn in_a_second(self) -> i64 {
        match self {
            Self::Seconds => 1,
            Self::Milliseconds => 1000,
        }
    }

    fn count(self, time: Duration) -> u128 {
        match self {
            Self::Seconds => time.as_secs().into(),
            Self::Milliseconds => time.as_millis(),
        }
    }
}

/// The encoding of a signature's 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encoding {
    /// 64 hexadecimal digits, in either case.
    Hex,
    /// Base64, with or without padding.
    Base64,
    /// Reads both, which are distinguished by their length. Writes hex.
    HexOrBase64,
}

/// Which bytes of the secret are the HMAC key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyEncoding {
    /// The whole secret with its prefix, as UTF-8.
    Whole,
    /// The part after the prefix (`whs_`, `whsec_`: everything up to the first underscore), as
    /// UTF-8.
    AfterPrefix,
    /// The part after the prefix (if any), decoded as base64.
    Base64AfterPrefix,
    /// The part after the prefix (if any), decoded as hexadecimal digits.
    HexAfterPrefix,
}

impl SignatureScheme {
    /// The assumed scheme of AuthPI: `X-Webhook-Signature`, HMAC-SHA256 of the raw body.
    ///
    /// AuthPI's webhooks reference documents the header and the algorithm. The rest is **assumed**:
    /// the raw body is signed, the whole secret as UTF-8 is the key, and there is no timestamp. The
    /// encoding is not documented either, so hex and base64 are both read, with or without
    /// `sha256=` or `v1=`. [`diagnose`](super::diagnose) checks this with one real delivery.
    pub fn authpi() -> Self {
        Self {
            header: HeaderName::from_static("x-webhook-signature"),
            header_format: HeaderFormat::List,
            content: SignedContent::Body,
            encoding: Encoding::HexOrBase64,
            key: KeyEncoding::Whole,
            tolerance: Duration::from_mins(5),
            time_unit: TimeUnit::Seconds,
        }
    }

    /// `X-Webhook-Signature: t=<seconds>,v1=<hex>` over `<t>.<body>`; tolerance five minutes.
    pub fn timestamped() -> Self {
        Self {
            header_format: HeaderFormat::Pairs,
            content: SignedContent::PairedTimestampAndBody,
            encoding: Encoding::Hex,
            ..Self::authpi()
        }
    }

    /// The [Standard Webhooks](https://www.standardwebhooks.com) scheme: `webhook-id`,
    /// `webhook-timestamp`, and `webhook-signature: v1,<base64>` over `<id>.<timestamp>.<body>`;
    /// tolerance five minutes.
    pub fn standard_webhooks() -> Self {
        Self {
            header: HeaderName::from_static("webhook-signature"),
            header_format: HeaderFormat::List,
            content: SignedContent::IdTimestampAndBody {
                id: HeaderName::from_static("webhook-id"),
                timestamp: HeaderName::from_static("webhook-timestamp"),
            },
            encoding: Encoding::Base64,
            key: KeyEncoding::Base64AfterPrefix,
            tolerance: Duration::from_mins(5),
            time_unit: TimeUnit::Seconds,
        }
    }

    /// Sets the signature header.
    #[must_use]
    pub fn header(self, header: HeaderName) -> Self {
        Self { header, ..self }
    }

    /// Sets the format of the signature header.
    #[must_use]
    pub fn header_format(self, header_format: HeaderFormat) -> Self {
        Self {
            header_format,
            ..self
        }
    }

    /// Sets which bytes are signed.
    #[must_use]
    pub fn content(self, content: SignedContent) -> Self {
        Self { content, ..self }
    }

    /// Sets the encoding of signatures.
    #[must_use]
    pub fn encoding(self, encoding: Encoding) -> Self {
        Self { encoding, ..self }
    }

    /// Sets how the key is derived from the secret.
    #[must_use]
    pub fn key(self, key: KeyEncoding) -> Self {
        Self { key, ..self }
    }

    /// Sets how far the signed timestamp may differ from now, in either direction (default five
    /// minutes). No effect if no timestamp is signed.
    #[must_use]
    pub fn tolerance(self, tolerance: Duration) -> Self {
        Self { tolerance, ..self }
    }

    /// Sets the unit of the signed timestamp (default seconds). No effect if no timestamp is
    /// signed.
    #[must_use]
    pub fn time_unit(self, time_unit: TimeUnit) -> Self {
        Self { time_unit, ..self }
    }

    /// The unit, if a timestamp is signed.
    pub(super) fn signed_unit(&self) -> Option<TimeUnit> {
        (self.content != SignedContent::Body).then_some(self.time_unit)
    }

    /// The headers that a sender adds to a delivery of `body`.
    ///
    /// `message_id` and `at` are used if the scheme signs them. Hex or base64 is written bare,
    /// except that [`HeaderFormat::Pairs`] writes `t=…,v1=…` and a scheme with a signed id writes
    /// `v1,…`.
    ///
    /// # Errors
    /// When the secret does not have the key encoding of the scheme, or `message_id` is not valid
    /// in a header.
    pub fn sign(
        &self,
        secret: &Secret,
        message_id: &str,
        at: Timestamp,
        body: &[u8],
    ) -> Result<HeaderMap, SignError> {
        let time = self.time_unit.of(at).to_string();
        let mut mac = self.key.hmac(secret).ok_or(SignError::Secret(self.key))?;
        let mut headers = HeaderMap::new();
        match &self.content {
            SignedContent::Body => {}
            SignedContent::PairedTimestampAndBody => {
                update_all(&mut mac, &[time.as_bytes(), b"."]);
            }
            SignedContent::TimestampAndBody { timestamp } => {
                update_all(&mut mac, &[time.as_bytes(), b"."]);
                headers.insert(timestamp, header_value(&time)?);
            }
            SignedContent::IdTimestampAndBody { id, timestamp } => {
                update_all(
                    &mut mac,
                    &[message_id.as_bytes(), b".", time.as_bytes(), b"."],
                );
                headers.insert(id, header_value(message_id)?);
                headers.insert(timestamp, header_value(&time)?);
            }
        }
        mac.update(body);
        let signature: Signature = mac.finalize().into_bytes().into();
        let written = match self.encoding {
            Encoding::Hex | Encoding::HexOrBase64 => hex::encode(&signature),
            Encoding::Base64 => STANDARD.encode(signature),
        };
        let value = match (self.written_as(), &self.content) {
            (HeaderFormat::Pairs, _) => format!("t={time},v1={written}"),
            (HeaderFormat::List, SignedContent::IdTimestampAndBody { .. }) => {
                format!("v1,{written}")
            }
            (HeaderFormat::List, _) => written,
        };
        headers.insert(&self.header, header_value(&value)?);
        Ok(headers)
    }

    /// The format of the header. Only pairs can contain a timestamp that is signed with the body.
    pub(super) fn written_as(&self) -> HeaderFormat {
        match self.content {
            SignedContent::PairedTimestampAndBody => HeaderFormat::Pairs,
            _ => self.header_format,
        }
    }

    /// All signatures in the header, and the timestamp in [`HeaderFormat::Pairs`].
    pub(super) fn read_header(&self, headers: &HeaderMap) -> Result<Presented, Unread> {
        let mut presented = Presented {
            signatures: Vec::new(),
            timestamp: None,
        };
        let mut seen = false;
        let header_format = self.written_as();
        for value in headers.get_all(&self.header) {
            seen = true;
            if value.len() > MAX_HEADER {
                return Err(Unread::Malformed);
            }
            // The usual case: one bare signature.
            if header_format == HeaderFormat::List
                && self.collect(value.as_bytes(), &mut presented)?
            {
                continue;
            }
            for item in value
                .as_bytes()
                .split(|byte| matches!(byte, b',' | b' ' | b'\t'))
            {
                let (name, signature) = match item.iter().position(|&byte| byte == b'=') {
                    // Base64 ends in `=` and a name never does, so an `=` with only padding after
                    // it is not a separator.
                    Some(at) if item[at..].iter().any(|&byte| byte != b'=') => {
                        (&item[..at], &item[at + 1..])
                    }
                    _ => (&b""[..], item),
                };
                match name {
                    // With two timestamps, it would be unclear which one was signed.
                    b"t" if header_format == HeaderFormat::Pairs
                        && presented.timestamp.is_some() =>
                    {
                        return Err(Unread::Malformed);
                    }
                    b"t" if header_format == HeaderFormat::Pairs => {
                        presented.timestamp = Some(
                            SignedTime::read(signature, self.time_unit).ok_or(Unread::Malformed)?,
                        );
                    }
                    b"v1" => {
                        self.collect(signature, &mut presented)?;
                    }
                    b"" | b"sha256" if header_format == HeaderFormat::List => {
                        self.collect(signature, &mut presented)?;
                    }
                    _ => {}
                }
            }
        }
        match (seen, presented.signatures.is_empty()) {
            (false, _) => Err(Unread::Missing),
            (true, true) => Err(Unread::Malformed),
            (true, false) => Ok(presented),
        }
    }

    /// Adds a signature. Returns whether `written` is one.
    fn collect(&self, written: &[u8], presented: &mut Presented) -> Result<bool, Unread> {
        let Some(signature) = self.encoding.decode(written) else {
            return Ok(false);
        };
        if presented.signatures.len() == MAX_SIGNATURES {
            return Err(Unread::Malformed);
        }
        presented.signatures.push(signature);
        Ok(true)
    }
}

/// The content of a delivery's signature header.
pub(super) struct Presented {
    pub(super) signatures: Vec<Signature>,
    pub(super) timestamp: Option<SignedTime>,
}

/// Why a signature header could not be read.
pub(super) enum Unread {
    Missing,
    Malformed,
}

/// A timestamp as the sender wrote it (the signed form) and as a number.
#[derive(Clone)]
pub(super) struct SignedTime {
    pub(super) written: Vec<u8>,
    value: i64,
    unit: TimeUnit,
}

impl SignedTime {
    /// Reads a timestamp with at most as many digits as the unit allows.
    pub(super) fn read(written: &[u8], unit: TimeUnit) -> Option<Self> {
        if written.is_empty()
            || written.len() > unit.digits()
            || !written.iter().all(u8::is_ascii_digit)
        {
            return None;
        }
        let value = written
            .iter()
            .fold(0_i64, |n, digit| n * 10 + i64::from(digit - b'0'));
        Some(Self {
            written: written.to_vec(),
            value,
            unit,
        })
    }

    /// How many seconds it is ahead of `now` (negative: behind), if that is not tolerated.
    pub(super) fn intolerable_skew(&self, now: Timestamp, tolerance: Duration) -> Option<i64> {
        // Both have at most fourteen digits, so the difference cannot overflow.
        let skew = self.value - self.unit.of(now);
        (u128::from(skew.unsigned_abs()) > self.unit.count(tolerance))
            .then(|| skew / self.unit.in_a_second())
    }
}

const LENIENT_BASE64: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT_BASE64);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT_BASE64);

impl Encoding {
    fn decode(self, written: &[u8]) -> Option<Signature> {
        match (self, written.len()) {
            (Self::Hex | Self::HexOrBase64, 64) => {
                let mut signature = Signature::default();
                hex::decode_into(&mut signature, written).map(|()| signature)
            }
            (Self::Base64 | Self::HexOrBase64, 43 | 44) => {
                // The decoder requires this length, since it does not know the padding in advance.
                let mut bytes = [0; 33];
                let length = BASE64
                    .decode_slice(written, &mut bytes)
                    .or_else(|_| BASE64_URL.decode_slice(written, &mut bytes))
                    .ok()?;
                bytes[..length].try_into().ok()
            }
            _ => None,
        }
    }
}

impl KeyEncoding {
    /// The HMAC with the key from this secret, or `None` if the secret does not have this encoding.
    pub(super) fn hmac(self, secret: &Secret) -> Option<HmacSha256> {
        let secret = secret.expose();
        let after_prefix = secret.split_once('_').map(|(_, rest)| rest);
        let decoded;
        let bytes = match self {
            Self::Whole => secret.as_bytes(),
            Self::AfterPrefix => after_prefix?.as_bytes(),
            Self::Base64AfterPrefix => {
                decoded = Zeroizing::new(BASE64.decode(after_prefix.unwrap_or(secret)).ok()?);
                &decoded[..]
            }
            Self::HexAfterPrefix => {
                decoded = Zeroizing::new(decode_hex(after_prefix.unwrap_or(secret).as_bytes())?);
                &decoded[..]
            }
        };
        // An empty key would be known to everyone.
        (!bytes.is_empty()).then(|| HmacSha256::new_from_slice(bytes).ok())?
    }
}

pub(super) fn update_all(mac: &mut HmacSha256, parts: &[&[u8]]) {
    for part in parts {
        mac.update(part);
    }
}

fn header_value(text: &str) -> Result<HeaderValue, SignError> {
    HeaderValue::from_str(text).map_err(|_| SignError::MessageId)
}

fn decode_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; digits.len() / 2];
    hex::decode_into(&mut bytes, digits).map(|()| bytes)
}

impl FromStr for SignatureScheme {
    type Err = UnknownScheme;

    fn from_str(name: &str) -> Result<Self, UnknownScheme> {
        match name {
            "authpi" => Ok(Self::authpi()),
            "timestamped" => Ok(Self::timestamped()),
            "standard-webhooks" => Ok(Self::standard_webhooks()),
            _ => Err(UnknownScheme(name.to_owned())),
        }
    }
}

/// The name is not that of a preset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownScheme(String);

impl fmt::Display for UnknownScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown signature scheme {:?}; use authpi, timestamped or standard-webhooks",
            self.0
        )
    }
}

impl std::error::Error for UnknownScheme {}

/// Why a delivery could not be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignError {
    /// The secret does not have this form, or is empty.
    Secret(KeyEncoding),
    /// The message id is not valid in a header.
    MessageId,
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(form) => {
                write!(f, "the secret does not have the form {form:?}, or is empty")
            }
            Self::MessageId => f.write_str("the message id is not a valid header value"),
        }
    }
}

impl std::error::Error for SignError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test cases 1, 2, 3, 4, 6 and 7 (5 is truncated).
    #[test]
    fn hmac_sha256_agrees_with_rfc_4231() {
        let long_key = "aa".repeat(131);
        let cases: [(&str, Vec<u8>, &str); 6] = [
            (
                &"0b".repeat(20),
                b"Hi There".to_vec(),
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                "4a656665",
                b"what do ya want for nothing?".to_vec(),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (&"aa".repeat(20), vec![0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (
                "0102030405060708090a0b0c0d0e0f10111213141516171819",
                vec![0xcd; 50],
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            ),
            (
                &long_key,
                b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &long_key,
                b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to \
                  be hashed before being used by the HMAC algorithm."
                    .to_vec(),
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        let scheme = SignatureScheme::authpi().key(KeyEncoding::HexAfterPrefix);
        for (key, body, expected) in cases {
            let headers = scheme
                .sign(&Secret::new(key), "", Timestamp::UNIX_EPOCH, &body)
                .unwrap();
            assert_eq!(headers["x-webhook-signature"], expected);
        }
    }

    #[test]
    fn the_presets_go_by_their_names() {
        for (name, scheme) in [
            ("authpi", SignatureScheme::authpi()),
            ("timestamped", SignatureScheme::timestamped()),
            ("standard-webhooks", SignatureScheme::standard_webhooks()),
        ] {
            assert_eq!(name.parse::<SignatureScheme>(), Ok(scheme));
        }
        assert!(
            "Authpi"
                .parse::<SignatureScheme>()
                .unwrap_err()
                .to_string()
                .contains("standard-webhooks")
        );
    }

    #[test]
    fn a_timestamp_that_could_overflow_is_not_read() {
        for bad in [
            "",
            "-1",
            "+1",
            "1e3",
            "123456789012",
            "99999999999999999999999",
            "１",
        ] {
            assert!(
                SignedTime::read(bad.as_bytes(), TimeUnit::Seconds).is_none(),
                "{bad:?} was read"
            );
        }
        assert_eq!(
            SignedTime::read(b"00000000012", TimeUnit::Seconds)
                .unwrap()
                .value,
            12
        );
        let furthest = SignedTime::read(b"99999999999999", TimeUnit::Milliseconds).unwrap();
        for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            assert!(furthest.intolerable_skew(now, Duration::ZERO).is_some());
            assert!(furthest.intolerable_skew(now, Duration::MAX).is_none());
        }
        assert!(
            SignedTime::read(b"999999999999999", TimeUnit::Milliseconds).is_none(),
            "fifteen digits were read"
        );
    }

    #[test]
    fn a_signed_time_counts_what_its_scheme_says() {
        let now = Timestamp::from_millisecond(1_700_000_000_500).unwrap();
        let limit = Duration::from_mins(5);
        let skew = |written: &[u8], unit| {
            SignedTime::read(written, unit)
                .unwrap()
                .intolerable_skew(now, limit)
        };
        for (written, unit, expected) in [
            ("1700000300", TimeUnit::Seconds, None),
            ("1700000301", TimeUnit::Seconds, Some(301)),
            ("1699999699", TimeUnit::Seconds, Some(-301)),
            ("1700000300500", TimeUnit::Milliseconds, None),
            ("1700000300501", TimeUnit::Milliseconds, Some(300)),
            ("1699999700500", TimeUnit::Milliseconds, None),
            ("1699999699000", TimeUnit::Milliseconds, Some(-301)),
            ("1700000000", TimeUnit::Milliseconds, Some(-1_698_300_000)),
        ] {
            assert_eq!(
                skew(written.as_bytes(), unit),
                expected,
                "{written} {unit:?}"
            );
        }
    }

    #[test]
    fn a_secret_of_another_form_cannot_sign() {
        let error = SignatureScheme::standard_webhooks().sign(
            &"whsec_not base64!".into(),
            "m",
            Timestamp::UNIX_EPOCH,
            b"",
        );
        assert_eq!(
            error.unwrap_err(),
            SignError::Secret(KeyEncoding::Base64AfterPrefix)
        );
        assert!(
            SignatureScheme::authpi()
                .sign(&"".into(), "m", Timestamp::UNIX_EPOCH, b"")
                .is_err()
        );
    }
}
