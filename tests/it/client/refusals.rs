//! Error responses.

use std::time::Duration;

use authpi_sdk::client::{Error, ErrorCode};

use super::{
    peer::{Peer, Reply},
    shown, spec,
};

async fn created(reply: Reply) -> Error {
    let peer = Peer::replying(reply).await;
    let error = peer
        .client()
        .webhooks()
        .create(&spec())
        .await
        .expect_err("the call fails");
    assert_eq!(peer.asked().len(), 1, "the call is sent once");
    assert_eq!(error.operation(), Some("webhooks.create"));
    assert!(!shown(&error).contains("very_secret"), "{}", shown(&error));
    error
}

#[tokio::test]
async fn a_gateways_html_error_keeps_status_and_headers_and_is_not_logged() {
    let headers = [
        ("content-type", "text/html"),
        ("cf-ray", "abc"),
        ("set-cookie", "s=very_secret"),
    ];
    let error = created(Reply::new(502, &headers, "<html>very_secret</html>")).await;
    assert_eq!(error.status().unwrap(), 502);
    assert!(error.is_server_error() && error.may_have_run());
    assert_eq!(error.headers().unwrap()["cf-ray"], "abc");
    assert_eq!(error.body(), Some("<html>very_secret</html>"));
    assert_eq!(error.code(), None);
}

#[tokio::test]
async fn an_empty_429_keeps_its_retry_after() {
    let error = created(Reply::new(429, &[("retry-after", "17")], "")).await;
    assert!(error.is_rate_limited() && !error.may_have_run());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(17)));
    assert_eq!(error.body(), None);
}

#[tokio::test]
async fn the_wait_that_the_body_asks_for_goes_before_the_headers() {
    let body = r#"{"error":"rate_limited","error_description":"slow down","retryable":true,"retry_after":3}"#;
    let error = created(Reply::new(429, &[("retry-after", "17")], body)).await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
    assert_eq!(error.retryable(), Some(true));
    assert_eq!(error.code().unwrap().as_str(), "rate_limited");
}

#[tokio::test]
async fn a_wrong_request_says_which_members_are_wrong() {
    let body = r#"{"error":"invalid_request","error_description":"no good","retryable":false,"reference":"req_9",
        "fields":[{"field":"url","code":"invalid_url","message":"must be absolute"}]}"#;
    for status in [400, 422] {
        let error = created(Reply::json(status, body)).await;
        assert!(error.is_validation() && !error.may_have_run());
        assert_eq!(error.code(), Some(&ErrorCode::InvalidRequest));
        assert_eq!(error.description(), Some("no good"));
        assert_eq!(error.reference(), Some("req_9"));
        assert_eq!(error.fields()[0].field, "url");
    }
}

#[tokio::test]
async fn each_refusal_has_its_predicate() {
    type Predicate = fn(&Error) -> bool;
    let cases: [(u16, Predicate); 8] = [
        (400, Error::is_validation),
        (401, Error::is_unauthorized),
        (403, Error::is_forbidden),
        (404, Error::is_not_found),
        (409, Error::is_conflict),
        (412, Error::is_precondition_failed),
        (429, Error::is_rate_limited),
        (503, Error::is_server_error),
    ];
    for (status, _) in cases {
        let error = created(Reply::new(status, &[], "")).await;
        let holding: Vec<_> = cases
            .iter()
            .filter(|(_, predicate)| predicate(&error))
            .map(|(status, _)| *status)
            .collect();
        assert_eq!(holding, [status]);
        assert!(!error.is_timeout() && !error.is_connect() && !error.is_malformed_response());
    }
}

#[tokio::test]
async fn a_412_tells_the_present_etag_in_both_spellings() {
    for name in ["current_etag", "currentETag"] {
        let body = format!(
            r#"{{"error":"precondition_failed","error_description":"stale","{name}":"\"1709\""}}"#
        );
        let error = created(Reply::json(412, &body)).await;
        assert_eq!(error.current_etag().unwrap().as_str(), "\"1709\"");
    }
}

#[tokio::test]
async fn a_redirect_is_an_error_and_the_credential_goes_nowhere_else() {
    let elsewhere = Peer::replying(Reply::json(200, "{}")).await;
    for status in [301, 302, 303, 307, 308] {
        let error = created(Reply::new(status, &[("location", &elsewhere.base_url)], "")).await;
        assert!(error.is_redirect(), "{error}");
        assert!(error.to_string().contains("base URL"), "{error}");
    }
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn headers_that_are_not_ascii_are_no_panic() {
    let mut reply =
        b"HTTP/1.1 429 Whatever\r\ncontent-length: 0\r\nretry-after: \xff\xfe\r\netag: \"\xe9\"\r\nx: \xf0\r\n\r\n"
            .to_vec();
    let error = created(Reply::Bytes(reply.clone())).await;
    assert_eq!(error.retry_after(), None);
    assert_eq!(error.headers().unwrap()["x"].as_bytes(), b"\xf0");
    reply.splice(9..12, *b"200");
    assert!(created(Reply::Bytes(reply)).await.is_malformed_response());
}
