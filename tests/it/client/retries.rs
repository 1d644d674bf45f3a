//! Calls that are retried, and calls that are not.

use std::{
    collections::{HashMap, HashSet},
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use authpi_emulator::Emulator;
use authpi_sdk::{
    Client,
    client::{
        Applied, Error, RetryPolicy, RetryStop, WebhookAuth, WebhookPatch,
        retry::{
            ExponentialBackoff, FailedAttempt, RetryClassifier, RetryReason, TokenBucket, Unlimited,
        },
    },
};
use http::{HeaderName, HeaderValue, header};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use super::{
    peer::{Asked, Peer, Reply},
    shown, spec,
};
use crate::{
    servers::faults::{Fault, Faulty},
    support::log::{Logged, listen},
};

const WEBHOOK: &str = r#"{"data":{"id":"wh_1","account_id":"acc_1","name":"n","url":"https://x","auth":{"type":"signature","signature_secret_plain":"whs_very_secret"},"events":[],"created_at":1}}"#;
const ME: &str = r#"{"data":{"type":"api_key","accounts":[{"account_id":"acc_1","org_id":"o","scopes":[]}],"organizations":[]}}"#;
const NOT_FOUND: &str =
    r#"{"error":"not_found","error_description":"there is no such webhook","retryable":false}"#;
const STALE: &str =
    r#"{"error":"precondition_failed","error_description":"stale","retryable":false}"#;
const IN_FLIGHT: &str = r#"{"error":"conflict","error_description":"in flight","retryable":true}"#;

/// The default policy without pauses.
fn at_once() -> RetryPolicy {
    RetryPolicy::default().backoff(ExponentialBackoff::new(Duration::ZERO, Duration::ZERO))
}

fn client(peer: &Peer) -> Client {
    peer.builder()
        .account("acc_1")
        .retry(at_once())
        .build()
        .unwrap()
}

fn broken() -> Reply {
    Reply::Bytes(Vec::new())
}

fn webhook(name: &str) -> Reply {
    Reply::json(200, &WEBHOOK.replace(r#""n""#, &format!("{name:?}")))
}

#[tokio::test]
async fn every_attempt_at_a_post_carries_the_same_key_and_the_same_body() {
    for own in [None, Some("start-up-17")] {
        let peer = Peer::in_turn([broken(), Reply::new(503, &[], ""), webhook("n")]).await;
        let client = client(&peer);
        let call = client.webhooks().create(&spec());
        let call = if let Some(key) = own {
            call.idempotency_key(key)
        } else {
            call
        };
        call.await.unwrap();
        let asked = peer.asked();
        assert_eq!(asked.len(), 3);
        let key = asked[0].header("idempotency-key").unwrap();
        assert!(own.is_none_or(|own| own == key), "{key}");
        for again in &asked {
            assert_eq!(
                (again.header("idempotency-key"), &again.body),
                (Some(key), &asked[0].body)
            );
        }
    }
}

#[tokio::test]
async fn an_error_tells_the_key_under_which_the_answer_can_still_be_had() {
    let emulator = Emulator::start().await.unwrap();
    let faulty = Faulty::before(emulator.address(), |_, before| {
        if before < 5 {
            Fault::CloseAfter
        } else {
            Fault::None
        }
    })
    .await;
    let builder = Client::builder()
        .base_url(&faulty.base_url)
        .account(emulator.account_id())
        .retry(at_once());
    let client = builder
        .api_key(emulator.key_id(), emulator.key_secret())
        .build()
        .unwrap();
    let error = client.webhooks().create(&spec()).await.unwrap_err();
    assert!(error.may_have_run() && error.attempts() == 5, "{error}");
    let key = error.idempotency_key().expect("a POST has a key");
    let made = client
        .webhooks()
        .create(&spec())
        .idempotency_key(key)
        .await
        .unwrap();
    assert!(made.replayed && made.secret.is_some());
    assert_eq!(client.webhooks().list().await.unwrap().items.len(), 1);
    assert!(
        !shown(&error).contains(key),
        "the key is in the log: {error:?}"
    );
}

#[tokio::test]
async fn a_key_that_was_used_for_another_call_is_an_error_that_says_so() {
    let emulator = Emulator::start().await.unwrap();
    let builder = Client::builder()
        .base_url(emulator.base_url())
        .account(emulator.account_id());
    let client = builder
        .api_key(emulator.key_id(), emulator.key_secret())
        .build()
        .unwrap();
    client
        .webhooks()
        .create(&spec())
        .idempotency_key("k")
        .await
        .unwrap();
    let other = spec().description("other");
    let error = client
        .webhooks()
        .create(&other)
        .idempotency_key("k")
        .await
        .unwrap_err();
    assert!(
        error.is_idempotency_key_reused() && error.attempts() == 1,
        "{error:?}"
    );
    assert!(
        error.to_string().contains("used for another call"),
        "{error}"
    );
    // An invalid body is a different error.
    let wrong = spec().events(["no.such".into()]);
    let error = client
        .webhooks()
        .create(&wrong)
        .idempotency_key("k2")
        .await
        .unwrap_err();
    assert!(
        error.is_validation() && !error.is_idempotency_key_reused(),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_same_call_under_way_is_waited_for_and_another_conflict_is_not() {
    let busy = Reply::new(409, &[("retry-after", "0")], IN_FLIGHT);
    let peer = Peer::in_turn([busy.clone(), busy.clone(), webhook("n")]).await;
    client(&peer).webhooks().create(&spec()).await.unwrap();
    assert_eq!(peer.asked().len(), 3);

    let peer = Peer::replying(Reply::json(409, IN_FLIGHT)).await;
    let error = client(&peer).webhooks().create(&spec()).await.unwrap_err();
    assert_eq!(
        (peer.asked().len(), error.retry_stop()),
        (1, Some(RetryStop::Permanent))
    );
    // Without a key, there is no "same call".
    let peer = Peer::replying(busy).await;
    let call = client(&peer)
        .webhooks()
        .update("wh_1", &WebhookPatch::new())
        .if_match(&"1".parse().unwrap());
    assert_eq!(call.await.unwrap_err().attempts(), 1);
}

#[tokio::test]
async fn no_other_refusal_is_repeated() {
    for status in [
        301, 400, 401, 402, 403, 404, 405, 410, 412, 415, 418, 422, 500, 501,
    ] {
        let peer = Peer::replying(Reply::new(status, &[("retry-after", "0")], "")).await;
        let error = client(&peer).webhooks().create(&spec()).await.unwrap_err();
        assert_eq!(
            (error.attempts(), error.retry_stop()),
            (1, Some(RetryStop::Permanent)),
            "{error}"
        );
        assert_eq!(peer.asked().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn what_is_set_up_wrong_is_not_tried_again_and_a_network_that_is_down_is() {
    // A port without a listener.
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    // A server without TLS, and one with an untrusted certificate.
    let plain = Peer::replying(Reply::json(200, "{}")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let no_tls = format!("https://{}", listener.local_addr().unwrap());
    let answering = tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(
                &mut connection,
                b"HTTP/1.1 400 Bad Request\r\n\r\n",
            )
            .await;
        }
    });
    let unknown = untrusted();
    for (base_url, attempts, why) in [
        (format!("http://{free}"), 5, RetryStop::Attempts),
        (no_tls, 1, RetryStop::Permanent),
        (unknown, 1, RetryStop::Permanent),
    ] {
        let builder = Client::builder()
            .base_url(&base_url)
            .api_key("key_1", "very_secret")
            .account("acc_1");
        let error = builder
            .retry(at_once())
            .build()
            .unwrap()
            .webhooks()
            .create(&spec())
            .await
            .unwrap_err();
        assert!(
            error.is_connect() && !error.may_have_run(),
            "{base_url}: {error:?}"
        );
        assert_eq!(
            (error.attempts(), error.retry_stop()),
            (attempts, Some(why)),
            "{base_url}: {error:?}"
        );
        assert_eq!(error.to_string().contains("TLS"), attempts == 1, "{error}");
        assert!(error.source().is_some() && !shown(&error).contains("very_secret"));
    }
    answering.abort();
    assert!(plain.asked().is_empty());
}

/// A server with a self-signed certificate.
fn untrusted() -> String {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])
        .expect("a certificate can be made");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    // It ends with the process.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a client connects");
            let mut tls =
                rustls::ServerConnection::new(Arc::clone(&config)).expect("the settings are right");
            // Until the client refuses.
            while tls.is_handshaking() && tls.complete_io(&mut connection).is_ok() {}
        }
    });
    base_url
}

#[tokio::test]
async fn each_call_can_have_its_own_policy_deadline_attempt_and_headers() {
    #[derive(Debug)]
    struct Teapots;
    impl RetryClassifier for Teapots {
        fn passes(&self, failed: &FailedAttempt<'_>) -> Option<RetryReason> {
            assert_eq!((failed.operation, failed.keyed), ("webhooks.create", true));
            failed
                .error
                .status()
                .is_some_and(|status| status == 418)
                .then_some(RetryReason::Other)
        }
    }
    let peer = Peer::in_turn([
        Reply::new(418, &[], ""),
        Reply::new(418, &[], ""),
        webhook("n"),
    ])
    .await;
    let policy = at_once().classifier(Teapots);
    let trace = HeaderName::from_static("traceparent");
    let call = peer
        .client()
        .webhooks()
        .create(&spec())
        .retry(policy)
        .header(trace, HeaderValue::from_static("00-1"));
    assert!(
        !format!("{call:?}").contains("00-1"),
        "a header's value may be secret: {call:?}"
    );
    call.await.unwrap();
    assert_eq!(peer.asked().len(), 3);
    assert!(
        peer.asked()
            .iter()
            .all(|asked| asked.header("traceparent") == Some("00-1")),
        "{:?}",
        peer.asked()
    );

    // A call's header is also sent with the requests that the SDK makes for that call (the
    // account's lookup, lists).
    let trace = HeaderName::from_static("traceparent");
    let traced = |asked: &Asked| asked.header("traceparent") == Some("00-1");
    let (me, empty) = (ME, r#"{"data":[],"has_more":false,"next_cursor":null}"#);
    let peer = Peer::answering(move |asked| {
        assert!(traced(asked), "{asked:?}");
        Reply::json(
            200,
            if asked.line.ends_with("/v1/me") {
                me
            } else {
                empty
            },
        )
    })
    .await;
    let failed = peer
        .builder()
        .build()
        .unwrap()
        .webhooks()
        .redeliver_failed("wh_1");
    failed
        .header(trace, HeaderValue::from_static("00-1"))
        .track()
        .await
        .unwrap();
    assert_eq!((peer.asked_who(), peer.asked().len()), (1, 1));

    let peer = Peer::in_turn([Reply::Stall(Vec::new()), webhook("n")]).await;
    let minute = Duration::from_mins(1);
    let call = client(&peer)
        .webhooks()
        .create(&spec())
        .attempt_timeout(minute)
        .timeout(10 * minute);
    peer.delaying(minute, 1, call.into_future()).await.unwrap();
    let peer = Peer::replying(Reply::Stall(Vec::new())).await;
    let error = client(&peer)
        .webhooks()
        .create(&spec())
        .timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(error.is_timeout() && error.attempts() == 1, "{error:?}");
    assert_eq!(error.retry_stop(), Some(RetryStop::Deadline));
}

#[tokio::test]
async fn a_header_that_the_client_sends_itself_cannot_be_replaced() {
    let peer = Peer::replying(webhook("n")).await;
    for name in [
        header::AUTHORIZATION,
        header::HOST,
        header::USER_AGENT,
        header::CONTENT_LENGTH,
        header::IF_MATCH,
    ] {
        let call = client(&peer)
            .webhooks()
            .list()
            .header(name.clone(), HeaderValue::from_static("x"));
        let error = call.await.unwrap_err();
        assert!(
            error.is_invalid_argument() && error.attempts() == 0,
            "{name}: {error:?}"
        );
    }
    assert!(peer.asked().is_empty());
}

#[tokio::test]
async fn redeliveries_have_all_of_the_calls_time_for_one_attempt() {
    let peer = Peer::replying(Reply::Stall(Vec::new())).await;
    let client = peer
        .builder()
        .account("acc_1")
        .retry(at_once())
        .attempt_timeout(Duration::from_millis(1));
    let client = client.build().unwrap();
    let (webhooks, minute) = (client.webhooks(), Duration::from_mins(1));
    let one = webhooks.redeliver("wh_1", "d_1").timeout(minute);
    let all = webhooks.redeliver_failed("wh_1").timeout(minute);
    for error in [
        peer.delaying(minute, 1, one.into_future())
            .await
            .unwrap_err(),
        peer.delaying(minute, 2, all.into_future())
            .await
            .unwrap_err(),
    ] {
        assert!(error.is_timeout() && error.attempts() == 1, "{error:?}");
    }
    assert_eq!(peer.asked().len(), 2);
}

#[tokio::test]
async fn clones_of_a_client_spend_one_budget_and_an_outage_is_not_multiplied() {
    let peer = Peer::replying(Reply::new(503, &[], "")).await;
    let budget = Arc::new(TokenBucket::new(20));
    let client = peer
        .builder()
        .account("acc_1")
        .retry(at_once())
        .retry_budget(Arc::clone(&budget))
        .build()
        .unwrap();
    let calls: Vec<_> = (0..30)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.webhooks().list().await.unwrap_err() })
        })
        .collect();
    let mut out_of_budget = 0;
    for call in calls {
        out_of_budget += usize::from(call.await.unwrap().retry_stop() == Some(RetryStop::Budget));
    }
    // Four retries, and one more for every five seconds that this took.
    assert!(
        (34..=36).contains(&peer.asked().len()),
        "{} requests",
        peer.asked().len()
    );
    assert!(out_of_budget >= 28, "{out_of_budget}");

    let unlimited = peer
        .builder()
        .account("acc_1")
        .retry(at_once())
        .retry_budget(Unlimited)
        .build()
        .unwrap();
    assert_eq!(unlimited.webhooks().list().await.unwrap_err().attempts(), 5);
}

