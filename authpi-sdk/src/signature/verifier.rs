use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use hmac::Mac as _;
use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, CONTENT_LENGTH},
};
use jiff::Timestamp;
use subtle::ConstantTimeEq as _;

use super::{
    KeyRing, KeyRingError, SignatureScheme, SignedContent, TimeUnit, Verified,
    key_ring::Keys,
    scheme::{HmacSha256, Signature, SignedTime, Unread, update_all},
};
use crate::Clock;

/// The default of [`Verifier::max_body`]: 1 MiB (1,048,576 bytes).
pub const DEFAULT_MAX_BODY: usize = 1 << 20;

/// The initial buffer size for a body of several frames, unless less was announced: 16 KiB.
pub(crate) const FIRST_BUFFER: usize = 16 << 10;

/// Verifies that deliveries are authentic. Cheap to clone; does no I/O.
#[derive(Clone)]
pub struct Verifier {
    signature: Option<Arc<SignatureCheck>>,
    bearer: Option<KeyRing>,
    max_body: usize,
    clock: Clock,
}

struct SignatureCheck {
    scheme: SignatureScheme,
    ring: KeyRing,
    /// The ring's keys, prepared for hashing. They are prepared again when the ring changes.
    ready: RwLock<Arc<ReadyKeys>>,
}

struct ReadyKeys {
    made_from: Arc<Keys>,
    macs: Vec<Option<HmacSha256>>,
}

impl Verifier {
    /// Verifies AuthPI's signature (webhooks with auth `signature`) with
    /// [`SignatureScheme::authpi`], which documents its assumptions.
    pub fn authpi(keys: KeyRing) -> Self {
        Self::new(SignatureScheme::authpi(), keys)
    }

    /// Verifies signatures of `scheme`.
    pub fn new(scheme: SignatureScheme, keys: KeyRing) -> Self {
        let ready = RwLock::new(Arc::new(ReadyKeys::new(&scheme, keys.keys())));
        Self {
            signature: Some(Arc::new(SignatureCheck {
                scheme,
                ring: keys,
                ready,
            })),
            ..Self::dangerously_accept_unauthenticated()
        }
    }

    /// Verifies the bearer token only (webhooks with auth `bearer`). This does not prove that the
    /// body is unchanged.
    pub fn bearer(tokens: KeyRing) -> Self {
        Self {
            bearer: Some(tokens),
            ..Self::dangerously_accept_unauthenticated()
        }
    }

    /// Also requires a bearer token (webhooks with auth `bearer+signature`).
    #[must_use]
    pub fn and_bearer(self, tokens: KeyRing) -> Self {
        Self {
            bearer: Some(tokens),
            ..self
        }
    }

    /// Accepts deliveries without authentication (webhooks with auth `none`, which AuthPI intends
    /// for testing only).
    pub fn dangerously_accept_unauthenticated() -> Self {
        Self {
            signature: None,
            bearer: None,
            max_body: DEFAULT_MAX_BODY,
            clock: Clock::system(),
        }
    }

    /// Sets the maximum size of a body in bytes. Default: [`DEFAULT_MAX_BODY`].
    #[must_use]
    pub fn max_body(self, bytes: usize) -> Self {
        Self {
            max_body: bytes,
            ..self
        }
    }

