//! Credentials, webhooks, the event log, and a client's mistakes.

use authpi_emulator::Emulator;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Authpi, ids};

const NOWHERE: &str = "http://127.0.0.1:9/hooks";

#[tokio::test]
async fn the_key_and_the_token_reach_the_account_and_are_told_apart() {
    let authpi = Authpi::start().await;
    let Authpi { emulator, .. } = &authpi;
    let me = authpi.anonymous(Method::GET, "/v1/me");
    let key = me
        .try_clone()
        .unwrap()
        .basic_auth(emulator.key_id(), Some(emulator.key_secret()));
    let key = Answer::of(key).await.expect(StatusCode::OK);
    assert_eq!(
        (&key["data"]["type"], &key["data"]["key_id"]),
        (&json!("api_key"), &json!(emulator.key_id()))
    );
    let user = Answer::of(me.bearer_auth(emulator.access_token()))
        .await
        .expect(StatusCode::OK);
    assert_eq!(
        (&user["data"]["type"], &user["data"]["key_id"]),
        (&json!("user"), &Value::Null)
    );
    for me in [key, user] {
        assert_eq!(
            me["data"]["accounts"][0]["account_id"],
            emulator.account_id()
        );
    }
}

#[tokio::test]
async fn credentials_that_are_missing_or_wrong_are_401() {
    let authpi = Authpi::start().await;
    let (key_id, key_secret) = (authpi.emulator.key_id(), authpi.emulator.key_secret());
    let token = authpi.emulator.access_token();
    let webhooks = format!("/v1/accounts/{}/webhooks", authpi.emulator.account_id());
    for path in ["/v1/me", &webhooks, "/v1/accounts/acc_other/events"] {
        let request = || authpi.anonymous(Method::GET, path);
        for wrong in [
            request(),
            request().basic_auth(key_id, Some("wrong")),
            request().basic_auth("key_other", Some(key_secret)),
            request().basic_auth(key_secret, Some(key_id)),
            request().bearer_auth("wrong"),
            request().bearer_auth(key_secret),
            request().basic_auth(key_id, Some(token)),
            request().header("authorization", "Basic %%%"),
            request().header("authorization", key_secret),
            request().header("authorization", [0xff_u8].as_slice()),
            request()
                .bearer_auth(token)
                .basic_auth(key_id, Some(key_secret)),
        ] {
            let answer = Answer::of(wrong).await;
            answer.refused(401, "unauthorized_client");
            assert!(answer.header("www-authenticate").contains("Basic"));
        }
    }
}

#[tokio::test]
async fn another_accounts_id_is_403_and_an_unknown_path_404() {
    let authpi = Authpi::start().await;
    for path in [
        "/v1/accounts/acc_other/webhooks",
        "/v1/accounts/acc_other/events/evt_1",
    ] {
        let request = authpi
            .anonymous(Method::GET, path)
            .bearer_auth(authpi.emulator.access_token());
        Answer::of(request).await.refused(403, "access_denied");
    }
    Answer::of(authpi.anonymous(Method::GET, "/v2/me"))
        .await
        .refused(404, "not_found");
    let put = Answer::of(authpi.request(Method::PUT, "/webhooks")).await;
    put.refused(405, "invalid_request");
    assert_eq!(put.header("allow"), "GET, POST");
    for path in [
        "/webhooks/wh_none",
        "/webhooks/wh_none/deliveries",
        "/events/evt_none",
    ] {
        authpi.get(path).await.refused(404, "not_found");
    }
}

