//! An independent check: a mock server that validates each request against `openapi/authpi.yaml`
//! accepts every request of the client, for all operations with all options, separately and
//! together. The description shows that these are all.

mod coverage;

use authpi_sdk::{
    Client, RawJson,
    client::{
        DeliveryAuth, DeliveryStatus, ETag, Error, Patch, RetryPolicy, WebhookPatch, WebhookSpec,
        WebhookStatus,
    },
    event::EventType,
};
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use serde_json::json;

use self::coverage::Description;
use crate::servers::{
    faults::{Fault, Faulty},
    prism::Prism,
};

fn client(base_url: &str) -> Client {
    let builder = Client::builder()
        .base_url(base_url)
        .account("acc_1")
        .retry(RetryPolicy::never());
    builder
        .api_key("key_1", "secret")
        .build()
        .expect("a client for the mock")
}

fn raw(value: &serde_json::Value) -> RawJson {
    RawJson::new(value).expect("it is JSON")
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).expect("it is a time")
}

fn etag() -> ETag {
    "\"1709139600000\"".parse().expect("it is an ETag")
}

/// A request that the mock refuses is a difference between the client and the description. So is a
/// generated response that the client cannot read.
#[track_caller]
fn accepted<T>(what: &str, done: Result<T, Error>) {
    if let Err(error) = done {
        panic!(
            "{what} is refused: {error}\n{}",
            error.body().unwrap_or_default()
        );
    }
}

#[tokio::test]
async fn the_mock_refuses_what_the_description_does_not_allow() {
    let prism = Prism::start().await;
    let webhooks = format!("{}/v1/accounts/acc_1/webhooks", prism.base_url);
    let http = reqwest::Client::new();
    let status =
        async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let post = |body: serde_json::Value| {
        http.post(&webhooks)
            .basic_auth("key_1", Some("secret"))
            .json(&body)
    };
    assert_eq!(status(http.get(&webhooks)).await, 401);
    assert_eq!(status(post(json!({"name": "n"}))).await, 422);
    assert_eq!(
        status(post(
            json!({"name": "n", "url": "https://example.com", "events": ["user.*"]})
        ))
        .await,
        422
    );
    assert_eq!(
        status(
            http.get(format!("{webhooks}?limit=101"))
                .basic_auth("key_1", Some("secret"))
        )
        .await,
        422
    );
    assert_eq!(
        status(post(json!({"name": "n", "url": "https://example.com"}))).await,
        201
    );
}

/// Allowed by the description, but omitted by the client on purpose.
const LEFT_OUT: [&str; 3] = [
    // Only one value is known, and it is the default.
    "webhooks.create body auth.signature_algorithm",
    "webhooks.update body auth.signature_algorithm",
    // AuthPI documents keys for POST only; the ETag makes a PATCH safe to repeat.
    "webhooks.update header idempotency-key",
];

#[tokio::test]
async fn every_request_that_the_client_can_send_is_as_described() {
    let prism = Prism::start().await;
    let address = prism
        .base_url
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
    let before = Faulty::before(address, |_, _| Fault::None).await;
    let client = client(&before.base_url);
    about_webhooks(&client).await;
    about_deliveries(&client).await;
    about_events(&client).await;
    about_the_caller(&client, &before.base_url).await;

    let description = Description::read();
    let asked = before
        .asked()
        .iter()
        .flat_map(|request| description.asked(request))
        .collect();
    let can_be_asked = description.can_be_asked();
    let missing: Vec<_> = can_be_asked.difference(&asked).collect();
    assert_eq!(
        missing, LEFT_OUT,
        "of what can be asked for this was not tried"
    );
}