    /// Replaces the system clock. A receiver uses this clock too, unless it is given another one.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Checks the secrets.
    ///
    /// # Errors
    /// When a ring is empty or fails [`KeyRing::check`], or when a secret does not have the key
    /// encoding of the scheme.
    pub fn check(&self) -> Result<(), KeyRingError> {
        let rings = [
            self.signature.as_ref().map(|check| &check.ring),
            self.bearer.as_ref(),
        ];
        for ring in rings.into_iter().flatten() {
            if ring.is_empty() {
                return Err(KeyRingError::Empty);
            }
            ring.check()?;
        }
        let Some(check) = &self.signature else {
            return Ok(());
        };
        let ready = check.ready();
        match ready
            .made_from
            .iter()
            .zip(&ready.macs)
            .find(|(_, mac)| mac.is_none())
        {
            Some((key, _)) => Err(KeyRingError::NotOfForm {
                name: key.name.to_string(),
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn body_limit(&self) -> usize {
        self.max_body
    }

    /// The clock that [`clock`](Self::clock) sets.
    pub(crate) fn time_source(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn scheme_and_ring(&self) -> Option<(&SignatureScheme, &KeyRing)> {
        self.signature
            .as_ref()
            .map(|check| (&check.scheme, &check.ring))
    }

    /// Checks the headers, and prepares to hash the body.
    ///
    /// # Errors
    /// When a check fails that does not need the body: the signature or bearer token is missing or
    /// malformed, the bearer token is wrong, the signed time is out of tolerance, or there is no
    /// secret to verify with.
    pub fn begin(&self, headers: &HeaderMap) -> Result<Verifying, VerifyError> {
        self.begin_at(headers, self.clock.now())
    }

    /// As [`begin`](Self::begin), at a time that the caller has read.
    pub(crate) fn begin_at(
        &self,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Verifying, VerifyError> {
        let bearer = self
            .bearer
            .as_ref()
            .map(|ring| check_bearer(ring, headers, now))
            .transpose()?;
        let signature = self
            .signature
            .as_ref()
            .map(|check| check.begin(headers, now))
            .transpose()?;
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Verifying(Box::new(Progress {
            signature,
            bearer,
            body: Body::Empty,
            length: 0,
            announced,
            max_body: self.max_body,
            too_large: false,
        })))
    }

    /// Verifies a delivery with a complete body.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), and [`VerifyError::TooLarge`] or [`VerifyError::Mismatch`].
    pub fn verify(
        &self,
        headers: &HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Verified<Bytes>, VerifyError> {
        let mut verifying = self.begin(headers)?;
        verifying.take(body.into(), true)?;
        verifying.finish()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("signature", &self.scheme_and_ring())
            .field("bearer", &self.bearer)
            .field("max_body", &self.max_body)
            .finish_non_exhaustive()
    }
}

impl ReadyKeys {
    fn new(scheme: &SignatureScheme, keys: Arc<Keys>) -> Self {
        Self {
            macs: keys
                .iter()
                .map(|key| scheme.key.hmac(&key.secret))
                .collect(),
            made_from: keys,
        }
    }
}

impl SignatureCheck {
    fn ready(&self) -> Arc<ReadyKeys> {
        let keys = self.ring.keys();
        let ready = self
            .ready
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if Arc::ptr_eq(&ready.made_from, &keys) {
            return ready;
        }
        let ready = Arc::new(ReadyKeys::new(&self.scheme, keys));
        *self.ready.write().unwrap_or_else(PoisonError::into_inner) = ready.clone();
        ready
    }

    fn begin(&self, headers: &HeaderMap, now: Timestamp) -> Result<Hashing, VerifyError> {
        let scheme = &self.scheme;
        // This check comes first: a sender must not get 401 if the receiver has no secret to verify
        // with.
        let ready = self.ready();
        let valid = ready
            .made_from
            .iter()
            .zip(&ready.macs)
            .enumerate()
            .filter(|(_, (key, _))| key.is_valid_at(now))
            .filter_map(|(at, (_, mac))| Some((at, mac.clone()?)));
        // Collecting would allocate for four keys.
        let mut macs = Vec::with_capacity(ready.macs.len());
        macs.extend(valid);
        if macs.is_empty() {
            return Err(VerifyError::NoUsableSecret);
        }
        let presented = scheme.read_header(headers).map_err(|unread| match unread {
            Unread::Missing => VerifyError::Missing {
                header: scheme.header.clone(),
            },
            Unread::Malformed => VerifyError::Malformed {
                header: scheme.header.clone(),
            },
        })?;
        let (id, timestamp) = match &scheme.content {
            SignedContent::Body => (None, None),
            SignedContent::PairedTimestampAndBody => {
                let malformed = || VerifyError::Malformed {
                    header: scheme.header.clone(),
                };
                (None, Some(presented.timestamp.ok_or_else(malformed)?))
            }
            SignedContent::TimestampAndBody { timestamp } => (
                None,
                Some(timestamp_in(headers, timestamp, scheme.time_unit)?),
            ),
            SignedContent::IdTimestampAndBody { id, timestamp } => (
                Some(only_value(headers, id)?),
                Some(timestamp_in(headers, timestamp, scheme.time_unit)?),
            ),
        };
        if let Some(skew_seconds) = timestamp
            .as_ref()
            .and_then(|at| at.intolerable_skew(now, scheme.tolerance))
        {
            return Err(VerifyError::Stale { skew_seconds });
        }
        for (_, mac) in &mut macs {
            if let Some(id) = id {
                update_all(mac, &[id, b"."]);
            }
            if let Some(at) = &timestamp {
                update_all(mac, &[&at.written, b"."]);
            }
        }
        Ok(Hashing {
            keys: ready.made_from.clone(),
            macs,
            presented: presented.signatures,
            now,
        })
    }
}

/// The header's value if there is exactly one. With two, it would be unclear which one was signed.
fn only_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h [u8], VerifyError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(VerifyError::Missing {
            header: name.clone(),
        }),
        (Some(value), None) => Ok(value.as_bytes()),
        (Some(_), Some(_)) => Err(VerifyError::Malformed {
            header: name.clone(),
        }),
    }
}

fn timestamp_in(
    headers: &HeaderMap,
    name: &HeaderName,
    unit: TimeUnit,
) -> Result<SignedTime, VerifyError> {
    SignedTime::read(only_value(headers, name)?, unit).ok_or_else(|| VerifyError::Malformed {
        header: name.clone(),
    })
}

fn check_bearer(
    ring: &KeyRing,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Arc<str>, VerifyError> {
    let keys = ring.keys();
    let mut usable = keys
        .iter()
        .filter(|key| key.is_valid_at(now) && !key.secret.expose().is_empty())
        .peekable();
    if usable.peek().is_none() {
        return Err(VerifyError::NoUsableSecret);
    }
    let value = only_value(headers, &AUTHORIZATION)?;
    let token = match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
        _ => {
            return Err(VerifyError::Malformed {
                header: AUTHORIZATION,
            });
        }
    };
    // Every key is compared, so that the time taken does not reveal which one is close.
    usable
        .fold(None, |found, key| {
            let same = bool::from(key.secret.expose().as_bytes().ct_eq(token));
            found.or_else(|| same.then_some(key))
        })
        .map(|key| {
            key.matched(now);
            key.name.clone()
        })
        .ok_or(VerifyError::Mismatch)
}

/// A delivery whose body is still arriving.
#[must_use = "nothing is proven before `finish`"]
pub struct Verifying(Box<Progress>);

/// Boxed, since it moves from one future to the next.
struct Progress {
    signature: Option<Hashing>,
    bearer: Option<Arc<str>>,
    body: Body,
    length: usize,
    /// The `Content-Length`, only trusted as an upper bound of the buffer.
    announced: Option<usize>,
    max_body: usize,
    /// Once set, it stays set: later frames must not be accepted without the one that was left out.
    too_large: bool,
}

struct Hashing {
    keys: Arc<Keys>,
    /// By the key's index in `keys`.
    macs: Vec<(usize, HmacSha256)>,
    presented: Vec<Signature>,
    now: Timestamp,
}

/// A body of one frame is kept without copying. Several frames are copied: a frame keeps the
/// server's whole read buffer in memory.
enum Body {
    Empty,
    One(Bytes),
    Many(Vec<u8>),
}

impl Verifying {
    /// Adds the next frame of the body.
    ///
    /// A frame that is the whole body, according to the `Content-Length`, is kept as it is.
    /// Otherwise, frames are copied into one buffer. It grows by doubling, but not beyond the
    /// announced length, as long as the body fits that.
    ///
    /// # Errors
    /// [`VerifyError::TooLarge`] as soon as the body exceeds the limit, and for every later frame.
    /// Such a frame is neither hashed nor kept.
    pub fn update(&mut self, frame: Bytes) -> Result<(), VerifyError> {
        let is_whole = self.0.announced.is_none_or(|length| length <= frame.len());
        self.take(frame, is_whole)
    }

    /// As `update`, for callers that know whether this is the last frame.
    pub(crate) fn take(&mut self, frame: Bytes, is_last: bool) -> Result<(), VerifyError> {
        if frame.is_empty() {
            return Ok(());
        }
        if self.0.too_large || frame.len() > self.0.max_body - self.0.length {
            self.0.too_large = true;
            return Err(VerifyError::TooLarge {
                limit: self.0.max_body,
            });
        }
        let capacity = self.buffer_for(frame.len(), is_last);
        self.0.length += frame.len();
        for (_, mac) in self
            .0
            .signature
            .iter_mut()
            .flat_map(|hashing| &mut hashing.macs)
        {
            mac.update(&frame);
        }
        self.0.body = match std::mem::replace(&mut self.0.body, Body::Empty) {
            Body::Empty if is_last => Body::One(frame),
            before => {
                let (mut whole, first) = match before {
                    Body::Empty => (Vec::new(), Bytes::new()),
                    Body::One(first) => (Vec::new(), first),
                    Body::Many(whole) => (whole, Bytes::new()),
                };
                // Exactly this: `reserve` and `extend_from_slice` would double it.
                whole.reserve_exact(capacity - whole.len());
                whole.extend_from_slice(&first);
                whole.extend_from_slice(&frame);
                Body::Many(whole)
            }
        };
        Ok(())
    }

    /// The number of bytes received so far.
    pub(crate) fn received(&self) -> usize {
        self.0.length
    }

    /// The buffer size after adding a frame of `more` bytes; zero if that frame is the whole body.
    /// A frame that exceeds the limit does not change it.
    pub(crate) fn buffer_for(&self, more: usize, is_last: bool) -> usize {
        let capacity = match &self.0.body {
            Body::Empty if is_last => return 0,
            Body::Empty | Body::One(_) => 0,
            Body::Many(whole) => whole.capacity(),
        };
        let needed = self.0.length.saturating_add(more);
        if needed <= capacity || needed > self.0.max_body {
            return capacity;
        }
        match self.0.announced {
            Some(length) if needed <= length => (capacity * 2)
                .max(FIRST_BUFFER)
                .clamp(needed, length.min(self.0.max_body)),
            _ => (capacity * 2)
                .max(needed.next_power_of_two())
                .min(self.0.max_body),
        }
    }

    /// Compares every presented signature with that of every key, in constant time.
    ///
    /// # Errors
    /// [`VerifyError::Mismatch`] if none matches; [`VerifyError::TooLarge`] if
    /// [`update`](Self::update) returned it before.
    pub fn finish(self) -> Result<Verified<Bytes>, VerifyError> {
        if self.0.too_large {
            return Err(VerifyError::TooLarge {
                limit: self.0.max_body,
            });
        }
        let Progress {
            signature,
            bearer,
            body,
            ..
        } = *self.0;
        let key = match signature {
            Some(hashing) => Some(hashing.finish().ok_or(VerifyError::Mismatch)?),
            None => bearer,
        };
        let body = match body {
            Body::Empty => Bytes::new(),
            Body::One(frame) => frame,
            Body::Many(whole) => whole.into(),
        };
        Ok(Verified::new(body, key))
    }
}

impl fmt::Debug for Verifying {
    /// Omits the body: payloads do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifying")
            .field("length", &self.0.length)
            .field("max_body", &self.0.max_body)
            .finish_non_exhaustive()
    }
}

impl Hashing {
    fn finish(self) -> Option<Arc<str>> {
        let mut matched = None;
        for (at, mac) in self.macs {
            let ours: Signature = mac.finalize().into_bytes().into();
            let same = self
                .presented
                .iter()
                .fold(false, |same, theirs| same | bool::from(ours.ct_eq(theirs)));
            matched = matched.or_else(|| same.then_some(at));
        }
        let key = self.keys.iter().nth(matched?)?;
        key.matched(self.now);
        Some(key.name.clone())
    }
}

/// Why a delivery was refused. This is for the log: the peer must not learn the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyError {
    /// A required header is missing.
    Missing {
        /// The header.
        header: HeaderName,
    },
    /// A header cannot be read, or is present twice.
    Malformed {
        /// The header.
        header: HeaderName,
    },
    /// The signature or token matches none of the ring's secrets.
    Mismatch,
    /// The signed timestamp differs from now by more than the tolerance.
    Stale {
        /// The difference to now in seconds; negative if it is in the past.
        skew_seconds: i64,
    },
    /// The body exceeds the limit.
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// There is no secret to verify with: the ring is empty, all its secrets are outside of their
    /// window, or none has the key encoding of the scheme. This is a fault of the receiver, not of
    /// the sender.
    NoUsableSecret,
}

impl VerifyError {
    /// A short constant name, for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Malformed { .. } => "malformed",
            Self::Mismatch => "mismatch",
            Self::Stale { .. } => "stale",
            Self::TooLarge { .. } => "too_large",
            Self::NoUsableSecret => "no_usable_secret",
        }
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { header } => write!(f, "the header {header} is missing"),
            Self::Malformed { header } => write!(f, "the header {header} cannot be read"),
            Self::Mismatch => f.write_str("no secret in the key ring matches"),
            Self::Stale {
                skew_seconds: skew @ ..=0,
            } => write!(f, "the signed time is {} s ago", skew.unsigned_abs()),
            Self::Stale { skew_seconds } => write!(f, "the signed time is {skew_seconds} s ahead"),
            Self::TooLarge { limit } => write!(f, "the body is larger than {limit} bytes"),
            Self::NoUsableSecret => f.write_str("the key ring has no usable secret"),
        }
    }
}

