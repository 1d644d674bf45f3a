//! Arbitrary deliveries: none is accepted as authentic, none causes a panic, and a signed one is
//! authentic however it is split into frames.
#![no_main]

use arbitrary::Arbitrary;
use authpi_sdk::{
    Clock,
    signature::{KeyRing, Secret, SignatureScheme, Verifier, VerifyError, diagnose},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const LIMIT: usize = 4096;

#[derive(Arbitrary, Debug)]
struct Delivery {
    scheme: Scheme,
    /// Seconds since 1970.
    now: u32,
    headers: Vec<(Header, Vec<u8>)>,
    frames: Vec<Vec<u8>>,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Scheme {
    Authpi,
    Timestamped,
    StandardWebhooks,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Header {
    XWebhookSignature,
    WebhookSignature,
    WebhookTimestamp,
    WebhookId,
    Authorization,
    ContentLength,
}

impl Header {
    fn name(self) -> HeaderName {
        HeaderName::from_static(match self {
            Self::XWebhookSignature => "x-webhook-signature",
            Self::WebhookSignature => "webhook-signature",
            Self::WebhookTimestamp => "webhook-timestamp",
            Self::WebhookId => "webhook-id",
            Self::Authorization => "authorization",
            Self::ContentLength => "content-length",
        })
    }
}

fn verify(verifier: &Verifier, headers: &HeaderMap, frames: &[Vec<u8>]) -> Result<(), VerifyError> {
    let mut verifying = verifier.begin(headers)?;
    for frame in frames {
        verifying.update(Bytes::copy_from_slice(frame))?;
    }
    verifying.finish().map(drop)
}

fuzz_target!(|delivery: Delivery| {
    let Ok(now) = Timestamp::from_second(delivery.now.into()) else {
        return;
    };
    let scheme = match delivery.scheme {
        Scheme::Authpi => SignatureScheme::authpi(),
        Scheme::Timestamped => SignatureScheme::timestamped(),
        Scheme::StandardWebhooks => SignatureScheme::standard_webhooks(),
    };
    let secret = Secret::new(SECRET);
    let verifier = Verifier::new(scheme.clone(), KeyRing::new().with("only", secret.clone()))
        .max_body(LIMIT)
        .clock(Clock::from_fn(move || now));
    let body = delivery.frames.concat();

    let mut headers = HeaderMap::new();
    for (header, value) in &delivery.headers {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(header.name(), value);
        }
    }
    assert!(
        verify(&verifier, &headers, &delivery.frames).is_err(),
        "a forged delivery is authentic"
    );
    let _ = diagnose(&headers, &body, &secret);
    let _ = verifier.diagnose(&headers, &body);

    let signed = scheme
        .sign(&secret, "evt_1", now, &body)
        .expect("the secret is valid in every scheme, and the id in a header");
    let answer = verify(&verifier, &signed, &delivery.frames);
    if body.len() > LIMIT {
        assert_eq!(answer, Err(VerifyError::TooLarge { limit: LIMIT }));
    } else {
        assert_eq!(answer, Ok(()));
    }
});
