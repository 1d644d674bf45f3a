//! Every operation against the emulator.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use authpi_emulator::{Emulator, NewEvent};
use authpi_sdk::{
    Client, RawJson,
    client::{
        CallerType, DeliveryAuth, DeliveryStatus, Error, ErrorCode, WebhookAuth, WebhookPatch,
        WebhookStatus,
    },
    event::EventType,
};
use axum::{Router, http::StatusCode, routing::post};
use serde_json::json;

use super::{shown, spec};

async fn started() -> (Emulator, Client) {
    let emulator = Emulator::builder()
        .retry_delays([])
        .start()
        .await
        .expect("the emulator starts");
    let client = client(&emulator);
    (emulator, client)
}

pub(super) fn client(emulator: &Emulator) -> Client {
    Client::builder()
        .base_url(emulator.base_url())
        .api_key(emulator.key_id(), emulator.key_secret())
        .build()
        .expect("the emulator's credentials make a client")
}

/// An endpoint that refuses deliveries until it is switched.
pub(super) async fn endpoint() -> (String, Arc<AtomicBool>) {
    let accepts = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&accepts);
    let app = Router::new().route(
        "/hook",
        post(async move || {
            if asked.load(Ordering::SeqCst) {
                StatusCode::OK
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, accepts)
}

#[tokio::test]
async fn an_api_key_and_an_access_token_both_say_who_they_are() -> Result<(), Error> {
    let (emulator, client) = started().await;
    let me = client.whoami().await?;
    assert_eq!(me.r#type, CallerType::ApiKey);
    assert_eq!(me.key_id.as_deref(), Some(emulator.key_id()));
    assert_eq!(me.accounts[0].account_id, emulator.account_id());
    let by_token = Client::builder()
        .base_url(emulator.base_url())
        .access_token(emulator.access_token())
        .build()
        .unwrap();
    assert_eq!(by_token.whoami().await?.r#type, CallerType::User);
    assert_eq!(by_token.account_id().await?, emulator.account_id());
    Ok(())
}

#[tokio::test]
async fn a_webhook_is_created_found_changed_and_deleted() -> Result<(), Error> {
    let (_emulator, client) = started().await;
    let webhooks = client.webhooks();
    let metadata = RawJson::new(&json!({"team": "identity"})).unwrap();
    let made = webhooks
        .create(&spec().description("first").metadata(metadata.clone()))
        .await?;
    assert!(
        made.secret
            .as_ref()
            .is_some_and(|secret| secret.expose().starts_with("whs_")),
        "{made:?}"
    );
    assert!(made.bearer_token.is_none() && !made.replayed);
    assert!(matches!(made.webhook.auth, WebhookAuth::Signature(_)));
    let id = &*made.webhook.id;

    let got = webhooks.get(id).await?;
    assert_eq!((&got.etag, &got.value), (&made.etag, &made.webhook));
    assert_eq!(got.value.description.as_deref(), Some("first"));
    assert_eq!(got.value.metadata, Some(metadata));
    assert_eq!(webhooks.list().await?.items[0].id, id);

    let etag = got.etag.expect("a single resource has an ETag");
    let patch = WebhookPatch::new()
        .name("renamed")
        .clear_description()
        .disable();
    let updated = webhooks.update(id, &patch).if_match(&etag).await?;
    assert_eq!(updated.webhook.name, "renamed");
    assert_eq!(updated.webhook.description, None);
    assert_eq!(updated.webhook.status, Some(WebhookStatus::Disabled));
    assert_eq!(updated.webhook.events, ["user.created"]);
    assert!(updated.secret.is_none());

    webhooks.delete(id).await?;
    let error = webhooks.get(id).await.unwrap_err();
    assert!(error.is_not_found() && !error.may_have_run(), "{error}");
    assert_eq!(error.code(), Some(&ErrorCode::NotFound));
    Ok(())
}

#[tokio::test]
async fn each_kind_of_authentication_comes_with_the_secrets_it_needs() -> Result<(), Error> {
    let (_emulator, client) = started().await;
    for (auth, secret, token) in [
        (DeliveryAuth::signature(), true, false),
        (DeliveryAuth::bearer(), false, true),
        (DeliveryAuth::bearer_and_signature(), true, true),
        (DeliveryAuth::dangerously_unauthenticated(), false, false),
    ] {
        let made = client.webhooks().create(&spec().auth(auth)).await?;
        assert_eq!(
            (made.secret.is_some(), made.bearer_token.is_some()),
            (secret, token),
            "{made:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_change_of_authentication_shows_the_new_secret_once() -> Result<(), Error> {
    let (_emulator, client) = started().await;
    let made = client.webhooks().create(&spec()).await?;
    let patch = WebhookPatch::new().auth(&DeliveryAuth::signature());
    let updated = client.webhooks().update(&made.webhook.id, &patch).await?;
    assert!(updated.secret.is_some() && updated.secret != made.secret);
    let shown = format!("{made:?}{updated:?}");
    for secret in [made.secret, updated.secret].into_iter().flatten() {
        assert!(!shown.contains(secret.expose()), "{shown}");
    }
    Ok(())
}

#[tokio::test]
async fn a_webhook_for_all_events_names_every_type() -> Result<(), Error> {
    let (_emulator, client) = started().await;
    let made = client.webhooks().create(&spec().all_events()).await?;
    assert_eq!(made.webhook.events.len(), EventType::ALL.len());
    Ok(())
}

#[tokio::test]
async fn a_stale_etag_is_refused_with_the_present_one() -> Result<(), Error> {
    let (_emulator, client) = started().await;
    let webhooks = client.webhooks();
    let made = webhooks.create(&spec()).await?;
    let id = &*made.webhook.id;
    let stale = "\"1\"".parse().unwrap();
    for error in [
        webhooks
            .update(id, &WebhookPatch::new().name("x"))
            .if_match(&stale)
            .await
            .unwrap_err(),
        webhooks.delete(id).if_match(&stale).await.unwrap_err(),
    ] {
        assert!(
            error.is_precondition_failed() && !error.may_have_run(),
            "{error}"
        );
        assert_eq!(error.current_etag(), made.etag.as_ref());
    }
    webhooks
        .delete(id)
        .if_match(&made.etag.unwrap())
        .await
        .map(drop)
}

#[tokio::test]
async fn a_create_call_under_the_same_key_is_replayed_with_its_secret() -> Result<(), Error> {
    let (_emulator, client) = started().await;
    let call = client
        .webhooks()
        .create(&spec())
        .idempotency_key("start-up-1");
    let first = call.clone().await?;
    let second = call.await?;
    assert!(!first.replayed && second.replayed);
    assert_eq!(
        (&first.webhook, &first.secret),
        (&second.webhook, &second.secret)
    );
    assert_eq!(client.webhooks().list().await?.items.len(), 1);
    let other = client
        .webhooks()
        .create(&spec().description("other"))
        .idempotency_key("start-up-1")
        .await;
    assert!(other.is_err_and(|error| error.is_validation()));
    Ok(())
}

#[tokio::test]
async fn pages_are_followed_by_their_cursor_to_the_last() -> Result<(), Error> {
    let (_emulator, client) = started().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(client.webhooks().create(&spec()).await?.webhook.id);
    }
    let (mut seen, mut sizes, mut cursor) = (Vec::new(), Vec::new(), None::<String>);
    loop {
        let mut call = client
            .webhooks()
            .list()
            .status(WebhookStatus::Active)
            .limit(2);
        if let Some(cursor) = cursor.take() {
            call = call.cursor(cursor);
        }
        let page = call.await?;
        sizes.push(page.items.len());
        cursor = page.next_page().map(Into::into);
        seen.extend(page.items.into_iter().map(|webhook| webhook.id));
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [2, 2, 1]);
    made.sort();
    seen.sort();
    assert_eq!(seen, made);
    Ok(())
}

#[tokio::test]
async fn failed_deliveries_are_listed_and_sent_again() -> Result<(), Error> {
    let (emulator, client) = started().await;
    let webhooks = client.webhooks();
    let (url, accepts) = endpoint().await;
    let hook = webhooks
        .create(&authpi_sdk::client::WebhookSpec::new("h", url).all_events())
        .await?
        .webhook
        .id;
    for event in ["user.created", "user.created", "user.updated"] {
        emulator.trigger(event).await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(10), emulator.deliveries_finished())
        .await
        .expect("deliveries end");

    let failed = webhooks
        .deliveries(&hook)
        .status(DeliveryStatus::Failed)
        .await?;
    assert_eq!(failed.items.len(), 3);
    assert_eq!(failed.items[0].last_response_status, Some(500));
    let of_type = webhooks
        .deliveries(&hook)
        .event_type(EventType::UserUpdated)
        .await?;
    assert_eq!(of_type.items.len(), 1);
    let delivery = &of_type.items[0];

    let refused = webhooks.redeliver(&hook, &delivery.id).await?;
    assert!(!refused.value.success && !refused.replayed);
    accepts.store(true, Ordering::SeqCst);
    let accepted = webhooks.redeliver(&hook, &delivery.id).await?;
    assert!(accepted.value.success);
    assert_eq!(
        (accepted.value.status, accepted.value.attempt_count),
        (DeliveryStatus::Succeeded, 3)
    );

    let bulk = webhooks
        .redeliver_failed(&hook)
        .event_type(EventType::UserCreated)
        .await?
        .value;
    assert_eq!(
        (bulk.redelivered, bulk.succeeded, bulk.failed),
        (Some(2), Some(2), Some(0))
    );
    assert!(
        webhooks
            .deliveries(&hook)
            .status(DeliveryStatus::Failed)
            .await?
            .items
            .is_empty()
    );

    let unknown = webhooks.redeliver(&hook, "nothing").await.unwrap_err();
    assert!(unknown.is_not_found(), "{unknown}");
    Ok(())
}

#[tokio::test]
async fn the_event_log_is_listed_read_and_counted() -> Result<(), Error> {
    let (emulator, client) = started().await;
    let events = client.events();
    let subject = |id: &str| json!({"user_id": id});
    for (event, user) in [
        ("user.created", "usr_1"),
        ("user.updated", "usr_1"),
        ("user.created", "usr_2"),
    ] {
        emulator
            .trigger(
                NewEvent::new(event)
                    .subject(subject(user))
                    .data(json!({"id": user})),
            )
            .await
            .unwrap();
    }
    assert_eq!(events.list().await?.items.len(), 3);
    let of_user = events
        .list()
        .user("usr_1")
        .event_types([EventType::UserUpdated, EventType::UserDeleted])
        .await?;
    assert_eq!(of_user.items.len(), 1);
    let event = &of_user.items[0];
    assert_eq!(event.event_type(), EventType::UserUpdated);
    assert_eq!(event.subject().user_id(), Some("usr_1"));
    assert_eq!(&events.get(&event.id).await?.value, event);

    let at = event.time().unwrap();
    assert_eq!(at.as_millisecond(), event.timestamp.0);
    let hour = jiff::SignedDuration::from_hours(1);
    assert_eq!(
        events
            .list()
            .after(at - hour)
            .before(at + hour)
            .await?
            .items
            .len(),
        3
    );
    assert!(events.list().after(at + hour).await?.items.is_empty());

    let total = events.aggregate().await?;
    assert_eq!(total.buckets.len(), 1);
    let by_type = events
        .aggregate()
        .group_by("type")
        .count_unique("user_id")
        .await?;
    assert_eq!(
        (by_type.buckets.len(), by_type.group_by.as_deref()),
        (2, Some("type"))
    );
    let wrong = events.aggregate().interval("fortnight").await.unwrap_err();
    assert!(
        wrong.is_validation() && wrong.fields()[0].field == "interval",
        "{wrong}"
    );
    Ok(())
}

#[tokio::test]
async fn a_wrong_credential_account_or_argument_is_refused_as_what_it_is() {
    let (emulator, client) = started().await;
    let builder = || Client::builder().base_url(emulator.base_url());
    let wrong = builder()
        .api_key(emulator.key_id(), "very_secret")
        .account(emulator.account_id())
        .build()
        .unwrap();
    let error = wrong.webhooks().list().await.unwrap_err();
    assert!(error.is_unauthorized() && !error.may_have_run(), "{error}");
    assert!(!shown(&error).contains("very_secret"));

    let keyed = builder().api_key(emulator.key_id(), emulator.key_secret());
    let error = keyed
        .account("acc_of_somebody_else")
        .build()
        .unwrap()
        .webhooks()
        .list()
        .await
        .unwrap_err();
    assert!(error.is_forbidden() || error.is_not_found(), "{error}");

    for (error, field) in [
        (
            client
                .webhooks()
                .create(&spec().events(["no.such".into()]))
                .await
                .unwrap_err(),
            "events",
        ),
        (
            client.webhooks().list().limit(101).await.unwrap_err(),
            "limit",
        ),
    ] {
        assert!(error.is_validation() && !error.may_have_run(), "{error}");
        assert!(
            error
                .fields()
                .iter()
                .any(|wrong| wrong.field.contains(field)),
            "{error}"
        );
    }
}