impl std::error::Error for VerifyError {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;

    const BODY: &[u8] = br#"{"id":"1"}"#;

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn verifier(scheme: SignatureScheme, keys: KeyRing) -> Verifier {
        Verifier::new(scheme, keys).clock(Clock::from_fn(now))
    }

    fn ring() -> KeyRing {
        KeyRing::new().with("only", "whs_c2VjcmV0")
    }

    fn every_scheme() -> [SignatureScheme; 3] {
        [
            SignatureScheme::authpi(),
            SignatureScheme::timestamped(),
            SignatureScheme::standard_webhooks(),
        ]
    }

    fn signed(scheme: &SignatureScheme, secret: &str) -> HeaderMap {
        scheme.sign(&secret.into(), "msg_1", now(), BODY).unwrap()
    }

    #[test]
    fn what_sign_writes_verify_accepts_and_names_the_key() {
        for scheme in every_scheme() {
            let headers = signed(&scheme, "whs_c2VjcmV0");
            let keys = KeyRing::new()
                .with("old", "whs_b2xk")
                .with("new", "whs_c2VjcmV0");
            let verified = verifier(scheme, keys).verify(&headers, BODY).unwrap();
            assert_eq!(&verified[..], BODY);
            assert_eq!(verified.key_name(), Some("new"));
        }
    }

