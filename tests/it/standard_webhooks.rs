//! Our `standard_webhooks` preset and the `standardwebhooks` package agree, in both directions.

use authpi_sdk::{
    signature::{KeyRing, Secret, SignatureScheme, Verifier},
    testing::Fixture,
};
use http::HeaderMap;
use jiff::Timestamp;
use standardwebhooks::Webhook;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[test]
fn signatures_of_the_package_and_ours_verify_each_other() {
    let peer = Webhook::new(SECRET).unwrap();
    let body = Fixture::new("user.created").body();
    let now = Timestamp::now();

    let mut theirs = HeaderMap::new();
    theirs.insert("webhook-id", "msg_1".parse().unwrap());
    theirs.insert("webhook-timestamp", now.as_second().into());
    theirs.insert(
        "webhook-signature",
        peer.sign("msg_1", now.as_second(), &body)
            .unwrap()
            .parse()
            .unwrap(),
    );
    let verifier = Verifier::new(
        SignatureScheme::standard_webhooks(),
        KeyRing::new().with("k", SECRET),
    );
    assert!(verifier.verify(&theirs, body.clone()).is_ok());

    let ours = SignatureScheme::standard_webhooks()
        .sign(&Secret::new(SECRET), "msg_1", now, &body)
        .unwrap();
    assert!(peer.verify(&body, &ours).is_ok());

    theirs.insert("webhook-id", "msg_2".parse().unwrap());
    assert!(
        verifier.verify(&theirs, body).is_err(),
        "the id is not covered by the signature"
    );
}