#[tokio::test]
async fn secrets_are_shown_when_they_are_made_and_never_again() {
    let authpi = Authpi::start().await;
    for (kind, signature, bearer) in [
        ("none", false, false),
        ("bearer", false, true),
        ("signature", true, false),
        ("bearer+signature", true, true),
    ] {
        let body = json!({"name": kind, "url": NOWHERE, "auth": {"type": kind}, "events": ["user.created"]});
        let made = authpi
            .post("/webhooks", &body)
            .await
            .expect(StatusCode::CREATED)["data"]
            .take();
        let auth = &made["auth"];
        assert_eq!(
            (
                auth["type"].as_str(),
                auth["signature_secret_plain"].is_string()
            ),
            (Some(kind), signature),
            "{auth}"
        );
        assert_eq!(
            (
                auth["bearer_token_plain"].is_string(),
                made["signature_secret_plain"].is_string()
            ),
            (bearer, false)
        );
        let mut secrets: Vec<_> = ["signature_secret_plain", "bearer_token_plain"]
            .iter()
            .filter_map(|name| auth[name].as_str())
            .collect();
        if let Some(secret) = auth["signature_secret_plain"].as_str() {
            assert!(secret.starts_with("whs_"), "{secret}");
            assert_eq!(auth["signature_algorithm"], "hmac-sha256");
            assert_eq!(
                auth["signature_secret_hint"],
                format!("...{}", &secret[secret.len() - 6..])
            );
        }
        let path = format!("/webhooks/{}", made["id"].as_str().unwrap());
        let renewed = authpi
            .patch(&path, &json!({"auth": {"type": kind}}))
            .await
            .expect(StatusCode::OK);
        let renewed = &renewed["data"]["auth"];
        for name in ["signature_secret_plain", "bearer_token_plain"] {
            assert_eq!(renewed[name].is_string(), auth[name].is_string());
            assert!(
                renewed[name].is_null() || renewed[name] != auth[name],
                "an update with `auth` makes new secrets"
            );
            secrets.extend(renewed[name].as_str());
        }
        for later in [
            authpi.get(&path).await,
            authpi.get("/webhooks").await,
            authpi.get("/events").await,
            authpi.patch(&path, &json!({"name": "renamed"})).await,
        ] {
            let later = later.body.to_string();
            assert!(
                secrets.iter().all(|secret| !later.contains(secret)),
                "{later}"
            );
        }
    }
}

#[tokio::test]
async fn a_bearer_token_of_the_callers_own_is_taken_if_it_can_stand_in_a_header() {
    let authpi = Authpi::start().await;
    let body = |token| json!({"name": "n", "url": NOWHERE, "auth": {"type": "bearer", "bearer_token": token}});
    let made = authpi
        .post("/webhooks", &body("mine"))
        .await
        .expect(StatusCode::CREATED);
    assert_eq!(made["data"]["auth"]["bearer_token_plain"], "mine");
    for token in ["", "two words", "line\nbreak", "ümlaut"] {
        assert_eq!(
            authpi
                .post("/webhooks", &body(token))
                .await
                .refused(422, "invalid_request"),
            ["auth.bearer_token"]
        );
    }
}

#[tokio::test]
async fn the_call_of_the_older_guide_means_all_events_and_no_authentication() {
    let authpi = Authpi::start().await;
    let made = authpi
        .post("/webhooks", &json!({"name": "n", "url": NOWHERE}))
        .await
        .expect(StatusCode::CREATED);
    assert_eq!(made["data"]["auth"], json!({"type": "none"}));
    assert_eq!(made["data"]["events"].as_array().map(Vec::len), Some(106));
}

#[tokio::test]
async fn a_list_item_has_the_kind_of_authentication_in_place_of_its_details() {
    let authpi = Authpi::start().await;
    authpi.webhook(NOWHERE, &["user.created"]).await;
    let page = authpi.get("/webhooks").await.expect(StatusCode::OK);
    let item = page["data"][0].as_object().unwrap();
    assert_eq!(item["auth_type"], "signature");
    for absent in ["auth", "retry", "subjects", "metadata", "circuit_breaker"] {
        assert!(!item.contains_key(absent), "{absent}");
    }
    assert_eq!(
        (&page["has_more"], &page["next_cursor"]),
        (&json!(false), &Value::Null)
    );
}

