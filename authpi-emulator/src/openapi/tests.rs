use http::HeaderValue;
use serde_json::json;

use super::*;
use crate::answer::Answer;

fn operation(method: &Method, path: &str) -> &'static Operation {
    Description::get()
        .find(method, path)
        .map_or_else(|problem| panic!("{problem:?}"), |(operation, _)| operation)
}

fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )])
}

fn refusal<T>(result: Result<T, ApiError>) -> (u16, Vec<String>) {
    let Err(problem) = result else {
        panic!("the request was let through")
    };
    let answer = Answer::from(problem);
    let body: Value = serde_json::from_slice(answer.bytes()).unwrap();
    let fields = body["fields"].as_array().into_iter().flatten();
    let fields = fields.map(|field| {
        format!(
            "{} {}",
            field["field"].as_str().unwrap(),
            field["code"].as_str().unwrap()
        )
    });
    (answer.status().as_u16(), fields.collect())
}

#[test]
fn each_operation_of_the_embedded_description_is_implemented() {
    let description = Description::get();
    assert_eq!(description.operations.len(), 12);
    assert_eq!(description.events.types.len(), 106);
    for name in &description.events.types {
        let subject = description.events.example_subject(name, &json!("acc_1"));
        let data = description
            .events
            .example_data(name, &subject, &json!("acc_1"));
        assert!(
            subject.as_object().is_some_and(|ids| !ids.is_empty()),
            "{name} has no example subject"
        );
        assert!(
            data.as_object().is_some_and(|data| !data.is_empty()),
            "{name} has no example data"
        );
    }
}

#[test]
fn an_example_is_about_the_subject_that_it_is_given() {
    let events = &Description::get().events;
    let data = events.example_data(
        "user.created",
        &json!({"user_id": "usr_9", "issuer_id": "i_9"}),
        &json!("acc_1"),
    );
    assert_eq!(
        (&data["id"], &data["issuer_id"]),
        (&json!("usr_9"), &json!("i_9"))
    );
    let subject = events.example_subject("webhook.created", &json!("acc_1"));
    assert_eq!(subject["account_id"], "acc_1");
    assert_eq!(
        events.example_data("webhook.created", &subject, &json!("acc_1"))["account_id"],
        "acc_1"
    );
}

#[test]
fn a_path_leads_to_its_operation() {
    let description = Description::get();
    for (method, path, call) in [
        (Method::GET, "/v1/me", Call::MeGet),
        (
            Method::GET,
            "/v1/accounts/a/events/aggregate",
            Call::EventsAggregate,
        ),
        (Method::GET, "/v1/accounts/a/events/evt_1", Call::EventsGet),
        (
            Method::POST,
            "/v1/accounts/a/webhooks/wh_1/deliveries/d/redeliver",
            Call::WebhooksRedeliver,
        ),
        (
            Method::POST,
            "/v1/accounts/a/webhooks/wh_1/redeliver",
            Call::WebhooksRedeliverFailed,
        ),
    ] {
        assert_eq!(operation(&method, path).call, call, "{path}");
    }
    for path in [
        "/",
        "/v1/accounts//webhooks",
        "/v1/me/",
        "/v1/accounts/a/webhooks/",
        "/v1/accounts/a/%ff",
        "v1/me",
    ] {
        assert_eq!(
            refusal(description.find(&Method::GET, path)).0,
            404,
            "{path}"
        );
    }
    assert_eq!(refusal(description.find(&Method::PUT, "/v1/me")).0, 405);
}

#[test]
fn a_query_that_breaks_its_schema_is_400_and_names_the_parameter() {
    let list = operation(&Method::GET, "/v1/accounts/a/webhooks");
    for (query, expected) in [
        ("limit=0", "limit too_small"),
        ("limit=101", "limit too_large"),
        ("limit=ten", "limit invalid_type"),
        ("limit=", "limit invalid_type"),
        ("limit=1.5", "limit invalid_type"),
        ("limit=1e1", "limit invalid_type"),
        ("limit=1&limit=2", "limit repeated"),
        ("status=failing", "status invalid_value"),
        ("cursor=", "cursor too_short"),
    ] {
        assert_eq!(
            refusal(list.check_query(query)),
            (400, vec![expected.to_owned()]),
            "{query}"
        );
    }
    let read = list
        .check_query("limit=100&status=deleted&unknown=x")
        .unwrap();
    assert_eq!((read.len(), &read["limit"]), (2, &json!(100)));
}