async fn about_webhooks(client: &Client) {
    let webhooks = client.webhooks();
    accepted("list", webhooks.list().await);
    for limit in [1, 100] {
        accepted("list by limit", webhooks.list().limit(limit).await);
    }
    for status in [
        WebhookStatus::Active,
        WebhookStatus::Disabled,
        WebhookStatus::Deleted,
    ] {
        accepted(
            "list by status",
            webhooks
                .list()
                .status(status.clone())
                .limit(7)
                .cursor("wh_1&x= é")
                .await,
        );
    }

    let spec =
        || WebhookSpec::new("users", "https://example.com/h").events([EventType::UserCreated]);
    let object = || raw(&json!({"a": [1, {"b": null}]}));
    let whole = spec()
        .all_events()
        .description("d")
        .disabled()
        .subjects([object(), raw(&json!({}))])
        .retry(object())
        .circuit_breaker(object())
        .metadata(object());
    let kinds = [
        DeliveryAuth::signature(),
        DeliveryAuth::bearer(),
        DeliveryAuth::bearer().with_bearer_token("t"),
        DeliveryAuth::bearer_and_signature(),
        DeliveryAuth::bearer_and_signature().with_bearer_token("t"),
        DeliveryAuth::dangerously_unauthenticated(),
    ];
    let each = [
        spec(),
        spec().all_events(),
        spec().description(""),
        spec().disabled(),
        spec().subjects([]),
        spec().retry(object()),
        spec().circuit_breaker(object()),
        spec().metadata(object()),
        whole.clone(),
    ];
    for spec in each
        .into_iter()
        .chain(kinds.iter().map(|auth| whole.clone().auth(auth.clone())))
    {
        accepted("create", webhooks.create(&spec).await);
    }
    for key in ["k".to_owned(), "~".repeat(256)] {
        accepted(
            "create with a key",
            webhooks.create(&spec()).idempotency_key(key).await,
        );
    }
    let header = (
        HeaderName::from_static("x-request-id"),
        HeaderValue::from_static("r"),
    );
    accepted(
        "create with a header",
        webhooks.create(&spec()).header(header.0, header.1).await,
    );

    accepted("get", webhooks.get("wh_1").await);
    // All special characters that a path may contain, except the comma, which separates values in
    // OpenAPI's `simple` style. AuthPI's ids have no comma.
    accepted("get by an odd id", webhooks.get("wh-é+&=;:@!$'()*").await);

    let patch = WebhookPatch::new;
    let mut patches = vec![
        patch(),
        patch().name("n"),
        patch().url("http://127.0.0.1:8080/h"),
        patch().description("d"),
        patch().clear_description(),
        patch().events([EventType::UserCreated, EventType::WebhookPaused]),
        patch().events(EventType::ALL.iter().cloned()),
        patch().enable(),
        patch()
            .disable()
            .status_reason("r".to_owned())
            .status_by("b".to_owned()),
        patch().status_reason(Patch::Null).status_by(Patch::Null),
        patch().subjects(vec![object()]),
        patch().subjects(Patch::Null),
        patch().retry(object()),
        patch().retry(Patch::Null),
        patch().circuit_breaker(object()),
        patch().circuit_breaker(Patch::Null),
        patch().metadata(object()),
        patch().metadata(Patch::Null),
    ];
    patches.extend(kinds.iter().map(|auth| patch().auth(auth)));
    patches.push(
        patch()
            .name("n")
            .url("https://e.com")
            .description("d")
            .events([EventType::UserCreated])
            .auth(&kinds[0])
            .disable()
            .status_reason("r".to_owned())
            .status_by("b".to_owned())
            .subjects(vec![object()])
            .retry(object())
            .circuit_breaker(object())
            .metadata(object()),
    );
    for patch in patches {
        accepted(
            &format!("update by {patch:?}"),
            webhooks.update("wh_1", &patch).await,
        );
        accepted(
            "update under If-Match",
            webhooks.update("wh_1", &patch).if_match(&etag()).await,
        );
    }
    accepted("delete", webhooks.delete("wh_1").await);
    accepted(
        "delete under If-Match",
        webhooks.delete("wh_1").if_match(&etag()).await,
    );
}

async fn about_deliveries(client: &Client) {
    let webhooks = client.webhooks();
    let list = || webhooks.deliveries("wh_1");
    accepted("list", list().await);
    for status in [
        DeliveryStatus::Pending,
        DeliveryStatus::Succeeded,
        DeliveryStatus::Failed,
    ] {
        accepted("list by status", list().status(status).await);
    }
    accepted(
        "list by type",
        list().event_type(EventType::SessionTokenRefreshed).await,
    );
    accepted("list after", list().after(at(0)).await);
    accepted("list before", list().before(at(1_709_139_600_000)).await);
    let all = list()
        .status(DeliveryStatus::Failed)
        .event_type(EventType::UserCreated)
        .after(at(1))
        .before(at(2));
    accepted("list by all", all.limit(100).cursor("c").await);

    accepted("redeliver", webhooks.redeliver("wh_1", "whd_1").await);
    accepted(
        "redeliver by options",
        webhooks
            .redeliver("wh_1", "whd_1")
            .if_match(&etag())
            .idempotency_key("k")
            .await,
    );
    let failed = || webhooks.redeliver_failed("wh_1");
    accepted("redeliver all", failed().await);
    accepted(
        "redeliver by type",
        failed().event_type(EventType::UserCreated).await,
    );
    accepted("redeliver after", failed().after(at(1)).await);
    accepted("redeliver before", failed().before(at(2)).await);
    let all = failed()
        .event_type(EventType::UserCreated)
        .after(at(1))
        .before(at(2))
        .idempotency_key("k");
    accepted("redeliver by all", all.await);
}

async fn about_events(client: &Client) {
    let events = client.events();
    let types = || [EventType::UserCreated, EventType::ApiKeyCreated];
    accepted("list", events.list().await);
    accepted("list by issuer", events.list().issuer("i_1").await);
    accepted("list by user", events.list().user("usr_1").await);
    accepted("list by client", events.list().client("c_1").await);
    accepted("list by types", events.list().event_types(types()).await);
    accepted(
        "list by every type",
        events
            .list()
            .event_types(EventType::ALL.iter().cloned())
            .await,
    );
    let all = events
        .list()
        .issuer("i_1")
        .user("usr_1")
        .client("c_1")
        .event_types(types())
        .after(at(1))
        .before(at(2));
    accepted("list by all", all.limit(1).cursor("c").await);
    accepted("get", events.get("evt_1").await);
    accepted("count", events.aggregate().await);
    for (group_by, interval, unique) in [
        ("type", "minute", "user_id"),
        ("user_id", "hour", "type"),
        ("source", "day", "source"),
    ] {
        let all = events
            .aggregate()
            .group_by(group_by)
            .interval(interval)
            .count_unique(unique)
            .issuer("i_1")
            .user("usr_1");
        accepted(
            "count by all",
            all.client("c_1")
                .event_types(types())
                .after(at(1))
                .before(at(2))
                .await,
        );
    }
}

async fn about_the_caller(client: &Client, base_url: &str) {
    accepted("who am I", client.whoami().await);
    let token = Client::builder()
        .base_url(base_url)
        .access_token("eyJ.e.s")
        .account("acc_1")
        .build()
        .unwrap();
    accepted("who am I, by token", token.whoami().await);
    accepted("list by token", token.webhooks().list().await);
}
