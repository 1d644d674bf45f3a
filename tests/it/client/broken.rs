//! No response, half a response, or an unexpected one.

use std::time::{Duration, Instant};

use authpi_sdk::{
    client::{
        AuthType, Client, DeliveryStatus, Error, LoggedEvent, RetryPolicy, WebhookAuth,
        WebhookPatch, WebhookStatus,
    },
    signature::Secret,
};
use tokio::net::TcpListener;

use super::{
    peer::{Peer, Reply},
    shown, spec,
};

/// The timeout of a call without a response.
const SOON: Duration = Duration::from_millis(500);

/// Repeats `attempt` with growing timeouts, until everything has arrived.
async fn until_it_has_come<T>(attempt: impl AsyncFn(Duration) -> Option<T>) -> T {
    for limit in [SOON, 10 * SOON] {
        if let Some(reported) = attempt(limit).await {
            return reported;
        }
    }
    attempt(Duration::from_mins(1))
        .await
        .expect("it comes within a minute")
}

async fn created(reply: Reply) -> Error {
    let peer = Peer::replying(reply).await;
    let error = peer
        .client()
        .webhooks()
        .create(&spec())
        .timeout(Duration::from_secs(10))
        .await;
    let error = error.expect_err("the call fails");
    assert!(!shown(&error).contains("very_secret"), "{}", shown(&error));
    error
}

#[tokio::test]
async fn a_timeout_is_reported_as_one_that_may_have_run() {
    let half = b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{\"da".to_vec();
    for (bytes, status) in [
        (Vec::new(), None),
        (b"HTTP/1.1 2".to_vec(), None),
        (half, Some(201)),
    ] {
        let error = until_it_has_come(async |limit| {
            let peer = Peer::replying(Reply::Stall(bytes.clone())).await;
            let begin = Instant::now();
            let error = peer
                .client()
                .webhooks()
                .create(&spec())
                .timeout(limit)
                .await
                .unwrap_err();
            // For the two short limits, this is less than the client's own timeout of 20 s, so it
            // fails if the call's timeout is ignored.
            assert!(
                begin.elapsed() < limit + Duration::from_secs(14),
                "the deadline was not kept"
            );
            let has_come =
                peer.asked().len() == 1 && error.status().map(|status| status.as_u16()) == status;
            has_come.then_some(error)
        })
        .await;
        assert!(
            error.is_timeout() && !error.is_connect() && error.may_have_run(),
            "{error:?}"
        );
        assert_eq!(error.operation(), Some("webhooks.create"));
    }
}

#[tokio::test]
async fn a_refusal_whose_body_stalls_is_still_known_by_its_status() {
    let stalled =
        b"HTTP/1.1 429 Whatever\r\nretry-after: 9\r\ncontent-length: 100\r\n\r\n{\"error\":"
            .to_vec();
    let peer = Peer::replying(Reply::Stall(stalled)).await;
    let error = until_it_has_come(async |limit| {
        let error = peer
            .client()
            .webhooks()
            .create(&spec())
            .timeout(limit)
            .await
            .unwrap_err();
        error.body().is_some().then_some(error)
    })
    .await;
    assert!(
        error.is_timeout() && error.is_rate_limited() && !error.may_have_run(),
        "{error:?}"
    );
    assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
    assert_eq!(error.body(), Some("{\"error\":"));
}

#[tokio::test]
async fn the_clients_deadline_holds_where_the_call_has_none_of_its_own() {
    let peer = Peer::replying(Reply::Stall(Vec::new())).await;
    let client = peer
        .builder()
        .account("acc_1")
        .timeout(SOON)
        .build()
        .unwrap();
    assert!(client.webhooks().list().await.unwrap_err().is_timeout());
}

#[tokio::test]
async fn a_timeout_during_the_account_lookup_says_that_the_call_did_not_run() {
    let peer = Peer::replying(Reply::Stall(Vec::new())).await;
    let client = peer.builder().build().unwrap();
    let error = client
        .webhooks()
        .create(&spec())
        .timeout(SOON)
        .await
        .unwrap_err();
    assert!(error.is_timeout() && !error.may_have_run(), "{error:?}");
    assert_eq!(error.operation(), Some("me.get"));
    assert!(peer.asked().is_empty());
}

#[tokio::test]
async fn no_connection_means_that_nothing_ran() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    for base_url in [format!("http://{free}"), "http://authpi.invalid".to_owned()] {
        let client = Client::builder()
            .base_url(base_url)
            .allow_plain_http()
            .api_key("key_1", "very_secret")
            .account("acc_1");
        let once = client.retry(RetryPolicy::never()).build().unwrap();
        let error = once.webhooks().create(&spec()).await.unwrap_err();
        assert!(
            error.is_connect() && !error.may_have_run() && error.status().is_none(),
            "{error:?}"
        );
        assert!(
            std::error::Error::source(&error).is_some(),
            "the cause is kept"
        );
        assert!(!shown(&error).contains("very_secret"));
    }
}