#[test]
fn a_header_that_breaks_its_schema_is_400() {
    let create = operation(&Method::POST, "/v1/accounts/a/webhooks");
    let with = |key: String| {
        HeaderMap::from_iter([(
            "idempotency-key".parse().unwrap(),
            HeaderValue::try_from(key).unwrap(),
        )])
    };
    assert!(create.check_headers(&with("k".repeat(256))).is_ok());
    assert_eq!(
        refusal(create.check_headers(&with("k".repeat(257)))),
        (400, vec!["Idempotency-Key too_long".to_owned()])
    );
    assert_eq!(
        refusal(create.check_headers(&with(String::new()))),
        (400, vec!["Idempotency-Key too_short".to_owned()])
    );
}

#[test]
fn each_mistake_in_a_body_is_422_and_names_its_member() {
    let create = operation(&Method::POST, "/v1/accounts/a/webhooks");
    for (body, expected) in [
        (json!({"url": "http://localhost"}), "name required"),
        (
            json!({"name": "", "url": "http://localhost"}),
            "name too_short",
        ),
        (json!({"name": "n"}), "url required"),
        (json!({"name": "n", "url": 1}), "url invalid_type"),
        (
            json!({"name": "n", "url": "http://h", "auth": {"type": "basic"}}),
            "auth.type invalid_value",
        ),
        (
            json!({"name": "n", "url": "http://h", "auth": {}}),
            "auth.type required",
        ),
        (
            json!({"name": "n", "url": "http://h", "auth": {"type": "bearer", "bearer_token": 1}}),
            "auth.bearer_token invalid_type",
        ),
        (
            json!({"name": "n", "url": "http://h", "events": ["user.*"]}),
            "events[0] invalid_value",
        ),
        (
            json!({"name": "n", "url": "http://h", "events": []}),
            "events too_short",
        ),
        (
            json!({"name": "n", "url": "http://h", "status": "failing"}),
            "status invalid_value",
        ),
        (json!([]), "body invalid_type"),
    ] {
        let found = refusal(create.check_body(&json_headers(), body.to_string().as_bytes()));
        assert_eq!(found, (422, vec![expected.to_owned()]), "{body}");
    }
    let (status, fields) =
        refusal(create.check_body(&json_headers(), br#"{"name": "n", "url": "nonsense"}"#));
    assert!(
        status == 422 && fields.iter().all(|field| field == "url invalid_format"),
        "{fields:?}"
    );
    // The call in AuthPI's older guide.
    assert!(
        create
            .check_body(
                &json_headers(),
                br#"{"name": "n", "url": "http://localhost"}"#
            )
            .is_ok()
    );
}

#[test]
fn a_body_that_cannot_be_read_is_400_and_another_content_type_415() {
    let create = operation(&Method::POST, "/v1/accounts/a/webhooks");
    assert_eq!(
        refusal(create.check_body(&json_headers(), b"{\"name\"")),
        (400, vec!["body malformed".to_owned()])
    );
    assert_eq!(
        refusal(create.check_body(&json_headers(), b"")),
        (400, vec!["body required".to_owned()])
    );
    assert_eq!(refusal(create.check_body(&HeaderMap::new(), b"{}")).0, 415);
    let charset = HeaderValue::from_static("application/json; charset=utf-8");
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, charset)]);
    assert_eq!(refusal(create.check_body(&headers, b"{}")).0, 422);
}

#[test]
fn an_answer_that_the_description_does_not_have_is_found_out() {
    let get = operation(&Method::GET, "/v1/me");
    let me = json!({"data": {"type": "api_key", "accounts": []}});
    assert_eq!(get.check_answer(StatusCode::OK, Some(&me)), None);
    assert!(
        get.check_answer(StatusCode::OK, Some(&json!({"data": {}})))
            .is_some()
    );
    assert!(get.check_answer(StatusCode::OK, None).is_some());
    assert!(
        get.check_answer(StatusCode::IM_A_TEAPOT, Some(&me))
            .is_some()
    );
    assert!(
        get.check_answer(StatusCode::BAD_GATEWAY, Some(&json!({})))
            .is_some()
    );
}