#[tokio::test]
async fn pages_hold_every_item_once_and_end() {
    let authpi = Authpi::start().await;
    for _ in 0..5 {
        authpi.webhook(NOWHERE, &["user.created"]).await;
    }
    let all = ids(&authpi.get("/webhooks").await.expect(StatusCode::OK));
    assert_eq!(all.len(), 5);
    let mut collected = Vec::new();
    let mut path = "/webhooks?limit=2".to_owned();
    loop {
        let page = authpi.get(&path).await.expect(StatusCode::OK);
        collected.extend(ids(&page));
        // New items are before the cursor, so they shift nothing.
        authpi.webhook(NOWHERE, &["user.created"]).await;
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/webhooks?limit=2&cursor={cursor}"),
            None => break assert_eq!(page["has_more"], false),
        }
    }
    assert_eq!(collected, all);
    assert_eq!(
        authpi
            .get("/webhooks?cursor=wh_none")
            .await
            .refused(400, "invalid_request"),
        ["cursor"]
    );
}

#[tokio::test]
async fn webhooks_are_listed_by_status_and_deleted_ones_only_on_request() {
    let authpi = Authpi::start().await;
    let (active, _) = authpi.webhook(NOWHERE, &["user.created"]).await;
    let (disabled, _) = authpi.webhook(NOWHERE, &["user.created"]).await;
    let (deleted, _) = authpi.webhook(NOWHERE, &["user.created"]).await;
    authpi
        .patch(
            &format!("/webhooks/{disabled}"),
            &json!({"status": "disabled"}),
        )
        .await
        .expect(StatusCode::OK);
    let gone = authpi.delete(&format!("/webhooks/{deleted}")).await;
    assert_eq!(
        (gone.status, gone.body),
        (StatusCode::NO_CONTENT, Value::Null)
    );
    authpi
        .get(&format!("/webhooks/{deleted}"))
        .await
        .refused(404, "not_found");
    authpi
        .delete(&format!("/webhooks/{deleted}"))
        .await
        .refused(404, "not_found");
    for (query, expected) in [
        ("", vec![&disabled, &active]),
        ("?status=active", vec![&active]),
        ("?status=disabled", vec![&disabled]),
        ("?status=deleted", vec![&deleted]),
    ] {
        let page = authpi
            .get(&format!("/webhooks{query}"))
            .await
            .expect(StatusCode::OK);
        assert_eq!(ids(&page).iter().collect::<Vec<_>>(), expected, "{query}");
    }
}

