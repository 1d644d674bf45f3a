//! Deliveries: what arrives, when it is retried, and what is recorded.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use authpi_emulator::{Builder, Emulator, EmulatorClock, LogLine, NewEvent};
use authpi_sdk::{
    Clock,
    signature::{KeyRing, Secret, SignatureScheme, Verifier},
};
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    Answer, Authpi, NOON,
    endpoint::{Endpoint, Received, Reply},
    ids,
};

fn seconds(seconds: &[u64]) -> Vec<Duration> {
    seconds.iter().copied().map(Duration::from_secs).collect()
}

fn at(clock: &EmulatorClock) -> Clock {
    let clock = clock.clone();
    Clock::from_fn(move || clock.now())
}

#[tokio::test]
async fn a_delivery_is_the_envelope_of_authpis_guide() {
    let (authpi, endpoint) = (
        Authpi::at_noon(Emulator::builder()).await,
        Endpoint::start().await,
    );
    let (webhook_id, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    let event = NewEvent::new("user.created")
        .subject(json!({"user_id": "usr_1"}))
        .data(json!({"id": "usr_1"}));
    let event = authpi.emulator.trigger(event).await.unwrap();
    authpi.emulator.deliveries_settled().await;
    let received = endpoint.received().remove(0);
    let mut envelope = received.envelope();
    assert!(
        envelope["id"]
            .take()
            .as_str()
            .is_some_and(|id| id.len() == 36)
    );
    assert_eq!(
        envelope,
        json!({
            "id": null,
            "specversion": "1.0",
            "source": format!("com.authpi.webhooks/v1/{webhook_id}"),
            "type": "event",
            "datacontenttype": "application/json",
            "time": "2025-11-23T12:00:00Z",
            "data": {
                "id": event.id, "type": "user.created", "trace": event.trace, "source": "com.authpi/v1",
                "subject": {"user_id": "usr_1"}, "data": {"id": "usr_1"},
            },
        })
    );
    assert_eq!(received.headers["content-type"], "application/json");
}

#[tokio::test]
async fn a_delivery_proves_its_origin_as_its_webhook_asks_under_every_scheme() {
    for scheme in ["authpi", "timestamped", "standard-webhooks"] {
        let scheme: SignatureScheme = scheme.parse().unwrap();
        let authpi = Authpi::at_noon(Emulator::builder().signature_scheme(scheme.clone())).await;
        for (kind, signature, bearer) in [
            ("none", false, false),
            ("bearer", false, true),
            ("signature", true, false),
            ("bearer+signature", true, true),
        ] {
            let endpoint = Endpoint::start().await;
            let body = json!({"name": kind, "url": endpoint.url, "auth": {"type": kind}, "events": ["email.sent"]});
            let made = authpi
                .post("/webhooks", &body)
                .await
                .expect(StatusCode::CREATED);
            authpi.emulator.trigger("email.sent").await.unwrap();
            authpi.emulator.deliveries_settled().await;
            let received = endpoint.received().remove(0);

            let secret =
                |name: &str| Secret::new(made["data"]["auth"][name].as_str().unwrap_or_default());
            let ring = |secret| KeyRing::new().with("test", secret);
            let signed = Verifier::new(scheme.clone(), ring(secret("signature_secret_plain")))
                .clock(at(authpi.emulator.clock()));
            let bears = Verifier::bearer(ring(secret("bearer_token_plain")));
            let passes = |verifier: Verifier| {
                verifier
                    .verify(&received.headers, received.body.clone())
                    .is_ok()
            };
            assert_eq!(
                (passes(signed), passes(bears)),
                (signature, bearer),
                "{kind} {scheme:?}"
            );
        }
    }
}

#[tokio::test]
async fn only_the_events_and_subjects_that_a_webhook_names_reach_it() {
    let (authpi, endpoint) = (Authpi::start().await, Endpoint::start().await);
    let body = json!({
        "name": "n", "url": endpoint.url, "events": ["user.created", "user.deleted"], "subjects": [{"issuer_id": "i_1"}],
    });
    authpi
        .post("/webhooks", &body)
        .await
        .expect(StatusCode::CREATED);
    for (event_type, issuer) in [
        ("user.created", "i_1"),
        ("user.updated", "i_1"),
        ("user.created", "i_2"),
        ("user.deleted", "i_1"),
    ] {
        let event =
            NewEvent::new(event_type).subject(json!({"issuer_id": issuer, "user_id": "usr_1"}));
        authpi.emulator.trigger(event).await.unwrap();
        authpi.emulator.deliveries_settled().await;
    }
    let received: Vec<_> = endpoint
        .received()
        .iter()
        .map(super::endpoint::Received::event_type)
        .collect();
    assert_eq!(received, ["user.created", "user.deleted"]);
}

#[tokio::test]
async fn a_webhook_hears_of_other_webhooks_and_not_of_itself() {
    let (authpi, endpoint) = (Authpi::start().await, Endpoint::start().await);
    let (own, _) = authpi
        .webhook(
            &endpoint.url,
            &["webhook.created", "webhook.updated", "webhook.deleted"],
        )
        .await;
    authpi
        .patch(&format!("/webhooks/{own}"), &json!({"name": "renamed"}))
        .await
        .expect(StatusCode::OK);
    let (other, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    authpi.emulator.deliveries_settled().await;
    let about: Vec<_> = endpoint
        .received()
        .iter()
        .map(|received| received.envelope()["data"]["subject"]["webhook_id"].clone())
        .collect();
    assert_eq!(about, [json!(other)]);
}

#[tokio::test]
async fn copies_are_deliveries_of_the_same_event_in_envelopes_of_their_own() {
    let (authpi, endpoint) = (Authpi::start().await, Endpoint::start().await);
    let (id, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    authpi
        .emulator
        .trigger(NewEvent::new("user.created").copies(3))
        .await
        .unwrap();
    authpi.emulator.deliveries_settled().await;
    let envelopes: Vec<_> = endpoint
        .received()
        .iter()
        .map(super::endpoint::Received::envelope)
        .collect();
    assert_eq!(envelopes.len(), 3);
    assert!(
        envelopes
            .iter()
            .all(|envelope| envelope["data"] == envelopes[0]["data"])
    );
    assert_ne!(envelopes[0]["id"], envelopes[1]["id"]);
    let page = authpi
        .get(&format!("/webhooks/{id}/deliveries"))
        .await
        .expect(StatusCode::OK);
    assert_eq!(ids(&page).len(), 3);
}

#[tokio::test]
async fn a_retry_is_sent_when_due_with_the_same_bytes_and_a_new_signature() {
    let scheme = SignatureScheme::timestamped();
    let builder = Emulator::builder()
        .retry_delays(seconds(&[5, 60]))
        .signature_scheme(scheme.clone());
    let (authpi, endpoint) = (Authpi::at_noon(builder).await, Endpoint::start().await);
    endpoint.then([Reply::Status(500), Reply::Status(503)]);
    let (id, secret) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    authpi.emulator.trigger("user.created").await.unwrap();
    for (attempts, next, advance) in [
        (1, Some(NOON + 5_000), 5),
        (2, Some(NOON + 65_000), 60),
        (3, None, 0),
    ] {
        authpi.emulator.deliveries_settled().await;
        assert_eq!(endpoint.received().len(), attempts);
        let delivery = authpi.delivery(&id).await;
        assert_eq!(
            (&delivery["attempt_count"], &delivery["next_attempt_at"]),
            (&json!(attempts), &json!(next))
        );
        assert_eq!(delivery["first_attempted_at"], NOON);
        assert_eq!(delivery["attempt_budget"], 3);
        authpi
            .emulator
            .clock()
            .advance(Duration::from_secs(advance).saturating_sub(Duration::from_millis(1)));
        authpi.emulator.deliveries_settled().await;
        assert_eq!(
            endpoint.received().len(),
            attempts,
            "an attempt came too early"
        );
        authpi.emulator.clock().advance(Duration::from_millis(1));
    }
    let delivery = authpi.delivery(&id).await;
    assert_eq!(
        (&delivery["status"], &delivery["last_error"]),
        (&json!("succeeded"), &Value::Null)
    );
    assert_eq!(
        (
            &delivery["last_response_status"],
            &delivery["last_attempted_at"]
        ),
        (&json!(200), &json!(NOON + 65_000))
    );
    let received = endpoint.received();
    let sent_at = [NOON, NOON + 5_000, NOON + 65_000];
    for (received, sent_at) in received.iter().zip(sent_at) {
        assert_eq!(received.body, endpoint.received()[0].body);
        let clock = Clock::from_fn(move || Timestamp::from_millisecond(sent_at).unwrap());
        let exactly_now = scheme.clone().tolerance(Duration::from_secs(1));
        let verifier =
            Verifier::new(exactly_now, KeyRing::new().with("test", secret.as_str())).clock(clock);
        assert!(
            verifier
                .verify(&received.headers, received.body.clone())
                .is_ok()
        );
    }
}

#[tokio::test]
async fn only_200_is_a_receipt_and_redirects_are_not_followed() {
    let elsewhere = Endpoint::start().await;
    for (reply, status) in [
        (Reply::Status(201), 201),
        (Reply::Status(202), 202),
        (Reply::Status(204), 204),
        (Reply::Status(404), 404),
        (Reply::Redirect(elsewhere.url.clone()), 302),
    ] {
        let (authpi, endpoint) = (
            Authpi::with(Emulator::builder().retry_delays([])).await,
            Endpoint::start().await,
        );
        endpoint.then([reply]);
        let (id, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
        authpi.emulator.trigger("user.created").await.unwrap();
        authpi.emulator.deliveries_finished().await;
        let delivery = authpi.delivery(&id).await;
        assert_eq!(
            (&delivery["status"], &delivery["last_response_status"]),
            (&json!("failed"), &json!(status))
        );
        let error = delivery["last_error"].as_str().unwrap();
        assert_eq!(
            error,
            format!("the receiver answered {status}; only 200 is a receipt")
        );
        assert!(!delivery.to_string().contains("said by the endpoint"));
    }
    assert_eq!(elsewhere.received().len(), 0, "a redirect was followed");
}

#[tokio::test]
async fn a_delivery_that_gets_no_answer_says_why() {
    let endpoint = Endpoint::start().await;
    endpoint.then([Reply::Never]);
    let hasty = Emulator::builder()
        .retry_delays([])
        .delivery_timeout(Duration::from_millis(50));
    let hasty = Authpi::with(hasty).await;
    let authpi = Authpi::with(
        Emulator::builder()
            .retry_delays([])
            .delivery_timeout(Duration::from_mins(1)),
    )
    .await;
    for (authpi, url, why) in [
        (&hasty, endpoint.url.as_str(), "no answer within 50ms"),
        (&authpi, "http://127.0.0.1:1/", "refused"),
        (&authpi, "https://127.0.0.1:1/", "over plain HTTP only"),
        (
            &authpi,
            "http://192.0.2.1/",
            "allow the host with --allow-host 192.0.2.1",
        ),
        (
            &authpi,
            "http://app:8080/hooks",
            "allow the host with --allow-host app",
        ),
        (&authpi, "https://example.com/hooks", "over plain HTTP only"),
    ] {
        let (id, _) = authpi.webhook(url, &["user.created"]).await;
        authpi.emulator.trigger("user.created").await.unwrap();
        authpi.emulator.deliveries_finished().await;
        let delivery = authpi.delivery(&id).await;
        assert!(
            delivery["last_error"]
                .as_str()
                .is_some_and(|error| error.contains(why)),
            "{url}: {delivery}"
        );
        assert_eq!(
            (&delivery["status"], &delivery["last_response_status"]),
            (&json!("failed"), &Value::Null)
        );
        authpi
            .delete(&format!("/webhooks/{id}"))
            .await
            .expect(StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn a_redelivery_waits_for_its_outcome_and_counts_it() {
    let (authpi, endpoint) = (
        Authpi::at_noon(Emulator::builder().retry_delays(seconds(&[5]))).await,
        Endpoint::start().await,
    );
    endpoint.then([500, 503, 500, 418].map(Reply::Status));
    let (id, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.deliveries_settled().await;
    let delivery = authpi.delivery(&id).await;
    let path = format!(
        "/webhooks/{id}/deliveries/{}/redeliver",
        delivery["id"].as_str().unwrap()
    );
    let redeliver = async |success: bool, attempts: u32, status: &str| {
        let answer = Answer::of(authpi.request(Method::POST, &path)).await;
        assert_eq!(
            answer.etag(),
            format!("\"{}\"", answer.body["data"]["updated_at"])
        );
        let record = answer.expect(StatusCode::OK)["data"].take();
        assert_eq!(
            (
                &record["success"],
                &record["attempt_count"],
                &record["status"]
            ),
            (&json!(success), &json!(attempts), &json!(status)),
            "{record}"
        );
        record
    };
    // A retry is still planned, and remains so.
    let record = redeliver(false, 2, "pending").await;
    assert_eq!(
        (&record["next_attempt_at"], &record["last_response_status"]),
        (&json!(NOON + 5_000), &json!(503))
    );
    authpi.emulator.clock().advance(Duration::from_secs(5));
    authpi.emulator.deliveries_settled().await;
    assert_eq!(authpi.delivery(&id).await["status"], "failed");
    redeliver(false, 4, "failed").await;
    let record = redeliver(true, 5, "succeeded").await;
    assert_eq!(
        (&record["last_error"], &record["next_attempt_at"]),
        (&Value::Null, &Value::Null)
    );
    redeliver(true, 6, "succeeded").await;

    let received = endpoint.received();
    let events: Vec<_> = received
        .iter()
        .map(|received| received.envelope()["data"].clone())
        .collect();
    assert!(
        events.iter().all(|event| *event == events[0]),
        "each attempt carries the same event"
    );
    assert_ne!(
        received[4].envelope()["id"],
        received[5].envelope()["id"],
        "a redelivery is a new envelope"
    );
    assert_eq!(
        received[4].envelope()["time"],
        received[0].envelope()["time"],
        "the time is that of the event"
    );
}

#[tokio::test]
async fn a_redelivery_is_refused_during_an_attempt_or_with_a_stale_etag() {
    let (authpi, endpoint) = (Authpi::start().await, Endpoint::start().await);
    let go = Arc::new(Notify::new());
    endpoint.then([Reply::HoldUntil(Arc::clone(&go))]);
    let (id, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    authpi.emulator.trigger("user.created").await.unwrap();
    endpoint.until(1).await;
    let delivery = authpi.delivery(&id).await;
    let path = format!(
        "/webhooks/{id}/deliveries/{}/redeliver",
        delivery["id"].as_str().unwrap()
    );
    let busy = Answer::of(authpi.request(Method::POST, &path)).await;
    busy.refused(409, "conflict");
    assert_eq!(
        (busy.header("retry-after"), &busy.body["retry_after"]),
        ("1", &json!(1))
    );
    go.notify_one();
    authpi.emulator.deliveries_settled().await;
    let stale = authpi
        .request(Method::POST, &path)
        .header("if-match", "\"1\"");
    Answer::of(stale).await.refused(412, "precondition_failed");
    let etag = format!("\"{}\"", authpi.delivery(&id).await["updated_at"]);
    Answer::of(authpi.request(Method::POST, &path).header("if-match", etag))
        .await
        .expect(StatusCode::OK);
    assert_eq!(endpoint.received().len(), 2);

    let (other, _) = authpi.webhook(&endpoint.url, &["user.deleted"]).await;
    let stranger = path.replace(&id, &other);
    Answer::of(authpi.request(Method::POST, &stranger))
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn failed_deliveries_are_sent_again_in_bulk_and_counted() {
    let builder = Emulator::builder().retry_delays([]).failing_after(100);
    let (authpi, endpoint) = (Authpi::at_noon(builder).await, Endpoint::start().await);
    let (id, _) = authpi
        .webhook(&endpoint.url, &["user.created", "user.deleted"])
        .await;
    endpoint.then([500; 4].map(Reply::Status));
    let mut times = Vec::new();
    for event_type in [
        "user.created",
        "user.deleted",
        "user.created",
        "user.created",
        "user.created",
    ] {
        times.push(authpi.emulator.trigger(event_type).await.unwrap().timestamp);
        authpi.emulator.deliveries_settled().await;
        authpi.emulator.clock().advance(Duration::from_secs(1));
    }
    let path = format!("/webhooks/{id}/redeliver");
    let redeliver =
        async |body: Value| authpi.post(&path, &body).await.expect(StatusCode::OK)["data"].take();
    let counts = |redelivered: u32, succeeded: u32| json!({"redelivered": redelivered, "succeeded": succeeded, "failed": redelivered - succeeded});
    assert_eq!(
        redeliver(json!({"event_type": "user.deleted"})).await,
        counts(1, 1)
    );
    assert_eq!(
        redeliver(json!({"after": times[0], "before": times[3]})).await,
        counts(1, 1)
    );
    endpoint.then([Reply::Status(500)]);
    assert_eq!(redeliver(json!({})).await, counts(2, 1));
    assert_eq!(redeliver(json!({})).await, counts(1, 1));
    assert_eq!(redeliver(json!({})).await, counts(0, 0));
    let answer = authpi.post(&path, &json!({"after": "noon"})).await;
    assert_eq!(answer.refused(422, "invalid_request"), ["after"]);
}

#[tokio::test]
async fn deliveries_are_listed_by_type_status_and_time() {
    let builder = Emulator::builder().retry_delays([]);
    let (authpi, endpoint) = (Authpi::at_noon(builder).await, Endpoint::start().await);
    let (id, _) = authpi
        .webhook(&endpoint.url, &["user.created", "user.deleted"])
        .await;
    endpoint.then([500, 200, 500].map(Reply::Status));
    for event_type in ["user.created", "user.created", "user.deleted"] {
        authpi.emulator.trigger(event_type).await.unwrap();
        authpi.emulator.deliveries_settled().await;
        authpi.emulator.clock().advance(Duration::from_secs(1));
    }
    let path = format!("/webhooks/{id}/deliveries");
    let all = ids(&authpi.get(&path).await.expect(StatusCode::OK));
    for (query, expected) in [
        ("status=failed".to_owned(), vec![0, 2]),
        ("status=succeeded".into(), vec![1]),
        ("status=pending".into(), vec![]),
        ("event_type=user.created".into(), vec![1, 2]),
        ("event_type=user.created&status=failed".into(), vec![2]),
        (format!("after={NOON}"), vec![0, 1]),
        (format!("before={}", NOON + 1_000), vec![2]),
        ("limit=1".into(), vec![0]),
        (format!("limit=1&cursor={}", all[0]), vec![1]),
    ] {
        let page = authpi
            .get(&format!("{path}?{query}"))
            .await
            .expect(StatusCode::OK);
        assert_eq!(
            ids(&page),
            expected
                .iter()
                .map(|n: &usize| all[*n].clone())
                .collect::<Vec<_>>(),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_failing_webhook_recovers_with_the_first_success() {
    let builder = Emulator::builder().retry_delays([]).failing_after(2);
    let (authpi, endpoint, watcher) = (
        Authpi::with(builder).await,
        Endpoint::start().await,
        Endpoint::start().await,
    );
    authpi
        .webhook(&watcher.url, &["webhook.paused", "webhook.resumed"])
        .await;
    let (id, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    endpoint.then([500; 2].map(Reply::Status));
    for _ in 0..2 {
        authpi.emulator.trigger("user.created").await.unwrap();
        authpi.emulator.deliveries_finished().await;
    }
    let path = format!("/webhooks/{id}");
    let failing = authpi.get(&path).await.expect(StatusCode::OK)["data"].take();
    assert_eq!(
        (&failing["status"], &failing["status_by"]),
        (&json!("failing"), &json!("system"))
    );
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.deliveries_finished().await;
    assert_eq!(
        endpoint.received().len(),
        2,
        "a failing webhook got another event"
    );
    authpi
        .post(&format!("{path}/redeliver"), &json!({}))
        .await
        .expect(StatusCode::OK);
    assert_eq!(authpi.get(&path).await.body["data"]["status"], "active");
    authpi.emulator.deliveries_finished().await;
    let reported: Vec<_> = watcher
        .received()
        .iter()
        .map(super::endpoint::Received::event_type)
        .collect();
    assert_eq!(reported, ["webhook.paused", "webhook.resumed"]);
}

#[tokio::test]
async fn a_disabled_webhook_gets_nothing_until_it_is_active_again() {
    let (authpi, endpoint) = (
        Authpi::at_noon(Emulator::builder().retry_delays(seconds(&[5]))).await,
        Endpoint::start().await,
    );
    let (id, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    let path = format!("/webhooks/{id}");
    endpoint.then([Reply::Status(500)]);
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.deliveries_settled().await;
    let change = json!({"status": "disabled", "status_reason": "at night", "status_by": "ops"});
    let disabled = authpi.patch(&path, &change).await.expect(StatusCode::OK)["data"].take();
    assert_eq!(
        (&disabled["status_reason"], &disabled["status_by"]),
        (&json!("at night"), &json!("ops"))
    );
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.clock().advance(Duration::from_secs(5));
    authpi.emulator.deliveries_finished().await;
    assert_eq!(endpoint.received().len(), 1);
    let delivery = authpi.delivery(&id).await;
    assert_eq!(
        (&delivery["status"], &delivery["last_error"]),
        (&json!("failed"), &json!("the webhook is disabled"))
    );
    authpi
        .patch(&path, &json!({"status": "active"}))
        .await
        .expect(StatusCode::OK);
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.deliveries_finished().await;
    assert_eq!(endpoint.received().len(), 2);
}

/// A builder with a log, and the log.
fn logged() -> (Builder, Arc<Mutex<Vec<LogLine>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let builder = Emulator::builder().log({
        let log = Arc::clone(&log);
        move |line| log.lock().unwrap().push(line.clone())
    });
    (builder, log)
}

#[tokio::test]
async fn a_disallowed_host_is_warned_about_once_and_an_allowed_one_is_called() {
    let endpoint = Endpoint::start().await;
    // This machine, under an address other than the loopback address.
    let url = endpoint.url.replace("127.0.0.1", "0.0.0.0");
    let (builder, log) = logged();
    let authpi = Authpi::with(builder.retry_delays([])).await;
    let (id, _) = authpi
        .webhook(&format!("{url}?token=hidden"), &["user.created"])
        .await;
    for _ in 0..2 {
        authpi.emulator.trigger("user.created").await.unwrap();
    }
    authpi.emulator.deliveries_finished().await;
    let lines = std::mem::take(&mut *log.lock().unwrap());
    let [
        LogLine::Warning(warning),
        LogLine::Attempt(first),
        LogLine::Attempt(second),
    ] = &lines[..]
    else {
        panic!("{lines:?}")
    };
    assert!(
        warning.contains(&id) && warning.contains(&url) && warning.contains("--allow-host 0.0.0.0"),
        "{warning}"
    );
    for attempt in [first, second] {
        assert!(
            attempt.contains("user.created evt_") && attempt.contains("--allow-host 0.0.0.0"),
            "{attempt}"
        );
        assert!(
            attempt.ends_with("(attempt 1 of 1, given up)") && !attempt.contains("hidden"),
            "{attempt}"
        );
    }
    let deliveries = authpi
        .get(&format!("/webhooks/{id}/deliveries"))
        .await
        .expect(StatusCode::OK);
    for delivery in deliveries["data"].as_array().unwrap() {
        assert!(
            delivery["last_error"]
                .as_str()
                .unwrap()
                .contains("--allow-host 0.0.0.0"),
            "{delivery}"
        );
    }
    assert_eq!(endpoint.received().len(), 0);

    let (builder, log) = logged();
    let authpi = Authpi::with(builder.allow_host("0.0.0.0")).await;
    let (id, _) = authpi.webhook(&url, &["user.created"]).await;
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.deliveries_finished().await;
    assert_eq!(endpoint.received().len(), 1);
    // An updated webhook also causes a warning.
    let elsewhere = json!({"url": "http://app:8080/"});
    authpi
        .patch(&format!("/webhooks/{id}"), &elsewhere)
        .await
        .expect(StatusCode::OK);
    let lines = std::mem::take(&mut *log.lock().unwrap());
    let [LogLine::Attempt(attempt), LogLine::Warning(warning)] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        attempt.contains(": 200 in ") && warning.contains("--allow-host app"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_retry_is_logged_with_what_comes_next() {
    let (builder, log) = logged();
    let (authpi, endpoint) = (
        Authpi::at_noon(builder.retry_delays(seconds(&[5]))).await,
        Endpoint::start().await,
    );
    endpoint.then([500].map(Reply::Status));
    authpi.webhook(&endpoint.url, &["user.created"]).await;
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.deliveries_settled().await;
    authpi.emulator.clock().advance(Duration::from_secs(5));
    authpi.emulator.deliveries_settled().await;
    let lines: Vec<_> = log
        .lock()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].ends_with("answered 500; only 200 is a receipt (attempt 1 of 2, next in 5s)"),
        "{lines:?}"
    );
    assert!(lines[1].contains(": 200 in "), "{lines:?}");
}

#[tokio::test]
async fn events_are_refused_with_503_while_too_many_deliveries_are_pending() {
    let (builder, log) = logged();
    let authpi = Authpi::with(builder.max_pending(3).retry_delays([])).await;
    let endpoint = Endpoint::start().await;
    let go: Vec<_> = (0..3).map(|_| Arc::new(Notify::new())).collect();
    endpoint.then(go.iter().map(|go| Reply::HoldUntil(Arc::clone(go))));
    authpi.webhook(&endpoint.url, &["user.created"]).await;
    let trigger = async |copies: u32| {
        let request = authpi
            .anonymous(Method::POST, "/_emulator/events")
            .bearer_auth(authpi.emulator.access_token());
        Answer::of(request.json(&json!({"type": "user.created", "copies": copies}))).await
    };
    assert_eq!(
        trigger(2).await.expect(StatusCode::CREATED)["deliveries"],
        2
    );
    assert_eq!(
        trigger(1).await.expect(StatusCode::CREATED)["deliveries"],
        1
    );
    for _ in 0..3 {
        let full = trigger(1).await;
        full.refused(503, "unavailable");
        assert_eq!(
            (full.header("retry-after"), &full.body["retryable"]),
            ("1", &json!(true))
        );
        assert!(
            full.body["error_description"]
                .as_str()
                .unwrap()
                .contains("--max-pending"),
            "{}",
            full.body
        );
    }
    let refused = authpi.emulator.trigger("user.created").await.unwrap_err();
    assert!(
        refused.to_string().contains("Builder::max_pending"),
        "{refused}"
    );
    // Events that need no delivery happen anyway.
    authpi.emulator.trigger("user.deleted").await.unwrap();
    let listed = authpi
        .get("/events?event_types=user.created")
        .await
        .expect(StatusCode::OK);
    assert_eq!(
        ids(&listed).len(),
        2,
        "an event that was refused is in the log"
    );
    let warnings = |log: &[LogLine]| {
        log.iter()
            .filter(|line| matches!(line, LogLine::Warning(_)))
            .count()
    };
    assert_eq!(warnings(&log.lock().unwrap()), 1, "{log:?}");
    for go in go {
        go.notify_one();
    }
    authpi.emulator.deliveries_finished().await;
    assert_eq!(
        trigger(3).await.expect(StatusCode::CREATED)["deliveries"],
        3
    );
    authpi.emulator.deliveries_finished().await;
    assert_eq!(endpoint.received().len(), 6);
}

#[tokio::test]
async fn a_triggered_unknown_type_goes_to_webhooks_with_all_events() {
    let (authpi, endpoint, other) = (
        Authpi::start().await,
        Endpoint::start().await,
        Endpoint::start().await,
    );
    authpi.webhook(&other.url, &["user.created"]).await;
    let all = json!({"name": "all", "url": endpoint.url, "auth": {"type": "none"}});
    let id = authpi
        .post("/webhooks", &all)
        .await
        .expect(StatusCode::CREATED)["data"]["id"]
        .take();
    let event = NewEvent::new("user.teleported").data(json!({"to": "Mars"}));
    let refused = authpi
        .emulator
        .trigger(event.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("--allow-unknown-type") && refused.contains("user."),
        "{refused}"
    );
    let made = authpi
        .emulator
        .trigger(event.allow_unknown_type())
        .await
        .unwrap();
    authpi.emulator.deliveries_finished().await;
    let received = endpoint.received();
    assert_eq!(
        received
            .iter()
            .map(Received::event_type)
            .collect::<Vec<_>>(),
        ["user.teleported"]
    );
    assert_eq!(
        received[0].envelope()["data"]["data"],
        json!({"to": "Mars"})
    );
    assert_eq!(other.received().len(), 0);
    // AuthPI's API shows it like any other.
    let shown = authpi
        .get(&format!("/events/{}", made.id))
        .await
        .expect(StatusCode::OK);
    assert_eq!(shown["data"]["type"], "user.teleported");
    assert!(ids(&authpi.get("/events").await.expect(StatusCode::OK)).contains(&made.id));
    let deliveries = authpi
        .get(&format!("/webhooks/{}/deliveries", id.as_str().unwrap()))
        .await;
    assert_eq!(
        deliveries.expect(StatusCode::OK)["data"][0]["event_type"],
        "user.teleported"
    );
}