#[tokio::test]
async fn a_412_after_a_lost_answer_is_ours_only_if_the_change_is_there() {
    let etag = "1".parse().unwrap();
    let patch = WebhookPatch::new().name("ours");
    for (name, inferred) in [("ours", true), ("another", false)] {
        let peer = Peer::in_turn([broken(), Reply::json(412, STALE), webhook(name)]).await;
        let got = client(&peer)
            .webhooks()
            .update("wh_1", &patch)
            .if_match(&etag)
            .await;
        let methods: Vec<_> = peer
            .asked()
            .iter()
            .map(|asked| asked.line.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(methods, ["PATCH", "PATCH", "GET"]);
        match got {
            Ok(updated) => assert!(
                inferred && updated.applied == Applied::Inferred && updated.secret.is_none()
            ),
            Err(error) => {
                assert!(
                    !inferred && error.is_precondition_failed() && error.may_have_run(),
                    "{error:?}"
                );
                assert_eq!(error.operation(), Some("webhooks.update"));
            }
        }
    }
    // A 412 to the first attempt is returned as it is.
    let peer = Peer::in_turn([Reply::json(412, STALE), webhook("ours")]).await;
    let error = client(&peer)
        .webhooks()
        .update("wh_1", &patch)
        .if_match(&etag)
        .await
        .unwrap_err();
    assert!(
        error.is_precondition_failed() && !error.may_have_run(),
        "{error:?}"
    );
    assert_eq!(peer.asked().len(), 1);
    // If the check does not find the webhook either, the change does not count as made: the 404 is
    // returned.
    let gone = Reply::json(404, NOT_FOUND);
    let peer = Peer::in_turn([broken(), gone.clone(), gone]).await;
    let error = client(&peer)
        .webhooks()
        .update("wh_1", &patch)
        .if_match(&etag)
        .await
        .unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    // If the check fails, the 412 is returned with that failure as its cause.
    let peer = Peer::in_turn([broken(), Reply::json(412, STALE), Reply::new(403, &[], "")]).await;
    let error = client(&peer)
        .webhooks()
        .update("wh_1", &patch)
        .if_match(&etag)
        .await
        .unwrap_err();
    assert!(
        error.is_precondition_failed() && error.may_have_run(),
        "{error:?}"
    );
    assert!(
        error.source().unwrap().to_string().contains("webhooks.get"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_new_secret_whose_answer_is_lost_is_an_error_that_says_so() {
    let etag = "1".parse().unwrap();
    let patch = WebhookPatch::new().auth(&authpi_sdk::client::DeliveryAuth::signature());
    let peer = Peer::in_turn([broken(), Reply::json(412, STALE), webhook("n")]).await;
    let error = client(&peer)
        .webhooks()
        .update("wh_1", &patch)
        .if_match(&etag)
        .await
        .unwrap_err();
    assert!(
        error.is_secret_lost() && error.may_have_run() && !error.is_precondition_failed(),
        "{error:?}"
    );
    assert!(error.to_string().contains("secret is lost"), "{error}");
    assert!(!shown(&error).contains("very_secret"));

    let peer = Peer::replying(broken()).await;
    let error = client(&peer)
        .webhooks()
        .update("wh_1", &patch)
        .await
        .unwrap_err();
    assert!(
        error.is_secret_lost() && error.to_string().contains("secret is lost"),
        "{error}"
    );
    let error = client(&peer).webhooks().create(&spec()).await.unwrap_err();
    assert!(
        !error.is_secret_lost(),
        "the response to a create call can be requested again: {error}"
    );
    let peer = Peer::replying(Reply::new(403, &[], "")).await;
    let error = client(&peer)
        .webhooks()
        .update("wh_1", &patch)
        .await
        .unwrap_err();
    assert!(!error.is_secret_lost(), "nothing was made: {error}");
}

#[tokio::test]
async fn what_is_not_there_is_deleted_where_authpi_says_so_and_nobody_else() {
    let emulator = Emulator::start().await.unwrap();
    let builder = Client::builder()
        .base_url(emulator.base_url())
        .account(emulator.account_id());
    let direct = builder
        .api_key(emulator.key_id(), emulator.key_secret())
        .build()
        .unwrap();
    let made = direct.webhooks().create(&spec()).await.unwrap();
    let id = &*made.webhook.id;
    assert_eq!(
        direct.webhooks().delete(id).await.unwrap().applied,
        Applied::Confirmed
    );
    assert_eq!(
        direct.webhooks().delete(id).await.unwrap().applied,
        Applied::Inferred
    );

    let peer = Peer::replying(Reply::new(
        404,
        &[("content-type", "text/html")],
        "<html>404</html>",
    ))
    .await;
    let error = client(&peer).webhooks().delete("wh_1").await.unwrap_err();
    assert!(
        error.is_not_found(),
        "a gateway knows of no webhooks: {error}"
    );

    // After a 412, `delete` reads the webhook. If it is marked as deleted, that is a success; if
    // not, another caller has changed it. This is the same after a lost response and at the first
    // attempt.
    let deleted = WEBHOOK.replace(r#""events""#, r#""status":"deleted","events""#);
    for (seen, gone) in [(deleted.as_str(), true), (WEBHOOK, false)] {
        for before in [vec![broken()], vec![]] {
            let looked_into = [Reply::json(412, STALE), Reply::json(200, seen)];
            let peer = Peer::in_turn(before.into_iter().chain(looked_into)).await;
            let got = client(&peer)
                .webhooks()
                .delete("wh_1")
                .if_match(&"1".parse().unwrap())
                .await;
            match got {
                Ok(deleted) => assert!(gone && deleted.applied == Applied::Inferred),
                Err(error) => assert!(!gone && error.is_precondition_failed(), "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_call_tells_its_span_everything_but_secrets() {
    let logged = Logged::default();
    let _guard = listen(logged.clone());
    let refused = r#"{"error":"x","error_description":"busy","reference":"req_9","signature_secret_plain":"very_secret"}"#;
    let peer = Peer::in_turn([Reply::json(503, refused), webhook("n")]).await;
    let made = client(&peer)
        .webhooks()
        .create(&spec())
        .idempotency_key("key-17")
        .await
        .unwrap();
    let text = logged.text();
    for reported in [
        "operation=\"webhooks.create\"",
        "attempt=1",
        "attempt=2",
        "status=503",
        "reference=\"req_9\"",
        "status=200",
    ] {
        assert!(
            text.contains(reported),
            "{reported} is not in the log:\n{text}"
        );
    }
    assert!(
        text.contains("duration_ms=") && text.contains("reason=\"unavailable\""),
        "{text}"
    );
    let basic = peer.asked()[0].header("authorization").unwrap().to_owned();
    for hidden in [
        "very_secret",
        basic.strip_prefix("Basic ").unwrap(),
        made.secret.unwrap().expose(),
        "key-17",
    ] {
        assert!(!text.contains(hidden), "{hidden} is in the log:\n{text}");
    }
}

/// One in this number of responses is dropped.
const TENTH: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_creates_with_dropped_replies_make_ten_thousand_webhooks() {
    const CALLS: usize = 10_000;
    let emulator = Emulator::start().await.unwrap();
    let faulty = Faulty::before(emulator.address(), |_, before| {
        if before % TENTH == TENTH - 1 {
            Fault::CloseAfter
        } else {
            Fault::None
        }
    })
    .await;
    // With the default of five attempts, one call in a hundred thousand has every response dropped.
    let pauses = ExponentialBackoff::new(Duration::from_millis(2), Duration::from_millis(20));
    let policy = RetryPolicy::default().max_attempts(20).backoff(pauses);
    let builder = |base_url: &str| {
        Client::builder()
            .base_url(base_url)
            .account(emulator.account_id())
    };
    let keyed =
        |base_url: &str| builder(base_url).api_key(emulator.key_id(), emulator.key_secret());
    let client = keyed(&faulty.base_url)
        .retry(policy)
        .timeout(Duration::from_mins(5))
        .build()
        .unwrap();

    let (gate, replayed) = (Arc::new(Semaphore::new(32)), Arc::new(AtomicUsize::new(0)));
    let mut calls = JoinSet::<Result<_, Error>>::new();
    for _ in 0..CALLS {
        let (client, gate, replayed) = (client.clone(), Arc::clone(&gate), Arc::clone(&replayed));
        calls.spawn(async move {
            let _turn = gate.acquire_owned().await.expect("it is never closed");
            let made = client.webhooks().create(&spec()).await?;
            replayed.fetch_add(usize::from(made.replayed), Ordering::Relaxed);
            Ok((made.webhook.id, made.secret))
        });
    }
    let (mut ids, mut secrets) = (HashSet::new(), HashMap::new());
    while let Some(call) = calls.join_next().await {
        let (id, secret) = call.unwrap().unwrap_or_else(|error| panic!("{error}"));
        let secret = secret
            .expect("a signed webhook comes with its secret")
            .expose()
            .to_owned();
        ids.insert(id.clone());
        secrets.insert(secret, id);
    }
    assert_eq!((ids.len(), secrets.len()), (CALLS, CALLS));

    let (direct, mut there, mut cursor) = (
        keyed(emulator.base_url()).build().unwrap(),
        HashSet::new(),
        None::<String>,
    );
    loop {
        let call = direct.webhooks().list().limit(100);
        let page = if let Some(cursor) = cursor {
            call.cursor(cursor)
        } else {
            call
        }
        .await
        .unwrap();
        cursor = page.next_page().map(Into::into);
        there.extend(page.items.into_iter().map(|webhook| webhook.id));
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(
        there, ids,
        "there are exactly those webhooks that were asked for"
    );
    for (secret, id) in secrets {
        let WebhookAuth::Signature(auth) = direct.webhooks().get(id).await.unwrap().value.auth
        else {
            panic!("it is signed");
        };
        let hint = auth.signature_secret_hint.expect("a hint");
        assert!(
            secret.ends_with(hint.trim_start_matches('.')),
            "the secret in hand is another webhook's"
        );
    }
    let dropped = faulty.asked().len() - CALLS;
    assert!(
        dropped >= CALLS / TENTH && replayed.load(Ordering::Relaxed) >= CALLS / (TENTH + 2),
        "{dropped} dropped"
    );
}