#[tokio::test]
async fn an_error_without_an_answer_names_host_and_port_and_no_query() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let stalls = Peer::replying(Reply::Stall(Vec::new())).await;
    let breaks = Peer::replying(Reply::Bytes(Vec::new())).await;
    let long = Duration::from_mins(1);
    for (base_url, reported, timeout) in [
        (
            format!("http://{free}/path"),
            format!("could not connect to {free}"),
            long,
        ),
        (
            "http://authpi.invalid".to_owned(),
            "could not connect to authpi.invalid:80".to_owned(),
            long,
        ),
        (
            stalls.base_url.clone(),
            format!(
                "no complete response from {} in time",
                &stalls.base_url[7..]
            ),
            10 * SOON,
        ),
        (
            breaks.base_url.clone(),
            format!("the connection to {} broke", &breaks.base_url[7..]),
            long,
        ),
    ] {
        let client = Client::builder()
            .base_url(base_url)
            .allow_plain_http()
            .api_key("key_1", "very_secret");
        let once = client
            .account("acc_1")
            .retry(RetryPolicy::never())
            .build()
            .unwrap();
        let error = once
            .webhooks()
            .list()
            .cursor("hidden_cursor")
            .timeout(timeout)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&reported), "{error}");
        assert!(
            !shown(&error).contains("hidden_cursor") && !shown(&error).contains("acc_1"),
            "{}",
            shown(&error)
        );
    }
}

#[tokio::test]
async fn a_tls_handshake_that_fails_means_that_nothing_ran() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("https://{}", listener.local_addr().unwrap());
    let closing = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let client = Client::builder()
        .base_url(base_url)
        .api_key("key_1", "very_secret");
    let error = client
        .retry(RetryPolicy::never())
        .build()
        .unwrap()
        .whoami()
        .await
        .unwrap_err();
    assert!(
        error.is_connect() && !error.may_have_run() && !error.is_timeout(),
        "{error:?}"
    );
    closing.abort();
}

