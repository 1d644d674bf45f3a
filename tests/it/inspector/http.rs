//! Who is answered, and what forms do without a script.

use std::time::Duration;

use authpi_emulator::{
    Emulator, NewEvent,
    faults::{DeliveryFault, DeliveryRule, FaultPlan},
};
use authpi_sdk::{
    signature::{KeyRing, Verifier},
    testing::Recording,
};
use reqwest::{Response, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use super::{Page, led_to};
use crate::emulator::endpoint::Reply;

const READS: [&str; 12] = [
    "/",
    "/deliveries",
    "/deliveries/whd_1",
    "/deliveries/whd_1/fixture",
    "/webhooks",
    "/webhooks/new",
    "/webhooks/wh_1/secrets",
    "/events",
    "/faults",
    "/faults/new",
    "/stream",
    "/assets/inspector.js",
];

const CHANGES: [&str; 6] = [
    "/webhooks",
    "/webhooks/wh_1/rotate",
    "/deliveries/whd_1/resend",
    "/events",
    "/faults",
    "/faults/1/remove",
];

#[tokio::test]
async fn a_host_that_is_not_this_machine_is_refused_everywhere() {
    let page = Page::start().await;
    for host in ["evil.example", "localhost.evil.example:80", "192.168.0.9"] {
        for path in READS {
            let response = page.get(path).header("host", host).send().await.unwrap();
            refused(&response, path);
        }
        for path in CHANGES {
            let origin = format!("http://{host}");
            let post = page.http.post(format!("{}{path}", page.url));
            let post = post.header("host", host).header("origin", origin);
            refused(&post.send().await.unwrap(), path);
        }
    }
    let by_name = page.get("/deliveries").header("host", "localhost:1");
    assert_eq!(by_name.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn an_allowed_host_is_answered() {
    let page = Page::with(Emulator::builder().allow_host("dev.internal")).await;
    let get = page.get("/deliveries").header("host", "dev.internal:4000");
    assert_eq!(get.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn another_page_changes_nothing() {
    let page = Page::start().await;
    page.webhook("none", &[]).await;
    page.emulator.deliveries_settled().await;
    let form = [("type", "user.created"), ("subject", "{}"), ("data", "{}")];
    let from = |headers: &[(&'static str, &'static str)]| {
        let mut post = page.post("/events", &form).build().unwrap();
        post.headers_mut().remove("origin");
        for (name, value) in headers {
            post.headers_mut().append(*name, value.parse().unwrap());
        }
        page.http.execute(post)
    };
    for headers in [
        &[][..],
        &[("origin", "null")],
        &[("origin", "http://127.0.0.1:1")],
        &[("origin", "http://evil.example")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
    ] {
        refused(&from(headers).await.unwrap(), "/events");
    }
    let events = page.html("/events").await;
    assert!(
        !events.contains(">user.created</a>"),
        "an event was triggered"
    );
    let own = from(&[("sec-fetch-site", "same-origin")]).await.unwrap();
    led_to(&own);
}

#[tokio::test]
async fn another_page_may_link_to_the_page_but_not_read_it() {
    let page = Page::start().await;
    for path in READS {
        let read = page.get(path).header("sec-fetch-site", "cross-site");
        refused(&read.send().await.unwrap(), path);
    }
    let link = page
        .get("/deliveries")
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-dest", "document");
    assert_eq!(link.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn every_response_forbids_framing_and_reading_by_other_origins() {
    let page = Page::start().await;
    for path in READS {
        let response = page.get(path).send().await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none';"),
            "{path}: {policy}"
        );
        assert!(
            policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-store");
        let cors = response.headers().get("access-control-allow-origin");
        assert_eq!(cors, None, "{path}");
    }
}

#[tokio::test]
async fn secrets_are_shown_once_and_sign_the_deliveries() {
    let page = Page::start().await;
    let secrets = page.webhook("signature", &["user.created"]).await;
    assert!(!secrets.contains("whs_"), "the URL contains the secret");
    // A request through a link on another site does not count as the one time that the secrets are
    // shown.
    let link = page
        .get(&secrets)
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-dest", "document");
    assert_eq!(link.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let shown = page.html(&secrets).await;
    let secret = between(&shown, "<code id=\"signature-secret\">", "</code>");
    page.emulator.trigger("user.created").await.unwrap();
    page.endpoint.until(1).await;
    let received = page.endpoint.received().remove(0);
    let verifier = Verifier::authpi(KeyRing::new().with("shown", secret));
    verifier.verify(&received.headers, received.body).unwrap();

    let again = page.html(&secrets).await;
    assert!(!again.contains(secret), "the secret was shown twice");
    for path in ["/webhooks", "/deliveries", "/events"] {
        assert!(!page.html(path).await.contains(secret), "{path}");
    }
    let rotate = secrets.replace("/secrets", "/rotate");
    let rotated = page.post(&rotate, &[]).send().await.unwrap();
    assert_eq!(led_to(&rotated), format!("/_inspector{secrets}"));
    let shown = page.html(&secrets).await;
    assert_ne!(
        secret,
        between(&shown, "<code id=\"signature-secret\">", "</code>")
    );
}

#[tokio::test]
async fn webhooks_are_disabled_enabled_and_deleted_by_forms() {
    let page = Page::start().await;
    page.webhook("none", &["user.created", "user.deleted"])
        .await;
    let list = page.html("/webhooks").await;
    assert!(list.contains("user.created, user.deleted"), "{list}");
    let disable = between(&list, "action=\"/_inspector", "\"").to_owned();
    assert!(disable.ends_with("/disable"), "{disable}");
    for (action, shown) in [
        ("/disable", ">disabled</span>"),
        ("/enable", ">active</span>"),
        ("/delete", "There are no webhooks."),
    ] {
        let path = disable.replace("/disable", action);
        let to = led_to(&page.post(&path, &[]).send().await.unwrap());
        assert_eq!(to, "/_inspector/webhooks");
        let list = page.html("/webhooks").await;
        assert!(list.contains(shown), "after {action}: {list}");
    }
    let gone = page.post(&disable, &[]).send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_form_with_a_mistake_is_shown_again_with_its_values() {
    let page = Page::start().await;
    let form = [
        ("name", "<b>\"mine\""),
        ("url", "ftp://x"),
        ("auth", "none"),
    ];
    let response = page.post("/webhooks", &form).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let html = response.text().await.unwrap();
    assert!(
        html.contains("value=\"&lt;b&gt;&quot;mine&quot;\""),
        "{html}"
    );
    assert!(
        html.contains("url: "),
        "it does not say what is wrong: {html}"
    );

    let form = [("type", "user.created"), ("subject", "{}"), ("data", "{")];
    let response = page.post("/events", &form).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(response.text().await.unwrap().contains("data is not JSON"));
}

#[tokio::test]
async fn a_delivery_shows_its_attempts_and_is_saved_as_a_fixture() {
    let page = Page::start().await;
    page.webhook("bearer+signature", &["user.created"]).await;
    page.endpoint.then([Reply::Status(500)]);
    let event = NewEvent::new("user.created").data(json!({"name": "</script><b>"}));
    page.emulator.trigger(event).await.unwrap();
    page.emulator.deliveries_settled().await;
    let path = first_delivery(&page.html("/deliveries").await);
    let resend = format!("{path}/resend");
    led_to(&page.post(&resend, &[]).send().await.unwrap());
    page.endpoint.until(2).await;
    page.emulator.deliveries_settled().await;

    let html = page.html(&path).await;
    for text in [
        "the receiver answered 500",
        "said by the endpoint",
        "x-webhook-signature",
        "REDACTED",
        "curl --request POST",
        "&lt;/script&gt;&lt;b&gt;",
    ] {
        assert!(html.contains(text), "{text} is missing: {html}");
    }
    assert!(!html.contains("whb_"), "the bearer token is shown");
    assert!(html.contains("id=\"attempt-2\""), "{html}");

    let file = page.html(&format!("{path}/fixture")).await;
    let recording = Recording::from_json(file.as_bytes()).unwrap();
    let received = page.endpoint.received();
    assert_eq!(recording.body, received[1].body);
    assert_eq!(recording.answer.unwrap().status, 200);
    let body = page.get(&format!("{path}/body")).send().await.unwrap();
    let kind = body.headers()["content-disposition"].to_str().unwrap();
    assert!(kind.starts_with("attachment; filename=\"whd_"), "{kind}");
    assert_eq!(body.bytes().await.unwrap(), received[1].body);
}

#[tokio::test]
async fn faults_of_every_kind_are_added_with_the_form_and_removed() {
    let page = Page::start().await;
    page.webhook("none", &["user.created"]).await;
    let new = page.html("/faults/new").await;
    let kinds: Vec<_> = new.split("<option value=\"").skip(1).collect();
    let kinds = kinds.iter().map(|rest| rest.split_once('"').unwrap().0);
    let select = |kind: &&str| new.find(&format!("value=\"{kind}\"")) < new.find("</select>");
    let kinds: Vec<_> = kinds.take_while(select).collect();
    assert!(kinds.contains(&"slow_body") && kinds.contains(&"drop_answer"));
    for kind in &kinds {
        // The form as it is, with its defaults.
        let html = page.html(&format!("/faults/new?kind={kind}")).await;
        let form = html.rsplit_once("<form").unwrap().1;
        let mut members = Vec::new();
        for input in form.split("<input").skip(1) {
            let value = between(input, "value=\"", "\"");
            members.push((between(input, "name=\"", "\""), value));
        }
        for select in form.split("<select").skip(1) {
            let chosen = select.split("<option").find(|it| it.contains(" selected"));
            let value = chosen.map_or("", |it| between(it, "value=\"", "\""));
            members.push((between(select, "name=\"", "\""), value));
        }
        let added = page.post("/faults", &members).send().await.unwrap();
        assert_eq!(led_to(&added), "/_inspector/faults", "{kind}");
    }
    let plan = page.emulator.faults().plan();
    assert_eq!(plan.deliveries.len() + plan.calls.len(), kinds.len());
    assert_eq!(plan.deliveries[0].event_type, None);

    let limited = [
        ("kind", "hang_up"),
        ("rate", "0.5"),
        ("times", "3"),
        ("event_type", "user.created"),
    ];
    led_to(&page.post("/faults", &limited).send().await.unwrap());
    let rule = DeliveryRule::new(DeliveryFault::HangUp)
        .rate(0.5)
        .times(3)
        .event_type("user.created");
    assert_eq!(page.emulator.faults().plan().deliveries.last(), Some(&rule));
    for (form, why) in [
        (
            [("kind", "delay"), ("millis", "soon")],
            "millis must be a number",
        ),
        (
            [("kind", "delay"), ("millis", "3600001")],
            "millis must be at most",
        ),
        (
            [("kind", "stall"), ("rate", "2")],
            "rate must be from 0 to 1",
        ),
        ([("kind", "stall"), ("often", "2")], "often"),
    ] {
        let response = page.post("/faults", &form).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let html = response.text().await.unwrap();
        assert!(html.contains(why), "{why}: {html}");
    }
    let unknown = page.post("/faults", &[("kind", "explode")]);
    let status = unknown.send().await.unwrap().status();
    assert_eq!(status, StatusCode::NOT_FOUND);

    let list = page.html("/faults").await;
    let ids: Vec<_> = list.split("<tr data-key=\"").skip(1).collect();
    assert_eq!(ids.len(), kinds.len() + 1);
    for id in ids {
        let path = format!("/faults/{}/remove", id.split_once('"').unwrap().0);
        led_to(&page.post(&path, &[]).send().await.unwrap());
        let again = page.post(&path, &[]).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(page.emulator.faults().plan(), FaultPlan::new());
}

#[tokio::test]
async fn pages_of_10_000_deliveries_hold_50_and_follow_each_other() {
    // Each attempt fails at once, without a connection.
    let builder = Emulator::builder().retry_delays([]).failing_after(u32::MAX);
    let page = Page::with(builder).await;
    let form = [
        ("name", "far"),
        ("url", "https://far.example"),
        ("auth", "none"),
    ];
    page.post("/webhooks", &form).send().await.unwrap();
    for _ in 0..10 {
        let event = NewEvent::new("user.created").copies(1_000);
        page.emulator.trigger(event).await.unwrap();
        page.emulator.deliveries_finished().await;
    }
    let first = page
        .html("/deliveries?type=user.created&status=failed")
        .await;
    assert_eq!(first.matches("<tr data-key=\"whd_").count(), 50);
    let older = between(&first, "data-key=\"older\" href=\"/_inspector", "\"");
    let second = page.html(&older.replace("&amp;", "&")).await;
    assert_eq!(second.matches("<tr data-key=\"whd_").count(), 50);
    assert_ne!(first_delivery(&first), first_delivery(&second));
    assert!(second.contains(">Newest</a>"), "{second}");
    for (query, count) in [("status=succeeded", 0), ("text=FAR.example", 50)] {
        let list = page.html(&format!("/deliveries?{query}")).await;
        assert_eq!(
            list.matches("<tr data-key=\"whd_").count(),
            count,
            "{query}"
        );
    }
    let last = page.html("/deliveries?text=no+such+text").await;
    assert!(last.contains("No delivery matches"), "{last}");
}

#[tokio::test]
async fn the_event_stream_signals_changes_and_ends_with_the_emulator() {
    let page = Page::start().await;
    let mut stream = page.get("/stream").send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    page.emulator.trigger("user.created").await.unwrap();
    let mut received = String::new();
    while !received.contains("event: change\n") {
        let part = stream.chunk().await.unwrap().expect("the stream goes on");
        received += std::str::from_utf8(&part).unwrap();
    }
    timeout(Duration::from_mins(1), page.emulator.stop())
        .await
        .expect("the emulator did not stop");
    while let Some(_rest) = stream.chunk().await.expect("the stream ends properly") {}
}

#[tokio::test]
async fn the_root_leads_to_the_page_unless_it_is_off() {
    let page = Page::start().await;
    let root = page.http.get(page.emulator.base_url());
    assert_eq!(led_to(&root.send().await.unwrap()), "/_inspector/");
    let first = led_to(&page.get("/").send().await.unwrap());
    assert_eq!(first, "/_inspector/deliveries");
    let without = Emulator::builder().inspector(false).start().await.unwrap();
    assert_eq!(without.inspector_url(), None);
    for path in ["/", "/_inspector/", "/_inspector/deliveries"] {
        let get = page.http.get(format!("{}{path}", without.base_url()));
        let status = get.send().await.unwrap().status();
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn on_all_addresses_the_page_is_off_unless_it_is_requested() {
    let all = || Emulator::builder().listen(([0, 0, 0, 0], 0).into());
    let emulator = all().start().await.unwrap();
    assert_eq!(emulator.inspector_url(), None);
    let emulator = all().inspector(true).start().await.unwrap();
    let url = emulator.inspector_url().unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
}

#[track_caller]
fn refused(response: &Response, path: &str) {
    assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
}

/// The path of the first delivery of a list.
fn first_delivery(list: &str) -> String {
    let path = between(list, "href=\"/_inspector/deliveries/", "\"");
    format!("/deliveries/{path}")
}

#[track_caller]
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let found = text
        .split_once(before)
        .and_then(|(_, rest)| rest.split_once(after));
    found
        .unwrap_or_else(|| panic!("{before} is missing in {text}"))
        .0
}