#[tokio::test]
async fn a_clients_mistake_is_400_or_422_and_its_place_is_named() {
    let authpi = Authpi::start().await;
    let valid = json!({"name": "n", "url": NOWHERE, "auth": {"type": "signature"}, "events": ["user.created"]});
    for (member, value, field) in [
        ("name", Value::Null, "name"),
        ("name", json!(""), "name"),
        ("url", Value::Null, "url"),
        ("url", json!("nonsense"), "url"),
        ("url", json!("ftp://localhost/"), "url"),
        ("url", json!("http://"), "url"),
        ("url", json!("http://user:password@localhost/"), "url"),
        ("auth", json!({"type": "basic"}), "auth.type"),
        (
            "auth",
            json!({"type": "signature", "signature_algorithm": "md5"}),
            "auth.signature_algorithm",
        ),
        ("events", json!(["user.created", "user.*"]), "events[1]"),
        ("events", json!([]), "events"),
        ("events", json!("user.created"), "events"),
        ("status", json!("failing"), "status"),
        ("metadata", json!([]), "metadata"),
    ] {
        let mut body = valid.clone();
        match value {
            Value::Null => drop(body.as_object_mut().unwrap().remove(member)),
            value => body[member] = value,
        }
        let answer = authpi.post("/webhooks", &body).await;
        assert!(
            answer
                .refused(422, "invalid_request")
                .iter()
                .all(|named| *named == field),
            "{body}: {}",
            answer.body
        );
        assert_eq!(answer.body["retryable"], false);
    }
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("status=x", "status"),
    ] {
        assert_eq!(
            authpi
                .get(&format!("/webhooks?{query}"))
                .await
                .refused(400, "invalid_request"),
            [field]
        );
    }
    let post = || authpi.request(Method::POST, "/webhooks");
    let json = |body: &'static str| post().header("content-type", "application/json").body(body);
    assert_eq!(
        Answer::of(json("{\"name\":"))
            .await
            .refused(400, "invalid_request"),
        ["body"]
    );
    assert_eq!(
        Answer::of(json("")).await.refused(400, "invalid_request"),
        ["body"]
    );
    assert_eq!(
        Answer::of(json("[]")).await.refused(422, "invalid_request"),
        ["body"]
    );
    Answer::of(post().body(valid.to_string()))
        .await
        .refused(415, "invalid_content_type");
    Answer::of(post().body(" ".repeat(2 * 1024 * 1024)))
        .await
        .refused(413, "invalid_request");
    assert_eq!(
        ids(&authpi.get("/webhooks").await.expect(StatusCode::OK)),
        [""; 0],
        "a refused call made a webhook"
    );
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_null_clears() {
    let authpi = Authpi::start().await;
    let body = json!({
        "name": "before", "url": NOWHERE, "auth": {"type": "signature"}, "events": ["user.created"],
        "description": "text", "metadata": {"a": 1}, "subjects": [{"user_id": "usr_1"}], "retry": {"x": 1}, "circuit_breaker": {"y": 2},
    });
    let made = authpi
        .post("/webhooks", &body)
        .await
        .expect(StatusCode::CREATED)["data"]
        .take();
    for (name, value) in body
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "auth")
    {
        assert_eq!(&made[name], value);
    }
    let path = format!("/webhooks/{}", made["id"].as_str().unwrap());
    let change = json!({"name": "after", "description": null, "metadata": null, "events": null});
    let changed = authpi.patch(&path, &change).await.expect(StatusCode::OK)["data"].take();
    assert_eq!(
        (&changed["name"], &changed["url"], &changed["retry"]),
        (&json!("after"), &made["url"], &made["retry"])
    );
    assert_eq!(
        (&changed["description"], &changed["metadata"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(changed["events"].as_array().map(Vec::len), Some(106));
    assert_eq!(
        changed["auth"]["signature_secret_hint"],
        made["auth"]["signature_secret_hint"]
    );
    for member in ["name", "url", "status", "auth"] {
        let answer = authpi.patch(&path, &json!({ member: null })).await;
        assert_eq!(answer.refused(422, "invalid_request"), [member]);
    }
    let mixed = authpi
        .patch(&path, &json!({"name": "half", "url": "http://"}))
        .await;
    assert_eq!(mixed.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        authpi.get(&path).await.body["data"]["name"],
        "after",
        "a refused update changed something"
    );
}

#[tokio::test]
async fn a_stale_etag_is_412_and_names_the_one_that_holds() {
    let authpi = Authpi::at_noon(Emulator::builder()).await;
    let (id, _) = authpi.webhook(NOWHERE, &["user.created"]).await;
    let path = format!("/webhooks/{id}");
    let rename = |etag: &str| {
        authpi
            .request(Method::PATCH, &path)
            .header("if-match", etag)
            .json(&json!({"name": "renamed"}))
    };
    let first = authpi.get(&path).await;
    assert_eq!(
        first.etag(),
        format!("\"{}\"", first.body["data"]["created_at"])
    );
    // The clock stands still, but each change has a different ETag.
    let second = Answer::of(rename(first.etag())).await;
    assert_eq!(
        (second.status, second.etag()),
        (
            StatusCode::OK,
            &*format!("\"{}\"", second.body["data"]["updated_at"])
        )
    );
    for stale in [
        first.etag(),
        "\"1\"",
        &format!("W/{}", second.etag()),
        "unquoted",
    ] {
        for request in [
            rename(stale),
            authpi
                .request(Method::DELETE, &path)
                .header("if-match", stale),
        ] {
            let answer = Answer::of(request).await;
            answer.refused(412, "precondition_failed");
            assert_eq!(
                (&answer.body["current_etag"], &answer.body["retryable"]),
                (&json!(second.etag()), &json!(false))
            );
        }
    }
    for valid in [second.etag(), "*", &format!("\"1\", {}", second.etag())] {
        let third = Answer::of(rename(valid)).await;
        assert_eq!(third.status, StatusCode::OK, "{valid}");
        if valid == second.etag() {
            assert_ne!(third.etag(), second.etag());
            Answer::of(rename(second.etag()))
                .await
                .refused(412, "precondition_failed");
            authpi.patch(&path, &json!({})).await.expect(StatusCode::OK);
            break;
        }
    }
}

#[tokio::test]
async fn changes_of_webhooks_are_events_and_tell_no_secret() {
    let authpi = Authpi::start().await;
    let (id, secret) = authpi.webhook(NOWHERE, &["user.created"]).await;
    let path = format!("/webhooks/{id}");
    for change in [
        json!({"name": "renamed"}),
        json!({"status": "disabled"}),
        json!({"status": "active"}),
    ] {
        authpi.patch(&path, &change).await.expect(StatusCode::OK);
    }
    authpi.delete(&path).await.expect(StatusCode::NO_CONTENT);
    let page = authpi.get("/events").await.expect(StatusCode::OK);
    let types: Vec<_> = page["data"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        [
            "webhook.created",
            "webhook.updated",
            "webhook.updated",
            "webhook.paused",
            "webhook.updated",
            "webhook.resumed",
            "webhook.deleted"
        ]
    );
    for event in page["data"].as_array().unwrap() {
        assert_eq!(
            (&event["subject"]["webhook_id"], &event["data"]["id"]),
            (&json!(id), &json!(id))
        );
    }
    assert!(!page.to_string().contains(&secret));
}

#[tokio::test]
async fn events_are_listed_by_subject_type_and_time_and_read_one_by_one() {
    let authpi = Authpi::at_noon(Emulator::builder()).await;
    let mut made = Vec::new();
    for (event_type, subject) in [
        (
            "user.created",
            json!({"user_id": "usr_1", "issuer_id": "i_1"}),
        ),
        (
            "user.updated",
            json!({"user_id": "usr_1", "issuer_id": "i_1"}),
        ),
        (
            "client.created",
            json!({"client_id": "c_1", "issuer_id": "i_1"}),
        ),
        (
            "user.created",
            json!({"user_id": "usr_2", "issuer_id": "i_2"}),
        ),
    ] {
        let event = authpi_emulator::NewEvent::new(event_type).subject(subject);
        made.push(authpi.emulator.trigger(event).await.unwrap());
        authpi
            .emulator
            .clock()
            .advance(std::time::Duration::from_secs(1));
    }
    let second = made[1].timestamp;
    for (query, expected) in [
        (String::new(), vec![3, 2, 1, 0]),
        ("issuer_id=i_1".into(), vec![2, 1, 0]),
        ("user_id=usr_2".into(), vec![3]),
        ("client_id=c_1&issuer_id=i_1".into(), vec![2]),
        (
            "event_types=user.created,client.created".into(),
            vec![3, 2, 0],
        ),
        (format!("after={second}"), vec![3, 2]),
        (format!("before={second}"), vec![0]),
        (
            format!("after={}.5&before={}", second - 1, second + 1),
            vec![1],
        ),
        ("limit=3".into(), vec![3, 2, 1]),
        ("event_types=none.such".into(), vec![]),
    ] {
        let page = authpi
            .get(&format!("/events?{query}"))
            .await
            .expect(StatusCode::OK);
        let expected: Vec<_> = expected
            .iter()
            .map(|n: &usize| made[*n].id.clone())
            .collect();
        assert_eq!(ids(&page), expected, "{query}");
    }
    assert_eq!(
        authpi
            .get("/events?after=noon")
            .await
            .refused(400, "invalid_request"),
        ["after"]
    );
    let one = authpi.get(&format!("/events/{}", made[0].id)).await;
    assert_eq!(one.etag(), format!("\"{}\"", made[0].timestamp));
    assert_eq!(
        one.expect(StatusCode::OK)["data"],
        serde_json::to_value(&made[0]).unwrap()
    );
}

#[tokio::test]
async fn events_are_counted_in_all_by_group_and_by_time() {
    let authpi = Authpi::at_noon(Emulator::builder()).await;
    for (event_type, user) in [
        ("user.created", "usr_1"),
        ("user.updated", "usr_1"),
        ("user.updated", "usr_2"),
    ] {
        let event = authpi_emulator::NewEvent::new(event_type).subject(json!({ "user_id": user }));
        authpi.emulator.trigger(event).await.unwrap();
        authpi
            .emulator
            .clock()
            .advance(std::time::Duration::from_mins(30));
    }
    let noon = super::NOON / 3_600_000 * 3_600_000;
    for (query, expected) in [
        ("", json!([{"count": 3}])),
        ("event_types=none.such", json!([{"count": 0}])),
        ("count_unique=user_id", json!([{"count": 3, "unique": 2}])),
        (
            "group_by=type",
            json!([{"count": 1, "type": "user.created"}, {"count": 2, "type": "user.updated"}]),
        ),
        (
            "interval=hour",
            json!([{"count": 2, "timestamp": noon}, {"count": 1, "timestamp": noon + 3_600_000}]),
        ),
        (
            "interval=hour&group_by=user_id&event_types=user.updated",
            json!([
                {"count": 1, "timestamp": noon, "user_id": "usr_1"}, {"count": 1, "timestamp": noon + 3_600_000, "user_id": "usr_2"}
            ]),
        ),
    ] {
        let answer = authpi
            .get(&format!("/events/aggregate?{query}"))
            .await
            .expect(StatusCode::OK);
        assert_eq!(answer["data"]["buckets"], expected, "{query}");
    }
    assert_eq!(
        authpi
            .get("/events/aggregate?interval=week")
            .await
            .refused(400, "invalid_request"),
        ["interval"]
    );
}

#[tokio::test]
async fn events_are_triggered_only_with_credentials_and_if_valid() {
    let authpi = Authpi::start().await;
    let control = || authpi.anonymous(Method::POST, "/_emulator/events");
    let key = |body: Value| {
        control()
            .bearer_auth(authpi.emulator.access_token())
            .json(&body)
    };
    Answer::of(control().json(&json!({"type": "user.created"})))
        .await
        .refused(401, "unauthorized_client");
    for (body, field) in [
        (json!({"type": "user.invented"}), "type"),
        (json!({"type": 1}), "type"),
        (json!({}), "type"),
        (json!([]), "body"),
        (
            json!({"type": "user.created", "subject": "usr_1"}),
            "subject",
        ),
        (json!({"type": "user.created", "data": []}), "data"),
        (json!({"type": "user.created", "copies": 0}), "copies"),
        (json!({"type": "user.created", "copies": -1}), "copies"),
        (json!({"type": "user.created", "copies": "2"}), "copies"),
        (json!({"type": "user.created", "copies": 1001}), "copies"),
        (
            json!({"type": "user.created", "allow_unknown_type": "yes"}),
            "allow_unknown_type",
        ),
        (
            json!({"type": "User Created", "allow_unknown_type": true}),
            "type",
        ),
    ] {
        assert_eq!(
            Answer::of(key(body)).await.refused(422, "invalid_request"),
            [field]
        );
    }
    let other = key(json!({"type": "user.created"})).query(&[("account_id", "acc_other")]);
    Answer::of(other).await.refused(403, "access_denied");
    Answer::of(authpi.anonymous(Method::GET, "/_emulator/events"))
        .await
        .refused(405, "invalid_request");
    assert_eq!(
        ids(&authpi.get("/events").await.expect(StatusCode::OK)),
        [""; 0]
    );

    let given = json!({"type": "user.created", "subject": {"user_id": "usr_1"}, "data": {"id": "usr_1", "n": 1}});
    let made = Answer::of(key(given)).await.expect(StatusCode::CREATED)["data"].take();
    assert_eq!(made["subject"], json!({"user_id": "usr_1"}));
    assert_eq!(made["data"], json!({"id": "usr_1", "n": 1}));
    assert_eq!(
        authpi
            .get(&format!("/events/{}", made["id"].as_str().unwrap()))
            .await
            .body["data"],
        made
    );
}