    #[test]
    fn the_body_may_arrive_in_any_frames() {
        let scheme = SignatureScheme::timestamped();
        let headers = signed(&scheme, "whs_c2VjcmV0");
        let verifier = verifier(scheme, ring());
        for size in 1..=BODY.len() {
            let mut verifying = verifier.begin(&headers).unwrap();
            for frame in BODY.chunks(size) {
                verifying.update(Bytes::copy_from_slice(frame)).unwrap();
            }
            assert_eq!(&verifying.finish().unwrap()[..], BODY);
        }
    }

    #[test]
    fn a_changed_body_a_wrong_secret_and_a_wrong_signature_are_refused() {
        for scheme in every_scheme() {
            let headers = signed(&scheme, "whs_c2VjcmV0");
            let verifier = verifier(scheme.clone(), ring());
            assert_eq!(
                verifier
                    .verify(&headers, &b"{\"id\":\"2\"}"[..])
                    .unwrap_err(),
                VerifyError::Mismatch
            );
            let other = signed(&scheme, "whs_b3RoZXI=");
            assert_eq!(
                verifier.verify(&other, BODY).unwrap_err(),
                VerifyError::Mismatch
            );
            assert!(matches!(
                verifier.verify(&HeaderMap::new(), BODY),
                Err(VerifyError::Missing { .. })
            ));
        }
    }

