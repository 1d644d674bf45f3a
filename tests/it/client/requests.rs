//! What the client sends, and what it does not send.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use authpi_sdk::{
    client::{Call, Client, DeliveryStatus, Error, Operation, WebhookPatch, WebhookSpec},
    event::EventType,
};
use jiff::Timestamp;

use super::{
    peer::{Asked, Peer, Reply},
    spec,
};

const ME: &str =
    r#"{"data":{"type":"api_key","accounts":[{"account_id":"acc_1","org_id":"o","scopes":[]}]}}"#;
const PAGE: &str = r#"{"data":[],"has_more":false,"next_cursor":null}"#;
const WEBHOOK: &str = r#"{"data":{"id":"wh_1","account_id":"acc_1","name":"n","url":"https://x","auth":{"type":"none"},"events":[],"created_at":1}}"#;
const DELIVERY: &str = r#"{"data":{"id":"d_1","webhook_id":"wh_1","event_id":"evt_1","event_type":"user.created","status":"failed","attempt_count":1,"created_at":1,"success":false}}"#;
const EVENT: &str =
    r#"{"data":{"spec":"1.0","id":"evt_1","type":"user.created","source":"s","timestamp":1}}"#;

/// Answers each operation with a success.
async fn obliging() -> Peer {
    Peer::answering(|asked| match asked.line.split_once(" /v1/accounts/acc_1") {
        Some(("DELETE", _)) => Reply::new(204, &[], ""),
        Some(("GET", path)) if path.contains("aggregate") => {
            Reply::json(200, r#"{"data":{"buckets":[]}}"#)
        }
        Some(("GET", "/events/evt_1")) => Reply::json(200, EVENT),
        Some(("GET", path))
            if path.starts_with("/webhooks/wh_1") && !path.contains("deliveries") =>
        {
            Reply::json(200, WEBHOOK)
        }
        Some(("GET", _)) => Reply::json(200, PAGE),
        Some(("POST", "/webhooks/wh_1/deliveries/d_1/redeliver")) => Reply::json(200, DELIVERY),
        Some(("POST", "/webhooks/wh_1/redeliver")) => {
            Reply::json(200, r#"{"data":{"redelivered":0}}"#)
        }
        Some(("POST" | "PATCH", _)) => Reply::json(200, WEBHOOK),
        _ => Reply::json(200, ME),
    })
    .await
}

async fn only<O: Operation>(peer: &Peer, call: Call<O>) -> Asked {
    let before = peer.asked().len();
    if let Err(error) = call.await {
        panic!("{error}");
    }
    let mut asked = peer.asked();
    assert_eq!(asked.len(), before + 1, "a call is one request");
    asked.pop().unwrap()
}

#[tokio::test]
async fn each_operation_is_sent_to_its_address_with_its_filters() {
    let peer = obliging().await;
    let client = peer.client();
    let (webhooks, events) = (client.webhooks(), client.events());
    let at = |ms| Timestamp::from_millisecond(ms).unwrap();
    let account = "/v1/accounts/acc_1";
    let line = |asked: Asked| asked.line.replace(account, "");

    assert_eq!(line(only(&peer, webhooks.list()).await), "GET /webhooks");
    let filtered = webhooks
        .list()
        .status("active".into())
        .limit(2)
        .cursor("a&b=c");
    assert_eq!(
        line(only(&peer, filtered).await),
        "GET /webhooks?cursor=a%26b%3Dc&limit=2&status=active"
    );
    assert_eq!(
        line(only(&peer, webhooks.create(&spec())).await),
        "POST /webhooks"
    );
    assert_eq!(
        line(only(&peer, webhooks.get("wh_1")).await),
        "GET /webhooks/wh_1"
    );
    assert_eq!(
        line(only(&peer, webhooks.update("wh_1", &WebhookPatch::new())).await),
        "PATCH /webhooks/wh_1"
    );
    assert_eq!(
        line(only(&peer, webhooks.delete("wh_1")).await),
        "DELETE /webhooks/wh_1"
    );
    let filtered = webhooks
        .deliveries("wh_1")
        .status(DeliveryStatus::Failed)
        .event_type(EventType::UserCreated);
    assert_eq!(
        line(
            only(
                &peer,
                filtered.after(at(1)).before(at(2)).limit(3).cursor("c")
            )
            .await
        ),
        "GET /webhooks/wh_1/deliveries?after=1&before=2&cursor=c&event_type=user.created&limit=3&status=failed"
    );
    let asked = only(
        &peer,
        webhooks
            .redeliver("wh_1", "d_1")
            .if_match(&"1".parse().unwrap()),
    )
    .await;
    assert_eq!(asked.header("if-match"), Some("\"1\""));
    assert_eq!(line(asked), "POST /webhooks/wh_1/deliveries/d_1/redeliver");
    let filtered = webhooks
        .redeliver_failed("wh_1")
        .event_type(EventType::UserCreated)
        .after(at(1))
        .before(at(2));
    let asked = only(&peer, filtered).await;
    assert_eq!(
        asked.body,
        r#"{"after":1,"before":2,"event_type":"user.created"}"#
    );
    assert_eq!(line(asked), "POST /webhooks/wh_1/redeliver");
    let filtered = events
        .list()
        .issuer("i_1")
        .user("usr_1")
        .client("c_1")
        .after(at(1))
        .before(at(2))
        .limit(100);
    assert_eq!(
        line(
            only(
                &peer,
                filtered.event_types([EventType::UserCreated, "new.type".into()])
            )
            .await
        ),
        "GET /events?after=1&before=2&client_id=c_1&event_types=user.created%2Cnew.type&issuer_id=i_1&limit=100&user_id=usr_1"
    );
    assert_eq!(
        line(only(&peer, events.get("evt_1")).await),
        "GET /events/evt_1"
    );
    let counted = events
        .aggregate()
        .group_by("type")
        .interval("hour")
        .count_unique("user_id")
        .user("usr_1");
    assert_eq!(
        line(only(&peer, counted).await),
        "GET /events/aggregate?count_unique=user_id&group_by=type&interval=hour&user_id=usr_1"
    );
    client.whoami().await.unwrap();
    assert_eq!(peer.asked_who(), 1);
}

#[tokio::test]
async fn a_request_has_credentials_user_agent_and_nothing_undocumented() {
    let peer = obliging().await;
    let client = peer
        .builder()
        .account("acc_1")
        .user_agent("billing/2.1")
        .build()
        .unwrap();
    let asked = only(&peer, client.webhooks().create(&spec())).await;
    // key_1:very_secret
    assert_eq!(
        asked.header("authorization"),
        Some("Basic a2V5XzE6dmVyeV9zZWNyZXQ=")
    );
    assert_eq!(asked.header("accept"), Some("application/json"));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    let agent = asked.header("user-agent").unwrap();
    assert!(
        agent.starts_with("authpi-sdk-rust/") && agent.ends_with(" billing/2.1"),
        "{agent}"
    );
    for name in [
        "api-version",
        "if-match",
        "cookie",
        "referer",
        "accept-encoding",
    ] {
        assert_eq!(asked.header(name), None, "{name}");
    }
    assert_eq!(
        asked.body,
        r#"{"name":"users","url":"http://127.0.0.1:9/hook","auth":{"type":"signature"},"events":["user.created"]}"#
    );
    let token = Client::builder()
        .base_url(&peer.base_url)
        .access_token("eyJ.e.s")
        .account("acc_1")
        .build()
        .unwrap();
    assert_eq!(
        only(&peer, token.webhooks().list())
            .await
            .header("authorization"),
        Some("Bearer eyJ.e.s")
    );
}

#[tokio::test]
async fn a_base_url_with_a_path_and_a_slash_keeps_the_path_and_doubles_no_slash() {
    let peer = Peer::replying(Reply::json(200, PAGE)).await;
    let base = format!("{}/proxy/authpi/", peer.base_url);
    let client = peer
        .builder()
        .base_url(base)
        .account("acc_1")
        .build()
        .unwrap();
    assert_eq!(
        only(&peer, client.webhooks().list()).await.line,
        "GET /proxy/authpi/v1/accounts/acc_1/webhooks"
    );
}

#[tokio::test]
async fn each_post_carries_an_idempotency_key_of_its_own_and_nothing_else_does() {
    let peer = obliging().await;
    let client = peer.client();
    let webhooks = client.webhooks();
    let mut keys = HashSet::new();
    for _ in 0..2 {
        for asked in [
            only(&peer, webhooks.create(&spec())).await,
            only(&peer, webhooks.redeliver("wh_1", "d_1")).await,
            only(&peer, webhooks.redeliver_failed("wh_1")).await,
        ] {
            let key = asked
                .header("idempotency-key")
                .expect("a POST has a key")
                .to_owned();
            assert!(key.len() == 32, "{key}");
            assert!(keys.insert(key), "a key was used for two calls");
        }
    }
    for asked in [
        only(&peer, webhooks.list()).await,
        only(
            &peer,
            webhooks.update("wh_1", &WebhookPatch::new().name("n")),
        )
        .await,
        only(&peer, webhooks.delete("wh_1")).await,
    ] {
        assert_eq!(asked.header("idempotency-key"), None, "{}", asked.line);
    }
}

#[tokio::test]
async fn a_valid_custom_key_is_sent_and_an_invalid_one_is_refused() {
    let peer = obliging().await;
    let client = peer.client();
    let asked = only(
        &peer,
        client
            .webhooks()
            .create(&spec())
            .idempotency_key("order-17"),
    )
    .await;
    assert_eq!(asked.header("idempotency-key"), Some("order-17"));
    for key in ["", "a\r\nx: y", &"k".repeat(257)] {
        let error = client
            .webhooks()
            .create(&spec())
            .idempotency_key(key)
            .await
            .unwrap_err();
        assert!(
            error.is_invalid_argument() && !error.may_have_run(),
            "{error}"
        );
        assert_eq!(error.operation(), Some("webhooks.create"));
    }
    assert_eq!(peer.asked().len(), 1);
}

#[tokio::test]
async fn no_request_leaves_with_an_id_that_would_retarget_it() {
    let peer = obliging().await;
    let client = peer.client();
    let (webhooks, events) = (client.webhooks(), client.events());
    for id in [
        "",
        ".",
        "..",
        "a/b",
        "..\\b",
        "a?status=x",
        "a#b",
        "a b",
        "a\n",
        "%2e%2e",
    ] {
        let refused = [
            webhooks.get(id).await.err(),
            webhooks.update(id, &WebhookPatch::new()).await.err(),
            webhooks.delete(id).await.err(),
            webhooks.deliveries(id).await.err(),
            webhooks.redeliver(id, "d_1").await.err(),
            webhooks.redeliver("wh_1", id).await.err(),
            webhooks.redeliver_failed(id).await.err(),
            events.get(id).await.err(),
        ];
        for error in refused {
            let error = error.unwrap_or_else(|| panic!("{id:?} was sent"));
            assert!(
                error.is_invalid_argument() && !error.may_have_run() && error.operation().is_some(),
                "{error}"
            );
        }
    }
    assert!(peer.asked().is_empty());
}

#[tokio::test]
async fn arguments_that_cannot_be_meant_are_refused_before_anything_is_sent() {
    let peer = obliging().await;
    let client = peer.client();
    let no_events = client
        .webhooks()
        .create(&WebhookSpec::new("n", "https://x"))
        .await
        .unwrap_err();
    assert!(
        no_events.is_invalid_argument() && no_events.to_string().contains("all_events"),
        "{no_events}"
    );
    let comma = client
        .events()
        .list()
        .event_types(["a,b".into()])
        .await
        .unwrap_err();
    assert!(comma.is_invalid_argument(), "{comma}");
    assert!(peer.asked().is_empty());
}

#[tokio::test]
async fn the_account_is_asked_for_once_however_many_calls_need_it() -> Result<(), Error> {
    let peer = obliging().await;
    let client = peer.builder().build().unwrap();
    let calls: Vec<_> = (0..8)
        .map(|_| tokio::spawn(client.clone().webhooks().list().into_future()))
        .collect();
    for call in calls {
        call.await.expect("the call does not panic")?;
    }
    assert_eq!(client.account_id().await?, "acc_1");
    assert_eq!((peer.asked_who(), peer.asked().len()), (1, 8));
    Ok(())
}

#[tokio::test]
async fn who_gives_up_while_the_account_is_asked_for_leaves_it_to_the_next() -> Result<(), Error> {
    let who = AtomicUsize::new(0);
    let peer = Peer::answering(move |asked| {
        if !asked.line.ends_with("/v1/me") {
            Reply::json(200, PAGE)
        } else if who.fetch_add(1, Ordering::SeqCst) == 0 {
            Reply::Stall(Vec::new())
        } else {
            Reply::json(200, ME)
        }
    })
    .await;
    let client = peer.builder().build().unwrap();
    let hasty = tokio::spawn(client.webhooks().list().into_future());
    let patient = tokio::spawn(client.webhooks().list().into_future());
    while peer.asked_who() == 0 {
        tokio::task::yield_now().await;
    }
    hasty.abort();
    patient.await.expect("the call does not panic")?;
    assert_eq!((peer.asked_who(), peer.asked().len()), (2, 1));
    Ok(())
}

#[tokio::test]
async fn a_time_without_end_is_a_time_like_any_other() -> Result<(), Error> {
    let peer = obliging().await;
    let client = peer.builder().timeout(Duration::MAX).build().unwrap();
    assert_eq!(client.account_id().await?, "acc_1");
    client.webhooks().list().timeout(Duration::MAX).await?;
    Ok(())
}

#[tokio::test]
async fn no_account_and_several_are_errors_that_list_what_there_is() {
    for (accounts, reported) in [
        ("", "no account"),
        (
            r#"{"account_id":"acc_1","org_id":"o","scopes":[]},{"account_id":"acc_2","org_id":"o","scopes":[]}"#,
            "acc_1, acc_2",
        ),
    ] {
        let peer = Peer::replying(Reply::json(
            200,
            &format!(r#"{{"data":{{"type":"user","accounts":[{accounts}]}}}}"#),
        ))
        .await;
        let error = peer
            .builder()
            .build()
            .unwrap()
            .webhooks()
            .create(&spec())
            .await
            .unwrap_err();
        assert!(error.is_configuration() && !error.may_have_run(), "{error}");
        assert!(error.to_string().contains(reported), "{error}");
        assert!(peer.asked().is_empty());
    }
}

#[tokio::test]
async fn an_account_that_could_not_be_asked_for_is_asked_for_again() {
    let peer = Peer::replying(Reply::new(503, &[], "")).await;
    let client = peer.builder().build().unwrap();
    for asked in 1..=2 {
        let error = client.webhooks().create(&spec()).await.unwrap_err();
        assert_eq!(error.operation(), Some("me.get"));
        assert!(!error.may_have_run(), "the create call was never sent");
        assert_eq!(peer.asked_who(), asked);
    }
    assert!(peer.asked().is_empty());
}
