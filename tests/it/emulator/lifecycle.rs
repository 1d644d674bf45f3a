//! Starting and stopping.

use std::{io::ErrorKind, time::Duration};

use authpi_emulator::Emulator;
use reqwest::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    Authpi,
    endpoint::{Endpoint, Reply},
};

#[tokio::test]
async fn it_stops_soon_even_with_open_connections_and_receivers_that_hang() {
    let (authpi, endpoint) = (Authpi::start().await, Endpoint::start().await);
    let (id, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.deliveries_settled().await;
    let path = format!(
        "/webhooks/{id}/deliveries/{}/redeliver",
        authpi.delivery(&id).await["id"].as_str().unwrap()
    );
    endpoint.then([Reply::Never, Reply::Never]);
    authpi.emulator.trigger("user.created").await.unwrap();
    let waiting = tokio::spawn(authpi.request(Method::POST, &path).send());
    endpoint.until(3).await;
    let mut idle = TcpStream::connect(authpi.emulator.address()).await.unwrap();
    timeout(Duration::from_secs(5), authpi.emulator.stop())
        .await
        .expect("the emulator did not stop");
    assert!(
        matches!(idle.read(&mut [0; 1]).await, Ok(0) | Err(_)),
        "an idle connection was left open"
    );
    assert!(
        waiting.await.unwrap().is_err(),
        "a call was answered whose delivery never was"
    );
}

#[tokio::test]
async fn its_address_is_free_when_it_has_stopped() {
    let emulator = Emulator::start().await.unwrap();
    let address = emulator.address();
    let taken = Emulator::builder()
        .listen(address)
        .start()
        .await
        .unwrap_err();
    assert!(taken.to_string().contains(&address.to_string()));
    let cause = std::error::Error::source(&taken)
        .unwrap()
        .downcast_ref::<std::io::Error>()
        .unwrap();
    assert_eq!(cause.kind(), ErrorKind::AddrInUse);
    emulator.stop().await;
    Emulator::builder().listen(address).start().await.unwrap();
}

#[tokio::test]
async fn it_ends_when_it_is_dropped() {
    let emulator = Emulator::start().await.unwrap();
    let mut open = TcpStream::connect(emulator.address()).await.unwrap();
    drop(emulator);
    let closed = timeout(Duration::from_secs(5), open.read(&mut [0; 1]))
        .await
        .expect("the connection was left open");
    assert!(matches!(closed, Ok(0) | Err(_)));
}

#[tokio::test]
async fn each_emulator_has_an_account_and_credentials_of_its_own() {
    let (one, two) = (
        Emulator::start().await.unwrap(),
        Emulator::start().await.unwrap(),
    );
    assert_ne!(one.account_id(), two.account_id());
    assert_ne!(one.key_id(), two.key_id());
    assert_ne!(one.key_secret(), two.key_secret());
    assert_ne!(one.access_token(), two.access_token());
    assert_ne!(one.base_url(), two.base_url());
    for secret in [one.key_secret(), one.access_token()] {
        assert!(!format!("{one:?}").contains(secret), "a secret is in Debug");
    }
}

/// Sends the start of a request only; returns the status and the body of the response.
async fn begin(emulator: &Emulator, request: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(emulator.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    let whole = async {
        loop {
            let read = stream.read(&mut chunk).await.unwrap();
            answer.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8(answer.clone()).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                assert!(read > 0, "it was not answered: {text}");
                continue;
            };
            if let Ok(body) = serde_json::from_str(body) {
                return (head.split(' ').nth(1).unwrap().parse().unwrap(), body);
            }
            assert!(read > 0, "the answer was cut off: {text}");
        }
    };
    timeout(Duration::from_mins(1), whole)
        .await
        .expect("it is never answered")
}

#[tokio::test]
async fn credentials_are_checked_before_a_body_is_read() {
    let emulator = Emulator::start().await.unwrap();
    let account = format!("/v1/accounts/{}", emulator.account_id());
    let mine = format!("authorization: Bearer {}\r\n", emulator.access_token());
    for (method, path, headers, status, error) in [
        (
            "POST",
            format!("{account}/webhooks"),
            "",
            401,
            "unauthorized_client",
        ),
        (
            "POST",
            format!("{account}/webhooks"),
            "authorization: Bearer x\r\n",
            401,
            "unauthorized_client",
        ),
        (
            "POST",
            "/_emulator/events".into(),
            "",
            401,
            "unauthorized_client",
        ),
        (
            "POST",
            "/_emulator/events?account_id=acc_other".into(),
            &mine,
            403,
            "access_denied",
        ),
        (
            "PUT",
            "/_emulator/events".into(),
            "",
            405,
            "invalid_request",
        ),
        (
            "POST",
            "/v1/accounts/acc_other/webhooks".into(),
            &mine,
            403,
            "access_denied",
        ),
        ("POST", "/nowhere".into(), "", 404, "not_found"),
        (
            "POST",
            format!("{account}/webhooks"),
            &format!("{mine}idempotency-key: {}\r\n", "k".repeat(257)),
            400,
            "invalid_request",
        ),
        // After the headers, the announced length is checked: one byte more than the limit is
        // refused before the body is read.
        (
            "POST",
            format!("{account}/webhooks"),
            &mine.replace("\r\n", "\r\ncontent-length: 1048577\r\n"),
            413,
            "invalid_request",
        ),
    ] {
        let length = if headers.contains("content-length") {
            ""
        } else {
            "content-length: 1048576\r\n"
        };
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}{length}\r\n{{");
        let (answered, body) = begin(&emulator, &request).await;
        assert_eq!(
            (answered, &body["error"]),
            (status, &error.into()),
            "{method} {path}: {body}"
        );
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_in_time_is_answered_408() {
    let emulator = Emulator::builder()
        .body_timeout(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    for path in [
        "/_emulator/events".to_owned(),
        format!("/v1/accounts/{}/webhooks", emulator.account_id()),
    ] {
        let token = emulator.access_token();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: 100\r\n\r\n{{"
        );
        let (status, body) = begin(&emulator, &request).await;
        assert_eq!((status, &body["retryable"]), (408, &true.into()), "{body}");
        assert!(
            body["error_description"]
                .as_str()
                .unwrap()
                .contains("within 50ms"),
            "{body}"
        );
    }
}
