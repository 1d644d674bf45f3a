//! Repeated calls.

use std::{sync::Arc, time::Duration};

use authpi_emulator::Emulator;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    Answer, Authpi,
    endpoint::{Endpoint, Reply},
    ids,
};

fn webhook(name: &str) -> Value {
    json!({"name": name, "url": "http://127.0.0.1:9/", "auth": {"type": "signature"}, "events": ["user.created"]})
}

async fn create(authpi: &Authpi, key: &str, body: &Value) -> Answer {
    Answer::of(
        authpi
            .request(Method::POST, "/webhooks")
            .header("idempotency-key", key)
            .json(body),
    )
    .await
}

#[tokio::test]
async fn the_same_call_is_done_once_and_answered_again_for_24_hours() {
    let authpi = Authpi::at_noon(Emulator::builder()).await;
    let first = create(&authpi, "k", &webhook("n")).await;
    assert_eq!(
        (first.status, first.header("idempotent-replayed")),
        (StatusCode::CREATED, "")
    );
    authpi
        .emulator
        .clock()
        .advance(Duration::from_hours(24) - Duration::from_millis(1));
    let again = create(&authpi, "k", &webhook("n")).await;
    assert_eq!(
        (again.status, again.header("idempotent-replayed")),
        (StatusCode::CREATED, "true")
    );
    assert_eq!(
        (again.etag(), &again.body),
        (first.etag(), &first.body),
        "one-time secrets included"
    );
    authpi.emulator.clock().advance(Duration::from_millis(1));
    let new = create(&authpi, "k", &webhook("n")).await;
    assert_ne!(new.body["data"]["id"], first.body["data"]["id"]);
    assert_eq!(ids(&authpi.get("/webhooks").await.body).len(), 2);
}

#[tokio::test]
async fn a_key_belongs_to_one_path_and_body() {
    let authpi = Authpi::start().await;
    let made = create(&authpi, "k", &webhook("n"))
        .await
        .expect(StatusCode::CREATED);
    let other = create(&authpi, "k", &webhook("other")).await;
    assert_eq!(other.refused(422, "invalid_request"), ["Idempotency-Key"]);
    let path = format!(
        "/webhooks/{}/redeliver",
        made["data"]["id"].as_str().unwrap()
    );
    let elsewhere = authpi
        .request(Method::POST, &path)
        .header("idempotency-key", "k")
        .json(&webhook("n"));
    Answer::of(elsewhere).await.refused(422, "invalid_request");
    create(&authpi, "l", &webhook("n"))
        .await
        .expect(StatusCode::CREATED);
    assert_eq!(ids(&authpi.get("/webhooks").await.body).len(), 2);
}

#[tokio::test]
async fn a_call_that_failed_frees_its_key() {
    let authpi = Authpi::start().await;
    create(&authpi, "k", &json!({"name": "n"}))
        .await
        .refused(422, "invalid_request");
    create(&authpi, "k", &webhook("n"))
        .await
        .expect(StatusCode::CREATED);
    assert_eq!(
        create(&authpi, &"k".repeat(257), &webhook("n"))
            .await
            .refused(400, "invalid_request"),
        ["Idempotency-Key"]
    );
}

#[tokio::test]
async fn an_answer_over_512_kb_is_replayed_without_its_body() {
    let authpi = Authpi::start().await;
    let mut body = webhook("n");
    body["metadata"] = json!({"long": "x".repeat(600 * 1024)});
    create(&authpi, "k", &body)
        .await
        .expect(StatusCode::CREATED);
    let again = create(&authpi, "k", &body).await;
    assert_eq!(
        (again.status, again.body),
        (StatusCode::CREATED, Value::Null)
    );
}

#[tokio::test]
async fn an_update_takes_a_key_too() {
    let authpi = Authpi::start().await;
    let (id, _) = authpi
        .webhook("http://127.0.0.1:9/", &["user.created"])
        .await;
    let update = || {
        let request = authpi.request(Method::PATCH, &format!("/webhooks/{id}"));
        request
            .header("idempotency-key", "k")
            .json(&json!({"auth": {"type": "signature"}}))
    };
    let first = Answer::of(update()).await;
    let again = Answer::of(update()).await;
    assert_eq!(
        (again.header("idempotent-replayed"), &again.body),
        ("true", &first.body)
    );
}

#[tokio::test]
async fn a_call_whose_caller_hangs_up_goes_on_and_is_answered_to_the_next_one() {
    let (authpi, endpoint) = (Authpi::start().await, Endpoint::start().await);
    let (id, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.deliveries_settled().await;
    let path = format!(
        "/webhooks/{id}/deliveries/{}/redeliver",
        authpi.delivery(&id).await["id"].as_str().unwrap()
    );
    let redeliver = || {
        authpi
            .request(Method::POST, &path)
            .header("idempotency-key", "k")
    };

    let go = Arc::new(Notify::new());
    endpoint.then([Reply::HoldUntil(Arc::clone(&go))]);
    tokio::select! {
        answer = Answer::of(redeliver()) => panic!("the call did not wait for the receiver: {answer:?}"),
        () = endpoint.until(2) => {}
    }
    let meanwhile = Answer::of(redeliver()).await;
    meanwhile.refused(409, "conflict");
    assert_eq!(
        (
            meanwhile.header("retry-after"),
            &meanwhile.body["retryable"]
        ),
        ("1", &json!(true))
    );
    go.notify_one();
    authpi.emulator.deliveries_settled().await;
    // The attempt has ended; its call is answered shortly after.
    let again = loop {
        let again = Answer::of(redeliver()).await;
        if again.status != StatusCode::CONFLICT {
            break again;
        }
    };
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.expect(StatusCode::OK)["data"]["attempt_count"], 2);
    assert_eq!(
        endpoint.received().len(),
        2,
        "the repeated call sent another delivery"
    );
}