    #[test]
    fn every_signature_in_the_header_is_tried() {
        let scheme = SignatureScheme::authpi();
        let right = signed(&scheme, "whs_c2VjcmV0")["x-webhook-signature"]
            .to_str()
            .unwrap()
            .to_owned();
        let wrong = "0".repeat(64);
        let verifier = verifier(scheme, ring());
        for value in [
            format!("{right},{wrong}"),
            format!("{wrong}, {right}"),
            format!("v1={wrong} v1={right}"),
            format!("sha256={right}"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-webhook-signature", value.parse().unwrap());
            assert!(verifier.verify(&headers, BODY).is_ok(), "refused {value}");
        }
        let mut twice = HeaderMap::new();
        twice.append("x-webhook-signature", wrong.parse().unwrap());
        twice.append("x-webhook-signature", right.parse().unwrap());
        assert!(
            verifier.verify(&twice, BODY).is_ok(),
            "the second of two headers was not read"
        );
    }

    #[test]
    fn our_assumed_scheme_reads_hex_and_base64() {
        let verifier = verifier(SignatureScheme::authpi(), ring());
        let base64 = SignatureScheme::authpi().encoding(super::super::Encoding::Base64);
        for scheme in [SignatureScheme::authpi(), base64] {
            let mut headers = signed(&scheme, "whs_c2VjcmV0");
            assert!(verifier.verify(&headers, BODY).is_ok());
            let bare = headers["x-webhook-signature"]
                .to_str()
                .unwrap()
                .trim_end_matches('=')
                .to_owned();
            for prefixed in [
                format!("sha256={bare}"),
                format!("v1={bare}"),
                format!("v1,{bare}"),
                bare.to_uppercase(),
            ] {
                let hex_or_prefixed = prefixed.len() == 64 || prefixed.contains(['=', ',']);
                headers.insert("x-webhook-signature", prefixed.parse().unwrap());
                assert!(
                    !hex_or_prefixed || verifier.verify(&headers, BODY).is_ok(),
                    "refused {prefixed}"
                );
            }
        }
    }

    #[test]
    fn headers_that_are_not_ascii_are_refused_and_never_panic() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-webhook-signature",
            HeaderValue::from_bytes(b"t=\xff\xfe,v1=\xc3\xa9").unwrap(),
        );
        headers.insert(
            "authorization",
            HeaderValue::from_bytes(b"Bearer \xff").unwrap(),
        );
        for scheme in every_scheme() {
            assert!(verifier(scheme, ring()).verify(&headers, BODY).is_err());
        }
        assert_eq!(
            Verifier::bearer(ring()).verify(&headers, BODY).unwrap_err(),
            VerifyError::Mismatch
        );
    }

    #[test]
    fn a_body_that_is_not_utf_8_is_hashed_like_any_other() {
        let body = b"\xff\xfe\x00";
        let scheme = SignatureScheme::authpi();
        let headers = scheme.sign(&"s".into(), "", now(), body).unwrap();
        assert!(
            verifier(scheme, KeyRing::new().with("k", "s"))
                .verify(&headers, &body[..])
                .is_ok()
        );
    }

    #[test]
    fn a_time_out_of_tolerance_is_stale_and_an_absurd_one_is_malformed() {
        let scheme = SignatureScheme::timestamped();
        let later =
            |seconds: i64| Clock::from_fn(move || now() + jiff::SignedDuration::from_secs(seconds));
        let headers = signed(&scheme, "whs_c2VjcmV0");
        let at = |seconds| {
            Verifier::new(scheme.clone(), ring())
                .clock(later(seconds))
                .verify(&headers, BODY)
        };
        assert!(at(300).is_ok());
        assert_eq!(
            at(301).unwrap_err(),
            VerifyError::Stale { skew_seconds: -301 }
        );
        assert_eq!(
            at(-301).unwrap_err(),
            VerifyError::Stale { skew_seconds: 301 }
        );
        for absurd in [
            "9223372036854775807",
            "-9223372036854775808",
            "99999999999999999999",
        ] {
            let mut headers = headers.clone();
            headers.insert(
                "x-webhook-signature",
                format!("t={absurd},v1={}", "0".repeat(64)).parse().unwrap(),
            );
            assert!(matches!(
                verifier(scheme.clone(), ring()).verify(&headers, BODY),
                Err(VerifyError::Malformed { .. })
            ));
        }
        let wide = scheme.clone().tolerance(Duration::MAX);
        assert!(
            Verifier::new(wide, ring())
                .clock(later(9_999_999))
                .verify(&headers, BODY)
                .is_ok()
        );
    }

    #[test]
    fn two_times_or_two_ids_are_refused() {
        let scheme = SignatureScheme::standard_webhooks();
        let mut headers = signed(&scheme, "whs_c2VjcmV0");
        headers.append("webhook-id", "msg_2".parse().unwrap());
        assert!(matches!(
            verifier(scheme, ring()).verify(&headers, BODY),
            Err(VerifyError::Malformed { .. })
        ));
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-webhook-signature",
            format!("t=1,t=2,v1={}", "0".repeat(64)).parse().unwrap(),
        );
        assert!(matches!(
            verifier(SignatureScheme::timestamped(), ring()).begin(&headers),
            Err(VerifyError::Malformed { .. })
        ));
    }

    /// The buffer's capacity after each frame of `size`.
    fn capacities(
        verifier: &Verifier,
        headers: &HeaderMap,
        body: &[u8],
        size: usize,
    ) -> Vec<usize> {
        let mut verifying = verifier.begin(headers).unwrap();
        let capacities = body.chunks(size).map(|frame| {
            let expected = verifying.buffer_for(frame.len(), false);
            verifying
                .take(Bytes::copy_from_slice(frame), false)
                .unwrap();
            let Body::Many(whole) = &verifying.0.body else {
                panic!("the frame is kept, and what it was read into")
            };
            assert_eq!(whole.capacity(), expected, "the charge is not what is held");
            expected
        });
        let capacities = capacities.collect();
        assert_eq!(&verifying.finish().unwrap()[..], body);
        capacities
    }

    #[test]
    fn a_buffer_grows_with_the_body_up_to_its_announced_or_allowed_length() {
        let verifier = Verifier::dangerously_accept_unauthenticated().max_body(100_000);
        let body = vec![b'x'; 100_000];
        let announcing = |length: usize| HeaderMap::from_iter([(CONTENT_LENGTH, length.into())]);
        assert_eq!(
            capacities(&verifier, &announcing(2000), &body[..2000], 100).last(),
            Some(&2000)
        );
        for headers in [
            announcing(100_000),
            announcing(usize::MAX),
            HeaderMap::new(),
        ] {
            let capacities = capacities(&verifier, &headers, &body, 1000);
            assert_eq!(capacities.last(), Some(&100_000));
            for (at, &capacity) in capacities.iter().enumerate() {
                let come = (at + 1) * 1000;
                assert!(
                    capacity >= come && capacity <= (2 * come).max(FIRST_BUFFER),
                    "{capacity} for {come} bytes"
                );
            }
        }
        // More arrived than was announced.
        assert_eq!(
            capacities(&verifier, &announcing(1500), &body, 1000).last(),
            Some(&100_000)
        );
    }

    #[test]
    fn a_frame_that_is_the_whole_body_is_kept_without_a_copy() {
        let frame = Bytes::from_static(BODY);
        for length in [None, Some(BODY.len())] {
            let headers = length
                .map(|length| (CONTENT_LENGTH, length.into()))
                .into_iter()
                .collect();
            let mut verifying = Verifier::dangerously_accept_unauthenticated()
                .begin(&headers)
                .unwrap();
            verifying.update(frame.clone()).unwrap();
            assert_eq!(verifying.finish().unwrap().as_ptr(), frame.as_ptr());
        }
    }

    #[test]
    fn a_body_over_the_cap_is_refused_at_the_frame_that_crosses_it() {
        let verifier = Verifier::dangerously_accept_unauthenticated().max_body(4);
        let mut verifying = verifier.begin(&HeaderMap::new()).unwrap();
        verifying.update(Bytes::from_static(b"1234")).unwrap();
        assert_eq!(
            verifying.update(Bytes::from_static(b"5")).unwrap_err(),
            VerifyError::TooLarge { limit: 4 }
        );
    }

    #[test]
    fn a_body_that_was_too_large_is_never_verified_by_what_else_comes() {
        for verifier in [
            Verifier::dangerously_accept_unauthenticated(),
            verifier(SignatureScheme::authpi(), ring()),
        ] {
            let headers = SignatureScheme::authpi()
                .sign(&"whs_c2VjcmV0".into(), "", now(), b"12")
                .unwrap();
            let mut verifying = verifier.max_body(4).begin(&headers).unwrap();
            verifying.update(Bytes::from_static(b"12")).unwrap();
            let too_large = VerifyError::TooLarge { limit: 4 };
            assert_eq!(
                verifying.update(Bytes::from_static(b"345")).unwrap_err(),
                too_large
            );
            assert_eq!(
                verifying.update(Bytes::from_static(b"3")).unwrap_err(),
                too_large
            );
            assert_eq!(verifying.finish().unwrap_err(), too_large);
        }
    }

    #[test]
    fn check_reports_an_unusable_secret() {
        let scheme = SignatureScheme::standard_webhooks();
        let ring = KeyRing::new()
            .with("good", "whsec_c2VjcmV0")
            .with("bad", "whsec_!!!");
        let error = Verifier::new(scheme.clone(), ring.clone())
            .check()
            .unwrap_err();
        assert_eq!(error, KeyRingError::NotOfForm { name: "bad".into() });
        assert_eq!(Verifier::authpi(ring.clone()).check(), Ok(()));
        assert_eq!(Verifier::bearer(ring).check(), Ok(()));
    }

    #[test]
    fn no_choice_of_parts_makes_a_scheme_that_refuses_its_own_signatures() {
        use super::super::{Encoding, HeaderFormat, KeyEncoding};
        let (id, timestamp) = (
            HeaderName::from_static("x-id"),
            HeaderName::from_static("x-time"),
        );
        let contents = [
            SignedContent::Body,
            SignedContent::PairedTimestampAndBody,
            SignedContent::TimestampAndBody {
                timestamp: timestamp.clone(),
            },
            SignedContent::IdTimestampAndBody { id, timestamp },
        ];
        for content in contents {
            for header_format in [HeaderFormat::List, HeaderFormat::Pairs] {
                for encoding in [Encoding::Hex, Encoding::Base64, Encoding::HexOrBase64] {
                    let scheme = SignatureScheme::authpi()
                        .content(content.clone())
                        .header_format(header_format);
                    let scheme = scheme
                        .encoding(encoding)
                        .key(KeyEncoding::Base64AfterPrefix);
                    let headers = signed(&scheme, "whs_c2VjcmV0");
                    assert!(
                        verifier(scheme.clone(), ring())
                            .verify(&headers, BODY)
                            .is_ok(),
                        "{scheme:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn having_no_secret_is_our_fault_even_when_the_sender_is_wrong_too() {
        let past = now() - jiff::SignedDuration::from_secs(1);
        let rings = [
            KeyRing::new(),
            KeyRing::new().with_during("gone", "whs_c2VjcmV0", ..past),
        ];
        for ring in rings {
            for verifier in [
                verifier(SignatureScheme::authpi(), ring.clone()),
                Verifier::bearer(ring).clock(Clock::from_fn(now)),
            ] {
                assert_eq!(
                    verifier.verify(&HeaderMap::new(), BODY).unwrap_err(),
                    VerifyError::NoUsableSecret
                );
            }
        }
        let not_base64 = KeyRing::new().with("bad", "whsec_!!!");
        let verifier = verifier(SignatureScheme::standard_webhooks(), not_base64);
        assert_eq!(
            verifier.verify(&HeaderMap::new(), BODY).unwrap_err(),
            VerifyError::NoUsableSecret
        );
    }

    #[test]
    fn secrets_can_be_replaced_while_running() {
        let scheme = SignatureScheme::authpi();
        let keys = KeyRing::new().with("old", "old");
        let verifier = verifier(scheme.clone(), keys.clone());
        assert_eq!(
            verifier.verify(&signed(&scheme, "new"), BODY).unwrap_err(),
            VerifyError::Mismatch
        );
        keys.replace(&KeyRing::new().with("new", "new")).unwrap();
        assert_eq!(
            verifier
                .verify(&signed(&scheme, "new"), BODY)
                .unwrap()
                .key_name(),
            Some("new")
        );
        assert_eq!(
            verifier.verify(&signed(&scheme, "old"), BODY).unwrap_err(),
            VerifyError::Mismatch
        );
    }

    #[test]
    fn bearer_and_signature_are_both_needed_where_both_are_asked_for() {
        let scheme = SignatureScheme::authpi();
        let verifier =
            verifier(scheme.clone(), ring()).and_bearer(KeyRing::new().with("token", "t0k3n"));
        let mut headers = signed(&scheme, "whs_c2VjcmV0");
        assert_eq!(
            verifier.verify(&headers, BODY).unwrap_err(),
            VerifyError::Missing {
                header: AUTHORIZATION
            }
        );
        headers.insert(AUTHORIZATION, "Bearer t0k3".parse().unwrap());
        assert_eq!(
            verifier.verify(&headers, BODY).unwrap_err(),
            VerifyError::Mismatch
        );
        headers.insert(AUTHORIZATION, "Basic t0k3n".parse().unwrap());
        assert_eq!(
            verifier.verify(&headers, BODY).unwrap_err(),
            VerifyError::Malformed {
                header: AUTHORIZATION
            }
        );
        headers.insert(AUTHORIZATION, "bearer t0k3n".parse().unwrap());
        assert_eq!(
            verifier.verify(&headers, BODY).unwrap().key_name(),
            Some("only")
        );
    }

    #[test]
    fn debug_of_a_verifier_shows_no_secret() {
        let shown = format!(
            "{:?}",
            verifier(SignatureScheme::authpi(), ring()).and_bearer(ring())
        );
        assert!(
            shown.contains("only") && !shown.contains("c2VjcmV0"),
            "{shown}"
        );
    }
}