#[tokio::test]
async fn a_tls_handshake_that_stalls_means_that_nothing_ran() {
    // It waits for a plain-text request.
    let peer = Peer::replying(Reply::json(200, "{}")).await;
    let base_url = peer.base_url.replace("http:", "https:");
    let client = peer
        .builder()
        .base_url(base_url)
        .timeout(2 * SOON)
        .build()
        .unwrap();
    let error = client.whoami().await.unwrap_err();
    assert!(
        error.is_timeout() && error.is_connect() && !error.may_have_run(),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_may_have_carried_the_call() {
    for bytes in [
        Vec::new(),
        b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{\"data\"".to_vec(),
        b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{\"da\r\n".to_vec(),
        b"not http at all\r\n\r\n".to_vec(),
    ] {
        let error = created(Reply::Bytes(bytes)).await;
        assert!(
            error.may_have_run() && !error.is_timeout() && !error.is_connect(),
            "{error:?}"
        );
        assert!(
            std::error::Error::source(&error).is_some(),
            "the cause is kept"
        );
    }
}

#[tokio::test]
async fn a_refusal_whose_body_breaks_off_is_still_a_refusal() {
    let error = created(Reply::Bytes(
        b"HTTP/1.1 404 Gone\r\ncontent-length: 100\r\n\r\n{\"error\"".to_vec(),
    ))
    .await;
    assert!(error.is_not_found() && !error.may_have_run(), "{error:?}");
}

#[tokio::test]
async fn a_success_that_is_not_what_is_due_is_malformed_and_may_have_run() {
    for body in [
        "",
        "<html>very_secret</html>",
        "null",
        "[]",
        "\"very_secret\"",
        "{}",
        r#"{"data":null}"#,
        r#"{"data":{"id":"wh_1"}}"#,
        r#"{"data":{"id":"wh_1","account_id":"a","name":["very_secret"],"url":"u","auth":{"type":"none"},"events":[],"created_at":1}}"#,
        r#"{"data":{"id":"wh_1","account_id":"a","name":"n","url":"u","auth":{"type":"signature","signature_algorithm":"very_secret","signature_secret_plain":{"x":"very_secret"}},"events":[],"created_at":1}}"#,
        r#"{"data":{"id":"wh_1","account_id":"a","name":"n","url":"u","auth":{"type":"none"},"events":"very_secret","created_at":"very_secret"}}"#,
        r#"{"id":"wh_1"}"#,
        "{\"data\":",
    ] {
        let error = created(Reply::json(201, body)).await;
        assert!(
            error.is_malformed_response() && error.may_have_run(),
            "{body}: {error:?}"
        );
        assert_eq!(error.status().unwrap(), 201);
        assert_eq!(error.body().unwrap_or_default(), body);
    }
}

#[tokio::test]
async fn a_malformed_answer_names_the_member_that_is_missing() {
    let error = created(Reply::json(201, r#"{"data":{"id":"wh_1"}}"#)).await;
    assert!(error.to_string().contains("account_id"), "{error}");
}

#[tokio::test]
async fn a_replay_without_its_body_says_why() {
    let error = created(Reply::new(201, &[("Idempotent-Replayed", "true")], "")).await;
    assert!(
        error.is_malformed_response() && error.to_string().contains("too large to replay"),
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let megabyte = vec![b' '; 1024 * 1024];
    let error = created(Reply::Endless(
        b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        megabyte.clone(),
    ))
    .await;
    assert!(
        error.is_malformed_response() && error.may_have_run(),
        "{error:?}"
    );
    assert!(error.to_string().contains("8 MiB"), "{error}");
    let refused = created(Reply::Endless(
        b"HTTP/1.1 400 No\r\n\r\n".to_vec(),
        megabyte,
    ))
    .await;
    assert!(
        refused.is_validation() && refused.body().unwrap().len() == 4096,
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_one_time_secret_is_found_under_auth_first_and_else_at_the_top_level() {
    let webhook = |auth: &str, top: &str| {
        format!(
            r#"{{"id":"wh_1","account_id":"a","name":"n","url":"u","auth":{{{auth}}},"events":[],"created_at":1{top}}}"#
        )
    };
    let under = r#""type":"signature","signature_secret_plain":"whs_very_secret""#;
    let top =
        r#","signature_secret_plain":"whs_other_secret","bearer_token_plain":"tok_very_secret""#;
    let cases = [
        (webhook(under, ""), Some("whs_very_secret"), None),
        (
            webhook(under, top),
            Some("whs_very_secret"),
            Some("tok_very_secret"),
        ),
        (
            webhook(r#""type":"bearer+signature""#, top),
            Some("whs_other_secret"),
            Some("tok_very_secret"),
        ),
        // A kind of authentication that this version does not know.
        (
            webhook(
                r#""type":"new","bearer_token_plain":"tok_very_secret","other_plain":"very_secret""#,
                "",
            ),
            None,
            Some("tok_very_secret"),
        ),
        (webhook(r#""type":"none""#, ""), None, None),
        // An unknown secret, and an unknown member that is not one.
        (
            webhook(
                &format!(r#"{under},"other_plain":"very_secret","rotated_at":1"#),
                "",
            ),
            Some("whs_very_secret"),
            None,
        ),
        (
            webhook(
                r#""type":"none","other_plain":"very_secret","rotated_at":1"#,
                "",
            ),
            None,
            None,
        ),
    ];
    for (body, secret, token) in cases {
        // AuthPI's guide shows the bare resource, AuthPI's own SDK an envelope. The client accepts
        // both.
        for body in [
            format!(r#"{{"data":{body}}}"#),
            format!(r#"{{"data":{body},"new":1}}"#),
            body,
        ] {
            let peer = Peer::replying(Reply::json(201, &body)).await;
            let webhooks = peer.client().webhooks();
            let made = webhooks.create(&spec()).await.unwrap();
            assert_eq!(made.secret.as_ref().map(Secret::expose), secret);
            assert_eq!(made.bearer_token.as_ref().map(Secret::expose), token);
            let updated = webhooks
                .update("wh_1", &WebhookPatch::new().name("n"))
                .await
                .unwrap();
            assert_eq!(
                (&updated.secret, &updated.webhook),
                (&made.secret, &made.webhook)
            );

            let shown = format!("{made:?}{made:#?}{updated:?}");
            let kept = serde_json::to_string(&made.webhook).unwrap();
            assert!(
                !shown.contains("very_secret") && !shown.contains("other_secret"),
                "{shown}"
            );
            assert!(
                !kept.contains("very_secret") && !kept.contains("other_secret"),
                "{kept}"
            );
            assert_eq!(
                kept.contains("rotated_at"),
                body.contains("rotated_at"),
                "{kept}"
            );
        }
    }
}

#[tokio::test]
async fn no_secret_is_in_the_debug_output_of_anything_a_user_holds() {
    let body = r#"{"data":{"id":"wh_1","account_id":"a","name":"n","url":"u","auth":{"type":"bearer+signature","signature_secret_plain":"very_secret","bearer_token_plain":"very_secret"},"events":[],"metadata":{"k":"very_secret"},"created_at":1}}"#;
    let peer = Peer::replying(Reply::json(201, body)).await;
    let client = peer.client();
    let call = client.webhooks().create(&spec());
    let shown = format!(
        "{client:?}{:?}{:?}{call:?}{:?}",
        client.webhooks(),
        client.events(),
        call.clone().await.unwrap()
    );
    assert!(!shown.contains("very_secret"), "{shown}");
}

#[tokio::test]
async fn new_values_break_no_list() {
    let webhooks = r#"{"data":[{"id":"wh_1","account_id":"a","status":"quarantined","name":"n","url":"u","auth_type":"mtls","events":["new.type"],"created_at":1,"new":{}}],"has_more":false,"next_cursor":null}"#;
    let peer = Peer::replying(Reply::json(200, webhooks)).await;
    let page = peer.client().webhooks().list().await.unwrap();
    assert_eq!(page.items[0].status.as_str(), "quarantined");
    assert!(matches!(page.items[0].status, WebhookStatus::Unknown(_)));
    assert!(matches!(page.items[0].auth_type, AuthType::Unknown(_)));

    let deliveries = r#"{"data":[{"id":"d_1","webhook_id":"wh_1","event_id":"e","event_type":"new.type","status":"parked","attempt_count":1,"created_at":1}],"has_more":true,"next_cursor":"d_1","invalid_count":2}"#;
    let peer = Peer::replying(Reply::json(200, deliveries)).await;
    let page = peer.client().webhooks().deliveries("wh_1").await.unwrap();
    assert!(matches!(page.items[0].status, DeliveryStatus::Unknown(_)));
    assert_eq!((page.invalid_count, page.next_page()), (2, Some("d_1")));

    let webhook = r#"{"data":{"id":"wh_1","account_id":"a","name":"n","url":"u","status":"new","auth":{"type":"mtls","ca":"x"},"events":["new.type"],"created_at":1}}"#;
    let peer = Peer::replying(Reply::json(200, webhook)).await;
    let webhook = peer.client().webhooks().get("wh_1").await.unwrap().value;
    assert!(
        matches!(&webhook.auth, WebhookAuth::Unknown(other) if other.json().get() == r#"{"type":"mtls","ca":"x"}"#)
    );
}

#[tokio::test]
async fn an_event_of_the_log_reads_back_as_it_was_written() {
    let event = r#"{"spec":"1.0","id":"evt_1","trace":"t","type":"new.type","source":"s","trigger":"x","auth":{"b":1,"a":2},"subject":{"user_id":"u"},"timestamp":1709139600000,"data":{"n":12345678901234567890123}}"#;
    let peer = Peer::replying(Reply::json(200, &format!(r#"{{"data":{event}}}"#))).await;
    let read = peer.client().events().get("evt_1").await.unwrap().value;
    let written = serde_json::to_string(&read).unwrap();
    assert_eq!(written, event);
    assert_eq!(serde_json::from_str::<LoggedEvent>(&written).unwrap(), read);
    // Without an envelope, an event has its own `data`, which is not an envelope. An envelope may
    // get new members.
    for body in [event.to_owned(), format!(r#"{{"new":1,"data":{event}}}"#)] {
        let peer = Peer::replying(Reply::json(200, &body)).await;
        assert_eq!(
            peer.client().events().get("evt_1").await.unwrap().value,
            read
        );
    }
}
